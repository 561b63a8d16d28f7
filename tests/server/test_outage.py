"""The database goes away and comes back: serving goes on, and nothing that was acknowledged is lost (invariants 1, 8)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest
from sqlmodel import select

from feedback.errors import UnavailableError
from feedback.registry.snapshot import Snapshot
from feedback.storage.database import Database
from feedback.storage.tables import Feedback, Inference
from feedback.storage.verify import verify
from server.snapshot import LiveSnapshot
from tests.server.inside import Inside, inside, settings_for
from tests.server.test_access import bearing, make_key
from tests.server.upstream import FakeEngine


def test_serving_and_feedback_go_on_without_postgresql_and_all_of_it_arrives_later(
    engine: FakeEngine, postgresql_server: Any, postgresql_database: Database, tmp_path: Path
) -> None:
    url = postgresql_database.engine.url.render_as_string(hide_password=False)
    with inside(settings_for(tmp_path, [engine.url], database=url)) as gateway:
        key = bearing(make_key(gateway, "infer", "feedback"))
        kept = [ask(gateway, key)]
        gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
        server = psutil.Process(postgresql_server.get_pid())
        server.send_signal(signal.SIGQUIT)  # dies at once
        server.wait(30)
        try:
            kept += [ask(gateway, key) for _ in range(20)]
            told = gateway.call("POST", "/v1/feedback", {"inference_id": kept[3], "rating": 1}, key)
            assert told.status == 201
            gateway.gateway.capture._recent.clear()
            told = gateway.call("POST", "/v1/feedback", {"inference_id": kept[0], "rating": 2}, key)
            assert told.status == 202  # nobody can say whether it is known
            assert gateway.ask(headers=bearing("sl-unknown")).status == 401
            listed = gateway.call("GET", "/v1/models", None, key)
            assert [card["id"] for card in listed.json["data"]] == ["assistant"]
            read = gateway.call("GET", f"/v1/inferences/{kept[0]}", None, key)
            assert (read.status, read.headers["retry-after"].isdigit()) == (503, True)
            gateway.wait_for(lambda: gateway.gateway.live.problem is not None)
            ready = gateway.call("GET", "/health/ready")
            assert (ready.status, ready.json["ready"], ready.json["database"]["ok"]) == (200, True, False)
            assert ready.json["database"]["snapshot_age_seconds"] > 0
            assert any(missing.startswith("database: ") for missing in ready.json["missing"])
            assert ready.json["journal"]["backlog"] > 0
        finally:
            postgresql_server.start()
        gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0, seconds=20)
        gateway.wait_for(lambda: gateway.gateway.live.problem is None)
        assert gateway.call("GET", "/health/ready").json["missing"] == []
    with postgresql_database.reading() as session:
        assert set(session.exec(select(Inference.id))) == set(kept)
        assert sorted(session.exec(select(Feedback.rating))) == [1, 2]
    assert verify(postgresql_database, tmp_path).sound


def test_a_gateway_starts_without_its_database_and_serves_once_it_is_there(
    engine: FakeEngine, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Database.upgrade

    def away(self: Database) -> None:
        raise UnavailableError("the database does not answer")

    monkeypatch.setattr(Database, "upgrade", away)
    with inside(settings_for(data, [engine.url])) as gateway:
        answer = gateway.ask()
        assert (answer.status, engine.completions()) == (503, [])
        ready = gateway.call("GET", "/health/ready")
        assert ready.status == 503
        assert "database: the database does not answer" in ready.json["missing"]
        monkeypatch.setattr(Database, "upgrade", real)
        gateway.wait_for(lambda: gateway.gateway.live.age_seconds is not None)
        assert gateway.ask().status == 200


def ask(gateway: Inside, key: dict[str, str]) -> str:
    answer = gateway.ask(headers=key)
    assert (answer.status, answer.headers["x-starloop-captured"]) == (200, "true")
    return answer.headers["x-starloop-inference-id"]


# -- the view itself

EMPTY = Snapshot({}, {}, False)


def live(*outcomes: Snapshot | Exception) -> LiveSnapshot:
    left = list(outcomes)

    def load() -> Snapshot:
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return LiveSnapshot(load)


def until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 30
    while not condition():
        assert monotonic() < deadline


def test_there_is_no_view_before_the_first_one() -> None:
    with pytest.raises(UnavailableError, match="could not be read yet"):
        _ = live(EMPTY).current


def test_the_last_view_stays_in_use_while_a_new_one_cannot_be_taken() -> None:
    view = live(EMPTY, UnavailableError("away"))
    view.refresh()
    with pytest.raises(UnavailableError):
        view.refresh()
    assert view.current is EMPTY
    assert view.problem == "away"
    assert view.age_seconds is not None


def test_the_thread_survives_whatever_goes_wrong_and_finds_what_comes_back() -> None:
    view = live(UnavailableError("away"), ValueError("unexpected"), EMPTY)
    view.start()
    until(lambda: view.age_seconds is not None)
    assert view.current is EMPTY and view.problem is None
    view.stop()


def test_a_database_file_that_is_deleted_while_it_is_in_use_takes_no_record_with_it(
    engine: FakeEngine, tmp_path: Path
) -> None:
    with inside(settings_for(tmp_path, [engine.url])) as gateway:
        kept = [ask(gateway, {})]
        gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
        path = tmp_path / "starloop.sqlite"
        path.rename(tmp_path / "elsewhere")
        kept += [ask(gateway, {}) for _ in range(3)]
        gateway.wait_for(lambda: gateway.gateway.live.problem is not None)
        ready = gateway.call("GET", "/health/ready").json
        assert ready["database"]["ok"] is False and ready["journal"]["backlog"] == 3
        assert "deleted or replaced" in ready["database"]["problem"]
        (tmp_path / "elsewhere").rename(path)
        gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0, seconds=20)
    database = Database(f"sqlite:///{path}")
    with database.reading() as session:
        assert set(session.exec(select(Inference.id))) == set(kept)
    database.close()
