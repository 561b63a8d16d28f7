"""Reads `starloop.toml` and the environment into `Settings`, and reports everything that is wrong at once."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from feedback.errors import SettingsError
from feedback.registry.bases import STARTER
from feedback.settings import Section, Settings
from feedback.settings_values import value_problem

_UNHELD = re.compile(r"(?<!\\)(?:\\\\)*(\\[AzZQEbBpPCx]|\[\[:|\(\?(?!:))")
"""What RE2 knows and the grammars of vLLM's structured outputs do not: they read it to the letter, or refuse it."""

_PREFIX = "STARLOOP_"
# What a variable for an array of tables is laid over where the file has none: the default's required keys.
_FIRST = {"model": {"name": "assistant"}}


def load(path: Path | None, environment: Mapping[str, str]) -> Settings:
    """Settings from a file (or none, for all defaults) with `STARLOOP_<SECTION>__<KEY>` laid over it.

    Raises `SettingsError` naming every unknown key with the nearest right one, and every wrong value.
    """
    raw: dict[str, Any] = {}
    where = "the environment"
    if path is not None:
        where = str(path)
        raw = _parse(path)
    problems: list[str] = []
    _overlay(raw, environment, problems)
    built: Settings | None = _section(Settings, raw, "", problems)
    if built is not None and not problems:
        _check_together(built, problems)
    if built is None or problems:
        raise SettingsError([f"{where}: {problem}" for problem in problems])
    return built


