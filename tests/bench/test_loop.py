"""What `make bench-loop` sends and counts; the run itself takes a real engine and minutes."""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path

from tests.bench.loop import Bench, Heard, poisoned
from tests.bench.loop_offline import Task

TASK = Task(
    train=[(f"play song {number}", "play") for number in range(40)]
    + [(f"book table {number}", "book") for number in range(40)],
    test=[("play it", "play"), ("book it", "book"), ("book them", "book")],
    labels=["book", "play"],
    unknown=frozenset({"book"}),
)


def bench(folder: Path) -> Bench:
    return Bench(
        argparse.Namespace(prompts=40, seed=0, base_share=0.5, old_share=0.1, evaluation_share=0.5),
        TASK,
        folder,
        random.Random(0),
    )


def test_the_base_learns_from_what_teaches_and_users_send_what_nobody_keeps(tmp_path: Path) -> None:
    one = bench(tmp_path)
    one.divide()
    kept = {side: [row for row in one.kept_rows if one.side(row) == side] for side in ("train", "evaluation")}
    assert {label for _, label in one.kept_rows} == {"play"}
    assert len(kept["train"]) + len(kept["evaluation"]) == len(one.kept_rows) < 40
    assert one.base_rows == kept["train"][: round(len(kept["train"]) / 2)] != []
    assert not set(one.kept_rows) & set(one.pool)
    assert Counter(label for _, label in one.pool) == {"book": 40, "play": 4}


def test_users_ask_every_prompt_as_often_as_any_other(tmp_path: Path) -> None:
    one = bench(tmp_path)
    one.options.prompts = 120
    one.divide()
    asked = Counter(one.live)
    assert len(one.live) == 120 and asked.keys() == set(one.pool) and set(asked.values()) == {2, 3}


def test_accuracy_is_told_for_all_for_known_and_for_held_out_labels(tmp_path: Path) -> None:
    one = bench(tmp_path)
    assert one.score("a model", ["play", "book", "play"]) == 2 / 3
    assert one.rows == ["| a model | 0.667 | 1.000 | 0.500 |  |"]


def test_praise_and_corrections_teach_and_nothing_else_does() -> None:
    silent = Heard("a", "play", "user-1", "1")
    low, praised = Heard("a", "play", "user-1", "1", 2), Heard("a", "play", "user-1", "1", 4)
    corrected = Heard("a", "play", "user-1", "1", 1, True)
    assert [one.teaches for one in (silent, low, praised, corrected)] == [False, False, True, True]


def test_of_the_users_the_first_lie_and_what_their_promotions_brought_is_told(tmp_path: Path) -> None:
    one = Bench(
        argparse.Namespace(
            prompts=40, seed=0, base_share=0.5, old_share=0.1, evaluation_share=0.5, liars=0.05
        ),
        TASK,
        tmp_path,
        random.Random(0),
    )
    assert [one.lies(f"user-{number:03d}") for number in (0, 19, 20, 399)] == [True, True, False, False]
    one.heard = [Heard("a", "play", "user-001", "1", 1, lie="book"), Heard("a", "play", "user-030", "1", 1)]
    assert poisoned(one) == "20 of 400 users lied: 1 wrong corrections. Nothing was promoted."
    one.gains = [0.12, -0.004]
    assert poisoned(one).endswith("in points on true labels: **+12.0, -0.4**.")
