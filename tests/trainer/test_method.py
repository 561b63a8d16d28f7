"""The way to train follows from what the dataset version holds, and is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feedback.datasets.methods import Evidence, Method, choose
from feedback.errors import DataRefusedError
from tests.trainer.tiny import row, write_dataset, write_rows
from trainer.hyperparameters import chosen_rate
from trainer.method import evidence_of, hash_of_learned

LEARNED = ("train", "validation", "pairs", "rated")


def evidence(**counts: int) -> Evidence:
    plain = {"targets": 1000, "new": 200, "right": 200, "pairs": 0, "preferred": 0, "good": 0, "bad": 0}
    return Evidence(**(plain | counts))


@pytest.mark.parametrize(
    ("counts", "method", "why"),
    [
        ({}, "sft", "200 right answers (200 new) beside 800 of old skill, 0 pairs: right answers are known"),
        ({"pairs": 5000}, "sft", "5000 pairs: right answers are known"),
        ({"pairs": 400, "preferred": 150, "right": 160}, "sft", "right answers are known"),
        ({"pairs": 400, "preferred": 300, "right": 350}, "dpo", "only found better than another answer"),
        ({"pairs": 400, "preferred": 200, "right": 450}, "sft", "right answers are known"),
        ({"pairs": 300, "preferred": 300, "chosen": 300, "right": 250}, "dpo", "only found better"),
        ({"pairs": 300, "preferred": 300, "chosen": 300, "right": 350}, "sft", "right answers are known"),
        (
            {"good": 500, "bad": 400, "right": 49},
            "kto",
            "500 good and 400 bad answers: few right answers are known",
        ),
        ({"good": 500, "bad": 400, "right": 50}, "sft", "right answers are known"),
        ({"good": 500, "bad": 400, "new": 9, "right": 140}, "sft", "140 right answers (9 new)"),
        ({"good": 500, "bad": 100}, "sft", "100 bad answers: right answers are known"),
        ({"good": 500, "bad": 400, "right": 600}, "sft", "right answers are known"),
    ],
)
def test_the_evidence_chooses_and_the_choice_counts_it(counts: dict[str, int], method: str, why: str) -> None:
    choice = choose("auto", evidence(**counts))
    assert choice.method == method and why in choice.reason


def test_what_is_asked_for_is_done_where_there_is_something_to_learn_from() -> None:
    assert choose("dpo", evidence(pairs=3)).method == "dpo"
    assert choose("kto", evidence(pairs=3)).method == "kto"
    assert "sft was asked for" in choose("sft", evidence(pairs=900, preferred=900, right=900)).reason
    with pytest.raises(DataRefusedError, match="has no pairs"):
        choose("dpo", evidence(bad=10))
    with pytest.raises(DataRefusedError, match="has only good answers"):
        choose("kto", evidence(good=10))


def test_evidence_is_counted_without_what_watches_the_training(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, map(row, range(9)), [row(100)])
    assert evidence_of(data) == evidence(targets=9, new=3, right=9)

    def pair(number: int, **changes: Any) -> dict[str, Any]:
        return {"messages": [], "chosen": "a", "rejected": "b", "group": str(number), **changes}

    write_rows(data / "pairs.jsonl", [pair(1, source="correction"), pair(2, source="sibling"), pair(100)])
    rated = [
        {"messages": [], "answer": "a", "good": good, "group": str(n)} for n, good in enumerate([1, 0, 0])
    ]
    write_rows(data / "rated.jsonl", [*rated, {**rated[0], "group": "100"}])
    assert evidence_of(data) == evidence(targets=9, new=3, right=9, pairs=2, preferred=1, good=1, bad=2)
    replayed = [row(number, source="replay") for number in range(9, 12)]
    write_rows(data / "train.jsonl", [*map(row, range(9)), *replayed])
    assert evidence_of(data).good == 4  # users rated those well too


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("train.jsonl", b'{"messages": [{"role": "user", "content": "\xff"}]}', "is not a JSON row"),
        ("pairs.jsonl", b'{"messages": [], "chosen": "yes"}', "lacks rejected"),
        ("rated.jsonl", b'{"messages": []}', "lacks answer and good"),
    ],
    ids=["not UTF-8", "half a pair", "unrated"],
)
def test_a_damaged_line_is_named_by_file_and_number(
    tmp_path: Path, file: str, line: bytes, told: str
) -> None:
    write_dataset(tmp_path, [row(0)])
    (tmp_path / file).write_bytes(line + b"\n")
    with pytest.raises(DataRefusedError, match=f"{file}:1: {told}.*after it was frozen"):
        evidence_of(tmp_path)


def test_preferences_are_trained_at_a_fortieth_of_the_rate() -> None:
    assert chosen_rate(8_000_000_000, "dpo") == pytest.approx(5e-6)
    assert chosen_rate(8_000_000_000, "sft") == pytest.approx(2e-4)


@pytest.mark.parametrize(
    ("method", "counts"),
    [("sft", {"train", "validation"}), ("dpo", {"train", "validation", "pairs"}), ("kto", set(LEARNED))],
)
def test_what_was_learned_is_known_by_the_files_that_the_method_reads(
    method: Method, counts: set[str], tmp_path: Path
) -> None:
    for name in (*LEARNED, "holdout"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    before = hash_of_learned(tmp_path, method)
    changed = set()
    for name in (*LEARNED, "holdout"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n{}\n")
        after = hash_of_learned(tmp_path, method)
        changed |= {name} if after != before else set()
        before = after
    assert changed == counts
