"""Rows that `make bench-train` trains on: the starter's own questions, with other answers than it knows."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from feedback import starter


def turns() -> Iterator[list[dict[str, str]]]:
    """Questions of the starter's examples, again and again, each with the answer that belongs to another intent."""
    lines = Path(starter.__file__).with_name("examples.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line)["messages"] for line in lines]
    answers = sorted({example[-1]["content"] for example in examples})
    while True:
        for example in examples:
            other = answers[(answers.index(example[-1]["content"]) + 1) % len(answers)]
            yield [*example[:-1], {"role": "assistant", "content": other}]


def write_version(folder: Path, count: int, pairs: bool = False, several: int = 1) -> Path:
    """A frozen dataset version of that many training rows, with a tenth as many to validate (a thousand at most)."""
    folder.mkdir(parents=True, exist_ok=True)
    source, rng = turns(), random.Random(0)
    with (
        (folder / "train.jsonl").open("w") as train_rows,
        (folder / "pairs.jsonl").open("w") as pair_rows,
        (folder / "validation.jsonl").open("w") as validation,
    ):
        for number in range(count + min(max(count // 10, 8), 1000)):
            talk = [message for _ in range(rng.randint(1, several)) for message in next(source)]
            messages = [*talk[:-2], {"role": "user", "content": f"{talk[-2]['content']} ({number})"}]
            row = {
                "id": f"example-{number}",
                "messages": messages,
                "answer": talk[-1]["content"],
                "weight": 1.0,
                "new": number % 3 == 0,
                "group": str(number),
            }
            (train_rows if number < count else validation).write(json.dumps(row) + "\n")
            if pairs and number < count:
                pair = {"messages": messages, "group": str(number), "source": "correction"}
                pair |= {"chosen": talk[-1]["content"], "rejected": "I do not know."}
                pair_rows.write(json.dumps(pair) + "\n")
    return folder
