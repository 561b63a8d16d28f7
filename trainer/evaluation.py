"""Has versions answer cases through the server, and keeps every answer so that none is asked for twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime
from itertools import islice
from typing import Any

from msgspec import Struct
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, func, select

from feedback.datasets.case_hash import case_hash
from feedback.datasets.cases import EvalCase
from feedback.datasets.chat import last_user_text
from feedback.datasets.contract import constraint_of
from feedback.datasets.groups import prompt_hash
from feedback.registry.bases import resolve_base
from feedback.settings import Model, Settings
from feedback.storage.database import Database
from feedback.storage.tables import EvaluationResult
from trainer.gateway import Answer, Gateway

_CHECK_SECONDS = 0.5
_QUERY_SIZE = 500
_TEMPERATURE = 0.7


class PinnedVersion(Struct, frozen=True):
    """A version to ask: its number (or `base`), and for `base` the revision of the base model."""

    model: str
    number: str
    revision: str = ""
    """A number never means two sets of weights; `base` does when the model is given another base."""
    form: Mapping[str, Any] | None = None
    """What the engine holds its answers to."""

    @property
    def name(self) -> str:
        """As the server takes it, pinned."""
        return f"{self.model}@{self.number}"


def pinned(settings: Settings, model: Model, number: str) -> PinnedVersion:
    """The model's version of that number, or its base."""
    revision = resolve_base(model.base, settings.directory).revision if number == "base" else ""
    return PinnedVersion(model.name, number, revision, constraint_of(model))


class Evaluation:
    """Asks and remembers. Knows nothing of right and wrong."""

    def __init__(
        self,
        database: Database,
        gateway: Gateway,
        clock: Callable[[], datetime],
        concurrency: int,
        max_tokens: int,
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._clock = clock
        self._concurrency = concurrency
        self._max_tokens = max_tokens

    def answers(
        self,
        version: PinnedVersion,
        cases: Sequence[EvalCase],
        check: Callable[[], None],
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Answer]:
        """The version's greedy answer to every case, by case id; those already known are not asked again.

        What has come in is written twice a second, so that an interruption costs little. `check` is called as often and
        may raise to stop; `advance` is told how many of how many are there.
        """
        hashes = {case.id: self.case_hash(version, case) for case in cases}
        known = self._known(version, set(hashes.values()))
        open_: dict[str, EvalCase] = {hashes[case.id]: case for case in cases if hashes[case.id] not in known}
        advance(len(cases) - len(open_), len(cases))
        for answered in self._asked(version, open_, check):
            self._keep(version, answered, open_)
            known |= answered
            advance(sum(case_hash in known for case_hash in hashes.values()), len(cases))
        return {case.id: known[hashes[case.id]] for case in cases}

    def read_before(
        self, model: str, cases: Sequence[EvalCase], but: Collection[str], until: float
    ) -> list[int]:
        """Of each case, how many versions other than `but` had answered its prompt by `until` (seconds since 1970)."""
        prompts = [prompt_hash(last_user_text(case.messages)) for case in cases]
        counts: dict[str, int] = {}
        remaining = iter(sorted(set(prompts)))
        with self._database.reading() as session:
            while some := list(islice(remaining, _QUERY_SIZE)):
                rows = session.exec(
                    select(EvaluationResult.prompt_hash, func.count(col(EvaluationResult.version).distinct()))
                    .where(
                        EvaluationResult.model == model,
                        col(EvaluationResult.version).not_in(but),
                        EvaluationResult.created < until,
                        col(EvaluationResult.prompt_hash).in_(some),
                    )
                    .group_by(EvaluationResult.prompt_hash)
                )
                counts.update(rows.all())
        return [counts.get(prompt, 0) for prompt in prompts]

    def ask(self, version: PinnedVersion, case: EvalCase) -> Answer:
        """One answer, asked now whatever is known."""
        return self._gateway.complete(version.name, case.messages, self._max_tokens, case.tools)

    def samples(
        self, version: PinnedVersion, cases: Sequence[EvalCase], count: int, check: Callable[[], None]
    ) -> dict[str, list[str]]:
        """`count` answers of the version to every case, drawn at temperature 0.7, by case id. They are not kept."""

        def drawn(case: EvalCase) -> list[str]:
            check()
            given = self._gateway.sample(
                version.name, case.messages, count, _TEMPERATURE, self._max_tokens, case.tools
            )
            return [text for text, _ in given]

        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="evaluation") as pool:
            return dict(zip((case.id for case in cases), pool.map(drawn, cases), strict=True))

    def case_hash(self, version: PinnedVersion, case: EvalCase) -> str:
        """SHA-256 of what determines the greedy answer of a version."""
        return case_hash(case.messages, self._max_tokens, version.revision, case.tools, version.form)

    def _asked(
        self, version: PinnedVersion, cases: Mapping[str, EvalCase], check: Callable[[], None]
    ) -> Iterator[dict[str, Answer]]:
        """Answers as they come in, some at a time."""
        waiting: dict[Future[Answer], str] = {}
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="evaluation")
        try:
            for case_hash, case in cases.items():
                waiting[pool.submit(self.ask, version, case)] = case_hash
            while waiting:
                check()
                wait(waiting, timeout=_CHECK_SECONDS)
                done = [future for future in waiting if future.done()]
                failure = next((error for future in done if (error := future.exception())), None)
                yield {waiting.pop(future): future.result() for future in done if not future.exception()}
                if failure is not None:
                    raise failure
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _known(self, version: PinnedVersion, hashes: Iterable[str]) -> dict[str, Answer]:
        known: dict[str, Answer] = {}
        remaining = iter(sorted(hashes))
        with self._database.reading() as session:
            while some := list(islice(remaining, _QUERY_SIZE)):
                rows = session.exec(
                    select(EvaluationResult).where(
                        EvaluationResult.model == version.model,
                        EvaluationResult.version == version.number,
                        col(EvaluationResult.case_hash).in_(some),
                    )
                )
                for row in rows:
                    known[row.case_hash] = Answer(
                        row.output, row.finish_reason, row.completion_tokens, row.latency_ms
                    )
        return known

    def _keep(
        self, version: PinnedVersion, answered: Mapping[str, Answer], cases: Mapping[str, EvalCase]
    ) -> None:
        answered = {key: answer for key, answer in answered.items() if not answer.refused}
        if not answered:
            return
        now = self._clock().timestamp()
        rows = [
            {
                "model": version.model,
                "version": version.number,
                "case_hash": case_hash,
                "prompt_hash": prompt_hash(last_user_text(cases[case_hash].messages)),
                "output": answer.text,
                "finish_reason": answer.finish_reason,
                "completion_tokens": answer.completion_tokens,
                "latency_ms": answer.latency_ms,
                "created": now,
            }
            for case_hash, answer in answered.items()
        ]
        with self._database.session() as session:
            dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
            session.connection().execute(dialect.insert(EvaluationResult).on_conflict_do_nothing(), rows)
            session.commit()
