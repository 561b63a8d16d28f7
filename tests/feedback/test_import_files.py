"""Files as they really come: packed, cut short, of other systems, broken, hostile. Clear words, bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback.errors import BadInputError
from feedback.imports.lines import LONGEST
from feedback.imports.original import copy_original
from feedback.imports.reading import Reader, Reading, zstd
from feedback.imports.rows import BadRow, Row
from feedback.imports.storing import shown_name

GOOD = b'{"prompt": "Where is it?", "completion": "On its way."}\n'


def tarred(name: str) -> bytes:
    """A tar archive with one file of that name."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(GOOD)
        archive.addfile(entry, io.BytesIO(GOOD))
    return written.getvalue()


MAP = Reading(columns={"prompt": "q", "answer": "a"})


def read(path: Path, reading: Reading = Reading()) -> list[Row | BadRow]:  # noqa: B008
    return list(Reader(path, path.name, reading))


def wrote(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def only_bad(rows: list[Row | BadRow]) -> BadRow:
    (bad,) = [row for row in rows if isinstance(row, BadRow)]
    return bad


def good(rows: list[Row | BadRow]) -> int:
    return sum(isinstance(row, Row) for row in rows)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        b"\n\n" + GOOD + b"  \n",
        GOOD.rstrip(b"\n"),
        b"\xef\xbb\xbf\r\n\xef\xbb\xbf" + GOOD,
    ],
    ids=[
        "byte-order mark",
        "Windows line ends",
        "blank lines",
        "no last line end",
        "marks of files put together",
    ],
)
def test_how_other_systems_write_text_changes_nothing(tmp_path: Path, content: bytes) -> None:
    (row,) = read(wrote(tmp_path / "rows.jsonl", content))
    assert isinstance(row, Row) and row.messages[1]["content"] == "On its way."


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_packed_files_are_read_whatever_their_name(tmp_path: Path, pack: Any) -> None:
    assert good(read(wrote(tmp_path / "rows", pack(GOOD * 3)))) == 3
    assert good(read(wrote(tmp_path / "two", pack(GOOD) + pack(GOOD)))) == 2  # packed in two pieces


