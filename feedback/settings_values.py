"""What a setting's type does not say: addresses, databases and schedules that can be used."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from feedback.cron import cron_trigger
from feedback.settings import Contender, Engine, Model, Schedule, Section, Storage, Training
from feedback.window import Window

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


def _webhook(url: str) -> str | None:
    return _urls([url]) if url else None


def _smtp(url: str) -> str | None:
    if not url:
        return None
    problem = f"{url!r} is not a mail server such as smtp://user@mail.example:587 or smtps://mail.example"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return problem
    if parts.password is not None:
        return "holds a password; leave it out, and set STARLOOP_SMTP_PASSWORD"
    return None if parts.scheme in ("smtp", "smtps") and parts.hostname and port != 0 else problem


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


def _labels(labels: list[str]) -> str | None:
    unclean = [label for label in labels if not label.strip() or label != label.strip()]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    wrong = [f"{label!r} is empty or has blanks around it" for label in unclean]
    wrong += [f"{label!r} stands twice" for label in twice]
    return f"{'; '.join(wrong)}; write each label once, as answers have it" if wrong else None


def _pattern(pattern: str) -> str | None:
    if not pattern:
        return None
    from feedback.datasets.answer_forms import PatternForm

    try:
        PatternForm(pattern)
    except ValueError as error:
        return (
            f"{pattern!r} is no regular expression that RE2 takes ({error}); it knows no look-around and no references "
            "back. Use `check` for what it cannot say"
        )
    return None


def _check(entry: str) -> str | None:
    if not entry or _ENTRY.fullmatch(entry):
        return None
    return f'{entry!r} names no function; write "package.module:function"'


def _contender(name: str) -> str | None:
    if name in ("", "all") or (_PLAIN.fullmatch(name) and name != "base" and not _NUMBER.fullmatch(name)):
        return "is the word for all of them; take another name" if name == "all" else None
    return (
        f"{name!r} cannot be a contender's; take letters, digits, '.', '_' and '-', and no version's number"
    )


def _variable(name: str) -> str | None:
    if not name or _VARIABLE.fullmatch(name):
        return None  # and what is wrong may be the key itself: it is not repeated
    return (
        "names no variable of the environment, such as OPENAI_API_KEY; the key itself has no place in a file"
    )


def _devices(devices: str) -> str | None:
    if devices in ("", "cpu") or _DEVICES.fullmatch(devices):
        return None
    return f'{devices!r} names no GPUs; write numbers ("1", "0,1") or names (`nvidia-smi -L` shows them), "cpu" or nothing'


def _window(text: str) -> str | None:
    try:
        Window.parse(text)
    except ValueError as error:
        return str(error)
    return None


_DEVICES = re.compile(r"(?:\d+|(?:GPU|MIG)-[0-9A-Za-z/-]+)(?:,(?:\d+|(?:GPU|MIG)-[0-9A-Za-z/-]+))*")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBER = re.compile(r"[0-9]+\.[0-9]+")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_ENTRY = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_CHECKS: dict[tuple[type[Section], str], Callable[[Any], str | None]] = {
    (Storage, "directory"): _directory,
    (Storage, "database"): _database,
    (Engine, "urls"): _urls,
    (Model, "labels"): _labels,
    (Model, "pattern"): _pattern,
    (Model, "check"): _check,
    (Schedule, "cron"): _cron,
    (Training, "devices"): _devices,
    (Training, "ray"): _webhook,
    (Training, "window"): _window,
    (Schedule, "webhook"): _webhook,
    (Schedule, "smtp"): _smtp,
    (Contender, "name"): _contender,
    (Contender, "url"): _webhook,
    (Contender, "key"): _variable,
}
