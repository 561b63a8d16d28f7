"""Files that hold no rows whatever they are called: known by how they begin, and told with what to do instead."""

from __future__ import annotations

import codecs

from feedback.errors import BadInputError

BEGINNING = 512
"""Bytes of a file that are looked at."""
_UNPACK = "unpack it, and name the file with the rows"
_KINDS = (
    (b"PK\x03\x04", f"is a ZIP archive, as spreadsheets are too: {_UNPACK}, or save the sheet as CSV"),
    (b"BZh", f"is packed by bzip2: {_UNPACK} (gzip and zstd are read as they are)"),
    (b"\xfd7zXZ\0", f"is packed by xz: {_UNPACK} (gzip and zstd are read as they are)"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7-Zip archive: {_UNPACK}"),
    (b"\x1f\x8b", "is packed twice; unpack it once"),
    (b"\x28\xb5\x2f\xfd", "is packed twice; unpack it once"),
    (b"%PDF-", "is a PDF, which has no rows"),
    (b"\x89PNG", "is an image, which has no rows"),
    (b"\xff\xd8\xff", "is an image, which has no rows"),
    (b"SQLite format 3\0", "is an SQLite database; write the rows of a table as CSV"),
    (b"\x93NUMPY", "is an array of NumPy; write its rows as JSONL or Parquet"),
)
_TAR = slice(257, 262)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MARKUP = (b"<!doctype", b"<html", b"<?xml")


def refuse_stranger(start: bytes, name: str) -> None:
    """Raise `BadInputError` for the beginning of a file that is no text in UTF-8, or text of another kind than rows."""
    problem = next((told for sign, told in _KINDS if start.startswith(sign)), None)
    if start[_TAR] == b"ustar":
        problem = f"is a tar archive: {_UNPACK}"
    elif start.startswith(_UTF32):
        problem = "is UTF-32; save it as UTF-8 (`iconv -f UTF-32 -t UTF-8`)"
    elif start.startswith(_UTF16):
        problem = "is UTF-16; save it as UTF-8 (`iconv -f UTF-16 -t UTF-8`)"
    elif b"\0" in start[:2] and start[:4].count(b"\0") == 2:
        kind = "UTF-16LE" if start[1:2] == b"\0" else "UTF-16BE"
        problem = (
            f"looks like UTF-16 without a byte-order mark; save it as UTF-8 (`iconv -f {kind} -t UTF-8`)"
        )
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.lower().startswith(_MARKUP):
        problem = (
            "is a web page or XML, and holds no rows; what was downloaded may be a page that asks to log in"
        )
    elif text.startswith(b"["):
        problem = "is one JSON array; write one row a line (`jq -c '.[]' FILE > rows.jsonl`)"
    elif text.startswith(b"{") and text[1:].lstrip(b" \t\r").startswith(b"\n"):
        problem = "has JSON over several lines; write one row a line (`jq -c . FILE > rows.jsonl`)"
    elif problem is None and b"\n" not in start and b"\r" in start.rstrip(b"\r"):
        problem = "has the line ends of old Macs (CR alone); write others (`tr '\\r' '\\n' < FILE > rows`)"
    if problem is not None:
        raise BadInputError(f"{name}: {problem}")
