"""Pages to read: inferences, versions, the monthly report. Made on the server, without scripts; filters stand in the address."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.params import FromPath, FromQuery, QueryParameter
from markupsafe import Markup
from sqlmodel import col, select

from feedback.errors import BadFieldError, NotFoundError
from feedback.ids import parse_id
from feedback.registry.models import SERVABLE, champions_before, get_model, list_moves
from feedback.registry.versions import list_versions
from feedback.reports.beside import compare_versions
from feedback.reports.facts import period_of
from feedback.reports.forms import fragment
from feedback.reports.zones import name_of
from feedback.storage.inferences import InferenceFilter, feedback_of, get_inference, search
from feedback.storage.tables import Example, Failure, ModelVersion
from server.access import Caller
from server.cookies import zone_of
from server.rendering import model_page, shown_page, visitor_of
from server.request import OPEN, SCOPES, GatewayRequest, Parts
from server.routes.inferences import is_open_to, moment, with_ratings
from server.timeline import timeline
from server.views import show_inference

_OPEN = {SCOPES: OPEN}
_PAGE = 50
_MARKS = 50


@get("/inferences", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def inferences(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str] = "",
    version: FromQuery[str] = "",
    rating: Annotated[str, QueryParameter(name="rating_lte")] = "",
    reason: FromQuery[str] = "",
    user: FromQuery[str] = "",
    since: FromQuery[str] = "",
    until: FromQuery[str] = "",
    q: FromQuery[str] = "",
    cursor: FromQuery[str] = "",
) -> Response[str]:
    """Search what was asked and answered, a page at a time."""
    asked = {
        "model": model,
        "version": version,
        "rating_lte": rating,
        "reason": reason,
        "user": user,
        "since": since,
        "until": until,
        "q": q,
    }
    visitor = visitor_of(request, "infer", "review")
    zone = zone_of(request.scope["headers"])

    def shown() -> dict[str, Any]:
        caller = visitor.caller
        assert caller is not None
        names = visitor.models(gateway)
        wanted = InferenceFilter(
            model=caller.narrowed(model or (names[0] if caller.models is not None and names else None)),
            version=version or None,
            rating_lte=int(rating) if rating in ("1", "2", "3", "4", "5") else None,
            reason=reason or None,
            user=user or None,
            key_id=None if caller.may("review") else caller.key_id,
            since=moment(since or None, "since", zone),
            until=moment(until or None, "until", zone),
            q=q or None,
        )
        with gateway.database.reading() as session:
            found = search(session, wanted, _PAGE, cursor or None)
            listed = with_ratings(session, found.items, found.next_cursor)
        following = ""
        if listed.next_cursor:
            kept = {name: value for name, value in asked.items() if value}
            following = "/inferences?" + urlencode(kept | {"cursor": listed.next_cursor})
        return {"items": listed.items, "following": following}

    nothing = {"items": [], "following": ""}
    facts: dict[str, Any] = {"asked": asked, "models": visitor.models(gateway), "zone": name_of(zone)}
    return shown_page("inferences.html", visitor, nothing, shown, **facts)


@get("/inferences/{inference_id:str}", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def inference(inference_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> Response[str]:
    """One inference with everything that was said about it, and the dataset versions that hold it."""
    visitor = visitor_of(request, "infer", "review")

    def shown() -> dict[str, Any]:
        caller = visitor.caller
        assert caller is not None
        identifier = parse_id(inference_id)
        with gateway.database.reading() as session:
            row = get_inference(session, identifier)
            if row is None or not caller.reaches(row.model) or not is_open_to(row, caller):
                raise NotFoundError(f"there is no inference {identifier}")
            failure = session.exec(select(Failure).where(Failure.inference_id == identifier)).first()
            learned = session.exec(
                select(Example.dataset_id, Example.split, Example.source).where(
                    Example.inference_id == identifier
                )
            ).all()
            taught = session.exec(
                select(ModelVersion.dataset_id, ModelVersion.number)
                .where(col(ModelVersion.dataset_id).in_([dataset for dataset, *_ in learned]))
                .order_by(col(ModelVersion.id))
            ).all()
            one = show_inference(row, feedback_of(session, identifier))
        told = learned if caller.may("review", "train") else []
        return {"one": one, "failure": failure, "learned": told, "taught": taught}

    return shown_page(
        "inference.html", visitor, {"one": None, "failure": None, "learned": [], "taught": []}, shown
    )


@get("/versions", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def versions(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str] = "",
    before: FromQuery[str] = "",
    after: FromQuery[str] = "",
) -> Response[str]:
    """A model's versions, newest first, the moves of its champion, and with `before` and `after` two versions compared."""
    zone = name_of(zone_of(request.scope["headers"]))

    def shown(caller: Caller, chosen: str) -> dict[str, Any]:
        with gateway.database.reading() as session:
            row = get_model(session, chosen)
            earlier = champions_before(session, row)
            known = list_versions(session, chosen, caller.only_of)
            moves = list_moves(session, chosen, _MARKS, None).items
            found = gateway.stars.get((chosen, zone))
            numbers = [one.number for one in known] + ["base"]
            compared = None
            if before and after:
                for name, number in (("before", before), ("after", after)):
                    if number not in numbers:
                        raise BadFieldError(name, f"{chosen} has no version {number[:40]!r}")
                tokens = gateway.settings.evaluation.max_tokens
                held = gateway.constraints.get(chosen)
                form = None if held is None else msgspec.json.decode(held)
                compared = compare_versions(session, chosen, before, after, tokens, form)
            return {
                "numbers": numbers,
                "compared": compared,
                "may_read": caller.may("review"),
                "may_train": caller.may("train"),
                "row": row,
                "may_move": caller.may("admin"),
                "back": (earlier[0] or "base") if earlier else None,
                "servable": SERVABLE,
                "versions": known,
                "timeline": timeline(known, moves, found.value if found else None, _MARKS),
            }

    nothing: dict[str, Any] = {
        "row": None,
        "versions": [],
        "timeline": [],
        "may_move": False,
        "may_read": False,
    }
    return model_page(
        "versions.html",
        request,
        gateway,
        model,
        ("infer", "review", "train"),
        nothing,
        shown,
        before=before,
        after=after,
        zone=zone,
    )


@get("/report", opt=_OPEN, include_in_schema=False, sync_to_thread=True)
def report(
    request: GatewayRequest, gateway: Parts, model: FromQuery[str] = "", month: FromQuery[str] = ""
) -> Response[str]:
    """A model's month, as it was last found, at most minutes ago."""
    now = gateway.now()
    wanted = month or f"{now:%Y-%m}"

    def shown(caller: Caller, chosen: str) -> dict[str, Any]:
        period_of(gateway.settings, chosen, wanted, now)
        found = gateway.months.get((chosen, wanted))
        return {
            "body": Markup(fragment(found.value)) if found and found.value else "",
            "when": found.when if found else None,
            "problem": found.problem if found else None,
            "under_way": found is None,
        }

    nothing = {"body": "", "when": None, "problem": None, "under_way": False}
    return model_page(
        "report.html", request, gateway, model, ("review", "train"), nothing, shown, month=wanted
    )


ROUTES = [inferences, inference, versions, report]
