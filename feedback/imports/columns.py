"""Rows of tables: CSV, Parquet and Arrow, a batch at a time."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from feedback.errors import BadInputError
from feedback.imports.lines import LONGEST, read_lines
from feedback.imports.rows import BadRow

_DELIMITERS = ",;\t|"
_SAID = re.compile(r"sep=([,;\t|])\s*", re.IGNORECASE)
_BATCH = 1000


class _StoppedError(Exception):
    """A line that no row can go on after."""


def read_csv(stream: IO[bytes], name: str) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """The line at which each row begins, and its cells by column. The first line names the columns.

    Bytes that are not UTF-8 stay in their cell as lone surrogates, so that the row that holds them can be named.
    Raises `BadInputError` where the file cannot be read as a table any further.
    """
    csv.field_size_limit(LONGEST)
    lines = _texts(stream, name)
    first, before = next(lines, ""), 0
    delimiter = max(_DELIMITERS, key=first.count)
    if (said := _SAID.fullmatch(first)) is not None:  # as spreadsheets write it before the header
        delimiter, before, first = said[1], 1, next(lines, "")

    def all_lines() -> Iterator[str]:
        yield first
        yield from lines

    reader = csv.reader(all_lines(), delimiter=delimiter, strict=True)
    begins = before + 1
    try:
        header = [column.strip() for column in next(reader, [])]
        _check_header(header, f"{name}: line {begins}")
        begins = before + reader.line_num + 1
        for cells in reader:
            line, begins = begins, before + reader.line_num + 1
            if len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True))
            elif cells:
                yield (
                    line,
                    BadRow(
                        line,
                        "line",
                        f"has {len(cells)} cells, and the header names {len(header)}; put quotes around text",
                    ),
                )
    except csv.Error as error:
        raise BadInputError(
            f"{name}: line {begins}: is no row of a table: {error}; look for a quote that is not closed or not doubled"
        ) from None
    except _StoppedError:
        raise BadInputError(
            f"{name}: line {begins}: is longer than {LONGEST >> 20} MB, or a quote is not closed there"
        ) from None


def read_parquet(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row's number, from 1, and its cells by column. Raises `BadInputError` for what is no Parquet file."""
    import pyarrow as pa  # 60 MB that only this needs
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            if len(set(file.schema_arrow.names)) != len(file.schema_arrow.names):
                raise BadInputError(f"{name}: two columns have the same name; name each once")
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        # The last three: a text that is not UTF-8, a time that Python has no form for, a time zone that nobody knows.
        raise BadInputError(
            f"{name}: row {number + 1}: cannot be read as Parquet: {str(error)[:200]}; write the file again"
        ) from None


def read_arrow(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_parquet`, of Arrow's own format: a stream, as `datasets` saves it, or a file."""
    import pyarrow as pa
    import pyarrow.ipc as ipc

    number = 0
    try:
        with pa.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                file = ipc.open_file(source)
                schema, batches = file.schema, map(file.get_batch, range(file.num_record_batches))
            else:
                source.seek(0)
                stream = ipc.open_stream(source)
                schema, batches = stream.schema, stream
            if len(set(schema.names)) != len(schema.names):
                raise BadInputError(f"{name}: two columns have the same name; name each once")
            for batch in batches:
                for start in range(0, batch.num_rows, _BATCH):
                    for row in batch.slice(start, _BATCH).to_pylist():
                        number += 1
                        yield number, row
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise BadInputError(
            f"{name}: row {number + 1}: cannot be read as Arrow: {str(error)[:200]}; save it again"
        ) from None


def _check_header(header: Sequence[str], where: str) -> None:
    for place, column in enumerate(header, 1):
        if not column:
            raise BadInputError(f"{where}: column {place} has no name; name each once")
        if column in header[: place - 1]:
            raise BadInputError(f"{where}: two columns have the same name, {column[:60]!r}; name each once")


def _texts(stream: IO[bytes], name: str) -> Iterator[str]:
    for _, content in read_lines(stream, name):
        if content is None:
            raise _StoppedError
        yield content.decode("utf-8", "surrogateescape")
