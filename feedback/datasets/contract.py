"""The task contract: what an answer must look like, whichever version wrote it and whoever corrected it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema

from feedback.datasets.answer_check import AnswerCheck
from feedback.datasets.answer_forms import Form, LabelForm, PatternForm, SchemaForm
from feedback.datasets.tool_calls import call_key, calls_of, turn_of
from feedback.errors import SettingsError
from feedback.imports.tools import call_problem
from feedback.registry.bases import STARTER
from feedback.settings import Model
from feedback.starter.grammar import SCHEMA

_REMEMBERED = 8192


class TaskContract:
    """Judges answers by one form and a check; without either, any text that is not empty is in form."""

    def __init__(
        self,
        schema: Mapping[str, Any] | None = None,
        *,
        labels: Sequence[str] = (),
        pattern: str = "",
        check: AnswerCheck | None = None,
    ) -> None:
        """At most one of schema, labels and pattern.

        Raises `jsonschema.SchemaError` for what is no schema, `ValueError` for what is no pattern.
        """
        self.schema = schema
        self._form: Form | None = None
        if schema is not None:
            self._form = SchemaForm(schema)
        elif labels:
            self._form = LabelForm(labels)
        elif pattern:
            self._form = PatternForm(pattern)
        self._check = check
        # Models that classify repeat their answers, so most are judged once.
        self._remembered = lru_cache(_REMEMBERED)(self._problem)

    @classmethod
    def from_settings(cls, model: Model) -> TaskContract:
        """The contract of a `[[model]]`; the starter brings its own schema. Raises `SettingsError`."""
        where = f"[[model]] {model.name!r}:"
        check = AnswerCheck(model.check, f"{where} check = {model.check!r}") if model.check else None
        if model.labels:
            return cls(labels=model.labels, check=check)
        if model.pattern:
            try:
                return cls(pattern=model.pattern, check=check)
            except ValueError as error:
                raise SettingsError([f"{where} pattern = {model.pattern!r}: {error}"]) from None
        schema = schema_of(model)
        try:
            return cls(schema, check=check)
        except jsonschema.SchemaError as error:
            where = f"{where} schema = {model.schema!r}"
            raise SettingsError([f"{where}: is not a JSON schema: {error.message}"]) from error

    @property
    def restricts(self) -> bool:
        """Whether more is asked of an answer than not to be empty."""
        return self._form is not None or self._check is not None

    @property
    def needs_messages(self) -> bool:
        """Whether the check looks at the messages too."""
        return self._check is not None and self._check.needs_messages

    @property
    def described(self) -> str:
        """A text that is equal for contracts that ask for the same, as far as the configuration says."""
        form = None if self._form is None else self._form.described
        return json.dumps([form, self._check and self._check.entry], sort_keys=True)

    def problem(
        self,
        text: str,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Any] | None = None,
    ) -> str | None:
        """What is wrong with an answer, as in "the answer …"; None where nothing is.

        `messages` are those before it, where they are at hand; only a check may look at them. An answer that calls one of
        `tools` is held to their schemas instead.
        """
        if tools and calls_of(text)[0] is not None:
            return call_problem(turn_of(text, tools), tools)
        if messages is None or not self.needs_messages:
            return self._remembered(text)
        return self._problem(text, messages)

    def valid(
        self,
        text: str,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Any] | None = None,
    ) -> bool:
        """Whether an answer is in form."""
        return self.problem(text, messages, tools) is None

    def slice_of(self, text: str) -> str | None:
        """What kind of answer it is: its label, or the value of the first property that the schema restricts to words."""
        return None if self._form is None else self._form.slice_of(text)

    def _problem(self, text: str, messages: Sequence[Mapping[str, Any]] | None = None) -> str | None:
        if not text.strip():
            return "is empty"
        found = None if self._form is None else self._form.problem(text)
        if found is None and self._check is not None:
            found = self._check.problem(text, messages)
        return found


def same_answer(one: str, other: str) -> bool:
    """Whether two answers mean the same: in JSON, order of keys and spacing do not count."""
    return answer_key(one) == answer_key(other)


def answer_key(text: str) -> str:
    """A text that is equal for answers that mean the same, and for no others."""
    if (calls := call_key(text)) is not None:
        return calls
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text.strip()


def schema_of(model: Model) -> Mapping[str, Any] | None:
    """The JSON schema of a model's answers, where it has one. Raises `SettingsError` for a file that cannot be read."""
    if not model.schema:
        return SCHEMA if model.base == STARTER else None
    return _read(Path(model.schema).expanduser(), f"[[model]] {model.name!r}: schema = {model.schema!r}")


def constraint_of(model: Model) -> dict[str, Any] | None:
    """vLLM's `structured_outputs` for a model's requests, where it is to write nothing that is out of form.

    Raises `SettingsError` for a schema that cannot be read.
    """
    if not model.constrain:
        return None
    if model.labels:
        return {"choice": model.labels}
    if model.pattern:
        return {"regex": model.pattern}
    schema = schema_of(model)
    return None if schema is None else {"json": schema}


def _read(path: Path, where: str) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{where}: cannot be read ({error.strerror})"]) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError([f"{where}: is not JSON in UTF-8: {error}"]) from error
    if not isinstance(schema, dict):
        raise SettingsError([f"{where}: must be a JSON object, not {type(schema).__name__}"])
    return schema
