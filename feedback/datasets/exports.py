"""Dataset versions in the forms that trainers read: OpenAI's chat, and TRL's three. Pure, but for the rows' reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from feedback.datasets.files import SPLITS, read_rows
from feedback.datasets.tool_calls import turn_of, with_objects
from feedback.errors import BadFieldError

Format = Literal["chat", "rows", "trl-completion", "trl-preference", "openai-preference", "kto", "holdout"]
FORMATS: tuple[str, ...] = get_args(Format)
_FILES = {
    "trl-preference": ("pairs",),
    "openai-preference": ("pairs",),
    "holdout": ("holdout",),
    "kto": (*SPLITS, "pairs", "rated"),
}


def check_export(directory: Path, dataset_id: str, form: str) -> None:
    """Raise `NotFoundError` where a file that the export reads is not there: better told before a byte is sent."""
    for name in _FILES.get(form, SPLITS):
        next(read_rows(directory, dataset_id, name), None)


def exported(directory: Path, dataset_id: str, form: str, split: str | None) -> Iterator[dict[str, Any]]:
    """The rows, streamed.

    `chat`: `{messages}`, OpenAI's fine-tuning form. `trl-completion`: `{prompt, completion}` of messages.
    `trl-preference`: `{prompt, chosen, rejected}`, each target with an answer that failed; `openai-preference`: the
    same under OpenAI's names, `{input: {messages}, preferred_output, non_preferred_output}`. `kto`: `{prompt, completion,
    label}`, targets as true and failed answers as false. `rows`: all that is known. `holdout`: failures of the evaluation
    side. Where tools were offered they stand beside, as `tools`; arguments of calls are text for OpenAI, objects for TRL.
    Raises `BadFieldError` for a split that the format does not have, `NotFoundError` for files that are not there.
    """
    if split is not None and form in ("trl-preference", "openai-preference", "holdout"):
        raise BadFieldError("split", f"{form} has no splits; leave it out")
    names = [split] if split else list(SPLITS)
    if form == "trl-preference":
        return map(_preference, read_rows(directory, dataset_id, "pairs"))
    if form == "openai-preference":
        return map(_comparison, read_rows(directory, dataset_id, "pairs"))
    if form == "holdout":
        return read_rows(directory, dataset_id, "holdout")
    rows = (row for name in names for row in read_rows(directory, dataset_id, name))
    if form == "kto":
        return _kto(directory, dataset_id, rows, split)
    if form == "rows":
        return rows
    return map(chat_row if form == "chat" else _completion, rows)


def _turn(row: dict[str, Any], answer: str) -> list[dict[str, Any]]:
    return [turn_of(row[answer], row.get("tools"))]


def _tools(row: dict[str, Any]) -> dict[str, Any]:
    return {"tools": row["tools"]} if row.get("tools") else {}


def chat_row(row: dict[str, Any]) -> dict[str, Any]:
    """A dataset's row in OpenAI's fine-tuning form."""
    return {"messages": [*row["messages"], *_turn(row, "answer")], **_tools(row)}


def _completion(row: dict[str, Any], answer: str = "answer") -> dict[str, Any]:
    completion = with_objects(_turn(row, answer))
    return {"prompt": with_objects(row["messages"]), "completion": completion, **_tools(row)}


def _preference(row: dict[str, Any]) -> dict[str, Any]:
    better, worse = (with_objects(_turn(row, one)) for one in ("chosen", "rejected"))
    return {"prompt": with_objects(row["messages"]), "chosen": better, "rejected": worse, **_tools(row)}


def _comparison(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "input": {"messages": row["messages"], **_tools(row)},
        "preferred_output": _turn(row, "chosen"),
        "non_preferred_output": _turn(row, "rejected"),
    }


def _kto(
    directory: Path, dataset_id: str, rows: Iterator[dict[str, Any]], split: str | None
) -> Iterator[dict[str, Any]]:
    """Good answers, then the bad ones beside which they stand, then those that were only rated; all but the first are of the
    training split."""
    for row in rows:
        yield _completion(row) | {"label": True}
    if split != "validation":
        for row in read_rows(directory, dataset_id, "pairs"):
            yield _completion(row, "rejected") | {"label": False}
        for row in read_rows(directory, dataset_id, "rated"):
            yield _completion(row) | {"label": row["good"]}
