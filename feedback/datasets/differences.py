"""What differs between two texts, word by word. Pure."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Literal, NamedTuple

from rapidfuzz.distance import Indel

_PIECES = re.compile(r"\s+|\w+|[^\w\s]")
MOST = 4000
"""Words of one text that are compared: time and memory grow with the product of both."""


Kind = Literal["same", "gone", "new"]


class Part(NamedTuple):
    """A stretch of text that both have, that went, or that came."""

    kind: Kind
    text: str


def word_difference(before: str, after: str) -> list[Part]:
    """How to get from one text to the other: `same` and `gone` make up the first, `same` and `new` the second.

    Texts above `MOST` words are shown as replaced as a whole.
    """
    old, new = _PIECES.findall(before), _PIECES.findall(after)
    if len(old) > MOST or len(new) > MOST:
        return _joined([Part("gone", before), Part("new", after)])
    parts = []
    for step in Indel.opcodes(old, new):
        gone = "".join(old[step.src_start : step.src_end])
        if step.tag == "equal":
            parts.append(Part("same", gone))
            continue
        parts.append(Part("gone", gone))
        parts.append(Part("new", "".join(new[step.dest_start : step.dest_end])))
    return _joined(_bridged(parts))


def _bridged(parts: list[Part]) -> list[Part]:
    """A blank alone between two changes is no word that stayed: shown as changed, the words read in one piece."""
    found: list[Part] = []
    for place, part in enumerate(parts):
        inside = 0 < place < len(parts) - 1 and part.kind == "same" and not part.text.strip()
        found += [Part("gone", part.text), Part("new", part.text)] if inside else [part]
    return found


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbours of one kind as one; within a change, what went stands before what came."""
    found: list[Part] = []
    for changed, run in groupby(parts, lambda part: part.kind != "same"):
        some = list(run)
        kinds: tuple[Kind, ...] = ("gone", "new") if changed else ("same",)
        for kind in kinds:
            text = "".join(part.text for part in some if part.kind == kind)
            found += [Part(kind, text)] if text else []
    return found
