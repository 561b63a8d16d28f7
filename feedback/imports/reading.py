"""From a file to canonical rows and bad ones, whatever it is packed in. Nothing is held but the row at hand."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args

from msgspec import Struct, field

from feedback.errors import BadFieldError, BadInputError
from feedback.imports.columns import read_arrow, read_csv, read_parquet
from feedback.imports.folder import files_of
from feedback.imports.lines import read_objects
from feedback.imports.rows import BadRow, Row
from feedback.imports.shapes import SHAPES, Shape, canonical, mapped, shape_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Container = Literal["jsonl", "csv", "parquet", "arrow"]
CONTAINERS: tuple[Container, ...] = get_args(Container)
FORMATS = (*SHAPES, *CONTAINERS)

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_ARROW = (b"ARROW1", b"\xff\xff\xff\xff")
_PACKED = (".gz", ".gzip", ".zst", ".zstd")
_TABLES = (".csv", ".tsv")
_BUFFER = 1 << 20
_MOST_EXPANSION, _FREE_EXPANSION = 200, 256 << 20
"""A packed file may hold 200 times its size, and 256 MB in any case: text packs to a tenth, a bomb to a thousandth."""

_LOOKED_AT = 100
"""Rows from which it is known which columns a file has: lines of JSON need not have the same."""
_SHOWN = 12


class Reading(Struct, frozen=True):
    """How a file is to be read: as it says itself where nothing is given."""

    format: str = ""
    """One of `FORMATS`, or empty to look."""
    columns: dict[str, str] = field(default_factory=dict)
    """`shapes.MAPPED` part → name of the column or field."""
    split: str = ""
    """Of a folder, the split that is read; empty is `train`, or the only one."""


class Reader:
    """One pass over a file, or over the files of a folder's split; iterating gives `Row` or `BadRow`. `format` is known after the first row."""

    def __init__(self, path: Path, name: str, reading: Reading) -> None:
        self.format = ""
        self._path, self._name, self._columns, self._split = path, name, reading.columns, reading.split
        self._shape: Shape | None = None
        self._container: Container | None = None
        if reading.format in SHAPES:
            self._shape = reading.format
        elif reading.format:
            self._container = cast(Container, reading.format)

    def __iter__(self) -> Iterator[Row | BadRow]:
        """Raises `BadInputError` where the file as a whole cannot be read (any further)."""
        self._check_columns()
        found_any = False
        for line, record in self._records():
            found_any = True
            row = record if isinstance(record, BadRow) else self._row(line, record)
            yield row.tellable() if isinstance(row, BadRow) else row
        if not found_any:
            raise BadInputError(f"{self._name}: is empty; there is no row in it")

    @property
    def in_lines(self) -> bool:
        """Whether each row is a line of text, which is known after the first row."""
        return self._container == "jsonl"

    def _row(self, line: int, record: Mapping[str, Any]) -> Row | BadRow:
        try:
            if self._columns:
                record = mapped(record, self._columns)
            if self._shape is None:
                self._shape = shape_of(record)
            if self._shape is None:
                there = ", ".join(list(record)[:12]) or "none"
                raise BadFieldError(
                    "line",
                    f"has the fields of no known format (messages; prompt, completion; instruction, output; chosen, "
                    f"rejected) but: {there}; name them with --map prompt=…,answer=…",
                )
            if not self.format:
                self.format = self._told()
            return canonical(record, self._shape, line)
        except BadFieldError as error:
            return BadRow(line, error.field, error.problem)

    def _check_columns(self) -> None:
        """A column that no row has is told once, not for each row. Raises `BadInputError`."""
        if not self._columns:
            return
        there: dict[str, None] = {}
        for _, record in islice(self._records(), _LOOKED_AT):
            if not isinstance(record, BadRow):
                there |= dict.fromkeys(record)
        for part, column in self._columns.items():
            if there and column not in there:
                names = ", ".join(repr(one[:60]) for one in islice(there, _SHOWN))
                more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
                raise BadInputError(
                    f"{self._name}: has no column {column[:60]!r}, which the mapping gives for `{part}`; its columns are "
                    f"{names}{more}. Write {part}= and one of these in --map"
                )

    def _told(self) -> str:
        return str(self._shape) if self._container == "jsonl" else f"{self._shape} in {self._container}"

    def _records(self) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        """Lines are counted through all files, so that each row has a number of its own."""
        before = 0
        for file in files_of(self._path, self._split, self._name):
            last = 0
            name = self._name if file == self._path else f"{self._name}/{file.relative_to(self._path)}"
            for line, record in self._records_of(file, name):
                last = line
                if before and isinstance(record, BadRow):
                    record = record._replace(line=before + line)
                yield before + line, record
            before += last

    def _records_of(self, path: Path, name: str) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
        with unpacked(path, name) as stream:
            start = cast("Any", stream).peek(64)[:64]
            if isinstance(stream, _Bounded) and start.startswith((_PARQUET, *_ARROW)):
                raise BadInputError(
                    f"{name}: is packed around Parquet or Arrow, which pack their own rows; unpack it"
                )
            self._container = self._container or _container(start, name)
            if self._container == "csv":
                yield from read_csv(stream, name)
            elif self._container == "jsonl":
                yield from read_objects(stream, name)
        if self._container == "parquet":
            yield from read_parquet(path, name)
        elif self._container == "arrow":
            yield from read_arrow(path, name)


@contextmanager
def unpacked(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked where it is gzip or zstd. Raises `BadInputError` for what is broken or a bomb."""
    try:
        with path.open("rb", buffering=_BUFFER) as raw:
            start = cast("BufferedReader", raw).peek(4)[:4]
            if start.startswith(_GZIP):
                packed: Any = gzip.GzipFile(fileobj=raw)
            elif start.startswith(_ZSTD):
                packed = zstd.ZstdFile(raw)
            else:
                yield raw
                return
            with packed:
                yield cast("IO[bytes]", _Bounded(packed, path.stat().st_size, name))
    except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise BadInputError(f"{name}: is broken or cut short ({error}); pack or copy it again") from None
    except OSError as error:
        raise BadInputError(f"{name}: cannot be read ({error.strerror or error})") from None


class _Bounded:
    """An unpacked stream that ends with an error when it holds more than its file can honestly hold."""

    def __init__(self, stream: Any, packed: int, name: str) -> None:
        self._stream, self._name = stream, name
        self._most = max(_FREE_EXPANSION, packed * _MOST_EXPANSION)
        self._read = 0

    def readline(self, most: int) -> bytes:
        line: bytes = self._stream.readline(most)
        self._read += len(line)
        if self._read > self._most:
            raise BadInputError(
                f"{self._name}: unpacks to more than {_MOST_EXPANSION} times its size; if that is meant, unpack it first"
            )
        return line

    def peek(self, count: int) -> bytes:
        return bytes(self._stream.peek(count))


def _container(start: bytes, name: str) -> Container:
    """By what the bytes say, else by the name's end."""
    if start.startswith(_PARQUET):
        return "parquet"
    if start.startswith(_ARROW):
        return "arrow"
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    while suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if suffixes and suffixes[-1] in _TABLES:
        return "csv"
    if suffixes and suffixes[-1] in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    return "csv" if text and not text.startswith(b"{") else "jsonl"
