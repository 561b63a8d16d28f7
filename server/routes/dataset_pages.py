"""`/datasets` and `/datasets/{id}`: what versions were trained on, and why each example is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from litestar import Response, get
from litestar.params import FromPath, FromQuery
from sqlmodel import Session, col, select

from feedback.checks.told import told
from feedback.datasets.chat import last_user_text
from feedback.datasets.compared import compare_datasets
from feedback.datasets.files import SPLITS, read_rows
from feedback.datasets.listing import dataset_of, list_datasets
from feedback.datasets.why import why_example
from feedback.errors import BadFieldError, NotFoundError
from feedback.imports.reading import FORMATS
from feedback.imports.storing import page_of_imports
from feedback.registry.models import get_model
from feedback.storage.tables import DatasetVersion, Example, ModelVersion
from server.access import Caller
from server.rendering import model_page, shown_page, visitor_of
from server.request import OPEN, SCOPES, GatewayRequest, Parts, identifier

_OPEN = {SCOPES: OPEN}
_PAGE = 30
_EXAMPLES = 25
_IMPORTS = 10


@get("/datasets", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def datasets(
    request: GatewayRequest, gateway: Parts, model: FromQuery[str] = "", cursor: FromQuery[str] = ""
) -> Response[str]:
    """A model's dataset versions, newest first."""

    def shown(caller: Caller, chosen: str) -> dict[str, Any]:
        with gateway.database.reading() as session:
            get_model(session, chosen)
            found = list_datasets(session, chosen, _PAGE, cursor or None)
            return {
                "may_send": caller.may("train") and gateway.settings.model_named(chosen) is not None,
                "limit": gateway.settings.server.upload_limit,
                "formats": FORMATS,
                "imports": page_of_imports(session, chosen, _IMPORTS, None).items,
                "items": found.items,
                "following": found.next_cursor,
                "trained": _trained(session, [one.id for one in found.items]),
            }

    nothing: dict[str, Any] = {
        "items": [],
        "following": None,
        "trained": {},
        "imports": [],
        "may_send": False,
    }
    return model_page("datasets.html", request, gateway, model, ("review", "train"), nothing, shown)


@get("/datasets/{dataset_id:str}", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def dataset(
    dataset_id: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    source: FromQuery[str] = "",
    new: FromQuery[str] = "",
    after: FromQuery[str] = "",
    example: FromQuery[str] = "",
    against: FromQuery[str] = "",
    check: FromQuery[str] = "",
) -> Response[str]:
    """One dataset version: its manifest, its examples, with `example` why that one is in it, with `against` what differs,
    with `check` what the checklist says of it."""
    visitor = visitor_of(request, "review", "train")

    def shown() -> dict[str, Any]:
        caller = visitor.caller
        assert caller is not None
        directory = gateway.settings.directory
        with gateway.database.reading() as session:
            row = dataset_of(session, identifier(dataset_id, "a dataset"))
            if not caller.reaches(row.model):
                raise NotFoundError(f"there is no dataset {row.id}; /datasets lists those there are")
            why = why_example(session, directory, row, example) if example and caller.may("review") else None
            lines, last = _lines(session, directory, row, source, new, after)
            trained = _trained(session, [row.id]).get(row.id, [])
            others = [one for one in list_datasets(session, row.model, _PAGE, None).items if one.id != row.id]
            compared = None
            if against:
                other = dataset_of(session, identifier(against, "a dataset"))
                if other.model != row.model:
                    raise BadFieldError("against", "that dataset is of another model")
                compared = compare_datasets(session, directory, other, row)
        checked = gateway.checks.get((row.model, row.id)) if check else None
        following = ""
        if last is not None:
            asked = {"source": source, "new": new, "after": str(last)}
            following = f"/datasets/{row.id}?" + urlencode(
                {name: text for name, text in asked.items() if text}
            )
        return {
            "one": row,
            "counts": row.manifest.get("counts") or {},
            "rules": dict(_flat(row.manifest)),
            "trained": trained,
            "lines": lines,
            "following": following,
            "why": why,
            "others": others,
            "against": against,
            "compared": compared,
            "check": check,
            "checked": told(checked.value) if checked and checked.value else [],
            "verdict": checked.value.verdict if checked and checked.value else "",
            "problem": checked.problem if checked else None,
            "under_way": bool(check) and checked is None,
            "may_ask": caller.may("review"),
        }

    nothing = {"one": None, "under_way": False}
    return shown_page("dataset.html", visitor, nothing, shown, source=source, new=new, example=example)


class _Line(NamedTuple):
    """An example in the list; the texts are None where it was erased, or its file is not there."""

    position: int
    split: str
    source: str
    new: bool
    inference_id: str | None
    prompt: str | None
    answer: str | None


def _lines(
    session: Session, directory: Path, row: DatasetVersion, source: str, new: str, after: str
) -> tuple[list[_Line], int | None]:
    """The next examples that meet the filter, and the position after which there are more."""
    if after and not (after.isascii() and after.isdecimal() and len(after) < 10):
        raise BadFieldError("after", f"{after[:40]!r} is no position of an example")
    query = select(Example).where(Example.dataset_id == row.id, col(Example.split).in_(SPLITS))
    if source:
        query = query.where(Example.source == source)
    if new:
        query = query.where(col(Example.new).is_(True))
    if after:
        query = query.where(Example.position > int(after))
    found = list(session.exec(query.order_by(col(Example.position)).limit(_EXAMPLES + 1)))
    some = found[:_EXAMPLES]
    texts: dict[str, Mapping[str, Any]] = {}
    for split in {one.split for one in some}:
        wanted = {one.content_hash for one in some if one.split == split and one.erased is None}
        texts |= _texts(directory, row.id, split, wanted)
    lines = [
        _Line(
            one.position,
            one.split,
            one.source,
            one.new,
            one.inference_id,
            last_user_text(texts[one.content_hash]["messages"]) if one.content_hash in texts else None,
            texts[one.content_hash]["answer"] if one.content_hash in texts else None,
        )
        for one in some
    ]
    return lines, some[-1].position if len(found) > _EXAMPLES else None


def _texts(directory: Path, dataset_id: str, split: str, wanted: set[str]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    try:
        for line in read_rows(directory, dataset_id, split):
            if line["id"] in wanted:
                found[line["id"]] = line
                if len(found) == len(wanted):
                    break
    except NotFoundError:
        return {}
    return found


def _trained(session: Session, datasets: list[str]) -> dict[str, list[str]]:
    """Numbers of the versions that were trained on each of them."""
    found: dict[str, list[str]] = {}
    query = select(ModelVersion.dataset_id, ModelVersion.number).where(
        col(ModelVersion.dataset_id).in_(datasets)
    )
    for dataset_id, number in session.exec(query.order_by(col(ModelVersion.id))):
        found.setdefault(dataset_id or "", []).append(number)
    return found


def _flat(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the manifest says beside its counts, as name and text."""
    for part in ("settings", "raters", "left_out", "pii", "imports", "erasures"):
        value = manifest.get(part)
        if isinstance(value, Mapping):
            yield from ((f"{part}: {name}", str(one)) for name, one in value.items())
        elif value:
            yield part, str(len(value) if isinstance(value, list) else value)


ROUTES = [datasets, dataset]
