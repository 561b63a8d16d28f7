"""How the record of what was said is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import event

from feedback.datasets.evidence import read_heard
from feedback.storage.database import Database
from tests.feedback.world import World, settings_for


def test_what_was_said_is_read_by_the_ids_of_answers_whatever_else_the_model_answered(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """By the index on models, each few hundred ids would walk through all that the model ever answered."""
    world = World(sqlite_database, settings_for(tmp_path))
    world.praise("x")
    world.correct("y")
    world.write()
    asked: list[Any] = []

    def note(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        asked.append((statement, values))

    with sqlite_database.reading() as session:
        event.listen(sqlite_database.engine, "before_cursor_execute", note)
        assert len(read_heard(session, "assistant")) == 2
        event.remove(sqlite_database.engine, "before_cursor_execute", note)
        plans = [
            str(session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all())
            for statement, values in asked
            if "FROM inference" in statement or "JOIN inference" in statement
        ]
    assert len(plans) == 2
    assert all("SEARCH inference USING INDEX sqlite_autoindex_inference_1 (id=?)" in plan for plan in plans)
