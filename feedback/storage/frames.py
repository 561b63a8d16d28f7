"""The form of a journal's files: a head, then one frame for each record.

    segment  "starloop journal", version, journal, number of its first record, CRC-32 of these
    frame    marker, length of the body, number, CRC-32 of the body, CRC-32 of these (begun with the journal's name); body

The head of a frame has a checksum of its own, so that its length can be believed when the body is damaged. A body is
JSON, and the marker holds bytes that no UTF-8 text does: it never occurs within a body, and reading finds the next frame
after damage of whatever length. A frame of another journal, or of an earlier file in the same place, fails its checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

MARKER = b"\xff\xfeJ\n"
_FRAME = struct.Struct("<4sIQI")
_SEGMENT = struct.Struct("<16sI36sQ")
_SUM = struct.Struct("<I")
FRAME_HEAD = _FRAME.size + _SUM.size
SEGMENT_HEAD = _SEGMENT.size + _SUM.size
_MAGIC = b"starloop journal"
_VERSION = 1


class Head(NamedTuple):
    """What a frame says of its body."""

    length: int
    seq: int
    total: int
    """The body's CRC-32: it notices damage; against forgery the file's permissions stand."""


def seed(journal: str) -> int:
    """What the checksums of a journal's frames begin with."""
    return crc32(journal.encode())


def pack(start: int, first: int, bodies: Sequence[bytes]) -> bytes:
    """Frames of records that are numbered from `first` on; `start` is the journal's `seed`."""
    pieces: list[bytes] = []
    for seq, body in enumerate(bodies, first):
        head = _FRAME.pack(MARKER, len(body), seq, crc32(body))
        pieces += (head, _SUM.pack(crc32(head, start)), body)
    return b"".join(pieces)


def read_head(data: bytes, place: int, start: int) -> Head | None:
    """The head of the frame at a place; None where there is none, or it is damaged."""
    end = place + _FRAME.size
    if len(data) < place + FRAME_HEAD or not data.startswith(MARKER, place):
        return None
    if crc32(data[place:end], start) != _SUM.unpack_from(data, end)[0]:
        return None
    _, length, seq, total = _FRAME.unpack_from(data, place)
    return Head(length, seq, total)


def find_head(data: bytes, place: int, start: int) -> int:
    """Where the first sound head at or after a place begins; -1 where none does."""
    while (place := data.find(MARKER, place)) >= 0:
        if read_head(data, place, start) is not None:
            return place
        place += 1
    return -1


def segment_head(journal: str, first: int) -> bytes:
    """What a segment begins with."""
    head = _SEGMENT.pack(_MAGIC, _VERSION, journal.encode()[:36], first)
    return head + _SUM.pack(crc32(head))


def other_version(data: bytes) -> int | None:
    """The version of a sound head that is not of this form. A damaged head says nothing, and the file's name says the rest."""
    if len(data) < SEGMENT_HEAD or crc32(data[: _SEGMENT.size]) != _SUM.unpack_from(data, _SEGMENT.size)[0]:
        return None
    magic, version, _, _ = _SEGMENT.unpack_from(data)
    return None if magic != _MAGIC or version == _VERSION else int(version)
