"""What is found beside the workers: once for all of them, and gone everywhere once something is erased."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from feedback.datasets.believed import Belief
from feedback.errors import UnavailableError
from feedback.storage.database import Database
from feedback.storage.figures_table import KeptFigures
from feedback.storage.kept_figures import forget_figures, standing_ids
from feedback.storage.tables import Lease
from server.found_beside import Found, FoundBeside, Place


class Workers:
    """Two of them on one record, and what finding takes."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.found: list[str] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.trouble: Exception | None = None
        self.one, self.other = self._worker("one"), self._worker("other")

    def _worker(self, name: str) -> FoundBeside[str, Belief]:
        def find(model: str, now: datetime) -> Belief:
            self.found.append(name)
            assert self.may_end.wait(30)
            if self.trouble is not None:
                raise self.trouble
            return Belief(0.5, {"ann": len(self.found) / 10})

        place = Place(lambda: self.database, lambda: self.now)
        return FoundBeside("beliefs", Belief, find, place, 60.0)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def erase(self) -> None:
        with self.database.session() as session:
            forget_figures(session)
            session.commit()

    def rows(self) -> list[KeptFigures]:
        with self.database.reading() as session:
            return list(session.exec(select(KeptFigures)))


@pytest.fixture
def workers(database: Database) -> Iterator[Workers]:
    made = Workers(database)
    yield made
    made.may_end.set()
    until(lambda: not made.one.under_way and not made.other.under_way)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shown(worker: FoundBeside[str, Belief]) -> Found[Belief]:
    """Once there is something to show."""
    until(lambda: worker.get("assistant") is not None)
    found = worker.get("assistant")
    assert found is not None
    return found


def test_one_worker_finds_it_and_all_show_the_same(workers: Workers) -> None:
    assert workers.one.get("assistant") is None
    first = shown(workers.one)
    assert first.value == Belief(0.5, {"ann": 0.1})
    assert workers.other.get("assistant") == first and workers.found == ["one"]
    workers.pass_time(61)
    assert workers.other.get("assistant") == first, "what is old is shown until there is something newer"
    until(lambda: not workers.other.under_way)
    assert workers.one.get("assistant") != first
    assert workers.one.get("assistant") == workers.other.get("assistant")
    assert workers.found == ["one", "other"]


def test_while_one_finds_it_no_other_does(workers: Workers) -> None:
    workers.may_end.clear()
    workers.one.get("assistant")
    until(lambda: workers.found == ["one"])
    for _ in range(20):
        assert workers.other.get("assistant") is None
        time.sleep(0.01)
    workers.may_end.set()
    assert shown(workers.other) == workers.one.get("assistant")
    assert workers.found == ["one"]


def test_a_worker_that_died_over_it_is_followed_by_another(workers: Workers) -> None:
    with workers.database.session() as session:
        ends = workers.now.timestamp() + 30
        session.add(Lease(name='figures beliefs "assistant"', holder="one that died", expires=ends))
        session.commit()
    assert workers.one.get("assistant") is None
    until(lambda: not workers.one.under_way)
    assert workers.one.get("assistant") is None and workers.found == []
    workers.pass_time(31)
    assert shown(workers.one).problem is None


def test_what_an_erasure_took_out_is_shown_nowhere_and_leaves_every_memory(workers: Workers) -> None:
    shown(workers.one)
    shown(workers.other)
    workers.erase()
    with workers.database.reading() as session:
        ids = standing_ids(session)
    assert ids == set()
    for worker in (workers.one, workers.other):
        assert worker.remembered == 1
        worker.keep_only(ids)
        assert worker.remembered == 0
    workers.may_end.clear()
    assert workers.one.get("assistant") is None and workers.other.get("assistant") is None


def test_what_was_begun_before_an_erasure_is_not_kept_after_it(workers: Workers) -> None:
    workers.may_end.clear()
    workers.one.get("assistant")
    until(lambda: workers.found == ["one"])
    workers.erase()
    workers.may_end.set()
    until(lambda: not workers.one.under_way)
    assert workers.rows() == []
    assert shown(workers.other).value == Belief(0.5, {"ann": 0.2}), "and is found anew"


def test_trouble_is_told_beside_what_was_known(workers: Workers) -> None:
    first = shown(workers.one)
    workers.trouble = UnavailableError("the database does not answer")
    workers.pass_time(61)
    until(lambda: bool((found := workers.one.get("assistant")) and found.problem))
    told = workers.other.get("assistant")
    assert told == Found(first.value, workers.now.timestamp(), "the database does not answer")


def test_of_each_kind_only_the_newest_are_kept(workers: Workers) -> None:
    for number in range(70):
        workers.pass_time(1)
        name = f"model-{number:02d}"
        workers.one.get(name)
        until(lambda: bool(workers.rows()) and not workers.one.under_way)
    names = sorted(row.key for row in workers.rows())
    assert len(names) == 64 and names[0] == '"model-06"' and names[-1] == '"model-69"'
