"""Reads what users said and got since a canary or a watch began.

Only what a user got whom the gateway dealt to that version counts: conversations that stay on the version they began on,
requests that name a version, and evaluations are left out. Ratings that a hold keeps back do not count either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import null, or_
from sqlalchemy import select as columns_of
from sqlmodel import Session, col, func, select

from feedback.datasets.chat import messages_of
from feedback.datasets.contract import TaskContract
from feedback.datasets.holds import held_feedback
from feedback.datasets.slowness import pace_of
from feedback.datasets.triage import Answered, Triager
from feedback.ids import first_id_at
from feedback.registry.arms import Arms, unit_of
from feedback.settings import Model, Settings
from feedback.storage.tables import Canary, Feedback, Inference
from trainer.canary import Arm, arm_of, means_by_user
from trainer.guardrails import WINDOW, Tally, Watched

_MALFORMED = frozenset({"schema_invalid", "empty", "truncated", "repetition"})


class Evidence:
    """Looks into the record for one canary; keep it for as long as that is open: it remembers judged answers."""

    def __init__(self, settings: Settings, model: Model, row: Canary) -> None:
        contract = TaskContract.from_settings(model)
        self._triager = Triager(contract, settings.triage)
        self._reads_prompts = bool(model.check)
        self._arms = Arms.of(row)
        self._model = row.model
        self._since = min(row.id, first_id_at(row.created))  # where the clock was set, these are two

    def arms(self, session: Session) -> tuple[Arm, Arm]:
        """The ratings of the version on trial, and of the other. Costs a row for each rating and each answer."""
        held = held_feedback(session, self._model)
        stars: dict[str, list[tuple[str, int]]] = {self._arms.version: [], self._arms.against: []}
        query = columns_of(
            col(Feedback.id),
            col(Feedback.rating),
            col(Inference.version),
            col(Inference.user),
            col(Inference.conversation),
            col(Inference.id),
            col(Inference.stored),
        ).join(Inference, col(Inference.id) == col(Feedback.inference_id))
        query = query.where(
            col(Feedback.id) >= self._since,
            col(Feedback.current).is_(True),
            col(Feedback.rating).is_not(None),
            col(Feedback.source) == "user",
            *self._counts(),
        )
        for (
            identifier,
            rating,
            version,
            user,
            conversation,
            inference,
            stored,
        ) in session.connection().execute(query.execution_options(yield_per=1000)):
            unit = unit_of(user, conversation, inference)
            if version in stars and identifier not in held and self._dealt(unit, version, stored):
                stars[version].append((unit, int(rating or 0)))
        answers = {
            version: session.exec(
                select(func.count())
                .select_from(Inference)
                .where(Inference.version == version, *self._counts())
            ).one()
            for version in stars
        }
        return self._arm(self._arms.version, stars, answers), self._arm(self._arms.against, stars, answers)

    def tallies(self, session: Session) -> tuple[Tally, Tally]:
        """The newest answers of the version on trial, and of the other. Costs the same however many there are."""
        return Tally.of(self._newest(session, self._arms.version)), Tally.of(
            self._newest(session, self._arms.against)
        )

    def earlier(self, session: Session) -> Tally:
        """The newest answers that the other version gave before this began, whoever got them."""
        return Tally.of(self._newest(session, self._arms.against, earlier=True))

    def _arm(self, version: str, stars: dict[str, list[tuple[str, int]]], answers: dict[str, int]) -> Arm:
        means, ratings = means_by_user(stars[version])
        return arm_of(means, ratings, answers[version])

    def _newest(self, session: Session, version: str, earlier: bool = False) -> Iterator[Watched]:
        columns = columns_of(
            col(Inference.id),
            col(Inference.user),
            col(Inference.conversation),
            col(Inference.stored),
            col(Inference.status),
            col(Inference.error),
            col(Inference.finish_reason),
            col(Inference.output),
            col(Inference.completion_tokens),
            col(Inference.latency_ms),
            col(Inference.request) if self._reads_prompts else null(),
        )
        query = columns.where(col(Inference.version) == version, *self._counts(earlier))
        rows = session.connection().execute(query.order_by(col(Inference.id).desc()).limit(WINDOW))
        for identifier, user, conversation, stored, *told in rows:
            unit = unit_of(user, conversation, identifier)
            if earlier or self._dealt(unit, version, stored):
                yield self._watched(unit, stored, *told)

    def _watched(
        self,
        unit: str,
        stored: bool,
        status: int,
        error: str | None,
        finish_reason: str | None,
        output: str | None,
        tokens: int | None,
        latency_ms: float,
        request: str | None,
    ) -> Watched:
        """One answer, judged."""
        text = (output or "") if stored else None
        messages = messages_of(request) if request is not None else None
        answer = Answered(text, finish_reason, status, error, latency_ms, tokens, messages)
        reasons = {reason.reason for reason in self._triager.reasons(answer)}
        pace = pace_of(latency_ms, tokens) if status == 200 else None
        return Watched(unit, "error" in reasons, not reasons.isdisjoint(_MALFORMED), pace)

    def _dealt(self, unit: str, version: str, stored: bool) -> bool:
        """Whether the gateway gave this user this version. Of what is not stored the user is not known: it counts."""
        return not stored or self._arms.version_for(unit) == version

    def _counts(self, earlier: bool = False) -> tuple[Any, ...]:
        """Which inferences do; bad requests and clients that went away say nothing about a version."""
        identifier = col(Inference.id)
        return (
            or_(col(Inference.status) < 400, col(Inference.status) >= 500),
            Inference.model == self._model,
            identifier < self._since if earlier else identifier >= self._since,
            Inference.purpose == "production",
            col(Inference.pinned).is_(False),
        )
