"""What `make bench-train` gives to those whom it compares, and how it tells what came of it."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from feedback import starter
from tests.bench.train import CONTENDERS, HELD_OUT, LENGTH, ROWS, page, talks
from tests.bench.train_rows import turns, write_version
from trainer.examples import IGNORED
from trainer.method import read


def test_rows_are_the_starters_with_other_answers_and_loss_on_these_alone() -> None:
    lines = Path(starter.__file__).with_name("examples.jsonl").read_text(encoding="utf-8").splitlines()
    for line, (asked, answered) in zip(lines, islice(turns(), 50), strict=False):
        known = json.loads(line)["messages"]
        assert asked == known[0] and answered["content"] != known[1]["content"]
    for kind in CONTENDERS:
        rows = talks(kind)
        lengths = {len(ids) for ids, _ in rows}
        assert len(rows) == ROWS + HELD_OUT == len({tuple(ids) for ids, _ in rows}), (
            "none is held out and trained on"
        )
        assert (lengths == {LENGTH}) == (kind == "equal") and max(lengths) <= 1024
        for ids, labels in rows:
            trained = [label for label in labels if label != IGNORED]
            assert 0 < len(trained) < len(ids)
            assert all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))


def test_a_dataset_version_of_any_size_has_rows_of_its_own(tmp_path: Path) -> None:
    folder = write_version(tmp_path / "v", 40, pairs=True, several=3)
    rows = [*read(folder / "train.jsonl"), *read(folder / "validation.jsonl")]
    pairs = list(read(folder / "pairs.jsonl"))
    assert (len(rows), len(pairs)) == (48, 40)
    assert len({row["messages"][-1]["content"] for row in rows}) == 48
    assert [pair["chosen"] for pair in pairs] == [row["answer"] for row in rows[:40]]


def test_the_page_compares_runs_of_one_turn_with_each_other() -> None:
    def run(who: str, kind: str, seed: int, cpu: float) -> dict[str, Any]:
        figures = {"wall": 2 * cpu, "cpu": cpu, "tokens": 1000, "steps": 13, "first_step_wall": 9.0}
        figures |= {"first_step_cpu": 8.0, "before": 2.0, "after": 1.0 + seed / 10, "peak_bytes": 5e8}
        return {"who": who, "rows": kind, "seed": seed, **figures}

    results: dict[str, Any] = {"minutes": 1.0, "others": 0.5, "start": [{"cpu": 4.0, "wall": 5.0}]}
    results["speed"] = [
        run(who, kind, seed, cpu * (1 + seed))  # the machine is half as fast in the second turn
        for kind, contenders in CONTENDERS.items()
        for who, cpu in zip(contenders, (1.0, 2.0, 4.0), strict=False)
        for seed in (0, 1)
    ]
    results["memory"] = [
        {"method": "sft", "examples": 100_000, "bytes": 3.2e6, "peak_bytes": 5e8, "cpu": 15.0}
    ]
    estimate: dict[str, Any] = {"memory": 8e8, "memory_estimate": 9e8, "memory_error": 0.125, "seconds": 10.0}
    estimate |= {"architecture": "Llama", "seconds_estimate": 8.0, "time_error": -0.2}
    results["estimates"] = [{**estimate, "turn": turn} for turn in ("first", "second")]
    rounds: list[dict[str, Any]] = [
        {
            "quiet": {"requests_per_second": 100.0, "milliseconds": [10.0] * 98 + [20.0] * 2},
            "busy": {"requests_per_second": 60.0, "milliseconds": [15.0] * 98 + [50.0] * 2},
            "alone": 8.0,
            "beside": 4.0,
        }
    ]
    results["serving"] = {"rounds": rounds, "seconds": 15.0, "others": 0.0}
    shown = "\n".join(page(results))
    assert "| answers per second | 100.0 | 60.0 | 0.60× | ≥ 0.5× |" in shown
    assert "| answer, p99 (ms) | 20 | 50 | 2.50× | ≤ 3× |" in shown
    assert "| training steps per second | 8.00 | 4.00 | 0.50× | ≥ 0.3× |" in shown
    assert "other programs took 50% of it meanwhile" in shown
    assert "| mixed | trl, packing | 13 | 188 | ours 4.00× (4.00 to 4.00) | 94 |" in shown
    assert "1.0500 (1.0000 to 1.1000), before 2.0000" in shown
    assert "| sft | 100,000 | 3.2 MB | 32 | 500 MB | 15.0 |" in shown
    assert "| Llama | 900 MB | 800 MB | +12% | 8.0 | 10.0 | -20% |" in shown
