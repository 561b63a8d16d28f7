"""Two versions side by side, by the answers that evaluations kept."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.datasets.case_hash import case_hash
from feedback.reports.beside import compare_versions
from feedback.storage.database import Database
from feedback.storage.tables import Case, EvaluationResult

RIGHT = {"1.0": "refund", "2.0": "bug"}


@pytest.fixture
def compared(sqlite_database: Database) -> Database:
    """Cases of which 1.0 has the refunds right and 2.0 the bugs: praised ones of each, and one of nobody's."""
    cases = [("1.0", "refund"), ("1.0", "refund"), ("2.0", "bug"), ("0.9", "refund"), (None, "bug")]
    with sqlite_database.session() as session:
        for place, (version, answer) in enumerate(cases):
            messages = [{"role": "user", "content": f"question {place}"}]
            plain: dict[str, Any] = {"model": "assistant", "prompt_hash": str(place), "created": 0.0}
            asked: dict[str, Any] = {"suite": "regression", "state": "confirmed", "group_key": str(place)}
            session.add(
                Case(id=str(place), messages=messages, answer=answer, version=version, **asked, **plain)
            )
            for number, output in RIGHT.items():
                row: dict[str, Any] = {"version": number, "case_hash": case_hash(messages, 64)}
                session.add(EvaluationResult(output=output, latency_ms=5.0, **row, **plain))
        session.commit()
    return sqlite_database


def test_what_one_of_them_was_praised_for_stands_apart(compared: Database) -> None:
    with compared.reading() as session:
        found = compare_versions(session, "assistant", "1.0", "2.0", 64)
    rows = {one.suite: (one.cases, one.fixes, one.regressions) for one in found.suites}
    assert rows == {"praised of 1.0": (2, 0, 2), "praised of 2.0": (1, 1, 0), "regression": (2, 1, 1)}
    assert [pair.suite for pair in found.broken] == ["praised of 1.0", "praised of 1.0", "regression"]
