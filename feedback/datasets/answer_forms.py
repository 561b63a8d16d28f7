"""The forms that an answer may be held to: a JSON schema, one of a set of labels, a regular expression. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn, Protocol

import jsonschema

_SHOWN_LABELS = 10
_LONGEST_MATCHED = 100_000
"""Characters of an answer that a pattern is tried on; what is longer is out of form without a look."""


class Form(Protocol):
    """What an answer that is not blank must look like."""

    @property
    def described(self) -> Any:
        """JSON by which two forms can be told apart."""

    def problem(self, text: str) -> str | None:
        """What is wrong with an answer, as in "the answer …"; None where nothing is."""

    def slice_of(self, text: str) -> str | None:
        """What kind of answer it is; None where the form does not tell kinds."""


class SchemaForm:
    """JSON that meets a schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Raises `jsonschema.SchemaError` for what is no schema."""
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        self.schema = schema
        self._validator: Any = kind(schema)

    @property
    def described(self) -> Any:
        return {"schema": self.schema}

    def problem(self, text: str) -> str | None:
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            return f"is not JSON: {error}"
        breach = jsonschema.exceptions.best_match(self._validator.iter_errors(value))
        if breach is None:
            return None
        place = ".".join(str(part) for part in breach.absolute_path)
        return f"breaks the schema: {place + ': ' if place else ''}{breach.message}"

    def slice_of(self, text: str) -> str | None:
        """The value of the first property that the schema restricts to a list of words."""
        properties = self.schema.get("properties")
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


class LabelForm:
    """One label out of a set, to the letter; blanks around it do not count."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = list(labels)
        self._known = frozenset(labels)

    @property
    def described(self) -> Any:
        return {"labels": sorted(self._labels)}

    def problem(self, text: str) -> str | None:
        if text.strip() in self._known:
            return None
        shown = ", ".join(self._labels[:_SHOWN_LABELS])
        more = len(self._labels) - _SHOWN_LABELS
        return f"is none of the labels: {shown}{f' and {more} more' if more > 0 else ''}"

    def slice_of(self, text: str) -> str | None:
        label = text.strip()
        return label if label in self._known else None


class PatternForm:
    """Text that a regular expression matches as a whole, blanks around it aside.

    By RE2, whose time grows with the text's length and not, as that of engines that try again, with its power: an
    operator's pattern and a user's text together must not be able to stop a gateway.
    """

    def __init__(self, pattern: str) -> None:
        """Raises `ValueError` with what is wrong for a pattern that RE2 does not take."""
        self._pattern = pattern
        self._compiled = _compiled(pattern)

    @property
    def described(self) -> Any:
        return {"pattern": self._pattern}

    def problem(self, text: str) -> str | None:
        answer = text.strip()
        if len(answer) > _LONGEST_MATCHED:
            return f"is longer than the {_LONGEST_MATCHED:,} characters that a pattern is tried on"
        if self._compiled.fullmatch(answer.encode("utf-8", "replace")) is not None:
            return None
        return f"does not match the pattern {self._pattern}"

    def slice_of(self, text: str) -> str | None:
        return None


@lru_cache(256)
def _compiled(pattern: str) -> Any:
    import re2  # a megabyte that only models with a pattern need

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern.encode("utf-8", "replace"), options)
    except re2.error as error:
        told = error.args[0] if error.args else error
        raise ValueError(told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
