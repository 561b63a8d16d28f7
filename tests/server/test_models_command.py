"""`starloop models`: reading from the database, moving through the gateway that runs."""

from __future__ import annotations

import json
import os
import pwd
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from feedback.access.keys import ensure_loop_key
from feedback.registry.models import ensure_models, move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Settings
from feedback.storage.database import Database
from server.command import main

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class FakeGateway(HTTPServer):
    """Takes moves and remembers who asked for what; refuses versions that end in 9."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, dict[str, str]]] = []
        self.persons: list[str | None] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: FakeGateway

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, self.headers["authorization"], body))
        self.server.persons.append(self.headers["x-starloop-person"])
        version = body.get("version", "1.0")
        if version.endswith("9"):
            status, answer = 404, {"error": {"message": f"the model 'assistant' has no version '{version}'"}}
        elif self.path.endswith("reject"):
            status, answer = 200, {"name": f"assistant@{version}", "state": "rejected"}
        elif self.path.endswith("retire"):
            removed = version == "1.0"
            status = 200 if removed else 202
            answer = {
                "model": "assistant",
                "version": version,
                "state": "retired",
                "removed": removed,
                "waits_for": None if removed else "host:7 has requests under way on it",
            }
        else:
            status, answer = (
                200,
                {"model": "assistant", "version": version, "previous": "base", "move_id": "m"},
            )
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    server = FakeGateway()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def recorded(sqlite_database: Database, tmp_path: Path) -> Path:
    """A data directory with one model, one promoted version and the loop's key."""
    with sqlite_database.session() as session:
        ensure_models(session, Settings(), NOW)
        reserve_version(session, "assistant", None, None, "starter", "r", "h", "added 50 examples", {}, NOW)
        mark_version(session, "assistant", "1.0", "registered")
        move_champion(session, "assistant", "1.0", "promotion", "better", "gate", None, NOW)
        session.commit()
    ensure_loop_key(sqlite_database, tmp_path, NOW)
    return tmp_path


def call(directory: Path, *arguments: str, port: int = 9) -> Result:
    variables = {"STARLOOP_STORAGE__DIRECTORY": str(directory), "STARLOOP_SERVER__PORT": str(port)}
    return CliRunner(env=variables).invoke(main, ["models", *arguments])


def test_the_list_names_each_model_and_its_champion(recorded: Path) -> None:
    listed = json.loads(call(recorded, "list", "--json").stdout)
    (model,) = listed["items"]
    assert (model["name"], model["champion"], model["previous"], model["versions"]) == (
        "assistant",
        "1.0",
        None,
        1,
    )
    assert listed["next_cursor"] is None
    assert "assistant" in call(recorded, "list").stdout


def test_a_model_is_shown_with_versions_and_who_moved_it_why(recorded: Path) -> None:
    shown = json.loads(call(recorded, "show", "assistant", "--json").stdout)
    assert [version["name"] for version in shown["versions"]] == ["assistant@1.0"]
    (move,) = shown["moves"]
    assert (move["from"], move["to"], move["decided_by"], move["reason"]) == ("base", "1.0", "gate", "better")
    text = call(recorded, "show", "assistant").stdout
    assert "added 50 examples" in text and "better" in text


def test_an_unknown_model_is_an_error_that_names_the_known_ones(recorded: Path) -> None:
    done = call(recorded, "show", "asistant")
    assert done.exit_code == 1
    assert "there is no model 'asistant'; registered are: assistant" in done.stderr


def test_lineage_starts_from_model_and_version(recorded: Path) -> None:
    found = json.loads(call(recorded, "lineage", "assistant@1.0", "--json").stdout)
    assert found["version"]["name"] == "assistant@1.0"
    assert "assistant@1.0" in call(recorded, "lineage", "assistant@1.0").stdout


def test_a_version_without_its_model_is_refused_with_an_example(recorded: Path) -> None:
    done = call(recorded, "lineage", "1.0")
    assert done.exit_code == 1
    assert "write for example assistant@1.2" in done.stderr


def test_a_promotion_goes_to_the_gateway_with_the_loops_key_in_a_persons_name(
    recorded: Path, gateway: FakeGateway
) -> None:
    done = call(recorded, "promote", "assistant@1.0", "--reason", "tried it", port=gateway.server_port)
    assert done.exit_code == 0, done.output
    key = (recorded / "loop.key").read_text().strip()
    assert gateway.asked == [
        ("/v1/models/assistant/promote", f"Bearer {key}", {"version": "1.0", "reason": "tried it"})
    ]
    assert gateway.persons == [pwd.getpwuid(os.getuid()).pw_name]
    assert done.stdout == "assistant: 1.0 serves now (base did before).\n"


