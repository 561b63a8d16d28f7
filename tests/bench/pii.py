"""What the rules find of the personal data in a small labelled sample, kind by kind: `python -m tests.bench.pii`.

The sample (`tests/feedback/personal.txt`) was written by hand before the rules were run on it, and holds names, addresses and
forms that no rule knows. Found is what a span of any kind covers whole; false is a span that covers nothing marked.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from feedback.privacy.pii import KINDS, find

SAMPLE = Path(__file__).parents[1] / "feedback" / "personal.txt"
_MARK = re.compile(r"\[\[(\w+):(.+?)\]\]")


class Marked(NamedTuple):
    """A text, and what is personal in it as `(kind, start, end)`."""

    text: str
    spans: list[tuple[str, int, int]]


class Outcome(NamedTuple):
    """Over the whole sample, by the kind that was marked, or for `false` that was said."""

    marked: Counter[str]
    found: Counter[str]
    false: Counter[str]
    missed: list[str]


def sample(file: Path = SAMPLE) -> list[Marked]:
    """The texts without their marks."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [_marked(line) for line in lines if line and not line.startswith("#")]


def outcome(texts: list[Marked]) -> Outcome:
    """What the rules find."""
    told = Outcome(Counter(), Counter(), Counter(), [])
    for text, spans in texts:
        found = find(text)
        for kind, start, end in spans:
            told.marked[kind] += 1
            if any(span.start <= start and end <= span.end for span in found):
                told.found[kind] += 1
            else:
                told.missed.append(f"{kind}: {text[start:end]}")
        for span in found:
            if not any(start < span.end and span.start < end for _, start, end in spans):
                told.false[span.kind] += 1
    return told


def _marked(line: str) -> Marked:
    text, spans, position = "", [], 0
    for match in _MARK.finditer(line):
        text += line[position : match.start()]
        spans.append((match[1], len(text), len(text) + len(match[2])))
        text += match[2]
        position = match.end()
    return Marked(text + line[position:], spans)


if __name__ == "__main__":
    texts = sample()
    told = outcome(texts)
    print(f"{len(texts)} texts, {told.marked.total()} marked")
    for kind in [*KINDS, *(kind for kind in told.marked if kind not in KINDS)]:
        print(f"{kind:10} {told.found[kind]:3} of {told.marked[kind]:3} found, {told.false[kind]} false")
    print("missed:", "; ".join(told.missed))
