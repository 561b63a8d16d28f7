"""Engines that are to sleep and do not: tried again with pauses, given up in words, and woken with the training's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feedback.asleep import found_asleep, wanted_asleep
from server.engine.rest import Rest
from server.processes.child import Child
from server.processes.family import Identity


class Stuck(Child):
    """An engine whose process stays alive for as many tries as it is told."""

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self.stops: list[float] = []
        self.at = 0.0

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> list[Identity]:
        self.stops.append(self.at)
        self.tries -= 1
        return [Identity(4242, 1.0)] if self.tries >= 0 else []


class Night:
    """A training that wants engines asleep, and the seconds that pass."""

    def __init__(self, directory: Path, tries: int) -> None:
        self.directory, self.engine, self.said = directory, Stuck(tries), list[str]()
        self.rest = Rest([self.engine], lambda: False, directory, 30.0, self.said.append)
        self.training = ExitStack()

    def pass_by(self, begin: int, end: int) -> None:
        for second in range(begin, end):
            self.engine.at = float(second)
            self.rest.tick(float(second))

    @property
    def asleep(self) -> bool:
        return found_asleep(self.directory).told() is not None


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Callable[[int], Night]]:
    nights: list[Night] = []

    def begin(tries: int) -> Night:
        made = Night(tmp_path, tries)
        made.training.enter_context(wanted_asleep(tmp_path).held("while a test trains"))
        nights.append(made)
        return made

    yield begin
    for made in nights:
        made.training.close()
        made.rest.tick(1e6)


def test_an_engine_that_does_not_end_is_ended_again_with_longer_pauses_and_sleeps_once_it_has(
    night: Callable[[int], Night],
) -> None:
    found = night(3)
    found.pass_by(0, 3)
    assert found.engine.stops == [] and not found.asleep
    found.pass_by(3, 9)
    assert not found.asleep, "its process is alive and holds the memory"
    found.pass_by(9, 60)
    assert found.engine.stops == [3.0, 4.0, 6.0, 10.0] and found.asleep
    assert [line for line in found.said if "again" in line] == [
        f"engines: process 4242 could not be ended; trying again in {seconds} s" for seconds in (1, 2, 4)
    ]


def test_one_that_never_ends_is_given_up_in_words_and_tried_anew_for_the_next_training(
    night: Callable[[int], Night],
) -> None:
    found = night(5)
    found.pass_by(0, 300)
    assert found.engine.stops == [3.0, 4.0, 6.0, 10.0, 18.0] and not found.asleep
    assert "given up after 5 tries" in found.said[-1] and "kill -9 4242" in found.said[-1]
    assert found.rest.wanted, "nothing starts while the training is being told"
    found.training.close()
    found.pass_by(300, 301)
    assert not found.rest.wanted
    with wanted_asleep(found.directory).held("while another trains"):
        found.pass_by(301, 310)
        assert found.asleep


def test_a_wish_that_cannot_be_read_leaves_all_as_it_is_and_is_told_once(
    night: Callable[[int], Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = night(0)
    found.pass_by(0, 5)
    assert found.asleep

    def refuse() -> str | None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as closed:
        closed.setattr(found.rest._wanted, "told", refuse)
        found.pass_by(5, 9)
        assert found.asleep
    assert sum("cannot be read (Permission denied)" in line for line in found.said) == 1
    found.training.close()
    found.pass_by(9, 10)
    assert not found.asleep
