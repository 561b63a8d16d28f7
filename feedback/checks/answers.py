"""Answers: are they of one form, whole, balanced over labels and sources, and of ordinary length."""

from __future__ import annotations

import json
import math
from collections import Counter
from statistics import median

from feedback.datasets.chat import Messages, last_user_text
from feedback.datasets.contract import TaskContract

_LABEL_LENGTH, _LABELS, _PER_LABEL = 60, 300, 3
_OUTLYING = 3.5
"""Robust standard deviations of the logarithm (Iglewicz and Hoaglin 1993)."""
_MAD_TO_SD = 1.4826
_SAME_END, _LONG = 5, 200
_NAMED = 20
_KEPT = 200_000
"""Lengths that are kept for the median; of more, every so many."""


class Answers:
    """Counts as answers come."""

    def __init__(self, contract: TaskContract | None) -> None:
        self._contract = contract
        self.count = self.as_json = self.against_contract = 0
        self.cut_short: list[int] = []
        """Lines of answers that look cut off, the first few."""
        self.cut_short_count = 0
        self.labels: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self._short: Counter[str] | None = Counter()
        self._lengths: list[tuple[int, int]] = []
        self._long_lengths: Counter[int] = Counter()

    def add(
        self,
        line: int,
        messages: Messages,
        answer: str,
        label: str | None,
        source: str | None,
        calls: bool = False,
    ) -> None:
        """Look at one more answer to `messages`; `calls` of tools were held to the tools' schemas when the row was read."""
        self.count += 1
        parses = _is_json(answer)
        self.as_json += parses
        if self._contract is not None and not calls and not self._contract.valid(answer, messages):
            self.against_contract += 1
        if _looks_cut(answer, parses):
            self.cut_short_count += 1
            if len(self.cut_short) < _NAMED:
                self.cut_short.append(line)
        if len(answer) >= _LONG:
            self._long_lengths[len(answer)] += 1
        if label is None and self._contract is not None and not calls:
            label = self._contract.slice_of(answer)
        if label is not None:
            self.labels[label[:_LABEL_LENGTH]] += 1
        if source is not None:
            self.sources[source[:_LABEL_LENGTH]] += 1
        self._count_short(answer)
        if len(self._lengths) < _KEPT:
            self._lengths.append((len(last_user_text(messages)) + len(answer), line))

    def label_counts(self) -> dict[str, int]:
        """Labels that rows name, else the answers themselves where they are few and short, most frequent first."""
        if self.labels:
            return dict(self.labels.most_common())
        short = self._short
        if short and self.count >= _PER_LABEL * len(short):
            return dict(short.most_common())
        return {}

    def cut_at_one_length(self) -> int:
        """Answers that all end at the same, longest length: what a limit on output leaves."""
        if not self._long_lengths:
            return 0
        count = self._long_lengths[max(self._long_lengths)]
        return count if count >= _SAME_END else 0

    def outliers(self) -> tuple[int, list[int]]:
        """How many rows are unusually long or short, and the lines of the first few."""
        logs = [math.log(max(length, 1)) for length, _ in self._lengths]
        if len(logs) < _SAME_END:
            return 0, []
        middle = median(logs)
        spread = _MAD_TO_SD * median(abs(value - middle) for value in logs)
        if spread == 0:
            return 0, []
        lines = [
            line
            for value, (_, line) in zip(logs, self._lengths, strict=True)
            if abs(value - middle) > _OUTLYING * spread
        ]
        return len(lines), lines[:_NAMED]

    def _count_short(self, answer: str) -> None:
        if self._short is None:
            return
        if len(answer) > _LABEL_LENGTH:
            self._short = None
            return
        self._short[answer.strip()] += 1
        if len(self._short) > _LABELS:
            self._short = None


def _is_json(answer: str) -> bool:
    """Whether it is a JSON object or list: a bare number or word is text."""
    if not answer.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return True


def _looks_cut(answer: str, parses: bool) -> bool:
    text = answer.strip()
    if text.startswith(("{", '["', "[{")) and not parses:
        return True
    return text.count("```") % 2 == 1 or text.endswith(("...", "…", ",")) or answer.endswith(" and")
