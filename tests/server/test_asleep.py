"""Batches while the engines sleep for a training."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from feedback.asleep import wanted_asleep
from feedback.settings import Engine, Training
from server import batch_answers
from tests.server.inside import inside, settings_for
from tests.server.openai_client import clients
from tests.server.test_batches import begin, ended, line
from tests.server.upstream import FakeEngine


def test_batches_wait_until_they_are_awake(
    engine: FakeEngine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_answers, "_LONGEST", 0.5)
    settings = replace(
        settings_for(data, []),
        engine=[Engine(base="starter", port=engine.port)],
        training=Training(window="02:00-05:00", engine_asleep=True),
    )
    with inside(settings) as gateway, clients(gateway) as client:
        made = client("none")
        with wanted_asleep(settings.directory).held("while a test trains"):
            gateway.wait_for(gateway.gateway.engines.missing)
            asked = len(engine.seen)
            begun = begin(made, [line(1), line(2)])
            gateway.eventually(lambda: made.batches.retrieve(begun.id).status == "in_progress")
            with pytest.raises(AssertionError):
                ended(gateway, made, begun.id, 2.0)
            assert len(engine.seen) == asked
        done = ended(gateway, made, begun.id)
        assert done.status == "completed"
        assert done.request_counts is not None and done.request_counts.completed == 2
