"""Near-duplicate prompt groups: MinHash over 4-character shingles finds them, exact Jaccard similarity decides.

A group is keyed by its earliest member and written down once: later prompts join it, none ever moves. A prompt that is
near to groups of both sides would carry one side's knowledge to the other, so it is used on neither. Hence two prompts
that are near each other and both in use always stand on one side: the later of them was placed knowing the earlier.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, text
from sqlmodel import Session, col, select

from feedback.datasets.likeness import LikenessIndex, Pieces, pieces_of
from feedback.datasets.splits import group_side
from feedback.settings import Dataset
from feedback.storage.tables import PromptGroup

_CHUNK = 500
_COMPARED = 64
"""Prompts that are compared at a time."""
_LOCK = 0x5742_0002


class Group(NamedTuple):
    """Where a prompt belongs."""

    key: str
    """Hash of the group's earliest prompt."""
    unused: bool


class KnownPrompts:
    """All prompts placed so far, searchable by likeness. Kept between calls, it reads only what was added since."""

    def __init__(self, settings: Dataset) -> None:
        self._settings = settings
        self._index = LikenessIndex()
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
                pieces = pieces_of(prompt)
                self._index.add(pieces, self._index.signature(pieces))
                self._groups.append(Group(sys.intern(key), unused))
            self._position = position

    def place(self, prompts: dict[str, str]) -> list[PromptGroup]:
        """Rows for prompts that were never placed, given normalised by hash, in this order."""
        rows = []
        for key, prompt in prompts.items():
            pieces = pieces_of(prompt)
            signature = self._index.signature(pieces)
            near = self._near(pieces, signature)
            sides = {group_side(group.key, self._settings.evaluation_share) for group in near}
            group = Group(near[0].key if near else key, len(sides) > 1)
            self._index.add(pieces, signature)
            self._groups.append(group)
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

    def is_near(self, prompt: str) -> bool:
        """Whether a normalised prompt is like one placed so far."""
        pieces = pieces_of(prompt)
        return bool(self._near(pieces, self._index.signature(pieces)))

    def _near(self, pieces: Pieces, signature: NDArray[np.uint32]) -> list[Group]:
        """Groups with a prompt at least as like as the threshold, that of the earliest such prompt first.

        One prompt speaks for its group: where thousands are like each other, only few are compared.
        """
        threshold = self._settings.near_duplicate
        found: dict[str, Group] = {}
        places = self._index.promising(signature, threshold)
        while places:
            some, rest = places[:_COMPARED], places[_COMPARED:]
            for place, likeness in zip(some, self._index.likenesses(pieces, some), strict=True):
                if likeness >= threshold:
                    found.setdefault(self._groups[place].key, self._groups[place])
            places = [place for place in rest if self._groups[place].key not in found]
        return list(found.values())


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
    one_at_a_time(session)
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
        found |= {key: Group(sys.intern(group_key), unused) for key, group_key, unused in session.exec(query)}
    return found


def one_at_a_time(session: Session) -> None:
    """Keep other processes from placing prompts and taking cases until this transaction ends, as SQLite's write lock does."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
