"""Tokens of a file from a sample of its rows: exact for a small one, near for a large one, quick in any case."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from feedback.checks.cost import TokenCount
from feedback.checks.sampled import estimated_tokens
from feedback.starter import model_directory


def lines(count: int) -> list[str]:
    words = ("refund", "invoice", "cancel", "where is it")
    return [
        json.dumps({"prompt": " ".join(words[: number % 4 + 1]), "completion": f"order {number % 1000}"})
        + "\n"
        for number in range(count)
    ]


def counted(rows: list[str]) -> int:
    counter = TokenCount(model_directory() / "tokenizer.json", 0)
    for row in map(json.loads, rows):
        counter.add(f"{row['prompt']}\n{row['completion']}")
    result = counter.result()
    assert result is not None
    return result.total


@pytest.mark.parametrize("count", [3, 1000, 5000])
def test_a_sample_stands_for_the_whole(tmp_path: Path, count: int) -> None:
    rows = lines(count)
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    found = estimated_tokens(tmp_path / "rows.jsonl", "rows.jsonl", model_directory())
    assert found == pytest.approx(counted(rows), rel=0.0 if count <= 1000 else 0.05)


def test_a_packed_file_is_as_long_as_what_it_holds(tmp_path: Path) -> None:
    rows = lines(5000)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("".join(rows).encode()))
    found = estimated_tokens(tmp_path / "rows.jsonl.gz", "rows.jsonl.gz", model_directory())
    assert found == pytest.approx(counted(rows), rel=0.05)


def test_tables_are_counted_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\n" + "hello,there\n" * 3000)
    found = estimated_tokens(tmp_path / "rows.csv", "rows.csv", model_directory())
    assert found is not None and found % 3000 == 0


def test_what_has_no_rows_or_no_tokenizer_has_no_count(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"colour": "red"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    for name in ("rows.jsonl", "empty.jsonl"):
        assert estimated_tokens(tmp_path / name, name, model_directory()) is None
    (tmp_path / "good.jsonl").write_text("".join(lines(3)))
    assert estimated_tokens(tmp_path / "good.jsonl", "good.jsonl", tmp_path) is None
