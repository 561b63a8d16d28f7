"""A version's model card: what it is, what it learned from, how it was judged, and what is not known about it.

Markdown with the front matter that model hubs read. It holds counts, figures and reasons, nothing that a user wrote but the
names of slices.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlmodel import Session, col, select

from feedback.registry.adapters import adapter_name
from feedback.registry.versions import get_version
from feedback.reports.cycle_figures import figure_table
from feedback.reports.forms import plain
from feedback.storage.tables import Canary, Cycle, DatasetVersion, ModelVersion, Move

_MOST = 12
_FACTS = (
    ("method", "method"),
    ("method_reason", "chosen because"),
    ("examples", "training rows"),
    ("validation_examples", "validation rows"),
    ("steps", "steps"),
    ("best_step", "step that was kept"),
    ("stopped", "ended because"),
    ("validation_loss", "validation loss"),
    ("learning_rate", "learning rate"),
    ("batch", "batch"),
    ("rank", "LoRA rank"),
    ("alpha", "LoRA alpha"),
    ("seed", "seed"),
    ("dtype", "weights"),
    ("quantisation", "base quantised while training"),
    ("device", "device"),
    ("base_parameters", "parameters of the base"),
    ("trained_parameters", "trained parameters"),
    ("tokens", "tokens"),
    ("seconds", "seconds"),
    ("peak_memory_mb", "peak memory, MB"),
)


def model_card(session: Session, model: str, number: str) -> str:
    """The card as Markdown. Raises `NotFoundError` for an unknown model or version."""
    version = get_version(session, model, number)
    cycle = session.get(Cycle, version.cycle_id) if version.cycle_id else None
    dataset = session.get(DatasetVersion, version.dataset_id) if version.dataset_id else None
    canaries = session.exec(
        select(Canary).where(Canary.model == model, Canary.version == number).order_by(col(Canary.id))
    ).all()
    moves = session.exec(
        select(Move)
        .where(Move.model == model, (col(Move.to_version) == number) | (col(Move.from_version) == number))
        .order_by(col(Move.position))
    ).all()
    lines = [
        *_front(version),
        f"# {plain(adapter_name(model, number))}",
        "",
        plain(version.note) or "No note.",
        "",
        f"State: {version.state}. Made {_day(version.created)}.",
        "",
        *_base(version),
        *_training(version),
        *_data(dataset),
        *_judged(cycle),
        *_users(canaries),
        *_served(moves, number),
        *_limits(version, dataset, cycle),
    ]
    return "\n".join(lines) + "\n"


def _front(version: ModelVersion) -> list[str]:
    """YAML, whose strings JSON's are."""
    named = {
        "base_model": version.base,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "starloop"],
    }
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in named.items()), "---", ""]


def _base(version: ModelVersion) -> list[str]:
    rows = [
        ("base", version.base),
        ("revision of the base", version.base_revision),
        ("SHA-256 of the adapter", version.adapter_hash),
        ("dataset version", version.dataset_id or "none on record"),
        ("cycle", version.cycle_id or "none: trained or taken in by hand"),
    ]
    return _table("What it stands on", ("", ""), rows)


def _training(version: ModelVersion) -> list[str]:
    facts = version.facts
    rows = [(told, _figure(facts[name])) for name, told in _FACTS if facts.get(name) is not None]
    rows += [
        ("noticed", str(one.get("text") or one.get("kind") or one)) for one in facts.get("diagnoses") or []
    ]
    return _table("Training", ("", ""), rows) if rows else []


def _data(dataset: DatasetVersion | None) -> list[str]:
    if dataset is None:
        return []
    counts: Mapping[str, Any] = dataset.manifest.get("counts") or {}
    rows = [("content hash", dataset.content_hash)]
    rows += [
        (told, _figure(counts[name]))
        for name, told in (
            ("rows", "rows"),
            ("new", "new rows"),
            ("pairs", "pairs"),
            ("rated", "rated answers"),
        )
        if counts.get(name) is not None
    ]
    for name, told in (("splits", "split"), ("sources", "source"), ("new_slices", "new rows of the kind")):
        rows += [(f"{told} {kind}", str(count)) for kind, count in _largest(counts.get(name) or {})]
    return [*_table("Data", ("", ""), rows)]


def _judged(cycle: Cycle | None) -> list[str]:
    result: Mapping[str, Any] = (cycle.result if cycle else None) or {}
    # whoever may ask the model reads its card, and exports carry it: users' metadata stays with the cycle
    table = figure_table(result, cycle.version if cycle else None, parts=False)
    lines = _table("How it was judged", table.heads, table.rows) if table.rows else []
    for name, one in (result.get("contenders") or {}).items():
        lines += [f"{plain(name)} is {plain(one['model'])}, a model elsewhere.", ""]
    gate = result.get("gate")
    if gate:
        lines += [f"The gate said **{gate['decision']}**:", ""]
        lines += [*(f"- {plain(reason)}" for reason in gate["reasons"]), ""]
    return lines


def _users(canaries: Sequence[Canary]) -> list[str]:
    if not canaries:
        return []
    lines = ["## What users said", ""]
    for one in canaries:
        told = one.reason or one.result.get("reason") or "nobody has looked yet"
        state = one.state.replace("_", " ")
        lines.append(
            f"- {one.kind} against {plain(one.against)}, {one.share:.0%} of the users: {state}. {plain(told)}"
        )
    return [*lines, ""]


def _served(moves: Sequence[Move], number: str) -> list[str]:
    if not moves:
        return []
    lines = ["## When it served", ""]
    for move in moves:
        what = "became the champion" if move.to_version == number else "ceased to be the champion"
        lines.append(
            f"- {_day(move.created)}: {what} ({move.kind} by {plain(move.decided_by)}): {plain(move.reason)}"
        )
    return [*lines, ""]


def _limits(version: ModelVersion, dataset: DatasetVersion | None, cycle: Cycle | None) -> list[str]:
    """What a reader must not take for granted."""
    said = ["It is as good as the golden set is like the traffic: what no case asks was not judged."]
    if cycle is None or not (cycle.result or {}).get("gate"):
        said.append("It was not judged by the gate.")
    if cycle is not None and cycle.guards_off:
        said.append(f"It was made without these guards: {', '.join(cycle.guards_off)}.")
    if dataset is None:
        said.append("What it learned from is not on record here.")
    if version.state in ("rejected", "retired"):
        said.append(f"It is {version.state}.")
    return ["## Limits", "", *(f"- {plain(one)}" for one in said)]


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = f"| {' | '.join(columns)} |"
    cells = (f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows)
    return [f"## {title}", "", head, "|" + "---|" * len(columns), *cells, ""]


def _largest(counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The largest counts, the rest as one."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    yield from ordered[:_MOST]
    if len(ordered) > _MOST:
        yield f"{len(ordered) - _MOST} more", sum(count for _, count in ordered[_MOST:])


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return (
        f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
