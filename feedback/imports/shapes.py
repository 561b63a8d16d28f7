"""The shapes that rows come in, and from each the canonical row.

chat         {"messages": […], "tools"?}                 OpenAI; `weight` 0 in an answer: not to be learned
instruction  {"instruction", "input"?, "output"}
completion   {"prompt", "completion"}                    texts, or lists of messages
preference   {"prompt"?, "chosen", "rejected"}           texts, or lists of messages
comparison   {"input": {"messages", "tools"?}, "preferred_output", "non_preferred_output"}   OpenAI's preferences; its
             reference says `…_completion` where its guide says `…_output`, and both are read

Each may have `system` (not chat), `label` and `source`, which `data check` counts by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from feedback.datasets.chat import Messages
from feedback.datasets.contract import answer_key
from feedback.datasets.tool_calls import answer_text
from feedback.errors import BadFieldError
from feedback.imports.rows import Row, checked_messages, checked_text, checked_tools, storable
from feedback.imports.tools import check_calls, check_parallel

Shape = Literal["chat", "instruction", "completion", "preference", "comparison"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
_FIELDS: dict[Shape, tuple[str, ...]] = {
    "chat": ("messages",),
    "preference": ("chosen", "rejected"),
    "comparison": ("input", "preferred_output", "non_preferred_output"),
    "completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
}
_CALLED = {"preferred_completion": "preferred_output", "non_preferred_completion": "non_preferred_output"}
Columns = Mapping[str, str]
"""What a row is made of (`prompt`, `answer`, …), and the field or column that holds it."""
MAPPED = ("messages", "system", "prompt", "answer", "rejected", "label", "source")


def shape_of(record: Mapping[str, Any]) -> Shape | None:
    """The shape that a record's fields speak for."""
    record = _as_called_here(record)
    for shape, fields in _FIELDS.items():
        if all(name in record for name in fields):
            return shape
    return None


def columns_of(text: str) -> dict[str, str]:
    """`prompt=question,answer=reply` as part → column. Raises `BadFieldError` for `map`."""
    found: dict[str, str] = {}
    for pair in text.split(",") if text.strip() else ():
        part, equals, column = pair.partition("=")
        if not equals or part.strip() not in MAPPED or not column.strip():
            raise BadFieldError("map", f"{pair[:60]!r} is not PART=COLUMN; parts are {', '.join(MAPPED)}")
        found[part.strip()] = column.strip()
    if found and not ("messages" in found or {"prompt", "answer"} <= found.keys()):
        raise BadFieldError(
            "map", "a row is made of `prompt` and `answer`, or of `messages`; name their columns"
        )
    return found