def with_checksum(content: bytes) -> bytes:
    """As the `zstd` program packs."""
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.mark.parametrize("pack", [gzip.compress, with_checksum], ids=["gzip", "zstd"])
def test_a_packed_file_that_is_cut_short_or_damaged_is_told(tmp_path: Path, pack: Any) -> None:
    lines = b"".join(GOOD.replace(b"it?", os.urandom(20).hex().encode()) for _ in range(500))
    packed = bytearray(pack(lines))
    with pytest.raises(BadInputError, match="is broken or cut short"):
        read(wrote(tmp_path / "rows", bytes(packed[: len(packed) // 2])))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(BadInputError, match="pack or copy it again"):
        read(wrote(tmp_path / "rows", bytes(packed)))


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_a_bomb_ends_with_a_clear_error_and_takes_no_memory(
    tmp_path: Path, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.imports.reading._FREE_EXPANSION", 16 << 20)
    bomb = wrote(tmp_path / "rows.jsonl", pack(bytes(64 << 20)))
    tracemalloc.start()
    with pytest.raises(BadInputError, match="unpacks to more than 200 times its size"):
        read(bomb)
    assert tracemalloc.get_traced_memory()[1] < 4 * LONGEST
    tracemalloc.stop()


def test_a_line_of_50_mb_is_one_bad_row_in_bounded_memory(tmp_path: Path) -> None:
    long = b'{"prompt": "' + b"x" * (50 << 20) + b'", "completion": "y"}\n'
    file = wrote(tmp_path / "rows.jsonl", GOOD + long + GOOD)
    del long
    tracemalloc.start()
    rows = read(file)
    assert tracemalloc.get_traced_memory()[1] < 4 * LONGEST
    tracemalloc.stop()
    assert only_bad(rows) == BadRow(2, "line", "is longer than 8 MB; split or shorten it")
    assert good(rows) == 2


@pytest.mark.parametrize(
    ("line", "field", "problem"),
    [
        (b'{"prompt": "a\xff", "completion": "b"}', "line", "is not UTF-8 (byte 0xff at 13); save the file as UTF-8"),
        (b'{"prompt": "a", "prompt": "b", "completion": "c"}', "prompt", "stands twice in one object"),
        (b'{"prompt": "a", "completion": "b"', "line", "is not JSON: Expecting ',' delimiter at column 34"),
        (b'{"prompt": "a "b" c", "completion": "d"}', "line", "is not JSON"),
        (b'["prompt", "completion"]', "line", "must be a JSON object"),
        (b'{"prompt": NaN, "completion": "b"}', "line", "NaN is not a JSON number"),
        (b'{"prompt": ' + b"[" * 100_000, "line", "is nested too deep"),
        (b'{"prompt": "a\\u0000", "completion": "b"}', "prompt", "the character NUL"),
        (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", "line", "a number of thousands of digits"),
        (b'{"prompt": "a\\ud800", "completion": "b"}', "prompt", "half a surrogate pair"),
        (b"\0\0\0", "line", "is not JSON"),
    ],
)  # fmt: skip
def test_a_broken_line_is_told_and_its_neighbours_are_read(
    tmp_path: Path, line: bytes, field: str, problem: str
) -> None:
    rows = read(wrote(tmp_path / "rows.jsonl", GOOD + line + b"\n" + GOOD))
    bad = only_bad(rows)
    assert (bad.line, bad.field) == (2, field) and problem in bad.problem
    assert good(rows) == 2


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.jsonl", b"", "is empty"),
        ("rows.jsonl", b" \n\n", "is empty"),
        ("rows.csv", b"", "is empty"),
        ("rows.csv", b"q,a\n", "is empty"),
        ("rows.jsonl", gzip.compress(b"", mtime=0), "is empty"),
        ("rows.jsonl", GOOD.decode().encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("rows.json", b'[{"prompt": "a"}]', "is one JSON array; write one row a line"),
        ("rows.csv", b'q,a\n"open,b\n', "look for a quote that is not closed"),
        ("rows.csv", b"q,q\n1,2\n", "two columns have the same name"),
        ("rows.parquet", b"PAR1 and nothing", "cannot be read as Parquet"),
        ("rows.csv", b"q,,a\n1,2,3\n", "line 1: column 2 has no name"),
        ("rows.jsonl", b"\xef\xbb\xbf", "is empty"),
        ("rows.jsonl", GOOD.decode().encode("utf-16-be"), "looks like UTF-16 without a byte-order mark"),
        ("rows.csv", GOOD.decode().encode("utf-16-le"), "iconv -f UTF-16LE"),
        ("rows.jsonl", GOOD.decode().encode("utf-32"), "is UTF-32"),
        ("rows.jsonl", GOOD.replace(b"\n", b"\r") * 2, "line ends of old Macs"),
        ("rows.csv", b"q,a\rone,two\r", "line ends of old Macs"),
        ("rows.json", json.dumps({"prompt": "a"}, indent=1).encode(), "JSON over several lines"),
        ("rows.jsonl", b"PK\x03\x04....", "is a ZIP archive"),
        ("rows.gz", gzip.compress(tarred("../../rows.jsonl"), mtime=0), "is a tar archive"),
        ("rows.jsonl", bz2.compress(GOOD), "is packed by bzip2"),
        ("rows.jsonl", lzma.compress(GOOD), "is packed by xz"),
        ("rows.jsonl.gz", gzip.compress(zstd.compress(GOOD), mtime=0), "is packed twice"),
        ("rows.jsonl.gz", gzip.compress(b"\x1f\x8b\x08\0\r\r packed", mtime=0), "is packed twice"),
        ("rows.parquet.gz", gzip.compress(b"PAR1", mtime=0), "is packed around Parquet"),
        ("rows.jsonl", b"%PDF-1.7\n", "is a PDF"),
        ("rows.jsonl", b"\n<!DOCTYPE html>\n<p>Log in", "is a web page"),
        ("rows.gz", gzip.compress(GOOD, mtime=0) + b"more", "is broken or cut short"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_told(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        read(wrote(tmp_path / name, content), Reading(columns=MAP.columns) if "csv" in name else Reading())
    assert str(caught.value).startswith(f"{name}: ") and problem in str(caught.value)


def test_nothing_but_a_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, problem in (
        ("pipe", "is no file"),
        ("", "holds no files of rows"),
        ("none", "No such file"),
        ("loop", "cannot be read"),
    ):
        with pytest.raises(BadInputError, match=problem):
            copy_original(tmp_path / name, tmp_path / "copy", "x")


def test_a_table_may_have_nested_quotes_line_ends_and_semicolons(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbfq;a\r\n"He said ""no""; then\nleft";fine\r\n\r\nnext;"=1+1"\r\n'
    rows = read(wrote(tmp_path / "rows.csv", content), MAP)
    told = [
        (row.line, row.messages[0]["content"], row.messages[1]["content"])
        for row in rows
        if isinstance(row, Row)
    ]
    assert told == [(2, 'He said "no"; then\nleft', "fine"), (5, "next", "=1+1")]


def test_a_spreadsheets_word_on_its_separator_is_heeded_and_counted_as_a_line(tmp_path: Path) -> None:
    rows = read(wrote(tmp_path / "rows.csv", b"sep=|\r\nprompt|completion\r\na, b; c|d\r\nalone\r\n"))
    assert good(rows) == 1 and only_bad(rows).line == 4


def test_rows_of_a_table_that_are_wrong_are_told_with_their_line(tmp_path: Path) -> None:
    content = b"q,a\none,1\ntwo\nthr\xffee,3\nfour,\nfive,5\n"
    rows = read(wrote(tmp_path / "rows.csv", content), MAP)
    told = [(row.line, row.field, row.problem) for row in rows if isinstance(row, BadRow)]
    assert [(line, field) for line, field, _ in told] == [(3, "line"), (4, "prompt"), (5, "completion")]
    assert "has 1 cells, and the header names 2" in told[0][2] and "byte 0xff at 3" in told[1][2]
    assert good(rows) == 2


def test_a_quote_that_is_never_closed_takes_bounded_memory(tmp_path: Path) -> None:
    file = wrote(tmp_path / "rows.csv", b'q,a\n"' + (b"text, and more " * 60 + b"\n") * (20 << 10))
    tracemalloc.start()
    with pytest.raises(BadInputError, match="line 2: is no row of a table"):
        read(file, MAP)
    assert tracemalloc.get_traced_memory()[1] < 12 * LONGEST
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_column_that_no_row_has_is_told_once_with_those_that_there_are(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"x": ["1"] * 500, "a": ["2"] * 500}), file)
    else:
        wrote(file, b"x,a\n" + b"1,2\n" * 500 if kind == "csv" else b'{"x": "1", "a": "2"}\n' * 500)
    with pytest.raises(BadInputError) as told:
        read(file, MAP)
    assert str(told.value) == (
        f"rows.{kind}: has no column 'q', which the mapping gives for `prompt`; its columns are 'x', 'a'. "
        "Write prompt= and one of these in --map"
    )


def test_a_line_that_alone_lacks_a_mapped_field_is_told_by_its_number(tmp_path: Path) -> None:
    bad = only_bad(read(wrote(tmp_path / "rows.jsonl", b'{"x": "1"}\n{"q": "1", "a": "2"}\n'), MAP))
    assert (bad.line, bad.field, bad.problem) == (1, "q", "there is no such column; there are: x")


def test_columns_of_endless_or_hostile_names_are_told_short_and_harmless(tmp_path: Path) -> None:
    names = ["\x1b[2J", "k" * 100_000, *(f"column {n}" for n in range(50))]
    file = wrote(tmp_path / "rows.jsonl", json.dumps(dict.fromkeys(names, "1")).encode())
    with pytest.raises(BadInputError, match="and 40 more") as told:
        read(file, MAP)
    assert len(str(told.value)) < 600 and "\x1b" not in str(told.value)


def test_columns_with_the_names_of_a_format_need_no_mapping(tmp_path: Path) -> None:
    (row,) = read(wrote(tmp_path / "rows.tsv", b"instruction\toutput\nDo it\tDone\n"))
    assert isinstance(row, Row) and row.messages[1]["content"] == "Done"


def test_parquet_is_read_in_batches_with_a_mapping_or_by_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"q": [f"q {n}" for n in range(2500)] + [None], "a": ["yes"] * 2501}), file)
    rows = read(file, MAP)
    assert good(rows) == 2500 and only_bad(rows).line == 2501
    chat = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]]
    pq.write_table(pa.table({"messages": chat}), file)
    (row,) = read(file)
    assert isinstance(row, Row) and row.messages[1]["content"] == "hello"


def test_a_parquet_file_that_is_cut_short_is_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), file)
    with pytest.raises(BadInputError, match="cannot be read as Parquet"):
        read(wrote(file, file.read_bytes()[:-20]))


def test_a_files_name_cannot_lead_anywhere_and_is_shown_harmless(tmp_path: Path) -> None:
    assert shown_name(Path("../../etc/passwd")) == "passwd"
    assert "\x1b" not in shown_name(Path("a\x1b[2Jb")) and "\n" not in shown_name(Path("a\nb"))
    assert json.dumps(shown_name(Path(os.fsdecode(b"r\xff.jsonl")))).isascii()


def test_a_file_of_no_known_format_says_what_it_has(tmp_path: Path) -> None:
    bad = only_bad(read(wrote(tmp_path / "rows.jsonl", b'{"text": "a", "tag": "b"}\n')))
    assert (
        "has the fields of no known format" in bad.problem
        and "text, tag; name them with --map" in bad.problem
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", json.dumps({"k" * 1_000_000: 1}).encode()),
        ("rows.jsonl", b'{"\\ud800": 1}'),
        ("rows.jsonl", b'{"\\ud800": 1, "\\ud800": 2}'),
        ("rows.csv", b"\xffprompt,completion\na,b\n"),
    ],
    ids=["long", "half a character", "half a character twice", "no UTF-8"],
)
def test_what_a_bad_row_quotes_of_its_file_is_short_and_can_be_shown(
    tmp_path: Path, name: str, content: bytes
) -> None:
    bad = only_bad(read(wrote(tmp_path / name, content)))
    assert len(f"{bad.field}{bad.problem}".encode()) < 2000


def test_a_time_in_parquet_that_python_has_no_form_for_is_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    times = pa.array([1_577_836_800_000_000_001], pa.timestamp("ns"))
    pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"], "source": times}), file)
    with pytest.raises(BadInputError, match="row 1: cannot be read as Parquet"):
        read(file)
