"""Patterns of wording: text with alternatives and slots, expanded with a seeded random source.

`(a|b|)` picks one alternative, `{slot}` expands a pattern of that slot's list. An alternative that starts with `*`
is *live-only*: training never sees it. Marking single words as well as whole phrases makes held-out wording differ
from training wording at every level. This module knows the notation only, no message.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

Wording = Literal["train", "live"]
Slots = Mapping[str, "Sequence[str] | Callable[[random.Random], str]"]

LIVE_SHARE = 0.2
"""How often live wording takes a live-only alternative where there is one."""


class Choice(NamedTuple):
    """One place in a pattern where something is picked."""

    seen: tuple[tuple[Part, ...], ...]
    unseen: tuple[tuple[Part, ...], ...]


class Slot(NamedTuple):
    """A reference to a named list of patterns, or to a function that makes a value."""

    name: str


Part = str | Choice | Slot


def expand(patterns: Sequence[str], slots: Slots, rng: random.Random, wording: Wording) -> str:
    """One of `patterns`, with everything in it picked by `rng`."""
    return _choose(_choice_of(tuple(patterns)), slots, rng, wording)


def _choose(choice: Choice, slots: Slots, rng: random.Random, wording: Wording) -> str:
    unseen = wording == "live" and choice.unseen and (not choice.seen or rng.random() < LIVE_SHARE)
    words = []
    for part in rng.choice(choice.unseen if unseen else choice.seen):
        if isinstance(part, str):
            words.append(part)
        elif isinstance(part, Choice):
            words.append(_choose(part, slots, rng, wording))
        else:
            filler = slots[part.name]
            words.append(filler(rng) if callable(filler) else expand(filler, slots, rng, wording))
    return "".join(words)


@cache
def _choice_of(patterns: tuple[str, ...]) -> Choice:
    parsed = [(pattern.startswith("*"), _parse(pattern.removeprefix("*"))) for pattern in patterns]
    return Choice(
        tuple(parts for live, parts in parsed if not live), tuple(parts for live, parts in parsed if live)
    )


def _parse(pattern: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    text = ""
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if letter not in "({":
            text += letter
            at += 1
            continue
        if text:
            parts.append(text)
            text = ""
        if letter == "{":
            end = pattern.index("}", at)
            parts.append(Slot(pattern[at + 1 : end]))
        else:
            end = _closing(pattern, at)
            parts.append(_choice_of(tuple(_alternatives(pattern[at + 1 : end]))))
        at = end + 1
    if text:
        parts.append(text)
    return tuple(parts)


def _closing(pattern: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(pattern)):
        depth += {"(": 1, ")": -1}.get(pattern[at], 0)
        if depth == 0:
            return at
    raise ValueError(f"no closing parenthesis in {pattern!r}")


def _alternatives(inside: str) -> list[str]:
    depth = 0
    alternatives = [""]
    for letter in inside:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "|" and depth == 0:
            alternatives.append("")
        else:
            alternatives[-1] += letter
    return alternatives
