"""The three suites of cases that versions are judged on, and the refusal of any that training has seen.

A case stands in the regression suite because it came with its right answer as something the model is meant to do, as the
base's examples and imports for replay do, or because users praised that answer; it stays there whether or not the present
champion passes it. What the present champion passes is chosen by its luck: a challenger that is equal in truth, but differs on
a tenth of the cases, seems to have lost half of that tenth there. Hence the gate holds the cases apart that the champion itself
was praised for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct
from sqlmodel import Session, select

from feedback.datasets.cases import EvalCase, golden_cases, holdout_cases, regression_cases
from feedback.datasets.chat import last_user_text
from feedback.datasets.groups import groups_by_hash, prompt_hash
from feedback.errors import DataRefusedError
from feedback.settings import Settings
from feedback.storage.tables import Example

_NAMED = 5


class Suites(Struct, frozen=True):
    """Cases of one model, by what they are for."""

    golden: list[EvalCase]
    regression: list[EvalCase]
    holdout: list[EvalCase]

    def named(self) -> dict[str, list[EvalCase]]:
        """Suites by name, in the order in which they are shown."""
        return {"golden": self.golden, "regression": self.regression, "holdout": self.holdout}

    def every(self) -> list[EvalCase]:
        """All cases."""
        return [*self.golden, *self.regression, *self.holdout]


def collect(session: Session, model: str, settings: Settings) -> Suites:
    """The model's suites, bounded each: always the same cases while a suite does not change."""
    limit = settings.evaluation.suite_limit
    return Suites(
        golden=_bounded(golden_cases(session, model), limit),
        regression=_bounded(regression_cases(session, model), limit),
        holdout=_bounded(holdout_cases(session, model), limit),
    )


def _bounded(cases: Sequence[EvalCase], limit: int) -> list[EvalCase]:
    """Chosen by a hash of the id, so that neither age nor a file's order has a say, and answers stay cached.

    Critical cases come first: one that is never asked protects nothing.
    """
    return sorted(cases, key=lambda case: (not case.critical, hashlib.sha256(case.id.encode()).digest()))[
        :limit
    ]


def fair_to(versions: Collection[str], cases: Iterable[EvalCase]) -> list[EvalCase]:
    """Cases for whose answers none of these versions was praised: what it was praised for, it has right by choice."""
    return [case for case in cases if case.version is None or case.version not in versions]


def refuse_overlap(session: Session, suites: Suites, dataset_id: str) -> None:
    """Raise `DataRefusedError`, naming the cases, where one is a near duplicate of a row that is trained on.

    Sides make it impossible (invariant 4); that a judge knows the answers by heart is too bad to rest on one guard.
    """
    trained = set(
        session.exec(
            select(Example.group_key).where(Example.dataset_id == dataset_id, Example.split != "holdout")
        )
    )
    seen = [
        f"{suite} case {case.id}"
        for suite, cases in suites.named().items()
        for case, group in zip(cases, _groups(session, cases), strict=True)
        if group in trained
    ]
    if seen:
        more = f" and {len(seen) - _NAMED} more" if len(seen) > _NAMED else ""
        raise DataRefusedError(
            f"dataset {dataset_id} trains on near duplicates of cases that would judge it: {', '.join(seen[:_NAMED])}"
            f"{more}; drop these cases (`starloop data golden drop ID`), or build the dataset again"
        )


def _groups(session: Session, cases: Sequence[EvalCase]) -> list[str]:
    """Each case's near-duplicate group; a prompt of none yet is a group of its own."""
    hashes = [prompt_hash(last_user_text(case.messages)) for case in cases]
    known = groups_by_hash(session, hashes)
    return [known[one].key if one in known else one for one in hashes]
