"""Contenders: models elsewhere that answer the same cases, so that their figures and their price stand beside the versions'.

Each is asked as a teacher is: for the prompt with the form that the answer must have, greedily, within the month's budget, and
for the same question once. It decides nothing, and there is nothing of it that could be promoted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, func, select

from feedback.datasets.cases import EvalCase
from feedback.datasets.chat import last_user_text
from feedback.datasets.contract import TaskContract
from feedback.datasets.groups import prompt_hash
from feedback.errors import NotAllowedError, SettingsError, StarloopError
from feedback.settings import Contender, Model, Settings
from feedback.storage.contender_table import ContenderAnswer
from feedback.storage.database import Database
from trainer.gateway import Answer
from trainer.lease import LeaseLostError
from trainer.metrics import Metrics
from trainer.record import CycleCancelledError, LoopStoppedError
from trainer.suites import Suites
from trainer.teacher import PromptRefusedError, Reply, Teacher, clock_month, in_form
from trainer.workshop import Workshop

_log = logging.getLogger(__name__)
_HOPELESS = 5
"""Prompts refused before a first one is answered, after which it is what is asked for that is refused, and not they."""
_ENDS = (CycleCancelledError, LoopStoppedError, LeaseLostError)


class Contended(Struct, frozen=True):
    """What a contender made of the cases."""

    name: str
    model: str
    answers: dict[str, Answer]
    """By case id; those that it was not asked are missing."""
    tokens_in: int
    tokens_out: int
    cost: float
    """Of these answers, whenever they were paid for, in the currency of the prices."""
    asked: int
    """Answers that were not known before."""
    stopped: str = ""
    """Why it did not see all cases; empty where it did."""

    @property
    def per_thousand(self) -> float | None:
        """What a thousand such requests cost."""
        return 1000 * self.cost / len(self.answers) if self.answers else None


def wanted_contenders(settings: Settings, names: str) -> list[Contender]:
    """Those of a list with commas, or `all`. Raises `SettingsError` for one that the configuration does not have."""
    there = {one.name: one for one in settings.contender if one.url}
    asked = list(there) if names.strip() == "all" else [name.strip() for name in names.split(",")]
    unknown = [name for name in asked if name not in there]
    if unknown:
        known = ", ".join(there) or "none; write a [[contender]] with name, url and model"
        raise SettingsError(
            [f"there is no contender {name!r} in the configuration; it has: {known}" for name in unknown]
        )
    return [there[name] for name in dict.fromkeys(asked)]


@contextmanager
def _opened(settings: Contender, secrets: Mapping[str, str]) -> Iterator[Teacher]:
    """Its client. Raises `NotAllowedError` where the variable of its key is not set."""
    key = secrets.get(settings.key) if settings.key else None
    if settings.key and not key:
        raise NotAllowedError(f"the key of the contender {settings.name} is missing: set {settings.key}")
    client = Teacher(settings, key, who=f"contender {settings.name}", variable=settings.key or "its key")
    try:
        yield client
    finally:
        client.close()


def contend(
    workshop: Workshop,
    settings: Contender,
    model: Model,
    cases: Sequence[EvalCase],
    check: Callable[[], None] = lambda: None,
) -> Contended:
    """Let a contender answer the cases that offer no tools. One that is away, too dear or refused says so in `stopped`, with all before it kept.

    `check` is called before each and may raise.
    """
    try:
        with _opened(settings, workshop.secrets) as client:
            return _Bout(workshop, settings, client, TaskContract.from_settings(model), check).run(
                [case for case in cases if not case.tools]
            )
    except _ENDS:
        raise
    except StarloopError as error:
        return Contended(settings.name, settings.model, {}, 0, 0, 0.0, 0, str(error))


def contend_where_configured(
    workshop: Workshop, model: Model, suites: Suites, check: Callable[[], None]
) -> dict[str, Any]:
    """What a cycle shows of the contenders that every cycle asks, by name."""
    contract = TaskContract.from_settings(model)
    found = {}
    for settings in workshop.settings.contender:
        if settings.url and settings.cycles:
            done = contend(workshop, settings, model, suites.every(), check)
            if done.stopped:
                _log.warning("contender %s: %s", settings.name, done.stopped)
            found[settings.name] = shown(done, suites, contract)
    return found


def shown(done: Contended, suites: Suites, contract: TaskContract) -> dict[str, Any]:
    """Its figures over what it answered of each suite, and what that cost."""
    return {
        "model": done.model,
        "tokens_in": done.tokens_in,
        "tokens_out": done.tokens_out,
        "cost": round(done.cost, 6),
        "per_thousand": done.per_thousand,
        "stopped": done.stopped,
        "suites": {
            suite: msgspec.to_builtins(Metrics.of(answered(cases, done), done.answers, contract))
            for suite, cases in suites.named().items()
        },
    }


def answered(cases: Sequence[EvalCase], done: Contended) -> list[EvalCase]:
    """Those that it answered."""
    return [case for case in cases if case.id in done.answers]


class _Bout:
    """One contender and the cases, some asked beside each other."""

    def __init__(
        self,
        workshop: Workshop,
        settings: Contender,
        client: Teacher,
        contract: TaskContract,
        check: Callable[[], None],
    ) -> None:
        self._database: Database = workshop.database
        self._clock = workshop.clock
        self._concurrency = workshop.settings.evaluation.concurrency
        self._settings = settings
        self._client = client
        self._contract = contract
        self._check = check
        self._lock = threading.Lock()
        self._answers: dict[str, Answer] = {}
        self._tokens_in = self._tokens_out = self._asked = self._refused = self._fine = 0
        self._cost = 0.0
        self._stopped = ""

    def run(self, cases: Sequence[EvalCase]) -> Contended:
        since = clock_month(self._clock().timestamp())
        with self._database.reading() as session:
            tokens, money = session.exec(
                select(
                    func.coalesce(func.sum(ContenderAnswer.tokens_in + ContenderAnswer.tokens_out), 0),
                    func.coalesce(func.sum(ContenderAnswer.cost), 0.0),
                ).where(
                    ContenderAnswer.contender == self._settings.name, col(ContenderAnswer.created) >= since
                )
            ).one()
        self._spent_tokens, self._spent_money = int(tokens), float(money)
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="contender") as pool:
            for future in [pool.submit(self._one, case) for case in cases]:
                try:
                    future.result()
                except BaseException:
                    with self._lock:
                        self._stopped = self._stopped or "it was interrupted"
                    raise
        return Contended(
            self._settings.name,
            self._settings.model,
            self._answers,
            self._tokens_in,
            self._tokens_out,
            self._cost,
            self._asked,
            self._stopped,
        )

    def _one(self, case: EvalCase) -> None:
        if self._stopped:
            return
        self._check()
        messages = in_form(case.messages, self._contract)
        key = self._question(messages)
        if self._known(case, key):
            return
        tokens, money = self._client.most(messages)
        with self._lock:
            dear = self._client.too_dear(messages, self._spent_tokens, self._spent_money, "answer")
            if dear or self._stopped:
                self._stopped = self._stopped or dear
                return
            self._spent_tokens += tokens  # held until it is known what it took
            self._spent_money += money
        began = time.perf_counter()
        reply: Reply | None = None
        problem: StarloopError | None = None
        try:
            reply = self._client.ask(messages)
        except StarloopError as error:
            problem = error
        spent = 1000 * (time.perf_counter() - began)
        with self._lock:
            self._spent_tokens -= tokens
            self._spent_money -= money
            if reply is None:
                self._refuse(case, problem, spent)
                return
            cost = self._client.cost(reply)
            self._spent_tokens += reply.tokens_in + reply.tokens_out
            self._spent_money += cost
            self._asked += 1
            self._note(case, reply, cost, spent)
        self._keep(key, case, reply, cost, spent)

    def _refuse(self, case: EvalCase, problem: StarloopError | None, spent: float) -> None:
        """A prompt that it does not take is a case that it does not pass; anything else ends it, and so do refusals alone."""
        self._refused += 1
        if isinstance(problem, PromptRefusedError) and (self._fine or self._refused < _HOPELESS):
            self._answers[case.id] = Answer("", f"refused: {problem}"[:200], None, spent)
            return
        if not self._fine:
            self._answers.clear()
        self._stopped = self._stopped or str(problem)

    def _note(self, case: EvalCase, reply: Reply, cost: float, milliseconds: float) -> None:
        self._fine += 1
        self._answers[case.id] = Answer(reply.text, reply.finish_reason, reply.tokens_out, milliseconds)
        self._tokens_in += reply.tokens_in
        self._tokens_out += reply.tokens_out
        self._cost += cost

    def _known(self, case: EvalCase, key: str) -> bool:
        with self._database.reading() as session:
            row = session.get(ContenderAnswer, key)
        if row is None or row.output is None:
            return False
        reply = Reply(row.output, row.finish_reason, row.tokens_in, row.tokens_out)
        with self._lock:
            self._note(case, reply, row.cost, row.latency_ms)
        return True

    def _keep(self, key: str, case: EvalCase, reply: Reply, cost: float, milliseconds: float) -> None:
        row = {
            "question_hash": key,
            "contender": self._settings.name,
            "prompt_hash": prompt_hash(last_user_text(case.messages)),
            "output": reply.text,
            "finish_reason": reply.finish_reason,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
            "cost": cost,
            "latency_ms": milliseconds,
            "created": self._clock().timestamp(),
        }
        with self._database.session() as session:
            dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
            session.connection().execute(dialect.insert(ContenderAnswer).values(row).on_conflict_do_nothing())
            session.commit()

    def _question(self, messages: Sequence[Mapping[str, Any]]) -> str:
        settings = self._settings
        parts = [settings.kind, settings.url, settings.model, settings.max_tokens, messages]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "replace")).hexdigest()
