"""Pairs and rated answers as they are read from a dataset version: whose weight they have, and what they take of memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.test_preferences import pair, wrong
from tests.trainer.tiny import row, tokenizer, write_dataset, write_rows
from trainer import examples
from trainer.method import read
from trainer.preference_rows import Hashes, read_pairs, read_rated
from trainer.tokens import Encoder

Read = Callable[[Path, Encoder], Any]


def encoder() -> Encoder:
    words = tokenizer()
    return Encoder(words, 128, {words.eos_token_id})


def encoded(dataset: Path, with_what: Encoder) -> Any:
    """The training split, as a training has it before it reads preferences."""
    return with_what.encode_rows(read(dataset / "train.jsonl"))


def test_a_pair_has_weight_and_name_of_the_very_example_that_its_better_answer_is(tmp_path: Path) -> None:
    """Rows before it that were left out move no weight to another example."""
    rows = [row(0, weight=0.0), row(1, weight=0.25), row(2, weight=0.5), row(3)]
    data = write_dataset(tmp_path / "data", rows)
    write_rows(data / "pairs.jsonl", [pair(rows[0]), pair(rows[2]), pair(row(9))])
    words = encoder()
    pairs, alone, left_out = read_pairs(data, words, encoded(data, words))
    assert [(one.chosen.id, one.chosen.weight) for one in pairs] == [
        ("pair-1", 1.0),
        ("example-2", 0.5),
        ("pair-3", 1.0),
    ]
    assert [example.id for example in alone] == ["example-1", "example-3"]
    assert list(alone.lengths) == [len(example.tokens) for example in alone]
    assert pairs.lengths[1] == len(pairs[1].chosen.tokens) + len(pairs[1].rejected.tokens)
    assert (pairs[-1], pairs[1:], left_out) == (pairs[2], [pairs[1], pairs[2]], {})


def test_an_answer_that_stands_there_twice_is_what_it_was_called_first(tmp_path: Path) -> None:
    rows = [row(0), row(1)]
    data = write_dataset(tmp_path / "data", rows, [row(5)])
    write_rows(data / "pairs.jsonl", [pair(rows[0]), pair(row(5))])
    rated = [
        {"messages": one["messages"], "answer": answer, "good": good, "group": one["group"]}
        for one, answer, good in [
            (rows[0], wrong(rows[0]), True),  # a pair called it worse
            (rows[1], rows[1]["answer"], False),  # it is taught
            (row(7), "red", False),
            (row(7), "red", True),
        ]
    ]
    write_rows(data / "rated.jsonl", rated)
    words = encoder()
    answers, good, left_out = read_rated(data, words, encoded(data, words))
    assert [(example.id, kind) for example, kind in zip(answers, good, strict=True)] == [
        ("example-0", 1),
        ("example-1", 1),
        ("rated-1", 0),
        ("rated-4", 0),
    ]
    assert left_out == {"of a prompt that watches the training": 1}


def test_a_hash_is_found_at_its_first_place_and_none_where_there_is_none() -> None:
    most = (1 << 64) - 1
    hashes = Hashes([7, most, 3, 7, 1 << 63])
    assert [hashes.place(one) for one in (7, most, 3, 1 << 63)] == [0, 1, 2, 4]
    assert [hashes.place(one) for one in (0, 4, most - 1)] == [None, None, None]
    assert Hashes([]).place(7) is None


def _pairs(data: Path, words: Encoder) -> Any:
    return read_pairs(data, words, encoded(data, words))


def _rated(data: Path, words: Encoder) -> Any:
    return read_rated(data, words, encoded(data, words))


@pytest.mark.parametrize("reading", [_pairs, _rated], ids=["pairs", "rated"])
def test_ten_times_as_many_rows_take_some_bytes_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: Read
) -> None:
    words = encoder()
    monkeypatch.setattr(examples, "_UNWRITTEN", 4096)  # what waits to be written grows no further

    def taken(count: int) -> int:
        rows = [row(number) for number in range(count)]
        data = write_dataset(tmp_path / str(count), rows)
        write_rows(data / "pairs.jsonl", map(pair, rows))
        del rows
        tracemalloc.start()
        held = reading(data, words)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(held[0]) in (count, 2 * count)
        return peak

    taken(10)  # what is made once
    few, many = taken(200), taken(2000)
    assert (many - few) / 1800 < 100
