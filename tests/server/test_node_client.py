"""OpenAI's client for Node.js against a served gateway: the whole story, its training done by a fake."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from feedback.settings import Settings
from feedback.settings_file import load
from feedback.storage.database import Database
from tests.server.node_client import begin_story, installed, told
from tests.server.served import Served, served
from tests.server.test_client_table import table
from tests.server.test_fine_tuning import chats, question
from tests.server.tuned import Trainer
from tests.server.upstream import FakeEngine


@dataclass(frozen=True)
class Outside:
    """The parts of a gateway in another process, as the fake training takes them: it refreshes its own view itself."""

    gateway: Any
    settings: Settings

    @classmethod
    def of(cls, running: Served, database: Database) -> Outside:
        settings = load(running.directory.parent / "starloop.toml", {})
        live = SimpleNamespace(refresh=lambda: None)
        parts = SimpleNamespace(database=database, now=lambda: datetime.now(UTC), live=live)
        return cls(parts, settings)


def test_the_whole_story_in_node(engine: FakeEngine, tmp_path: Path) -> None:
    folder = installed()
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(chats(40))
    with served(tmp_path, [engine.url]) as running:
        database = Database(f"sqlite:///{running.directory / 'starloop.sqlite'}")
        trainer = Trainer(Outside.of(running, database))  # type: ignore[arg-type]
        trainer.during = lambda _: time.sleep(0.5)
        story = begin_story(folder, running.address, rows, question(1))
        while story.poll() is None:
            if not trainer.turn():
                time.sleep(0.05)
        seen = told(story, 10)
        database.close()
    check(seen, rows.stat().st_size)
    assert len(trainer.trainings) == 1 and seen["job"]["trained_tokens"] == 1234
    assert seen["steps"] == [1, 2, 3]
    assert seen["answer"] == seen["streamed"] == seen["stored"] == "assistant@1.0 answers"


def check(seen: dict[str, Any], size: int) -> None:
    """What holds of the story whoever trained and answered."""
    job = seen["job"]
    assert job["status"] == "succeeded", job["error"]
    assert seen["same"] and seen["listed"] and seen["uploaded"] == size
    assert (seen["given_up"], seen["paused"], seen["cancelled"]) == ("cancelled", "paused", "cancelled")
    assert seen["resumed"] in ("validating_files", "queued")
    assert seen["jobs"] == [job["id"]] and job["metadata"] == {"from": "node"}
    name = job["fine_tuned_model"]
    assert name.startswith("ft:starter:local:node:")
    assert seen["checkpoints"] == [name] and name in seen["models"] and "assistant" in seen["models"]
    assert seen["figures"].startswith("step,train_loss,valid_loss")
    assert seen["found"] == [True] and seen["metadata"] == {"team": "b"}
    assert seen["messages"] == [question(1)]
    assert seen["batch"] == {"total": 3, "completed": 3, "failed": 0}
    assert sorted(seen["answers"]) == ["r1", "r2", "r3"] and seen["batches"] >= 1
    assert seen["refused"]["status"] == 400 and seen["refused"]["param"] == "training_file"
    assert seen["deleted"] and seen["gone"] and seen["forgotten"]
    worked = {re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name) for name in seen["called"]}
    wanted = {name for name, told in table().items() if told.split()[0].strip(":;,") == "yes"}
    only_python = {"files.retrieve_content", "uploads.upload_file_chunked"}
    assert wanted - worked <= only_python, "a method that the table says works was not tried"
