"""A model's history, newest first: versions as they were made, and the moves of the champion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from feedback.reports.version_stars import VersionStars
from feedback.storage.tables import ModelVersion, Move


class Mark(NamedTuple):
    """One thing that happened."""

    when: float
    """Unix seconds."""
    kind: str
    """`made`, `promotion` or `rollback`."""
    title: str
    text: str
    by: str = ""
    stars: str = ""
    """What users said of the version lately."""
    cycle_id: str | None = None
    dataset_id: str | None = None


def timeline(
    versions: Iterable[ModelVersion], moves: Iterable[Move], found: VersionStars | None, most: int
) -> Sequence[Mark]:
    """The newest `most` marks; `found` are the stars of the last days, where they are known."""
    marks = [
        Mark(
            one.created,
            "made",
            one.number,
            one.note,
            stars=_stars(found, one.number),
            cycle_id=one.cycle_id,
            dataset_id=one.dataset_id,
        )
        for one in versions
    ]
    marks += [
        Mark(
            one.created,
            one.kind,
            f"{one.from_version or 'base'} → {one.to_version or 'base'}",
            one.reason,
            one.decided_by,
            cycle_id=one.cycle_id,
        )
        for one in moves
    ]
    return sorted(marks, key=lambda one: one.when, reverse=True)[:most]


def _stars(found: VersionStars | None, number: str) -> str:
    stars = found.stars.get(number) if found else None
    if stars is None or found is None or stars.mean is None:
        return ""
    band = stars.interval
    between = f", 95 % from {band[0]:.2f} to {band[1]:.2f}" if band else ""
    return f"{stars.mean:.2f} stars since {found.since} from {stars.raters} raters{between}"