def test_a_promotion_can_name_the_champion_that_it_was_compared_with(
    recorded: Path, gateway: FakeGateway
) -> None:
    wanted = ("promote", "assistant@1.0", "--reason", "tried it", "--instead-of", "base")
    assert call(recorded, *wanted, port=gateway.server_port).exit_code == 0
    assert gateway.asked[0][2] == {"version": "1.0", "reason": "tried it", "instead_of": "base"}


def test_a_rollback_reports_as_json(recorded: Path, gateway: FakeGateway) -> None:
    done = call(recorded, "rollback", "assistant", "--reason", "worse", "--json", port=gateway.server_port)
    assert json.loads(done.stdout)["move_id"] == "m"
    assert gateway.asked[0][0] == "/v1/models/assistant/rollback"


def test_a_rejection_names_the_version(recorded: Path, gateway: FakeGateway) -> None:
    done = call(recorded, "reject", "assistant@1.0", "--reason", "worse", port=gateway.server_port)
    assert gateway.asked[0][0] == "/v1/models/assistant/reject"
    assert gateway.asked[0][2] == {"version": "1.0", "reason": "worse"}
    assert done.stdout == "assistant@1.0 is rejected.\n"


def test_a_retirement_says_whether_the_files_are_gone(recorded: Path, gateway: FakeGateway) -> None:
    done = call(recorded, "retire", "assistant@1.0", "--reason", "old", port=gateway.server_port)
    assert gateway.asked[0][0] == "/v1/models/assistant/retire"
    assert gateway.asked[0][2] == {"version": "1.0", "reason": "old"}
    assert done.stdout == "assistant@1.0 is retired, and its files are removed.\n"
    done = call(recorded, "retire", "assistant@1.1", "--reason", "old", port=gateway.server_port)
    assert (done.exit_code, "go later: host:7 has requests under way on it." in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["promote", "assistant@1.0", "--reason", "b\udcfcse"], "reason: 'b\\udcfcse' is not UTF-8 text"),
        (["rollback", "\udcff", "--reason", "x"], "name: '\\udcff' is not UTF-8 text"),
        (["canary", "assistant@1.0", "--reason", "x", "--share", "nan"], "--share': nan is not a number"),
        (["canary", "assistant@1.0", "--reason", "x", "--hours", "inf"], "--hours': inf is not in the range"),
    ],
)
def test_what_no_gateway_could_take_is_told_before_it_is_asked(
    recorded: Path, gateway: FakeGateway, given: list[str], told: str
) -> None:
    done = call(recorded, *given, port=gateway.server_port)
    assert (done.exit_code != 0, gateway.asked) == (True, [])
    assert told in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_what_the_gateway_refuses_is_told_in_its_words(recorded: Path, gateway: FakeGateway) -> None:
    done = call(recorded, "promote", "assistant@9.9", "--reason", "x", port=gateway.server_port)
    assert done.exit_code == 1
    assert done.stderr == "Error: the model 'assistant' has no version '9.9'\n"


def test_without_a_gateway_a_move_says_that_it_must_run(recorded: Path) -> None:
    done = call(recorded, "promote", "assistant@1.0", "--reason", "x")
    assert done.exit_code == 1
    assert "the gateway at http://127.0.0.1:9 does not answer" in done.stderr
    assert "starloop up" in done.stderr


def test_lineage_gives_times_in_utc_and_names_the_base(recorded: Path) -> None:
    text = call(recorded, "lineage", "assistant@1.0").stdout
    assert "created: 2026-01-02 00:00:00 UTC" in text
    assert "from: base" in text and "None" not in text
    found = json.loads(call(recorded, "lineage", "assistant@1.0", "--json").stdout)
    assert found["version"]["created"] == found["moves"][0]["created"] == "2026-01-02T00:00:00Z"


def test_where_there_is_no_record_none_is_made(tmp_path: Path) -> None:
    done = call(tmp_path / "elsewhere", "list")
    assert done.exit_code == 1 and f"there is no record in {tmp_path / 'elsewhere'};" in done.stderr
    assert not (tmp_path / "elsewhere").exists()