def origins(path: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Where each setting that is not a default comes from: the file's name, or the variable that goes before it.

    Keys are as messages name them: `server.port`, `engine[0].base`. For what `load` has taken.
    """
    found: dict[str, str] = {}
    raw = {} if path is None else _parse(path)
    for section, content in raw.items():
        tables = content if isinstance(content, list) else [content]
        for number, table in enumerate(tables):
            place = f"{section}[{number}]" if isinstance(content, list) else section
            found |= dict.fromkeys((f"{place}.{key}" for key in table), path.name if path else "")
    for variable, section, key in _variables(environment):
        kind = _fields(Settings).get(section)
        place = f"{section}[0]" if _items(kind) else section
        found[f"{place}.{key}"] = variable
    return found


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Variables that set something, with section and key."""
    for variable in sorted(environment):
        if variable.startswith(_PREFIX) and "__" in variable:
            section, key = variable.removeprefix(_PREFIX).lower().split("__", 1)
            yield variable, section, key


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            [f"{path}: there is no such file; copy deploy/starloop.toml or leave --config out"]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: cannot be read: {error}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: is not valid TOML: {error}"]) from None


def _overlay(raw: dict[str, Any], environment: Mapping[str, str], problems: list[str]) -> None:
    """Lay `STARLOOP_SERVER__PORT=9000` over `[server] port`; of `[[engine]]` and `[[model]]`, over the first."""
    for variable, section, key in _variables(environment):
        kind = _fields(Settings).get(section)
        if kind is None:
            problems.append(
                f"{variable}: there is no section [{section}]{_nearest(section, _fields(Settings))}"
            )
            continue
        target = raw.setdefault(section, [dict(_FIRST.get(section, {}))] if _items(kind) else {})
        if isinstance(target, list):
            target = target[0] if target else {}
        if not isinstance(target, dict):
            continue  # the wrong shape is reported by the walk below
        field = _fields(_items(kind) or kind).get(key)
        target[key] = _typed(environment[variable], field)


def _typed(text: str, kind: Any) -> Any:
    """A variable's text as the field wants it: strings stay, everything else is read as JSON."""
    probe = kind
    try:
        return msgspec.convert(text, probe)
    except (msgspec.ValidationError, TypeError):
        pass
    try:
        return json.loads(text)
    except ValueError:
        return text


def _section(kind: type[Any], raw: Any, where: str, problems: list[str]) -> Any:
    """Build one section field by field, so that one wrong value does not hide the next."""
    if not isinstance(raw, dict):
        problems.append(f"{where or 'file'}: must be a table, not {type(raw).__name__}")
        return None
    fields = _fields(kind)
    values: dict[str, Any] = {}
    failed = False
    for key, value in raw.items():
        place = f"{where}.{key}" if where else key
        if key not in fields:
            problems.append(f"{place}: unknown key{_nearest(key, fields)}")
            continue
        item = _items(fields[key])
        if item is not None and isinstance(value, list):
            values[key] = [_section(item, one, f"{place}[{n}]", problems) for n, one in enumerate(value)]
        elif isinstance(fields[key], type) and issubclass(fields[key], Section):
            values[key] = _section(fields[key], value, place, problems)
        else:
            try:
                values[key] = msgspec.convert(value, fields[key])
            except msgspec.ValidationError as error:
                failed = True
                problems.append(f"{place}: {_readable(str(error))}, got {value!r}")
                continue
            problem = value_problem(kind, key, values[key])
            if problem is not None:
                failed = True
                problems.append(f"{place}: {problem}")
    missing = [name for name in _required(kind) if name not in raw]
    problems.extend(f"{where}.{name}: is required" for name in missing)
    if failed or missing:
        return None
    return kind(**values)


def _check_together(settings: Settings, problems: list[str]) -> None:
    """What only shows across sections."""
    names = [model.name for model in settings.model]
    problems.extend(
        f"model: the name {name!r} is used twice" for name in sorted({n for n in names if names.count(n) > 1})
    )
    bases = [engine.base for engine in settings.engine]
    problems.extend(
        f"engine: the base {base!r} has two [[engine]] tables; list all its urls in one"
        for base in sorted({b for b in bases if bases.count(b) > 1})
    )
    for model in settings.model:
        if model.base not in bases:
            problems.append(
                f"model {model.name!r}: no [[engine]] serves its base {model.base!r} (there are: {', '.join(bases)})"
            )
        forms = [key for key in ("schema", "labels", "pattern") if getattr(model, key)]
        if model.constrain and (unheld := _UNHELD.search(model.pattern)):
            problems.append(
                f"model {model.name!r}: pattern has {unheld[1]!r}, which the engine's grammars take for something else; write it "
                "without, or leave constrain off"
            )
        if model.constrain and not forms and model.base != STARTER:
            problems.append(
                f"model {model.name!r}: constrain is set, and there is no form to hold answers to; set schema, labels or pattern"
            )
        if len(forms) > 1:
            problems.append(
                f"model {model.name!r}: {' and '.join(forms)} are set; keep one of them, `check` may stand beside it"
            )
    contenders = [one.name for one in settings.contender if one.url]
    problems.extend(
        f"contender: the name {name!r} is used twice"
        for name in sorted({n for n in contenders if n and contenders.count(n) > 1})
    )
    problems.extend(
        f"contender[{place}].{key}: is empty, and url names an API; say what it is called and which model is asked"
        for place, one in enumerate(settings.contender)
        for key in ("name", "model")
        if one.url and not getattr(one, key)
    )
    for engine in settings.engine:
        if settings.training.rank > engine.max_lora_rank:
            problems.append(
                f"training.rank: {settings.training.rank} is above max_lora_rank {engine.max_lora_rank} of the engine for {engine.base!r}"
            )
    if settings.training.engine_asleep:
        if settings.training.ray:
            problems.append(
                "training.engine_asleep: a training on Ray does not need the engines' memory; set either it or ray"
            )
        if not settings.training.window:
            problems.append(
                'training.engine_asleep: nobody is answered meanwhile, so it needs a window, such as window = "02:00-05:00"'
            )
        if all(engine.urls for engine in settings.engine):
            problems.append(
                "training.engine_asleep: every [[engine]] has urls, and engines that run elsewhere are not put to sleep; train "
                "beside them, or remove urls to have one managed"
            )
    ports = [engine.port for engine in settings.engine if not engine.urls] + [settings.server.port]
    problems.extend(
        f"port {port} is used twice; give each managed [[engine]] and [server] its own"
        for port in sorted({p for p in ports if ports.count(p) > 1})
    )


def _fields(kind: type[Any]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _required(kind: type[Any]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind) if field.required]


def _items(kind: Any) -> type[Any] | None:
    """The section type of an array of tables, else None."""
    arguments = get_args(kind)
    if get_origin(kind) is list and isinstance(arguments[0], type) and issubclass(arguments[0], Section):
        return arguments[0]
    return None


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _readable(message: str) -> str:
    return message[0].lower() + message[1:].replace("`", "")
