"""The task contract: what an answer must look like, whichever version wrote it and whoever corrected it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jsonschema

from feedback.errors import SettingsError
from feedback.registry.bases import STARTER
from feedback.settings import Model
from feedback.starter.grammar import SCHEMA

_REMEMBERED = 8192


class TaskContract:
    """Judges the form of answers by a JSON schema; without one, any text that is not empty is in form."""

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        """Raises `jsonschema.SchemaError` for what is no schema."""
        self.schema = schema
        self._validator: Any = None
        if schema is not None:
            kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
            kind.check_schema(schema)
            self._validator = kind(schema)
        # Models that classify repeat their answers, so most are judged once.
        self._remembered = lru_cache(_REMEMBERED)(self._problem)

    @classmethod
    def from_settings(cls, model: Model) -> TaskContract:
        """The contract of a `[[model]]`: its schema file, or the starter's own. Raises `SettingsError`."""
        if not model.schema:
            return cls(SCHEMA if model.base == STARTER else None)
        where = f"[[model]] {model.name!r}: schema = {model.schema!r}"
        try:
            schema = json.loads(Path(model.schema).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError([f"{where}: cannot be read ({error.strerror})"]) from error
        except (ValueError, RecursionError) as error:
            raise SettingsError([f"{where}: is not JSON in UTF-8: {error}"]) from error
        if not isinstance(schema, dict):
            raise SettingsError([f"{where}: must be a JSON object, not {type(schema).__name__}"])
        try:
            return cls(schema)
        except jsonschema.SchemaError as error:
            raise SettingsError([f"{where}: is not a JSON schema: {error.message}"]) from error

    def problem(self, text: str) -> str | None:
        """What is wrong with an answer's form, as in "the answer …"; None where nothing is."""
        return self._remembered(text)

    def valid(self, text: str) -> bool:
        """Whether an answer is in form."""
        return self.problem(text) is None

    def slice_of(self, text: str) -> str | None:
        """What kind of answer it is: the value of the first property that the schema restricts to a list of words."""
        properties = (self.schema or {}).get("properties")
        if not isinstance(properties, dict):
            return None
        for name, rules in properties.items():
            if isinstance(rules, dict) and isinstance(rules.get("enum"), list):
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError):
                    return None
                found = value.get(name) if isinstance(value, dict) else None
                return found if isinstance(found, str) else None
        return None

    def _problem(self, text: str) -> str | None:
        if not text.strip():
            return "is empty"
        if self._validator is None:
            return None
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            return f"is not JSON: {error}"
        breach = jsonschema.exceptions.best_match(self._validator.iter_errors(value))
        if breach is None:
            return None
        place = ".".join(str(part) for part in breach.absolute_path)
        return f"breaks the schema: {place + ': ' if place else ''}{breach.message}"


def same_answer(one: str, other: str) -> bool:
    """Whether two answers mean the same: in JSON, order of keys and spacing do not count."""
    return answer_key(one) == answer_key(other)


def answer_key(text: str) -> str:
    """A text that is equal for answers that mean the same, and for no others."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text.strip()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
