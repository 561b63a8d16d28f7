"""The table of what keys have used: exact over all workers, and over their deaths."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from feedback.access.limits import Limits
from feedback.errors import LimitReachedError, StorageError
from feedback.ids import new_id
from server import counters as module
from server.counters import ROWS, Counters
from tests.feedback.records import NOW

KEY = "0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f"
_processes = multiprocessing.get_context("spawn")


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    made = Counters.open(tmp_path)
    yield made
    made.close()


def refused(counters: Counters, limits: Limits, now: float, key: str = KEY) -> LimitReachedError:
    with pytest.raises(LimitReachedError) as error:
        counters.enter(key, limits, now)
    return error.value


def once(counters: Counters, limits: Limits, now: float, tokens: int = 0) -> None:
    counters.enter(KEY, limits, now)
    counters.leave(KEY, tokens, now)


# -- requests


def test_so_many_requests_go_in_sixty_seconds_and_no_more(counters: Counters) -> None:
    limits = Limits(rpm=3)
    for moment in (100.5, 101.0, 130.0):
        once(counters, limits, moment)
    told = refused(counters, limits, 130.5)
    assert (told.retry_after, "3 requests a minute" in str(told)) == (30, True)
    assert refused(counters, limits, 159.99).retry_after == 1
    once(counters, limits, 160.0)
    assert refused(counters, limits, 160.0).retry_after == 1
    once(counters, limits, 161.0)
    assert refused(counters, limits, 161.0).retry_after == 29


def test_who_comes_when_told_is_let_in(counters: Counters) -> None:
    limits = Limits(rpm=5)
    now = 1000.25
    for _ in range(40):
        try:
            once(counters, limits, now)
            now += 0.9
        except LimitReachedError as error:
            now += error.retry_after
            once(counters, limits, now)


def test_a_refused_request_is_not_counted(counters: Counters) -> None:
    limits = Limits(rpm=1)
    once(counters, limits, 100.0)
    for second in range(60):
        refused(counters, limits, 100.0 + second)
    once(counters, limits, 160.0)


def test_a_request_without_a_completion_counts_too(counters: Counters) -> None:
    limits = Limits(rpm=2)
    counters.count(KEY, limits, 100.0)
    once(counters, limits, 100.0)
    with pytest.raises(LimitReachedError):
        counters.count(KEY, limits, 100.0)
    refused(counters, limits, 100.0)
    counters.count(KEY, Limits(tpm=1), 100.0)  # no limit on requests: not its business


def test_after_a_long_time_all_is_forgotten(counters: Counters) -> None:
    limits = Limits(rpm=1, tpm=10)
    once(counters, limits, 100.0, tokens=50)
    once(counters, limits, 1e6)


def test_a_clock_that_was_set_back_locks_nobody_out(counters: Counters) -> None:
    limits = Limits(rpm=2)
    once(counters, limits, 9000.0)
    once(counters, limits, 8999.0)  # a worker that came a moment later
    refused(counters, limits, 8999.0)
    once(counters, limits, 5000.0)  # an hour: counting begins anew


# -- tokens


def test_requests_are_let_in_while_the_tokens_of_the_last_minute_are_below_the_limit(
    counters: Counters,
) -> None:
    limits = Limits(tpm=100)
    once(counters, limits, 100.0, tokens=99)
    once(counters, limits, 110.0, tokens=500)
    told = refused(counters, limits, 115.0)
    assert told.retry_after == 55  # the 500 must be gone: without them 0 are left
    assert "100 tokens a minute, and has used 599" in str(told)
    once(counters, limits, 170.0)


# -- at one time


def test_so_many_completions_are_under_way_at_a_time(counters: Counters) -> None:
    limits = Limits(concurrent=2)
    counters.enter(KEY, limits, 100.0)
    counters.enter(KEY, limits, 100.0)
    assert refused(counters, limits, 100.0).retry_after == 1
    counters.leave(KEY, 0, 400.0)
    counters.enter(KEY, limits, 400.0)


def test_keys_do_not_share_their_limits(counters: Counters) -> None:
    limits = Limits(rpm=1, concurrent=1)
    for _ in range(ROWS):
        counters.enter(new_id(NOW), limits, 100.0)
    assert "keys with limits" in str(refused(counters, limits, 100.0))


def test_a_key_that_was_not_used_for_the_longest_time_gives_up_its_row(counters: Counters) -> None:
    limits = Limits(rpm=1)
    keys = [new_id(NOW) for _ in range(ROWS)]
    for position, key in enumerate(keys):
        counters.enter(key, limits, 100.0 + position)
        counters.leave(key, 1, 100.0 + position)
    counters.enter(KEY, limits, 1200.0)
    counters.enter(keys[0], limits, 1200.0)
    refused(counters, limits, 1200.0)


# -- over all workers


def test_workers_count_together(counters: Counters, tmp_path: Path) -> None:
    other = Counters.open(tmp_path)
    limits = Limits(rpm=4, concurrent=2)
    counters.enter(KEY, limits, 100.0)
    other.enter(KEY, limits, 100.0)
    refused(counters, limits, 100.0)
    refused(other, limits, 100.0)
    counters.leave(KEY, 0, 100.0)
    once(other, limits, 100.0)
    other.close()  # with one under way
    once(counters, limits, 100.0)
    assert "4 requests" in str(refused(counters, limits, 100.0))


def test_counts_outlive_a_restart(tmp_path: Path) -> None:
    limits = Limits(rpm=1)
    first = Counters.open(tmp_path)
    once(first, limits, 100.0)
    first.close()
    second = Counters.open(tmp_path)
    refused(second, limits, 100.0)
    second.close()


def _compete(directory: Path, limits: Limits, let_in: Connection) -> None:
    counters = Counters.open(directory)
    count = 0
    for _ in range(2000):
        try:
            counters.enter(KEY, limits, 100.0)
            count += 1
        except LimitReachedError:
            continue
        counters.leave(KEY, 1, 100.0)
    let_in.send(count)
    counters.close()


def test_competing_processes_get_exactly_the_limit_between_them(tmp_path: Path) -> None:
    receiving, sending = _processes.Pipe(duplex=False)
    workers = [
        _processes.Process(target=_compete, args=(tmp_path, Limits(rpm=3000), sending), daemon=True)
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    assert receiving.poll(30)
    let_in = [receiving.recv() for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(let_in) == 3000


def _hold(directory: Path, ready: Connection) -> None:
    counters = Counters.open(directory)
    for _ in range(3):
        counters.enter(KEY, Limits(concurrent=3), 100.0)
    ready.send(True)
    signal.pause()


def test_what_a_killed_worker_had_under_way_no_longer_counts(counters: Counters, tmp_path: Path) -> None:
    receiving, sending = _processes.Pipe(duplex=False)
    worker = _processes.Process(target=_hold, args=(tmp_path, sending), daemon=True)
    worker.start()
    assert receiving.poll(30)
    limits = Limits(concurrent=3)
    refused(counters, limits, 100.0)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    for _ in range(3):
        counters.enter(KEY, limits, 100.0)
    refused(counters, limits, 100.0)


def test_a_column_is_taken_over_from_the_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORKERS", 2)
    first, second = Counters.open(tmp_path), Counters.open(tmp_path)
    with pytest.raises(StorageError, match="2 workers use this data directory"):
        Counters.open(tmp_path)
    first.close()
    third = Counters.open(tmp_path)
    second.close()
    third.close()


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "limits").touch()
    with pytest.raises(StorageError, match="limits: cannot be used"):
        Counters.open(tmp_path)