def mapped(record: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """The record under the names that shapes have. Raises `BadFieldError` where a column is not there."""
    found: dict[str, Any] = {}
    for part, column in columns.items():
        if column not in record:
            there = ", ".join(list(record)[:12]) or "none"
            raise BadFieldError(column, f"there is no such column; there are: {there}")
        found[part] = record[column]
    if "answer" in found:
        found["chosen" if "rejected" in found else "completion"] = found.pop("answer")
    return found


def canonical(record: Mapping[str, Any], shape: Shape, line: int) -> Row:
    """The canonical row of a record. Raises `BadFieldError`."""
    record = _as_called_here(record)
    for name in _FIELDS[shape]:
        if name not in record:
            there = ", ".join(list(record)[:12]) or "none"
            raise BadFieldError(name, f"is missing; rows are read as {shape}, and this one has: {there}")
    if record.get("functions"):
        raise BadFieldError("functions", "is the old form of tools; write tools")
    row = _READERS[shape](record, line)
    check_calls(row.messages, row.tools)
    if row.rejected is not None:
        check_calls([*row.messages[:-1], row.rejected | {"weight": 0}], row.tools)
    check_parallel(record.get("parallel_tool_calls"), row.messages)
    for name in ("label", "source"):
        if (value := record.get(name)) is not None:
            setattr(row, name, storable(str(value), name))
    return row


def _as_called_here(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record with the other names of its fields replaced."""
    if record.keys().isdisjoint(_CALLED):
        return record
    return {_CALLED.get(name, name): value for name, value in record.items()}


def _chat(record: Mapping[str, Any], line: int) -> Row:
    messages = record["messages"]
    if isinstance(messages, str):  # a cell of a table
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            raise BadFieldError("messages", "is no list of messages, and no JSON of one either") from None
    return Row(checked_messages(messages, "messages"), line, checked_tools(record.get("tools")))


def _instruction(record: Mapping[str, Any], line: int) -> Row:
    prompt = checked_text(record, "instruction")
    extra = record.get("input")
    if extra is not None and extra != "":
        prompt = f"{prompt}\n\n{checked_text(record, 'input')}"
    return Row(_joined(_question(record, prompt), checked_text(record, "output")), line)


def _completion(record: Mapping[str, Any], line: int) -> Row:
    tools = checked_tools(record.get("tools"))
    if isinstance(record["prompt"], list) or isinstance(record["completion"], list):
        prompt, answer = (_listed(record, name, "completion") for name in ("prompt", "completion"))
        return Row(checked_messages([*prompt, *answer], "messages"), line, tools)
    answer_text = checked_text(record, "completion")
    return Row(_joined(_question(record, checked_text(record, "prompt")), answer_text), line, tools)


def _preference(record: Mapping[str, Any], line: int) -> Row:
    tools = checked_tools(record.get("tools"))
    if isinstance(record["chosen"], str):
        question = (
            _question(record, checked_text(record, "prompt"))
            if not isinstance(record.get("prompt"), list)
            else _listed(record, "prompt", "chosen")
        )
        messages = checked_messages(_joined(question, checked_text(record, "chosen")), "messages")
        rejected = {"role": "assistant", "content": checked_text(record, "rejected")}
        return _preferred(Row(messages, line, tools, rejected), "chosen", "rejected")
    before = _listed(record, "prompt", "chosen") if record.get("prompt") else []
    return _compared(before, record, ("chosen", "rejected"), line, tools)


def _comparison(record: Mapping[str, Any], line: int) -> Row:
    asked = record["input"]
    if not isinstance(asked, dict) or not isinstance(asked.get("messages"), list):
        raise BadFieldError("input", 'must be {"messages": […]}, the conversation that was to be answered')
    tools = checked_tools(asked.get("tools"))
    return _compared(asked["messages"], record, ("preferred_output", "non_preferred_output"), line, tools)


def _compared(
    before: Messages, record: Mapping[str, Any], names: tuple[str, str], line: int, tools: list[Any] | None
) -> Row:
    """A row of two continuations, given as lists of messages under two names, of which the first is better."""
    better, worse = names
    chosen, other = (_listed(record, name, better) for name in names)
    messages = checked_messages([*before, *chosen], better)
    refused = checked_messages([*before, *other], worse)
    if refused[:-1] != messages[:-1]:
        raise BadFieldError(worse, f"differs from {better} before the last answer; give both the same prompt")
    return _preferred(Row(messages, line, tools, refused[-1]), better, worse)


def _preferred(row: Row, better: str, worse: str) -> Row:
    assert row.rejected is not None
    if answer_key(answer_text(row.rejected)) == answer_key(answer_text(row.messages[-1])):
        raise BadFieldError(
            worse, f"is the same as {better}, so there is nothing to prefer; leave the row out"
        )
    return row


_READERS: dict[Shape, Callable[[Mapping[str, Any], int], Row]] = {
    "chat": _chat,
    "instruction": _instruction,
    "completion": _completion,
    "preference": _preference,
    "comparison": _comparison,
}


def _question(record: Mapping[str, Any], prompt: str) -> Messages:
    question = [{"role": "user", "content": prompt}]
    if record.get("system"):
        question.insert(0, {"role": "system", "content": checked_text(record, "system")})
    return question


def _joined(question: Messages, answer: str) -> Messages:
    return [*question, {"role": "assistant", "content": answer}]


def _listed(record: Mapping[str, Any], name: str, answer: str) -> Messages:
    """A field's messages; a text stands for one of the user, or of the assistant where answers are."""
    value = record.get(name)
    if isinstance(value, list):
        return value
    role = "user" if name == "prompt" else "assistant"
    return [{"role": role, "content": checked_text(record, name)}]
