"""Reads what preferences are learned from out of a frozen dataset version, encoded like everything else.

A prompt whose group stands in validation is left out: nothing that watches a training may be trained on. Like all examples
these are kept on the disk; of a row stand some bytes in memory, a hash of its content and its places.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from feedback.errors import DataRefusedError
from trainer.examples import Encoded, Numbers, Picked, StoredExamples
from trainer.method import PAIRS, RATED, read
from trainer.tokens import EncodedRows, Encoder, UnusableRowError

IN_VALIDATION = "of a prompt that watches the training"


class Answers(NamedTuple):
    """Two answers to one prompt."""

    chosen: Encoded
    rejected: Encoded


class StoredPairs(Sequence[Answers]):
    """Pairs that are read from the disk each time they are asked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self._stored = StoredExamples(folder)
        self.lengths = Numbers(folder)
        """Tokens of each pair's two answers, prompts included."""

    def append(self, chosen: Encoded, rejected: Encoded) -> None:
        self._stored.append(chosen)
        self._stored.append(rejected)
        self.lengths.append(len(chosen.tokens) + len(rejected.tokens))

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Answers: ...
    @overload
    def __getitem__(self, index: slice) -> list[Answers]: ...
    def __getitem__(self, index: int | slice) -> Answers | list[Answers]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return Answers(self._stored[2 * index], self._stored[2 * index + 1])


class Hashes:
    """Contents of rows, by 64 bits of each: two different ones among a million have the same with a chance of 3 in 100 million."""

    def __init__(self, hashes: Iterable[int]) -> None:
        self._order, self._sorted = _sorted(hashes)

    def place(self, sought: int) -> int | None:
        """Where the first row with that content stands, from 0."""
        found = int(np.searchsorted(self._sorted, np.uint64(sought)))
        if found == len(self._sorted) or int(self._sorted[found]) != sought:
            return None
        return int(self._order[found])


def read_pairs(
    dataset: Path, encoder: Encoder, train: EncodedRows, folder: Path | None = None
) -> tuple[StoredPairs, Picked, Counter[str]]:
    """Pairs, the training examples that are no pair's better answer, and how many pairs were left out for which reason.

    A pair's weight is that of the training example that its better answer is. Raises `DataRefusedError` without any pair.
    """
    known = Hashes(_hash(row, row["answer"]) for row in read(dataset / "train.jsonl"))
    pairs = StoredPairs(folder)
    left_out: Counter[str] = Counter()
    alone = bytearray(b"\1" * len(train.examples))
    for number, row in enumerate(_outside_validation(dataset, PAIRS, left_out), 1):
        place = _example(train, known.place(_hash(row, row["chosen"])))
        try:
            chosen = encoder.encode({**row, "id": f"pair-{number}", "answer": row["chosen"]})
            rejected = encoder.encode({**row, "id": f"pair-{number}", "answer": row["rejected"]})
        except UnusableRowError as error:
            left_out[error.reason] += 1
            continue
        if place is not None:
            same = train.examples[place]
            chosen = replace(chosen, id=same.id, weight=same.weight)
            alone[place] = False
        pairs.append(chosen, rejected)
    if not pairs:
        raise DataRefusedError(
            f"the dataset version has no pair that can be trained on ({dict(left_out)}); use --method sft"
        )
    places = (place for place, one in enumerate(alone) if one)
    return pairs, Picked(train.examples, places, folder), left_out


def read_rated(
    dataset: Path, encoder: Encoder, train: EncodedRows, folder: Path | None = None
) -> tuple[StoredExamples, bytearray, Counter[str]]:
    """Good and bad answers, which of them are good (1) or bad (0), and what was left out.

    Good are the training examples and what was rated well; bad what was rated badly and the worse answers of pairs. An answer
    that stands there twice counts as what it was called first. Raises `DataRefusedError` where one kind is missing.
    """
    left_out: Counter[str] = Counter()
    taught = array("Q", (_hash(row, row["answer"]) for row in read(dataset / "train.jsonl")))
    rated = array("Q", (_hash(row, answer) for row, answer, _ in _rated(dataset, Counter())))
    first = _firsts(taught + rated)[len(taught) :]
    examples, good = StoredExamples(folder), bytearray(b"\1" * len(train.examples))
    for example in train.examples:
        examples.append(example)
    for number, (row, answer, kind) in enumerate(_rated(dataset, left_out)):
        if not first[number]:
            continue
        try:
            examples.append(encoder.encode({**row, "id": f"rated-{number + 1}", "answer": answer}))
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


def _rated(dataset: Path, left_out: Counter[str]) -> Iterator[tuple[dict[str, Any], Any, bool]]:
    """Row, answer and whether it is good: the worse answers of pairs, then what was rated."""
    for row in _outside_validation(dataset, PAIRS, left_out):
        yield row, row["rejected"], False
    for row in _outside_validation(dataset, RATED, left_out):
        yield row, row["answer"], bool(row["good"])


def _outside_validation(dataset: Path, name: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    held_out = Hashes(_hash_of(row.get("group")) for row in read(dataset / "validation.jsonl"))
    for row in read(dataset / name):
        if held_out.place(_hash_of(row.get("group"))) is not None:
            left_out[IN_VALIDATION] += 1
        else:
            yield row


def _example(train: EncodedRows, row: int | None) -> int | None:
    """Place of the example that is of a row; None where the row was left out, or is none."""
    if row is None:
        return None
    place = bisect_left(train.rows, row)
    return place if place < len(train.rows) and train.rows[place] == row else None


def _firsts(hashes: array[int]) -> bytearray:
    """For each whether it is the first of its kind."""
    order, ordered = _sorted(hashes)
    firsts = np.ones(len(hashes), dtype=np.uint8)
    firsts[order[1:][ordered[1:] == ordered[:-1]]] = 0
    return bytearray(firsts.tobytes())


def _sorted(hashes: Iterable[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Places by hash, the earlier of two equal ones first, and the hashes in that order."""
    plain = np.fromiter(hashes, dtype=np.uint64)
    order = np.argsort(plain, kind="stable").astype(np.uint32)
    return order, plain[order]


def _hash(row: Mapping[str, Any], answer: Any) -> int:
    return _hash_of([row["messages"], answer, row.get("tools")])


def _hash_of(content: Any) -> int:
    text = json.dumps(content, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
