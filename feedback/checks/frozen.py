"""The checklist over a dataset version, in a process of its own: its tokenizer and index of prompts go with it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from feedback.apart import answer_apart, ask_apart
from feedback.checks.check import Report, check_rows, known_prompts
from feedback.datasets.exports import chat_row
from feedback.datasets.files import read_rows
from feedback.imports.rows import Row
from feedback.settings import Settings

FORM = "a dataset version, its training side"


class Frozen(Struct):
    """Which dataset version."""

    settings: Settings
    model: str
    dataset_id: str


def check_apart(frozen: Frozen) -> Report:
    """As `check_dataset`. Raises what `ask_apart` raises."""
    return ask_apart("feedback.checks.frozen", frozen, Report, "the check of the dataset")


def check_dataset(frozen: Frozen) -> Report:
    """What `starloop data check` would say of the training side; `leaking` are rows near those of the validation side.

    Raises `NotFoundError` where the dataset's files are not there.
    """
    settings = frozen.settings
    known = known_prompts(_rows(frozen, "validation"), settings)
    found = check_rows(
        _rows(frozen, "train"), frozen.dataset_id, settings, settings.model_named(frozen.model), known
    )
    found.format = FORM
    return found


def _rows(frozen: Frozen, split: str) -> Iterator[Row]:
    lines = read_rows(frozen.settings.directory, frozen.dataset_id, split)
    for number, line in enumerate(lines, 1):
        yield Row(chat_row(line)["messages"], number, line.get("tools"), source=line.get("source"))


if __name__ == "__main__":
    answer_apart(Frozen, check_dataset)
