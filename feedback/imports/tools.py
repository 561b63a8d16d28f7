"""What is wrong with a row's tools, with the calls of them, and with what they returned."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jsonschema
import referencing
import referencing.exceptions

from feedback.datasets.chat import Messages
from feedback.errors import BadFieldError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PROBLEM, _REMEMBERED = 200, 256
_NOTHING = referencing.Registry()
"""A schema that refers to somewhere else is not looked up there."""


def check_calls(messages: Messages, tools: Sequence[Any] | None, field: str = "messages") -> None:
    """Check tools and calls of a row whose messages are in order. Raises `BadFieldError`.

    Every call has an id of its own and names one of the tools; its arguments are a JSON object, and in an answer that is
    learned one that the tool's schema allows. Each call is returned from once, before anybody else speaks; one that ends the
    row need not be.
    """
    schemas = _schemas(tools or ())
    waiting: dict[str, str] = {}
    for place, message in enumerate(messages):
        where = f"{field}.{place}"
        if message["role"] == "tool":
            identifier = message.get("tool_call_id")
            if not isinstance(identifier, str) or identifier not in waiting:
                raise BadFieldError(
                    f"{where}.tool_call_id",
                    f"is {str(identifier)[:40]!r}, and no call before it waits for that; name the call it returns from",
                )
            del waiting[identifier]
            continue
        if waiting:
            raise BadFieldError(
                where, f"the call {next(iter(waiting))[:40]!r} was not returned from; add a tool message"
            )
        calls = message.get("tool_calls", [])
        if calls and message["role"] != "assistant":
            raise BadFieldError(f"{where}.tool_calls", "only the assistant calls tools; remove it")
        if not isinstance(calls, list):
            raise BadFieldError(f"{where}.tool_calls", "must be a list of calls")
        for number, call in enumerate(calls):
            here = f"{where}.tool_calls.{number}"
            identifier = _checked_call(call, schemas, here, message.get("weight") != 0)
            if identifier in waiting:
                raise BadFieldError(f"{here}.id", "two calls have the same id; give each its own")
            waiting[identifier] = here


def check_tools(tools: Sequence[Any]) -> None:
    """Check a list of tools alone. Raises `BadFieldError`."""
    _schemas(tools)


def call_problem(turn: Mapping[str, Any], tools: Sequence[Any]) -> str | None:
    """What is wrong with the calls of an assistant's turn, as in "the answer …"; None where nothing is."""
    try:
        check_calls([dict(turn)], tools)
    except BadFieldError as error:
        return f"calls a tool wrongly: {error.field.removeprefix('messages.0.')} {error.problem}"
    return None


def check_parallel(value: Any, messages: Messages) -> None:
    """Whether several calls at once are there only where they may be. Raises `BadFieldError`."""
    if value is not None and not isinstance(value, bool):
        raise BadFieldError("parallel_tool_calls", "must be true or false")
    if value is False and any(len(message.get("tool_calls", ())) > 1 for message in messages):
        raise BadFieldError("parallel_tool_calls", "is false, and an answer makes several calls at once")


def _schemas(tools: Sequence[Any]) -> dict[str, Mapping[str, Any]]:
    """Each tool's name and the schema of its arguments."""
    try:
        return _schemas_in(json.dumps(tools))
    except RecursionError:
        raise BadFieldError("tools", "are nested too deep; no tool needs that") from None


@lru_cache(_REMEMBERED)
def _schemas_in(text: str) -> dict[str, Mapping[str, Any]]:
    """The same of tools as JSON text: rows and requests repeat theirs, and checking a schema takes a millisecond."""
    found: dict[str, Mapping[str, Any]] = {}
    for number, tool in enumerate(json.loads(text)):
        where = f"tools.{number}"
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise BadFieldError(where, 'must be {"type": "function", "function": {"name", "parameters"}}')
        name, schema = function.get("name"), function.get("parameters") or {}
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadFieldError(f"{where}.function.name", "must be 1 to 64 letters, digits, _, . or -")
        if name in found:
            raise BadFieldError(f"{where}.function.name", f"two tools are named {name!r}; name each once")
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except (jsonschema.SchemaError, RecursionError) as error:
            told = str(getattr(error, "message", "it is nested too deep"))[:_PROBLEM]
            raise BadFieldError(f"{where}.function.parameters", f"is no JSON schema: {told}") from None
        found[name] = schema
    return found


def _checked_call(call: Any, schemas: Mapping[str, Mapping[str, Any]], where: str, learned: bool) -> str:
    """The call's id."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise BadFieldError(where, 'must be {"id", "type": "function", "function": {"name", "arguments"}}')
    identifier, name = call.get("id"), function.get("name")
    if not isinstance(identifier, str) or not identifier:
        raise BadFieldError(f"{where}.id", "must be text that its return names; add one")
    if not isinstance(name, str) or name not in schemas:
        there = ", ".join(schemas) or "none"
        raise BadFieldError(
            f"{where}.function.name",
            f"is {str(name)[:64]!r}, which is no tool of this row; there are: {there[:_PROBLEM]}",
        )
    here = f"{where}.function.arguments"
    try:
        arguments = json.loads(str(function["arguments"]))
    except (KeyError, ValueError, RecursionError):
        raise BadFieldError(here, "must be text that is a JSON object, and is none") from None
    if not isinstance(arguments, dict):
        raise BadFieldError(here, "must be a JSON object, whose fields are the tool's parameters")
    if learned and (problem := _mismatch(arguments, schemas[name])):
        raise BadFieldError(here, f"does not fit the schema of {name}: {problem}")
    return identifier


def _mismatch(arguments: dict[str, Any], schema: Mapping[str, Any]) -> str | None:
    validator = jsonschema.Draft202012Validator(schema, registry=_NOTHING)
    try:
        error = next(validator.iter_errors(arguments), None)
    except (referencing.exceptions.Unresolvable, RecursionError) as problem:
        return f"it cannot be followed ({type(problem).__name__})"
    return None if error is None else str(error.message)[:_PROBLEM]
