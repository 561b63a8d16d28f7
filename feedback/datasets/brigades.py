"""Brigades: many new raters on one target in a short time, to be looked at together by a reviewer. Pure.

A target is a prompt group, one and the same correction, or a model version. New is who was first heard of within the
window. That many come at once is no sign by itself (a product has its first day); that those on one target are new where
others are not, is: the number is held against the share of new raters on everything else at that time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from feedback.datasets.contract import TaskContract
from feedback.datasets.raters import BAD
from feedback.datasets.said import Said
from feedback.datasets.votes import REVIEWER, key_of

CHANCE = 0.001
"""Probability, over all targets together, of calling honest newcomers a brigade."""
_YARDSTICK = 20
"""Fewest other raters that say what is usual."""
_PAST = 7 * 86_400.0


@dataclass(frozen=True)
class Brigade:
    """New raters on one target, and what they said."""

    kind: str
    """`group`, `correction` or `version`."""
    target: str
    feedback: tuple[str, ...]
    raters: int
    """How many of them are new."""
    of: int
    """Raters on the target in the window."""
    usual: float
    """Share of new raters on everything else."""
    first: float
    last: float


class _Event(NamedTuple):
    created: float
    rater: str
    feedback_id: str
    new: bool
    version: str


def find_brigades(
    said: Sequence[Said],
    contract: TaskContract,
    least: int,
    hours: float,
    released: Collection[str] = (),
) -> list[Brigade]:
    """Targets on which at least `least` new raters came within `hours`, more than the share of new raters explains.

    `released` are feedback ids that a reviewer has let go; they are evidence of nothing.
    """
    window = hours * 3600
    first_seen: dict[str, float] = {}
    spoken = []
    for one in said:
        for signal in one.signals:
            if signal.source == REVIEWER:
                continue
            seen = first_seen.get(signal.rater, signal.created)
            first_seen[signal.rater] = min(seen, signal.created)
            spoken.append((one, signal))
    targets: dict[tuple[str, str], list[_Event]] = defaultdict(list)
    everything = []
    for one, signal in sorted(spoken, key=lambda pair: pair[1].created):
        event = _Event(
            signal.created,
            signal.rater,
            signal.feedback_id,
            signal.created - first_seen[signal.rater] <= window,
            one.version,
        )
        everything.append(event)
        if signal.feedback_id in released:
            continue
        targets["group", one.group_key].append(event)
        if signal.correction and contract.valid(signal.correction.strip(), one.messages):
            said_instead = contract.slice_of(signal.correction.strip()) or key_of(signal.correction)
            targets["correction", said_instead].append(event)
        if one.version and signal.rating is not None and signal.rating <= BAD:
            targets["version", one.version].append(event)
    wide = {
        target: events
        for target, events in targets.items()
        if len({e.rater for e in events if e.new}) >= least
    }
    times = [event.created for event in everything]
    found = []
    for (kind, target), events in sorted(wide.items()):
        at = _fullest(events, window)
        inside = events[at[0] : at[1]]
        start, end = inside[0].created, inside[0].created + window
        mine = {event.feedback_id for event in inside}
        around = everything[bisect_left(times, start) : bisect_right(times, end)]
        if (
            kind == "version"
        ):  # elsewhere is on other versions: on its own, all that are not content speak here
            mine |= {event.feedback_id for event in everything if event.version == target}
        others: dict[Hashable, bool] = {e.rater: e.new for e in around if e.feedback_id not in mine}
        here = {event.rater: event.new for event in inside}
        new, of = sum(here.values()), len(here)
        # Who speaks here too is no yardstick.
        others = {rater: is_new for rater, is_new in others.items() if rater not in here}
        if len(others) < _YARDSTICK:  # a quiet hour: what hours have been like until then
            past = everything[bisect_left(times, start - _PAST) : bisect_right(times, end)]
            others = _by_hour(past, mine, window)
        usual = (sum(others.values()) + 1) / (len(others) + 2)
        if (
            new < least
            or len(others) < _YARDSTICK
            or _at_least(new, of, sum(others.values()), len(others)) > CHANCE / len(wide)
        ):
            continue
        feedback = tuple(event.feedback_id for event in inside if event.new)
        found.append(Brigade(kind, target, feedback, new, of, round(usual, 3), start, inside[-1].created))
    return found


def _fullest(events: Sequence[_Event], window: float) -> tuple[int, int]:
    """The window, as positions, in which most new raters speak."""
    counts: dict[str, int] = defaultdict(int)
    best, most, start = (0, 0), -1, 0
    for end, event in enumerate(events):
        if event.new:
            counts[event.rater] += 1
        while event.created - events[start].created > window:
            gone = events[start]
            if gone.new:
                counts[gone.rater] -= 1
                if not counts[gone.rater]:
                    del counts[gone.rater]
            start += 1
        if len(counts) > most:
            best, most = (start, end + 1), len(counts)
        elif start == best[0]:
            best = (start, end + 1)
    return best


def _by_hour(events: Sequence[_Event], mine: Collection[str], window: float) -> dict[Hashable, bool]:
    """Whether raters were new, for each window in which they spoke."""
    return {
        (event.rater, int(event.created // window)): event.new
        for event in events
        if event.feedback_id not in mine
    }


def _at_least(new: int, of: int, new_elsewhere: int, elsewhere: int) -> float:
    """Fisher's exact test, one-sided: how probable so many new raters here are, if here is like elsewhere.

    What is usual is known no better than from those who speak elsewhere, few or many.
    """
    everybody, all_new = of + elsewhere, new + new_elsewhere
    total = _log_choose(everybody, of)
    return math.fsum(
        math.exp(_log_choose(all_new, count) + _log_choose(everybody - all_new, of - count) - total)
        for count in range(new, min(of, all_new) + 1)
        if of - count <= everybody - all_new
    )


def _log_choose(of: int, count: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)
