"""What a setting's type does not say: addresses, databases and schedules that can be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from feedback.cron import cron_trigger
from feedback.settings import Engine, Schedule, Section, Storage

_DATABASES = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg", "postgres")


def value_problem(section: type[Section], key: str, value: Any) -> str | None:
    """What is wrong with a value that is right in type; None where nothing is."""
    check = _CHECKS.get((section, key))
    return None if check is None else check(value)


def engine_address(url: str) -> SplitResult:
    """The parts of an engine's http(s) address. Raises `ValueError` for what is none."""
    problem = ValueError(f"{url!r} is not an address such as http://127.0.0.1:8100")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise problem from None
    right = parts.scheme in ("http", "https") and parts.hostname and port != 0
    if not right or not url.isascii() or any(mark.isspace() for mark in url):
        raise problem
    return parts


def _urls(urls: list[str]) -> str | None:
    wrong = []
    for url in urls:
        try:
            engine_address(url)
        except ValueError as error:
            wrong.append(str(error))
    return "; ".join(wrong) or None


def _cron(expression: str) -> str | None:
    if expression in ("", Schedule().cron):
        return None  # and APScheduler need not be loaded
    try:
        cron_trigger(expression)
    except ValueError as error:
        return str(error)
    return None


def _database(url: str) -> str | None:
    kind, given, _ = url.partition("://")
    if not url or (given and kind in _DATABASES):
        return None
    told = f"{kind!r} is" if given else "it names"  # the rest may hold a password
    return f"{told} no database that can be used; write postgresql://user@host/name, or leave it empty"


def _directory(directory: str) -> str | None:
    return None if directory.strip() else 'is empty; name a folder, such as "starloop-data"'


_CHECKS: dict[tuple[type[Section], str], Callable[[Any], str | None]] = {
    (Storage, "directory"): _directory,
    (Storage, "database"): _database,
    (Engine, "urls"): _urls,
    (Schedule, "cron"): _cron,
}
