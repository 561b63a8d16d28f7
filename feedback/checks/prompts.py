"""Rows beside one another: duplicates, near duplicates, conflicting answers, and the sides that they would come to."""

from __future__ import annotations

import hashlib
from collections import Counter

from feedback.datasets.chat import content_hash
from feedback.datasets.contract import answer_key
from feedback.datasets.groups import KnownPrompts, normalise, prompt_hash
from feedback.datasets.splits import example_key, row_side, validates
from feedback.imports.rows import Row
from feedback.settings import Dataset

COMPARED = 100_000
"""Most distinct prompts that are compared by likeness: some 300 MB and half a minute."""


class Repetition:
    """Counts as rows come; of each row it keeps a few digests."""

    def __init__(self, settings: Dataset, against: KnownPrompts | None = None) -> None:
        self._settings, self._against = settings, against
        self._known = KnownPrompts(settings)
        self._groups: dict[str, str] = {}
        self._rows: set[bytes] = set()
        self._answers: dict[bytes, bytes] = {}
        self._conflicting: set[bytes] = set()
        self._seen: set[str] = set()
        self.exact = 0
        """Rows that stand in the file before, to the letter."""
        self.near = 0
        """Other rows whose prompt is like an earlier one's."""
        self.leaking = 0
        """Rows whose prompt is like one of the file compared with."""
        self.distinct = 0
        """Rows that are neither."""
        self.not_compared = 0
        """Rows beyond `COMPARED` prompts, for which likeness was not looked at."""
        self.sides: Counter[str] = Counter()

    @property
    def conflicts(self) -> int:
        """Prompts that have different answers."""
        return len(self._conflicting)

    def add(self, row: Row, prompt: str, answer: str) -> None:
        """Look at one more row."""
        identity = row.identity
        if self._against is not None and self._against.is_near(normalise(prompt)):
            self.leaking += 1
        if not _first(self._rows, bytes.fromhex(identity)):
            self.exact += 1
            return
        asked = bytes.fromhex(content_hash([*row.messages[:-1], {"content": normalise(prompt)}], ""))[:16]
        given = hashlib.blake2b(answer_key(answer).encode("utf-8", "replace"), digest_size=16).digest()
        if self._answers.setdefault(asked, given) != given:
            self._conflicting.add(asked)
        group = self._group(prompt)
        if group is None:
            self.not_compared += 1
            self.distinct += 1
            return
        if group in self._seen:
            if asked not in self._conflicting:
                self.near += 1
        else:
            self._seen.add(group)
            self.distinct += 1
        self.sides[self._side(group, identity)] += 1

    def _group(self, prompt: str) -> str | None:
        key = prompt_hash(prompt)
        if key not in self._groups:
            if len(self._groups) >= COMPARED:
                return None
            (placed,) = self._known.place({key: normalise(prompt)})
            self._groups[key] = placed.group_key
        return self._groups[key]

    def _side(self, group: str, identity: str) -> str:
        side = row_side(group, example_key(identity), self._settings.evaluation_share)
        if side is None:
            return "unused"
        if side == "train" and validates(group, self._settings.validation_share):
            return "validation"
        return side


def _first(seen: set[bytes], digest: bytes) -> bool:
    """Whether it was not seen before; remembers it."""
    short = digest[:16]
    if short in seen:
        return False
    seen.add(short)
    return True
