"""Trainings while the engines sleep: what the loop asks for, what it waits for, and when they may wake."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from msgspec.structs import replace

from feedback.asleep import found_asleep, wanted_asleep
from feedback.errors import UnavailableError
from feedback.settings import Engine, Server, Settings, Storage, Training
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, ModelVersion
from tests.server.served import free_port
from tests.trainer.world import World
from trainer import asleep
from trainer.asleep import engines_asleep
from trainer.cycle import run_cycle
from trainer.training import Progress

AT_NIGHT = Training(window="02:00-05:00", engine_asleep=True)


class Engines:
    """Puts itself to sleep when it is asked to, as the supervisor does; answers `/health` while it is awake."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.naps: list[str] = []
        self._over = threading.Event()
        self._server: HTTPServer | None = None
        self._thread = threading.Thread(target=self._run)
        self.port = free_port()
        self._serve(self.port)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._end()

    def _run(self) -> None:
        wanted = wanted_asleep(self.directory)
        while not self._over.wait(0.02):
            if (why := wanted.told()) is None:
                continue
            self._end()
            with found_asleep(self.directory).held("yes"):
                self.naps.append(why)
                while wanted.told() is not None and not self._over.wait(0.02):
                    pass
            self._over.wait(0.5)  # it takes a while to start
            self._serve(self.port)

    def _serve(self, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _end(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    running = Engines(tmp_path)
    running.start()
    yield running
    running.stop()


def settings_of(engines: Engines) -> Settings:
    return Settings(
        storage=Storage(directory=str(engines.directory)),
        engine=[Engine(port=engines.port)],
        training=AT_NIGHT,
    )


def at_two(database: Database, engines: Engines) -> World:
    """A world with enough to train on, its clock in the window, its engine the one that sleeps."""
    world = World(database, engines.directory, training=AT_NIGHT)
    world.settings = replace(world.settings, engine=[replace(world.settings.engine[0], port=engines.port)])
    world.now = world.now.replace(hour=2)
    world.users_correct(60)
    world.people_confirm()
    return world


def wait(_seconds: float) -> None:
    threading.Event().wait(0.02)


def test_the_training_begins_when_they_sleep_and_is_over_when_they_answer_again(engines: Engines) -> None:
    settings = settings_of(engines)
    with engines_asleep(settings, "cycle 7 of assistant", wait):
        assert found_asleep(engines.directory).told() is not None
        assert not asleep._answers(settings.engine[0])
    assert asleep._answers(settings.engine[0])
    assert engines.naps == ["while cycle 7 of assistant trains, in the training window 02:00-05:00 UTC"]


def test_where_nobody_runs_engines_here_it_is_said_and_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asleep, "_ENDING_SECONDS", 0.1)
    settings = Settings(
        storage=Storage(directory=str(tmp_path)), server=Server(drain_seconds=0.1), training=AT_NIGHT
    )
    refused = pytest.raises(UnavailableError, match=r"nobody puts the engines to sleep: .*starloop engine")
    with refused, engines_asleep(settings, "a cycle", wait):
        pytest.fail("it began")
    assert wanted_asleep(tmp_path).told() is None


@contextmanager
def trained_by(world: World, train: Callable[[Callable[[Progress], None]], None]) -> Iterator[None]:
    """Let trainings of this world do something before they make their version."""
    real = world.make_version

    def make_version(cycle: Cycle, on_progress: Callable[[Progress], None]) -> ModelVersion:
        train(on_progress)
        return real(cycle, on_progress)

    world.make_version = make_version  # type: ignore[method-assign]
    yield
    world.make_version = real  # type: ignore[method-assign]


def test_a_cycle_trains_while_they_sleep_and_is_evaluated_when_they_are_awake(
    sqlite_database: Database, engines: Engines
) -> None:
    world, slept = at_two(sqlite_database, engines), []

    def train(_: Callable[[Progress], None]) -> None:
        slept.append(found_asleep(engines.directory).told() is not None)

    with trained_by(world, train):
        row = run_cycle(world.workshop(), world.record(world.request()))
    assert (row.state, row.decision, slept) == ("done", "promoted", [True])
    assert engines.naps == [
        f"while cycle {row.id} of assistant trains, in the training window 02:00-05:00 UTC"
    ]


def test_they_wake_when_a_training_failed(sqlite_database: Database, engines: Engines) -> None:
    world = at_two(sqlite_database, engines)

    def train(_: Callable[[Progress], None]) -> None:
        raise RuntimeError("out of luck")

    with trained_by(world, train):
        assert run_cycle(world.workshop(), world.record(world.request())).state == "failed"
    assert wanted_asleep(engines.directory).told() is None
    assert len(engines.naps) == 1


def test_at_the_end_of_the_window_they_wake_and_the_training_goes_on_in_the_next(
    sqlite_database: Database, engines: Engines
) -> None:
    world = at_two(sqlite_database, engines)

    def train(on_progress: Callable[[Progress], None]) -> None:
        on_progress(Progress(step=1, steps=9))
        world.now = world.now.replace(hour=5)
        on_progress(Progress(step=2, steps=9))
        pytest.fail("it went on")

    identifier = world.request()
    with trained_by(world, train):
        left = run_cycle(world.workshop(), world.record(identifier))
    assert (left.state, left.step, world.trainings) == ("running", "train", 0)
    assert "opens 02 Mar 02:00" in (left.reason or "")
    assert wanted_asleep(engines.directory).told() is None
    asleep._wait_until_awake(world.settings, wait)
    world.now += timedelta(hours=22)
    assert run_cycle(world.workshop(), world.record(identifier)).state == "done"
    assert (world.trainings, len(engines.naps)) == (1, 2)
