"""A folder as one archive, and the part of it that a client asks for, so that a download which broke off can go on."""

from __future__ import annotations

import re
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from litestar.response import Stream

from feedback.errors import StorageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE = 1 << 20
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)
Range = tuple[int | None, int | None]


def packed(folder: Path, scratch: Path) -> IO[bytes]:
    """The files of a folder as a tar archive packed by zstd, in an open file that has no name: the caller closes it.

    The same files give the same bytes: of one made anew, a later part fits to what an earlier one gave. Raises `StorageError`.
    """
    try:
        archive = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
        with (
            zstd.ZstdFile(archive, "wb", level=1) as pressed,
            tarfile.open(fileobj=pressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for file in sorted(folder.iterdir()):
                entry = tarfile.TarInfo(file.name)
                entry.size, entry.mode = file.stat().st_size, 0o644
                with file.open("rb") as content:
                    tar.addfile(entry, content)
    except OSError as error:
        raise StorageError(
            f"{scratch}: the archive cannot be written ({error.strerror}); make room"
        ) from error
    return archive


def asked_range(header: str | None) -> Range | None:
    """First and last byte of a `Range` header, either may be open; None for none, and for what is no single range."""
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return None
    first, last = (int(part) if part else None for part in found.groups())
    return None if first is not None and last is not None and last < first else (first, last)


def ranged(archive: IO[bytes], asked: Range | None, name: str) -> Stream:
    """The answer with an open file, which it closes: all of it, or the part that is asked for (206), or 416."""
    size = archive.seek(0, 2)
    headers = {"accept-ranges": "bytes", "content-disposition": f'attachment; filename="{name}"'}
    start, end, status = 0, size, 200
    if asked is not None:
        first, last = asked
        start = max(0, size - (last or 0)) if first is None else first
        end = size if first is None or last is None else min(size, last + 1)
        if start >= size:
            archive.close()
            headers |= {"content-range": f"bytes */{size}", "content-length": "0"}
            return Stream(iter(()), status_code=416, headers=headers)
        status, headers["content-range"] = 206, f"bytes {start}-{end - 1}/{size}"
    headers["content-length"] = str(end - start)
    pieces = _pieces(archive, start, end)
    return Stream(pieces, status_code=status, headers=headers, media_type="application/octet-stream")


def _pieces(archive: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    with archive:
        archive.seek(start)
        while start < end and (piece := archive.read(min(_PIECE, end - start))):
            start += len(piece)
            yield piece
