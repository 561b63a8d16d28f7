"""Near-duplicate prompt groups: MinHash over 4-character shingles finds them, exact Jaccard similarity decides.

A group is keyed by its earliest member and written down once: later prompts join it, none ever moves. A prompt that is
near to groups of both sides would carry one side's knowledge to the other, so it is used on neither.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasketch import MinHash, MinHashLSH
from sqlalchemy import text
from sqlmodel import Session, col, func, select

from feedback.datasets.splits import group_side
from feedback.settings import Dataset
from feedback.storage.tables import PromptGroup

_SHINGLE = 4
# 20 bands of 6 rows: a pair at 0.8 becomes a candidate with probability 0.998, one at 0.5 with 0.27.
_BANDS, _ROWS = 20, 6
_CHUNK = 500


@dataclass(frozen=True)
class Group:
    """Where a prompt belongs."""

    key: str
    unused: bool


def normalise(prompt: str) -> str:
    """Lower case, runs of white space as one blank."""
    return re.sub(r"\s+", " ", prompt).strip().lower()


def prompt_hash(prompt: str) -> str:
    """SHA-256 (hex) of the normalised prompt."""
    return hashlib.sha256(normalise(prompt).encode()).hexdigest()


def assign_groups(session: Session, prompts: Iterable[str], settings: Dataset) -> dict[str, Group]:
    """The groups of all prompts by `prompt_hash`; those not seen before are placed now, in the order given.

    Writes `prompt_group` rows in the session's transaction; the caller commits.
    """
    wanted = {prompt_hash(prompt): normalise(prompt) for prompt in prompts}
    known = _known(session, list(wanted))
    fresh = {key: prompt for key, prompt in wanted.items() if key not in known}
    if fresh:
        _one_at_a_time(session)
        known |= _known(session, list(fresh))
        fresh = {key: prompt for key, prompt in fresh.items() if key not in known}
        known |= _place(session, fresh, settings)
    return known


def known_groups(session: Session, prompts: Iterable[str]) -> dict[str, Group]:
    """The groups of those prompts that were placed before, by `prompt_hash`."""
    return _known(session, [prompt_hash(prompt) for prompt in prompts])


def _place(session: Session, fresh: dict[str, str], settings: Dataset) -> dict[str, Group]:
    seen = _Index(settings.near_duplicate)
    rows = list(session.exec(select(PromptGroup).order_by(col(PromptGroup.position))))
    seen.add_all([row.prompt_hash for row in rows], [row.text for row in rows])
    groups = {row.prompt_hash: Group(row.group_key, row.unused) for row in rows}
    position = session.exec(select(func.max(PromptGroup.position))).one() or 0
    placed: dict[str, Group] = {}
    for key, prompt, signature in seen.signed(fresh):
        near = seen.near(prompt, signature)  # in the order in which they were seen
        keys = [groups[member].key for member in near]
        sides = {group_side(one, settings.evaluation_share) for one in keys}
        group = Group(keys[0] if keys else key, len(sides) > 1)
        seen.add(key, prompt, signature)
        groups[key] = placed[key] = group
        position += 1
        session.add(
            PromptGroup(
                prompt_hash=key, position=position, group_key=group.key, unused=group.unused, text=prompt
            )
        )
    session.flush()
    return placed


class _Index:
    """Prompts seen so far, searchable by likeness."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lsh = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        self._order: dict[str, int] = {}
        self._texts: dict[str, str] = {}

    def add_all(self, keys: Sequence[str], prompts: Sequence[str]) -> None:
        for key, prompt, signature in self.signed(dict(zip(keys, prompts, strict=True))):
            self.add(key, prompt, signature)

    def signed(self, prompts: dict[str, str]) -> Iterable[tuple[str, str, MinHash]]:
        shingled = [[one.encode() for one in _shingles(prompt)] for prompt in prompts.values()]
        signatures = MinHash.bulk(shingled, num_perm=_BANDS * _ROWS)
        return zip(prompts.keys(), prompts.values(), signatures, strict=True)

    def add(self, key: str, prompt: str, signature: MinHash) -> None:
        self._order[key] = len(self._order)
        self._texts[key] = prompt
        self._lsh.insert(key, signature)

    def near(self, prompt: str, signature: MinHash) -> list[str]:
        """Keys of prompts at least as like as the threshold, earliest first."""
        mine = _shingles(prompt)
        found = [key for key in self._lsh.query(signature) if self._like(mine, _shingles(self._texts[key]))]
        return sorted(found, key=self._order.__getitem__)

    def _like(self, left: set[str], right: set[str]) -> bool:
        return len(left & right) >= self._threshold * len(left | right)


def _shingles(prompt: str) -> set[str]:
    return {prompt[start : start + _SHINGLE] for start in range(max(1, len(prompt) - _SHINGLE + 1))}


def _known(session: Session, keys: list[str]) -> dict[str, Group]:
    found: dict[str, Group] = {}
    for start in range(0, len(keys), _CHUNK):
        query = select(PromptGroup).where(col(PromptGroup.prompt_hash).in_(keys[start : start + _CHUNK]))
        found |= {row.prompt_hash: Group(row.group_key, row.unused) for row in session.exec(query)}
    return found


def _one_at_a_time(session: Session) -> None:
    """Keep other processes from placing prompts until this transaction ends; SQLite's write lock does so already."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('starloop.prompt_group'))"))
