"""The configuration as it holds, for people to read: each value with where it comes from, and no secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from feedback.settings import Settings

DEFAULT = "default"
MASK = "•••"
_SECRET = re.compile(r"(key|token|secret|password|credential)s?\b", re.IGNORECASE)
_WHOLE = {"schedule.webhook"}
"""Addresses of which the path is the secret."""


class Value(NamedTuple):
    """One setting."""

    name: str
    """As messages about it call it: `server.port`, `engine[0].base`."""
    text: str
    """As it would stand in the file, secrets masked."""
    origin: str
    """`default`, the file's name, or the environment's variable."""


def effective(settings: Settings, origins: Mapping[str, str]) -> list[Value]:
    """Every setting in the order of the file; `origins` is what `settings_file.origins` found."""
    return [
        Value(name, _masked(name, value), origins.get(name, DEFAULT))
        for name, value in _flat(msgspec.to_builtins(settings), "")
    ]


def _flat(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{where}.{key}" if where else key
        if not where and isinstance(value, Mapping):
            yield from _flat(value, name)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for place, one in enumerate(value):
                yield from _flat(one, f"{name}[{place}]")
        else:
            yield name, value


def _masked(name: str, value: Any) -> str:
    if isinstance(value, Mapping) and name.endswith(".environment"):
        value = dict.fromkeys(value, MASK)
    elif isinstance(value, list):
        value = _arguments(value)
    elif isinstance(value, str):
        value = MASK if value and name in _WHOLE else _address(value)
    return json.dumps(value, ensure_ascii=False)


def _arguments(values: list[Any]) -> list[Any]:
    """Command-line arguments and addresses; what follows `--api-key` is a secret, also after `=`."""
    shown, secret = [], False
    for one in values:
        if not isinstance(one, str):
            shown.append(one)
            continue
        option, equals, _ = one.partition("=")
        named = option.startswith("-") and _SECRET.search(option) is not None
        shown.append(MASK if secret else f"{option}={MASK}" if named and equals else _address(one))
        secret = named and not equals and not secret
    return shown


def _address(text: str) -> str:
    """An address without the password in it and without the values of its query, which may be tokens."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return MASK
    user = parts.username
    if "@" in parts.netloc:
        host = f"{user}:{MASK}@{host}" if parts.password is not None else f"{MASK}@{host}"
    query = "&".join(f"{one.partition('=')[0]}={MASK}" for one in parts.query.split("&") if one)
    # A path in `sqlite:///…` keeps its slashes, which putting an empty host together would lose.
    return f"{parts.scheme}://{host}{parts.path}{f'?{query}' if query else ''}"
