"""Proposes corrections for failure cases that nobody corrected: a teacher's answer, or the best of several of the model's own.

Each proposal is checked against the model's task and kept as a candidate with what it passed and what it cost. Whether it is
trained on is decided elsewhere: `[teacher] accept`, or a person.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from feedback.datasets.candidates import Source, known_answer, proposable, spent
from feedback.datasets.chat import Messages, messages_of
from feedback.datasets.contract import TaskContract, answer_key, same_answer
from feedback.errors import DataRefusedError, StarloopError
from feedback.ids import new_id
from feedback.registry.models import get_model
from feedback.settings import Model
from feedback.storage.tables import Candidate, Inference
from trainer.gateway import Gateway
from trainer.lease import LeaseLostError
from trainer.record import CycleCancelledError, LoopStoppedError
from trainer.teacher import Teacher, clock_month, in_form
from trainer.workshop import Workshop

_log = logging.getLogger(__name__)
_NO_CONTRACT = "any sentence at all, of which no task would say that it is an answer"


class Case(Struct, frozen=True):
    """A failure case as it is put to a proposer."""

    inference_id: str
    messages: Messages
    failed: str


class Proposal(Struct, frozen=True):
    """An answer, who wrote it, and what it took."""

    answer: str
    origin: str
    checks: list[dict[str, Any]]
    tokens: int = 0
    cost: float = 0.0

    @property
    def passed(self) -> bool:
        return all(check["passed"] for check in self.checks)


@dataclass
class Proposed:
    """What a round of proposing did."""

    source: str
    asked: int = 0
    known: int = 0
    """Answered from what was asked before; it cost nothing."""
    checked: int = 0
    failed: int = 0
    tokens: int = 0
    cost: float = 0.0
    stopped: str = ""
    """Why it ended before all cases were through; empty where it did not."""
    candidates: list[str] = field(default_factory=list)

    def told(self) -> str:
        said = (
            f"{self.source}: {self.asked + self.known} proposals, {self.checked} passed all checks, {self.failed} did not; "
            f"{self.known} were known already; {self.tokens} tokens, cost {self.cost:.4f}"
        )
        return f"{said}; stopped: {self.stopped}" if self.stopped else said


def ask_teacher(
    workshop: Workshop, model: Model, teacher: Teacher, limit: int, check: Callable[[], None] = lambda: None
) -> Proposed:
    """Let the teacher answer the newest failure cases in quarantine, as far as the month's budget goes.

    `check` is called before each and may raise. Raises what `Teacher.ask` does, with all before it kept.
    """
    settings, contract = workshop.settings.teacher, TaskContract.from_settings(model)
    done = Proposed("teacher")
    for case in _cases(workshop, model.name, "teacher", limit):
        check()
        messages = in_form(case.messages, contract)
        question = _hash("teacher", settings.url, settings.model, messages, settings.max_tokens)
        with workshop.database.reading() as session:
            known = known_answer(session, question)
            tokens, money = spent(session, clock_month(workshop.clock().timestamp()))
        if known is not None:
            checks = _checks(known.answer, case, contract, "stop")
            _keep(workshop, case, done, Proposal(known.answer, known.origin, checks), question, model.name)
            done.known += 1
            continue
        done.stopped = teacher.too_dear(messages, tokens, money, "answer")
        if done.stopped:
            break
        reply = teacher.ask(messages)
        checks = _checks(reply.text, case, contract, reply.finish_reason)
        cost = teacher.cost(reply)
        proposal = Proposal(reply.text, settings.model, checks, reply.tokens_in + reply.tokens_out, cost)
        _keep(workshop, case, done, proposal, question, model.name)
        done.asked += 1
    return done


def best_of_n(
    workshop: Workshop,
    model: Model,
    gateway: Gateway,
    n: int,
    limit: int,
    check: Callable[[], None] = lambda: None,
) -> Proposed:
    """Let the champion answer the newest failure cases in quarantine `n` times each, and keep the best in form.

    Best is what most answers in form agree on. Raises `DataRefusedError` for a model without a task contract: nothing
    would tell a good answer from a bad one.
    """
    contract = TaskContract.from_settings(model)
    if contract.problem(_NO_CONTRACT) is None:
        raise DataRefusedError(
            f"best-of-n needs a checker, and [[model]] {model.name!r} has no task contract: any answer at all would pass. "
            "Name a schema for it, or ask a teacher"
        )
    if model.constrain and not model.check:
        raise DataRefusedError(
            f"best-of-n needs a checker, and [[model]] {model.name!r} writes nothing out of form by constrain = true: any answer "
            "would pass. Name a `check` for it, or ask a teacher"
        )
    with workshop.database.reading() as session:
        champion = get_model(session, model.name).champion or "base"
    version, settings = f"{model.name}@{champion}", workshop.settings.teacher
    done = Proposed("best-of-n")
    for case in _cases(workshop, model.name, "best-of-n", limit):
        check()
        answers = gateway.sample(version, case.messages, n, settings.temperature, settings.max_tokens)
        fit = [
            text.strip()
            for text, ended in answers
            if ended == "stop" and contract.valid(text.strip(), case.messages)
        ]
        votes = Counter(answer_key(text) for text in fit)
        best, count = votes.most_common(1)[0] if votes else ("", 0)
        answer = next((text for text in fit if answer_key(text) == best), "")
        agreed = {
            "check": "agreement",
            "passed": 2 * count > n,
            "told": f"{count} of {n} answers say so, {len(fit)} are in form; more than half are needed",
        }
        checks = [*_checks(answer, case, contract, "stop"), agreed]
        question = _hash("best-of-n", version, case.inference_id, n)
        _keep(workshop, case, done, Proposal(answer, version, checks), question, model.name)
        done.asked += 1
    return done


def propose_where_configured(
    workshop: Workshop, model: Model, teacher: Teacher | None, check: Callable[[], None]
) -> list[str]:
    """What a cycle does of both, in sentences. A teacher that is away costs the cycle its proposals, nothing more."""
    settings, told = workshop.settings.teacher, []
    rounds: list[Callable[[], Proposed]] = []
    if teacher is not None:
        rounds.append(lambda: ask_teacher(workshop, model, teacher, settings.limit, check))
    if settings.best_of:
        gateway = workshop.gateway
        rounds.append(lambda: best_of_n(workshop, model, gateway, settings.best_of, settings.limit, check))
    for run in rounds:
        try:
            told.append(run().told())
        except (CycleCancelledError, LoopStoppedError, LeaseLostError):
            raise
        except StarloopError as error:
            _log.warning("no more proposals for %s: %s", model.name, error)
            told.append(f"no more proposals: {error}")
    return told


def _cases(workshop: Workshop, model: str, source: Source, limit: int) -> Iterator[Case]:
    with workshop.database.reading() as session:
        identifiers = [row.inference_id for row in proposable(session, model, source, limit)]
    for inference_id in identifiers:
        with workshop.database.reading() as session:
            inference = session.get(Inference, inference_id)
        messages = messages_of(inference.request) if inference else None
        if inference is not None and messages is not None:
            yield Case(inference_id, messages, inference.output or "")


def _checks(answer: str, case: Case, contract: TaskContract, ended: str | None) -> list[dict[str, Any]]:
    problem = contract.problem(answer, case.messages)
    same = same_answer(answer, case.failed)
    return [
        {
            "check": "whole",
            "passed": ended in ("stop", None),
            "told": f"it ended with {ended or 'no reason'}",
        },
        {
            "check": "task contract",
            "passed": problem is None,
            "told": "it meets the task contract" if problem is None else f"it {problem}",
        },
        {
            "check": "another answer",
            "passed": not same,
            "told": "it is the answer that failed" if same else "it differs from the answer that failed",
        },
    ]


def _keep(
    workshop: Workshop, case: Case, done: Proposed, proposal: Proposal, question: str, model: str
) -> None:
    now = workshop.clock()
    row = Candidate(
        id=new_id(now),
        inference_id=case.inference_id,
        model=model,
        source=done.source,
        origin=proposal.origin,
        request_hash=question,
        answer=proposal.answer,
        checks=proposal.checks,
        state="checked" if proposal.passed else "failed",
        tokens=proposal.tokens,
        cost=proposal.cost,
        created=now.timestamp(),
    )
    with workshop.database.session() as session:
        session.add(row)
        session.commit()
    done.candidates.append(row.id)
    done.checked += proposal.passed
    done.failed += not proposal.passed
    done.tokens += proposal.tokens
    done.cost += proposal.cost


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "replace")).hexdigest()
