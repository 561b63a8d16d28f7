"""The manifest of a dataset version: what it holds, by which rules, and what changed since its parent. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import Corrections
from feedback.datasets.raters import Trust
from feedback.datasets.said import Example

RULES = 7
"""Raised whenever curation would choose otherwise from the same record."""
_NAMED = 6

Row = tuple[str, Example]
"""Split and example."""


def line_of(example: Example) -> dict[str, Any]:
    """An example as a row of `train.jsonl` or `validation.jsonl`."""
    tools = {"tools": example.tools} if example.tools else {}
    return {
        "id": example.content_hash,
        "messages": example.messages,
        **tools,
        "answer": example.answer,
        "weight": example.weight,
        "new": example.new,
        "source": example.source,
        "group": example.group_key,
        "why": example.why,
    }


def told(
    corrections: Corrections,
    replayed: int,
    contract: TaskContract,
    gone: Collection[str] = (),
    rated: Collection[Example] = (),
) -> str:
    """What changed since the parent, in one sentence. `gone` are the parent's targets that are no longer in, `rated` the rated
    answers where they are what there is to learn."""
    new = corrections.new
    kinds = Counter(kind for example in new if (kind := contract.slice_of(example.answer)) is not None)
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_NAMED))
    more = f" and {len(kinds) - _NAMED} kinds more" if len(kinds) > _NAMED else ""
    said = f"added {len(new)} example{'' if len(new) == 1 else 's'}" + (f": {named}{more}" if named else "")
    if newly := sum(one.new for one in rated):
        said += f" and {newly} rated answers"
    carried = len(corrections.examples) - len(new)
    rest = [f"kept {carried}"] if carried else []
    rest += [f"took out {len(gone)}"] if gone else []
    rest.append(f"replayed {replayed}")
    return f"{said}; " + (" and ".join([", ".join(rest[:-1]), rest[-1]]) if len(rest) > 1 else rest[0])


def counts(
    rows: Sequence[Row], contract: TaskContract, pairs: int, holdout: int, rated: int
) -> dict[str, Any]:
    """How many rows of which kind."""
    return {
        "rows": len(rows),
        "new": sum(example.new for _, example in rows),
        "splits": dict(Counter(split for split, _ in rows)),
        "sources": dict(Counter(example.source for _, example in rows)),
        "slices": dict(Counter(contract.slice_of(example.answer) or "all" for _, example in rows)),
        "new_slices": dict(
            Counter(contract.slice_of(example.answer) or "all" for _, example in rows if example.new)
        ),
        "pairs": pairs,
        "holdout": holdout,
        "rated": rated,
    }


def rater_facts(corrections: Corrections, trust: Trust) -> dict[str, Any]:
    """What the guards against raters did."""
    return {
        "crowd": trust.crowd,
        "raters": len(trust.figures),
        "low": sum(figures.low for figures in trust.figures.values()),
        "held": len(trust.held),
        "cap": corrections.held.cap,
        "capped_raters": corrections.held.raters,
        "capped_corrections": corrections.held.corrections,
    }
