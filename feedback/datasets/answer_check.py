"""A check of the operator's own: a Python function that says what is wrong with an answer, beyond its form."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from feedback.errors import SettingsError

_log = logging.getLogger(__name__)


class AnswerCheck:
    """The function behind `check = "module:function"`.

    It takes the answer, or the answer and the messages before it, and returns None or what is wrong, as in "the answer
    …". Where the messages are not at hand, a function that asks for them gets None in their place.
    """

    def __init__(self, entry: str, where: str = "check") -> None:
        """Raises `SettingsError`, beginning with `where`, for what cannot be loaded or called so."""
        self.entry = entry
        self._function = _loaded(entry, where)
        self.needs_messages = _parameters(self._function, where) == 2
        self._complained = False

    def problem(self, text: str, messages: Sequence[Mapping[str, Any]] | None) -> str | None:
        """What the function finds. An answer that it cannot judge has not passed."""
        arguments = (text, messages) if self.needs_messages else (text,)
        try:
            found = self._function(*arguments)
        except Exception as error:  # whatever an operator's code raises: one answer must not end a triage
            self._tell(f"raised {type(error).__name__}: {error}")
            return f"could not be checked: {self.entry} raised {type(error).__name__}: {error}"
        if found is None or isinstance(found, str):
            return found or None
        self._tell(f"returned {type(found).__name__}")
        return f"could not be checked: {self.entry} returned {type(found).__name__}, not None or a text"

    def _tell(self, what: str) -> None:
        """Once: a check that is broken is broken for every answer."""
        if not self._complained:
            self._complained = True
            _log.warning(
                "the check %s %s; until it is mended, answers like this one count as out of form",
                self.entry,
                what,
            )


def _loaded(entry: str, where: str) -> Callable[..., Any]:
    name, _, attribute = entry.partition(":")
    try:
        module = import_module(name)
    except Exception as error:  # a module may raise anything while it is loaded
        raise SettingsError(
            [
                f"{where}: {name} cannot be imported ({type(error).__name__}: {error}); install it into Starloop's "
                "environment, or name its folder in PYTHONPATH"
            ]
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        told = "is no function" if hasattr(module, attribute) else "is not there"
        raise SettingsError([f"{where}: {attribute} {told} in {name} ({module.__file__})"])
    return function  # type: ignore[no-any-return]


def _parameters(function: Callable[..., Any], where: str) -> int:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return 1  # written in C: it is called with the answer alone
    for count in (2, 1):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count
    raise SettingsError(
        [f"{where}: must take the answer, or the answer and the messages, but its parameters are {signature}"]
    )
