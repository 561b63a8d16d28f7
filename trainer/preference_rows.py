"""Reads what preferences are learned from out of a frozen dataset version, encoded like everything else.

A prompt whose group stands in validation is left out: nothing that watches a training may be trained on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from feedback.errors import DataRefusedError
from trainer.examples import Encoded
from trainer.method import PAIRS, RATED, read
from trainer.tokens import EncodedRows, Encoder, UnusableRowError

IN_VALIDATION = "of a prompt that watches the training"


class Answers(NamedTuple):
    """Two answers to one prompt."""

    chosen: Encoded
    rejected: Encoded


def read_pairs(
    dataset: Path, encoder: Encoder, train: EncodedRows
) -> tuple[list[Answers], list[Encoded], Counter[str]]:
    """Pairs, the training examples that are no pair's better answer, and how many pairs were left out for which reason.

    A pair's weight is that of the training example that its better answer is. Raises `DataRefusedError` without any pair.
    """
    by_content = {_key(row, row["answer"]): str(row.get("id", "")) for row in read(dataset / "train.jsonl")}
    by_id = {example.id: example for example in train.examples}
    pairs: list[Answers] = []
    left_out: Counter[str] = Counter()
    paired: set[str] = set()
    for number, row in enumerate(_outside_validation(dataset, PAIRS, left_out), 1):
        known = by_content.get(_key(row, row["chosen"]))
        try:
            chosen = encoder.encode({**row, "id": known or f"pair-{number}", "answer": row["chosen"]})
            rejected = encoder.encode({**row, "id": f"pair-{number}", "answer": row["rejected"]})
        except UnusableRowError as error:
            left_out[error.reason] += 1
            continue
        if known in by_id:
            chosen = replace(chosen, weight=by_id[known].weight)
            paired.add(known)
        pairs.append(Answers(chosen, rejected))
    if not pairs:
        raise DataRefusedError(
            f"the dataset version has no pair that can be trained on ({dict(left_out)}); use --method sft"
        )
    return pairs, [example for example in train.examples if example.id not in paired], left_out


def read_rated(
    dataset: Path, encoder: Encoder, train: EncodedRows
) -> tuple[list[Encoded], list[bool], Counter[str]]:
    """Good and bad answers, which of them are good, and what was left out.

    Good are the training examples and what was rated well; bad what was rated badly and the worse answers of pairs.
    Raises `DataRefusedError` where one kind is missing.
    """
    examples, good = list(train.examples), [True] * len(train.examples)
    left_out: Counter[str] = Counter()
    rated = [(row, row["rejected"], False) for row in _outside_validation(dataset, PAIRS, left_out)]
    rated += [
        (row, row["answer"], bool(row["good"])) for row in _outside_validation(dataset, RATED, left_out)
    ]
    seen = {_key(row, row["answer"]) for row in read(dataset / "train.jsonl")}
    for number, (row, answer, kind) in enumerate(rated, 1):
        if (
            key := _key(row, answer)
        ) in seen:  # a well-rated answer that is replayed, a bad one that is in a pair
            continue
        seen.add(key)
        try:
            examples.append(encoder.encode({**row, "id": f"rated-{number}", "answer": answer}))
        except UnusableRowError as error:
            left_out[error.reason] += 1
        else:
            good.append(kind)
    if all(good) or not any(good):
        raise DataRefusedError(
            f"all {len(good)} answers that can be trained on are {'good' if all(good) else 'bad'}, and KTO learns from "
            "good and bad ones; use --method sft"
        )
    return examples, good, left_out


def _outside_validation(dataset: Path, name: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    held_out = {row.get("group") for row in read(dataset / "validation.jsonl")}
    for row in read(dataset / name):
        if row.get("group") in held_out:
            left_out[IN_VALIDATION] += 1
        else:
            yield row


def _key(row: Mapping[str, Any], answer: Any) -> str:
    return json.dumps([row["messages"], answer, row.get("tools")], sort_keys=True)
