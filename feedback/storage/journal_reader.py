"""Reads a journal in order, beside its writer or after its death, and notices what is no longer as it was written.

Every record has a number, one above the last. What is read under a number is that very record, or an entry that says it is
damaged: nothing is passed over in silence. Only an unfinished frame at the very end says nothing, as nobody was told yet
that it stands.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from feedback.errors import StorageError
from feedback.storage.frames import FRAME_HEAD, SEGMENT_HEAD, Head, find_head, other_version, read_head, seed
from feedback.storage.journal_file import SegmentFile, segments
from feedback.storage.marks import SUFFIX as MARKS
from feedback.storage.marks import read_marks
from feedback.storage.records import Record, decode

_PIECE = 128 * 1024
_KEPT = 1 << 20
"""Most bytes that are kept of what can no longer be told apart."""
_READ_BYTES = 4 << 20
"""A reading ends with the record that reaches so much: one may have megabytes, and hundreds of those fill the memory."""


class Entry(NamedTuple):
    """What a journal holds under a number; `record` is None where that is damaged."""

    seq: int
    body: bytes
    record: Record | None
    first: int
    """Below `seq` where the heads of several records in a row are gone: their numbers are all that is known."""


class JournalReader:
    """Reads entries in order; used from one thread at a time."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._seed = seed(journal.name)
        self._descriptor = -1
        self._segment: SegmentFile | None = None
        self._following: SegmentFile | None = None
        self._next = 0  # number of the record that stands, or will stand, at `_place`
        self._place = 0
        self._piece = b""
        self._piece_at = 0

    def read(self, after: int, limit: int, goal: int | None = None) -> list[Entry]:
        """Up to `limit` entries above a number, without a gap, none above `goal`; fewer, at least one, where they are large.

        With a live owner `goal` is the last record that it has acknowledged; what stands behind that may be half written.
        Raises `StorageError` when the files cannot be read, and where the owner is dead and another process has deleted them.
        """
        entries: list[Entry] = []
        room = _READ_BYTES
        self._piece = b""  # what stood behind an earlier goal may have been cut and written anew elsewhere
        try:
            standing = goal if goal is not None else read_marks(self._journal).standing or 0
            if after + 1 != self._next or self._descriptor < 0:
                self._seek(after + 1)
            while len(entries) < limit and room > 0 and (goal is None or self._next <= goal):
                entry = self._entry(standing)
                if entry is None:
                    break
                if goal is not None and entry.record is None and self._is_gone(goal):
                    self.close()
                    raise StorageError(
                        f"{self._journal}: its owner has ended, and another process took what it held"
                    )
                entries.append(entry)
                room -= len(entry.body)
        except OSError as error:
            self.close()
            raise self._unreadable(error) from error
        return entries

    def _unreadable(self, error: OSError) -> StorageError:
        return StorageError(f"{self._journal}: the journal cannot be read ({error})")

    def start(self) -> int:
        """The number above which there may be records that are not in the database yet. Raises `StorageError`."""
        try:
            drained = read_marks(self._journal).drained
            if drained is not None:
                return drained
            there = segments(self._journal)
        except OSError as error:
            raise self._unreadable(error) from error
        return there[0].first - 1 if there else 0

    def last(self) -> int:
        """The last record that was acknowledged, or that stands where nobody noted that."""
        standing = read_marks(self._journal).standing
        if standing is not None:
            return standing
        position = self.start()
        while entries := self.read(position, 1000):
            position = entries[-1].seq
        return position

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._next, self._piece = -1, 0, b""

    def _is_gone(self, goal: int) -> bool:
        """Whether another process has begun to delete the files, or has marks of its own in place of the owner's.

        To be asked after something was missed, as marks go before segments do.
        """
        if not self._journal.with_suffix(MARKS).exists():
            return True
        standing = read_marks(self._journal).standing
        return standing is not None and standing < goal

    # -- one entry

    def _entry(self, standing: int) -> Entry | None:
        """The next entry; None at the end of what stands."""
        while True:
            head = self._head_here()
            if head is not None:
                body = self._bytes(self._place + FRAME_HEAD, head.length)
                if len(body) == head.length:
                    self._place += FRAME_HEAD + head.length
                    self._next += 1
                    return Entry(head.seq, body, _sound(head, body), head.seq)
            self._look_on()
            following = self._following
            if following is not None and following.first == self._next:
                self._open(following)
                continue
            return self._gap(standing)

    def _head_here(self) -> Head | None:
        """The head of the record that is looked for, if that stands at the place."""
        if self._following is not None and self._next >= self._following.first:
            return None  # what stands here is left of a write that failed; the next segment has the record
        head = read_head(self._bytes(self._place, FRAME_HEAD), 0, self._seed)
        return head if head is not None and head.seq == self._next else None

    def _gap(self, standing: int) -> Entry | None:
        """What is there instead of the record: nothing yet, or damage, up to where sound records go on."""
        first, place = self._next, self._place
        rest = self._bytes(place, 1 << 62) if self._descriptor >= 0 else b""
        found = -1
        while (found := find_head(rest, found + 1, self._seed)) >= 0:
            head = read_head(rest, found, self._seed)
            assert head is not None
            bound = None if self._following is None else self._following.first
            if head.seq >= first and (bound is None or head.seq < bound):
                if head.seq == first and found == 0:
                    continue  # its own, whose body the file is too short for
                self._place, self._next = place + found, head.seq
                if head.seq == first:  # only strange bytes before it
                    return self._entry(standing)
                return Entry(head.seq - 1, rest[: min(found, _KEPT)], None, first)
        if self._following is not None:
            self._open(self._following)
        elif first <= standing:
            self._next, self._place = standing + 1, place + len(rest)
        else:
            return None
        return Entry(self._next - 1, rest[:_KEPT], None, first)

    # -- where

    def _seek(self, number: int) -> None:
        """Go to a record by its number, past those before it."""
        there = segments(self._journal)
        before = [one for one in there if one.first <= number]
        self.close()
        self._next, self._place = number, SEGMENT_HEAD
        self._segment, self._following = None, None
        if not there:
            return
        self._open(before[-1] if before else there[0])
        self._next = number
        while True:
            head = read_head(self._bytes(self._place, FRAME_HEAD), 0, self._seed)
            if head is None:
                rest = self._bytes(self._place, 1 << 62)
                found = find_head(rest, 0, self._seed)
                if found < 0:
                    return
                self._place += found
            elif head.seq >= number:
                return
            else:
                self._place += FRAME_HEAD + head.length

    def _open(self, segment: SegmentFile) -> None:
        descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        self.close()
        self._descriptor, self._segment = descriptor, segment
        self._next, self._place = segment.first, SEGMENT_HEAD
        strange = other_version(self._bytes(0, SEGMENT_HEAD))
        if strange is not None:
            self.close()
            raise StorageError(
                f"{segment.path}: is of form {strange}, which this Starloop does not read; start the newer one again to "
                "bring its records to the database"
            )
        self._look_on()

    def _look_on(self) -> None:
        """See whether another segment follows the one at hand."""
        at = -1 if self._segment is None else self._segment.first
        if self._following is None or self._following.first <= at:
            self._following = next((one for one in segments(self._journal) if one.first > at), None)

    def _bytes(self, place: int, size: int) -> bytes:
        """Bytes of the segment at hand; fewer at its end."""
        if self._descriptor < 0:
            return b""
        offset = place - self._piece_at
        if offset < 0 or offset + size > len(self._piece):
            size_there = max(os.fstat(self._descriptor).st_size - place, 0)
            wanted = min(max(size, _PIECE), size_there)
            self._piece, self._piece_at, offset = b"", place, 0
            while len(self._piece) < wanted:
                more = os.pread(self._descriptor, wanted - len(self._piece), place + len(self._piece))
                if not more:
                    break
                self._piece += more
        return self._piece[offset : offset + size]


def _sound(head: Head, body: bytes) -> Record | None:
    if crc32(body) != head.total:
        return None
    try:
        return decode(body)
    except msgspec.DecodeError:
        return None
