"""What users do next says something about the last answer: they ask again, or say that it was wrong. Pure.

Both are signs, not words: somebody may ask again out of curiosity. So they only select an answer for a person to look
at, and a good rating by anybody outweighs them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from feedback.datasets.groups import normalise
from feedback.datasets.wording import complaint_in
from feedback.settings import Triage

SIGNS = frozenset({"asked_again", "negative_follow_up"})

_NEXT = 3
"""Later questions that are compared with one; people come back to a question after one or two others."""
_PERSON = 40
"""Nobody asks more often than this within the minutes before and after: whoever does is a program with like prompts."""
_SHINGLE = 4
_SHOWN = 80


class Turn(NamedTuple):
    """One request as its user's next ones are judged beside it."""

    inference_id: str
    asker: str
    """The user, or where nobody is named the conversation."""
    conversation: str | None
    created: float
    """Unix seconds."""
    answered: float
    """When the whole answer was there."""
    prompt: str
    output: str | None


class Sign(NamedTuple):
    """What a later turn says about an earlier answer."""

    inference_id: str
    reason: str
    confidence: float
    evidence: str


def signs_in(turns: Iterable[Turn], settings: Triage) -> Iterator[Sign]:
    """The signs about all turns that later ones among them give, at most one of each kind for a turn."""
    by_asker: dict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        by_asker[turn.asker].append(turn)
    for own in by_asker.values():
        if len(own) > 1:
            own.sort(key=lambda turn: turn.created)
            yield from _signs(own, settings)


def _signs(own: Sequence[Turn], settings: Triage) -> Iterator[Sign]:
    within = settings.within_minutes * 60
    start = end = 0
    for place, turn in enumerate(own):
        while own[start].created < turn.created - within:
            start += 1
        while end < len(own) and own[end].created - turn.answered <= within:
            end += 1
        if end - start > _PERSON:
            continue
        later = [next_ for next_ in own[place + 1 : end] if next_.created >= turn.answered]
        if not later or not turn.prompt.strip():
            continue
        if "asked_again" not in settings.off:
            yield from _asked_again(turn, later[:_NEXT], settings)
        if "negative_follow_up" not in settings.off:
            yield from _complained(turn, later, settings)


def _asked_again(turn: Turn, later: Sequence[Turn], settings: Triage) -> Iterator[Sign]:
    """Confidence from how an answer looks that people ask for twice: one that came out otherwise the second time was
    rather asked for because of what it said; the same one again may have been a second click or a page that was reloaded."""
    asked = _shingles(turn.prompt)
    for next_ in later:
        likeness = _likeness(asked, _shingles(next_.prompt), settings.asked_again_likeness)
        if likeness is None:
            continue
        other = turn.output is not None and next_.output is not None and turn.output != next_.output
        seconds = next_.created - turn.answered
        yield Sign(
            turn.inference_id,
            "asked_again",
            0.5 if other else 0.3,
            f"asked again after {_told(seconds)}, {likeness:.0%} alike: {_short(next_.prompt)!r}",
        )
        return


def _complained(turn: Turn, later: Sequence[Turn], settings: Triage) -> Iterator[Sign]:
    """Only the next turn of the same conversation speaks of this answer; elsewhere such words may be what is asked."""
    if turn.conversation is None:
        return
    next_ = next((one for one in later if one.conversation == turn.conversation), None)
    if next_ is None or normalise(next_.prompt) == normalise(turn.prompt):
        return
    words = complaint_in(next_.prompt, settings.complaints)
    if words is not None:
        yield Sign(
            turn.inference_id,
            "negative_follow_up",
            0.7,
            f"the next message says {_short(words)!r}: {_short(next_.prompt)!r}",
        )


def _shingles(prompt: str) -> frozenset[str]:
    text = normalise(prompt)
    return frozenset(text[start : start + _SHINGLE] for start in range(max(1, len(text) - _SHINGLE + 1)))


def _likeness(one: frozenset[str], other: frozenset[str], least: float) -> float | None:
    """Jaccard similarity; None where it is below `least`."""
    if min(len(one), len(other)) < least * max(len(one), len(other)):
        return None  # no need to compare: it cannot be reached
    shared = len(one & other)
    found = shared / (len(one) + len(other) - shared)
    return found if found >= least else None


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 2] + " …"
