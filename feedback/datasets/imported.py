"""Imported rows as examples: which of them a dataset version looks at, and which it learns. Rules and one pass over files."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from feedback.datasets.chat import Conversation, content_hash
from feedback.datasets.contract import TaskContract, answer_key
from feedback.datasets.curation import Corrections
from feedback.datasets.groups import Group, prompt_hash
from feedback.datasets.said import BaseExample, Example, Pair
from feedback.datasets.splits import example_key, row_side
from feedback.datasets.tool_calls import turn_of
from feedback.errors import StorageError
from feedback.imports.folder import digest_of
from feedback.imports.rows import Row
from feedback.imports.storing import FOLDER
from feedback.storage.tables import DataImport


class Imported(NamedTuple):
    """An answer of an imported row, with the conversation before it."""

    identity: str
    """Its content hash: what it is ordered by."""
    conversation: Conversation
    user: str
    """Who stands for its user: the row, so that all its answers stand on one side."""
    import_id: str
    rejected: str | None = None


def read_imported(
    directory: Path, imports: Sequence[DataImport], uses: Collection[str], most: int
) -> list[Imported]:
    """The answers of all imports for these uses, each once; of more than `most` those with the smallest hashes.

    So a larger import hardly changes what a smaller one chose, and memory stays bounded. Raises `StorageError` where
    rows are no longer those that were imported.
    """
    chosen = [entry for entry in imports if entry.use in uses]
    found: dict[str, Imported] = {}
    for entry in chosen:
        some = heapq.nsmallest(most, _answers(directory, entry), key=lambda one: one.identity)
        for one in some:
            found.setdefault(one.identity, one)
    return heapq.nsmallest(most, found.values(), key=lambda one: one.identity)


def placed_imported(
    imported: Sequence[Imported], groups: Mapping[str, Group], share: float
) -> list[BaseExample]:
    """Imported answers with group and side."""
    found = []
    for one in imported:
        group = groups[prompt_hash(one.conversation.prompt)]
        side = None if group.unused else row_side(group.key, one.user, share)
        if side == "evaluation" and one.conversation.tools:
            side = None  # whether the engine takes tools is known only of what it was asked
        found.append(BaseExample(one.conversation, group.key, side, one.import_id, one.rejected))
    return found


def choose_imported(
    imported: Sequence[BaseExample],
    judging: Collection[str],
    learned: Collection[str],
    contract: TaskContract,
    dropped: Counter[str],
) -> list[Example]:
    """The imported answers to learn: those for training, in form, whose prompt has one answer only."""
    answers: dict[str, set[str]] = defaultdict(set)
    for one in imported:
        answers[_prompt_key(one.conversation)].add(answer_key(one.conversation.answer))
    found = []
    for conversation, group_key, side, import_id, _ in imported:
        if side != "train" or group_key in judging:
            dropped["imported, kept apart for evaluation"] += 1
        elif not calls_tools(conversation) and not contract.valid(conversation.answer, conversation.messages):
            dropped["imported, against the task contract"] += 1
        elif len(answers[_prompt_key(conversation)]) > 1:
            dropped["imported, with different answers to one prompt"] += 1
        else:
            identity = conversation.content_hash
            found.append(
                Example(
                    messages=conversation.messages,
                    answer=conversation.answer,
                    source="import",
                    group_key=group_key,
                    content_hash=identity,
                    tools=conversation.tools,
                    new=identity not in learned,
                    import_id=import_id,
                    why={"rung": "import"},
                )
            )
    return found


def imported_pairs(imported: Sequence[BaseExample], taught: Sequence[Example]) -> list[Pair]:
    """The imported answers that are learned, each with the one that was thought worse, where one came with it."""
    learned = {example.content_hash: example for example in taught}
    found: dict[str, Pair] = {}
    for one in imported:
        example = learned.get(one.conversation.content_hash)
        if example is not None and one.rejected is not None:
            pair = Pair(
                messages=example.messages,
                chosen=example.answer,
                rejected=one.rejected,
                source="import",
                group_key=example.group_key,
                import_id=one.import_id,
                new=example.new,
                tools=example.tools,
            )
            found.setdefault(pair.content_hash, pair)
    return list(found.values())


def with_imported(
    corrections: Corrections,
    imported: Sequence[BaseExample],
    taught: Sequence[Example],
    left_out: Mapping[str, int],
) -> Corrections:
    """The corrections, and beside them the imported answers and pairs of groups that have none."""
    corrected = {example.group_key for example in corrections.examples}
    fitting = [example for example in taught if example.group_key not in corrected]
    dropped = corrections.dropped | dict(left_out)
    if len(fitting) < len(taught):
        dropped["imported, where a correction stands"] = len(taught) - len(fitting)
    return replace(
        corrections,
        examples=[*corrections.examples, *fitting],
        pairs=[*corrections.pairs, *imported_pairs(imported, fitting)],
        dropped=dropped,
    )


def intact(directory: Path, entry: DataImport) -> bool:
    """Whether original and canonical rows are still those that were taken in, and the manifest says what the record does."""
    folder = directory / FOLDER / entry.id
    try:
        for name, hashed in (("original", entry.original_hash), ("rows.jsonl", entry.content_hash)):
            if digest_of(folder / name) != hashed:
                return False
        told = json.loads((folder / "manifest.json").read_bytes())
        return bool(told == entry.model_dump() | {"bad_rows": told["bad_rows"]})
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _prompt_key(conversation: Conversation) -> str:
    return content_hash(conversation.messages, "", conversation.tools)


def calls_tools(conversation: Conversation) -> bool:
    """Whether the answer is a call, which the tool's schema judged when it came, and no contract on answers does."""
    return "tool_calls" in turn_of(conversation.answer, conversation.tools)


def _answers(directory: Path, entry: DataImport) -> Iterator[Imported]:
    """Every answer that can be learned, streamed."""
    file = directory / FOLDER / entry.id / "rows.jsonl"
    digest, decoder = hashlib.sha256(), msgspec.json.Decoder(Row)
    problem = StorageError(
        f"{file}: the rows of import {entry.id} ({entry.name}) are not those that were imported; restore them from a backup"
    )
    try:
        with file.open("rb") as lines:
            for line in lines:
                digest.update(line)
                row = decoder.decode(line)
                user = example_key(row.identity)
                worse = row.worse
                for conversation in row.targets():
                    rejected = worse if len(conversation.messages) == len(row.messages) - 1 else None
                    yield Imported(conversation.content_hash, conversation, user, entry.id, rejected)
    except (OSError, msgspec.DecodeError) as error:
        raise problem from error
    if digest.hexdigest() != entry.content_hash:
        raise problem
