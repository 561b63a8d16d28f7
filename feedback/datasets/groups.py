"""Near-duplicate prompt groups: MinHash over 4-character shingles finds them, exact Jaccard similarity decides.

A group is keyed by its earliest member and written down once: later prompts join it, none ever moves. A prompt that is
near to groups of both sides would carry one side's knowledge to the other, so it is used on neither. Hence two prompts
that are near each other and both in use always stand on one side: the later of them was placed knowing the earlier.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, text
from sqlmodel import Session, col, select

from feedback.datasets.splits import group_side
from feedback.settings import Dataset
from feedback.storage.tables import PromptGroup

if TYPE_CHECKING:
    from datasketch import MinHash

_SHINGLE = 4
# 20 bands of 6 rows: a pair at 0.8 becomes a candidate with probability 0.998, one at 0.5 with 0.27.
_BANDS, _ROWS = 20, 6
_CHUNK = 500
_LOCK = 0x5742_0002
# Odd, so that a shingle's characters mix into 64 bits without losing any of them.
_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)


class Group(NamedTuple):
    """Where a prompt belongs."""

    key: str
    """Hash of the group's earliest prompt."""
    unused: bool


class KnownPrompts:
    """All prompts placed so far, searchable by likeness. Kept between calls, it reads only what was added since."""

    def __init__(self, settings: Dataset) -> None:
        from datasketch import MinHash, MinHashLSH  # brings SciPy: 55 MB that most processes never need

        self._settings = settings
        self._lsh = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        self._empty = MinHash(num_perm=_BANDS * _ROWS, hashfunc=int)
        self._shingles: list[NDArray[np.uint64]] = []
        self._groups: list[Group] = []
        self._position = 0

    def catch_up(self, session: Session) -> None:
        """Read what others have placed meanwhile."""
        rows = session.exec(
            select(PromptGroup.position, PromptGroup.group_key, PromptGroup.unused, PromptGroup.text)
            .where(PromptGroup.position > self._position)
            .order_by(col(PromptGroup.position))
        )
        for position, key, unused, prompt in rows:
            if prompt:  # of an erased prompt only its hash is left: nothing is near it any more
                shingles = _shingled(prompt)
                self._keep(shingles, self._signed(shingles), Group(key, unused))
            self._position = position

    def place(self, prompts: dict[str, str]) -> list[PromptGroup]:
        """Rows for prompts that were never placed, given normalised by hash, in this order."""
        rows = []
        for key, prompt in prompts.items():
            shingles = _shingled(prompt)
            signature = self._signed(shingles)
            near = [self._groups[place] for place in self._near(shingles, signature)]
            sides = {group_side(group.key, self._settings.evaluation_share) for group in near}
            group = Group(near[0].key if near else key, len(sides) > 1)
            self._keep(shingles, signature, group)
            self._position += 1
            rows.append(
                PromptGroup(
                    prompt_hash=key,
                    position=self._position,
                    group_key=group.key,
                    unused=group.unused,
                    text=prompt,
                )
            )
        return rows

    def _signed(self, shingles: NDArray[np.uint64]) -> MinHash:
        signature = self._empty.copy()
        signature.update_batch((shingles >> np.uint64(32)).tolist())
        return signature

    def _keep(self, shingles: NDArray[np.uint64], signature: MinHash, group: Group) -> None:
        self._lsh.insert(len(self._groups), signature, check_duplication=False)
        self._shingles.append(shingles)
        self._groups.append(group)

    def _near(self, shingles: NDArray[np.uint64], signature: MinHash) -> list[int]:
        """Prompts at least as like as the threshold, earliest first."""
        threshold = self._settings.near_duplicate
        return [
            place
            for place in sorted(self._lsh.query(signature))
            if _likeness(shingles, self._shingles[place]) >= threshold
        ]


def normalise(prompt: str) -> str:
    """Lower case, runs of white space as one blank."""
    return re.sub(r"\s+", " ", prompt).strip().lower()


def prompt_hash(prompt: str) -> str:
    """SHA-256 (hex) of the normalised prompt."""
    return hashlib.sha256(normalise(prompt).encode("utf-8", "replace")).hexdigest()


def assign_groups(
    session: Session, prompts: Iterable[str], settings: Dataset, known: KnownPrompts | None = None
) -> dict[str, Group]:
    """The groups of all prompts by `prompt_hash`; those not seen before are placed now, in the order given.

    Writes in the session's transaction; the caller commits. Who calls it more than once passes the same `known`, so
    that what stands in the database is read and indexed once.
    """
    wanted = {prompt_hash(prompt): normalise(prompt) for prompt in prompts}
    groups = groups_by_hash(session, list(wanted))
    fresh = {key: prompt for key, prompt in wanted.items() if key not in groups}
    if not fresh:
        return groups
    _one_at_a_time(session)
    found = groups_by_hash(session, list(fresh))  # placed by another process while we waited
    fresh = {key: prompt for key, prompt in fresh.items() if key not in found}
    known = known or KnownPrompts(settings)
    known.catch_up(session)
    rows = known.place(fresh)
    if rows:
        session.connection().execute(insert(PromptGroup), [row.model_dump() for row in rows])
    return groups | found | {row.prompt_hash: Group(row.group_key, row.unused) for row in rows}


def groups_by_hash(session: Session, hashes: Sequence[str]) -> dict[str, Group]:
    """The groups of those prompts that were placed before."""
    found: dict[str, Group] = {}
    for start in range(0, len(hashes), _CHUNK):
        query = select(PromptGroup.prompt_hash, PromptGroup.group_key, PromptGroup.unused).where(
            col(PromptGroup.prompt_hash).in_(hashes[start : start + _CHUNK])
        )
        found |= {key: Group(group_key, unused) for key, group_key, unused in session.exec(query)}
    return found


def _shingled(prompt: str) -> NDArray[np.uint64]:
    """The set of a prompt's 4-character pieces, each as a 64-bit hash, sorted."""
    codes = np.frombuffer(prompt.encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < _SHINGLE:
        codes = np.pad(codes, (0, _SHINGLE - len(codes)))
    count = len(codes) - _SHINGLE + 1
    mixed = np.zeros(count, dtype=np.uint64)
    for place in range(_SHINGLE):
        mixed = (mixed ^ codes[place : place + count]) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def _likeness(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> float:
    """Jaccard similarity of two sets given as sorted arrays."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


def _one_at_a_time(session: Session) -> None:
    """Keep other processes from placing prompts until this transaction ends; SQLite's write lock does so already."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
