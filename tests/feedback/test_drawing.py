"""Drawing evaluation cases in a process of its own: what comes of it, and what does when it cannot be done."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from sqlmodel import select

from feedback.access.audit import Actor
from feedback.datasets.cases import draw_cases
from feedback.datasets.drawing import Drawing, draw_apart
from feedback.errors import StarloopError, StorageError, UnavailableError
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import Audit, Case
from tests.feedback.test_freeze import topics
from tests.feedback.world import NOW, World, settings_for

RITA = Actor("rita", "a key")


@pytest.fixture
def settings(sqlite_database: Database, tmp_path: Path) -> Settings:
    world = World(sqlite_database, settings_for(tmp_path, evaluation_share=0.5))
    for n, prompt in enumerate(topics(40)):
        world.ask(prompt, user=f"user {n}")
    world.write()
    return world.settings


def drawing(settings: Settings, count: int = 4) -> Drawing:
    return Drawing(settings, "assistant", count, 7, RITA, NOW)


def test_what_is_drawn_apart_is_what_would_be_drawn_here_and_the_audit_log_has_it(
    settings: Settings, sqlite_database: Database
) -> None:
    with sqlite_database.session() as session:
        here = [case.messages for case in draw_cases(session, "assistant", 4, settings, 7, NOW)]
        session.rollback()
    drawn = draw_apart(drawing(settings))
    with sqlite_database.reading() as session:
        cases = {case.id: case for case in session.exec(select(Case))}
        assert [cases[identifier].messages for identifier in drawn] == here
        (line,) = session.exec(select(Audit))
    assert (line.act, line.actor, line.key_id, line.subject) == ("case.draw", "rita", "a key", "assistant")
    assert line.details == {"asked": 4, "drawn": 4, "seed": 7}


def test_with_the_database_away_the_error_says_so_and_a_second_try_may_work(settings: Settings) -> None:
    elsewhere = msgspec.convert(
        {
            "storage": {
                "database": "postgresql://nobody@127.0.0.1:1/none",
                "directory": settings.storage.directory,
            }
        },
        Settings,
    )
    with pytest.raises(UnavailableError, match="database"):
        draw_apart(drawing(elsewhere))


def test_a_database_that_cannot_be_used_is_told_as_such(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "starloop.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError):
        draw_apart(drawing(settings))


def test_a_process_that_dies_leaves_nothing_drawn(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "dying"
    dying.write_text(f"#!{sys.executable}\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    dying.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(StarloopError, match=r"drawing cases for .assistant. did not end well: .* status -9"):
        draw_apart(drawing(settings))
    rows = (
        sqlite3.connect(tmp_path / "starloop.sqlite")
        .execute("SELECT count(*) FROM evaluation_case")
        .fetchone()
    )
    assert rows == (0,)


def test_a_gateway_does_not_load_what_only_drawing_needs() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import sys, server.app; print('scipy' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False"
