"""Which way to train: imitate right answers (SFT), prefer one of two (DPO), or good to bad ones (KTO). The choice is pure.

Where somebody wrote down the right answer, imitating it says most. Where people only found one answer better than
another, that preference is what there is to learn; where they only called answers good or bad, that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from feedback.errors import DataRefusedError

Method = Literal["sft", "dpo", "kto"]
Wanted = Literal["auto", "sft", "dpo", "kto"]
ENOUGH = 200
"""Pairs, or good and bad answers each, below which preferences teach little ("a few hundred")."""
FEW = 50
"""Right answers below which imitating them teaches little."""
PAIRS, RATED = "pairs.jsonl", "rated.jsonl"
"""`{messages, chosen, rejected, source, group}` and `{messages, answer, good, group}`; a dataset version may have neither."""
_WRITTEN = {"correction", "reviewer", "teacher", "best-of-n", "import"}
"""Sources whose better answer somebody wrote, or checked, as the right one."""
_CHOSEN = "preference"


class Evidence(Struct, frozen=True, kw_only=True):
    """What a dataset version holds, counted over its training side."""

    targets: int
    new: int
    pairs: int
    preferred: int
    """Pairs whose better answer was only rated better, or preferred side by side."""
    chosen: int = 0
    """Those of them that were preferred side by side: no target came of them."""
    good: int
    bad: int
    """Single rated answers; those with 3 stars are neither."""


class Choice(Struct, frozen=True):
    """The method, and why."""

    method: Method
    reason: str


def choose(wanted: Wanted, evidence: Evidence) -> Choice:
    """The method that is asked for, or with `auto` the one that the evidence speaks for.

    Raises `DataRefusedError` where there is nothing that the method could learn from.
    """
    held = f"{evidence.targets} right answers ({evidence.new} new), {evidence.pairs} pairs"
    if evidence.good or evidence.bad:
        held += f", {evidence.good} good and {evidence.bad} bad answers"
    if wanted != "auto":
        _refuse_without_evidence(wanted, evidence)
        return Choice(wanted, f"{wanted} was asked for; the dataset version has {held}")
    written = max(evidence.new - (evidence.preferred - evidence.chosen), 0)
    if evidence.preferred >= ENOUGH and evidence.preferred > written:
        return Choice(
            "dpo",
            f"{held}: most of what is new was only found better than another answer, so pairs are learned from",
        )
    if min(evidence.good, evidence.bad) >= ENOUGH and evidence.new < FEW:
        return Choice(
            "kto",
            f"{held}: few right answers are new, and many answers were called good or bad, so those are learned from",
        )
    return Choice("sft", f"{held}: right answers are known, and imitating them says most")


def evidence_of(dataset: Path) -> Evidence:
    """Count a frozen dataset version's files, a line at a time."""
    held_out = {row.get("group") for row in read(dataset / "validation.jsonl")}
    targets = new = pairs = preferred = chosen = good = bad = 0
    for row in read(dataset / "train.jsonl"):
        targets += 1
        new += bool(row.get("new"))
    for row in read(dataset / PAIRS):
        if row.get("group") not in held_out:
            pairs += 1
            preferred += row.get("source") not in _WRITTEN
            chosen += row.get("source") == _CHOSEN
    for row in read(dataset / RATED):
        if row.get("group") not in held_out:
            good += bool(row["good"])
            bad += not row["good"]
    return Evidence(
        targets=targets, new=new, pairs=pairs, preferred=preferred, chosen=chosen, good=good, bad=bad
    )


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a frozen file, none where there is no such file. Raises `DataRefusedError` for a damaged one."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataRefusedError(
                    f"{path}:{number}: is not a JSON row ({error}); the file was changed or cut after it was frozen"
                ) from error
            if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
                raise DataRefusedError(
                    f"{path}:{number}: is no row with messages; the file was changed after it was frozen"
                )
            yield row


def _refuse_without_evidence(wanted: Wanted, evidence: Evidence) -> None:
    if wanted == "dpo" and not evidence.pairs:
        raise DataRefusedError(
            "the dataset version has no pairs of a better and a worse answer, which DPO learns from; use --method sft"
        )
    if wanted == "kto" and not (evidence.bad or evidence.pairs):
        raise DataRefusedError(
            "the dataset version has only good answers, and KTO learns from good and bad ones; use --method sft"
        )
