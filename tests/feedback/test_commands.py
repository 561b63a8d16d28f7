"""`starloop keys` and `starloop db`: what they print and with which status they end."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from feedback.access.keys import hash_secret, list_keys
from feedback.commands.data import data
from feedback.commands.db import db
from feedback.commands.failures import failures
from feedback.commands.keys import keys
from feedback.commands.raters import raters
from feedback.storage.database import Database
from feedback.storage.journal import Journal
from feedback.storage.tables import RegisteredModel
from tests.feedback.records import NOW, inference


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "starloop.toml"
    path.write_text(f'[storage]\ndirectory = "{tmp_path / "data"}"\n', encoding="utf-8")
    return path


def _run(group: click.Group, *arguments: str, config: Path) -> Result:
    return CliRunner().invoke(group, [*arguments, "--config", str(config)], catch_exceptions=False)


def _database(config: Path) -> Database:
    return Database(f"sqlite:///{config.parent / 'data' / 'starloop.sqlite'}")


def test_a_new_key_is_shown_once(config: Path) -> None:
    made = _run(keys, "create", "--scopes", "infer, feedback", "--owner", "shop", "--json", config=config)
    assert made.exit_code == 0
    shown = json.loads(made.stdout)
    assert shown["scopes"] == ["infer", "feedback"] and shown["owner"] == "shop" and shown["models"] is None
    database = _database(config)
    with database.reading() as session:
        assert [key.secret_hash for key in list_keys(session)] == [hash_secret(shown["secret"])]
    database.close()
    listed = _run(keys, "list", "--json", config=config)
    assert shown["secret"] not in listed.stdout
    assert [key["id"] for key in json.loads(listed.stdout)["items"]] == [shown["id"]]
    assert json.loads(listed.stdout)["next_cursor"] is None


def test_a_key_is_shown_and_listed_for_people_too(config: Path) -> None:
    made = _run(keys, "create", "--scopes", "admin", "--models", "assistant", config=config)
    assert made.stdout.startswith("sl-") and "not shown again" in made.stdout
    listed = _run(keys, "list", config=config)
    assert "admin" in listed.stdout and "assistant" in listed.stdout and "open" in listed.stdout


def test_a_key_belongs_to_who_makes_it_unless_somebody_is_named(config: Path) -> None:
    for given in ((), ("--owner", " ")):
        made = _run(keys, "create", "--scopes", "infer", *given, "--json", config=config)
        assert json.loads(made.stdout)["owner"] == pwd.getpwuid(os.getuid()).pw_name


def test_an_owner_of_more_than_200_characters_is_refused(config: Path) -> None:
    refused = _run(keys, "create", "--scopes", "infer", "--owner", "a" * 201, config=config)
    assert refused.exit_code == 2
    assert "owner: has 201 characters; at most 200 are taken" in refused.stderr
    assert _run(keys, "create", "--scopes", "infer", "--owner", "a" * 200, config=config).exit_code == 0


def test_limits_and_expiry_are_shown_with_the_key(config: Path) -> None:
    given = ("--scopes", "infer", "--limits", "rpm=600,concurrent=8", "--expires", "2300-01-31")
    made = json.loads(_run(keys, "create", *given, "--json", config=config).stdout)
    assert made["limits"] == {"rpm": 600, "concurrent": 8}
    assert made["expires"] == "2300-01-31T00:00:00Z"
    (listed,) = json.loads(_run(keys, "list", "--json", config=config).stdout)["items"]
    assert listed == {name: value for name, value in made.items() if name != "secret"}
    table = "".join(_run(keys, "list", config=config).stdout.split())
    assert "rpm=" in table and "until" in table


def test_a_revoked_key_is_shown_as_revoked(config: Path) -> None:
    made = json.loads(_run(keys, "create", "--scopes", "infer", "--json", config=config).stdout)
    revoked = _run(keys, "revoke", made["id"], "--json", config=config)
    assert revoked.exit_code == 0
    assert json.loads(revoked.stdout)["revoked"] is not None


def test_making_and_closing_keys_is_audited_without_their_secrets(config: Path) -> None:
    given = ("--scopes", "infer", "--owner", "shop", "--limits", "rpm=6")
    made = json.loads(_run(keys, "create", *given, "--json", config=config).stdout)
    _run(keys, "revoke", made["id"], config=config)
    log = _run(keys, "audit", "--json", config=config)
    newest, first = json.loads(log.stdout)["items"]
    assert (newest["act"], first["act"]) == ("key.revoke", "key.create")
    assert newest["subject"] == first["subject"] == made["id"]
    assert first["actor"] == newest["actor"] == pwd.getpwuid(os.getuid()).pw_name
    assert first["details"]["owner"] == "shop" and first["details"]["limits"] == {"rpm": 6}
    assert made["secret"] not in log.stdout and hash_secret(made["secret"]) not in log.stdout
    one = json.loads(
        _run(keys, "audit", "--act", "key.create", "--limit", "1", "--json", config=config).stdout
    )
    assert [item["id"] for item in one["items"]] == [first["id"]]
    assert "key.revoke" in "".join(_run(keys, "audit", config=config).stdout.split())


def test_a_key_that_there_is_not_ends_with_a_sentence_and_status_1(config: Path) -> None:
    _run(keys, "create", "--scopes", "infer", config=config)
    result = _run(keys, "revoke", "none", config=config)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: there is no key 'none'")


@pytest.mark.parametrize(
    ("group", "arguments"),
    [
        (db, ["verify"]),
        (keys, ["list"]),
        (keys, ["audit"]),
        (failures, ["list"]),
        (failures, ["show", "1"]),
        (data, ["list"]),
        (data, ["golden", "list"]),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else part.name,
)
def test_where_there_is_no_record_a_reader_says_so_and_makes_none(
    group: click.Group, arguments: list[str], config: Path
) -> None:
    result = _run(group, *arguments, config=config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no record in {config.parent / 'data'};" in result.stderr
    assert "--config or STARLOOP_CONFIG" in result.stderr
    assert not (config.parent / "data").exists()


def test_ids_are_whole_in_a_pipe_and_in_a_narrow_terminal(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _run(
        keys,
        "create",
        "--scopes",
        "infer,feedback,review",
        "--owner",
        "the web shop",
        "--json",
        config=config,
    )
    identifier = json.loads(made.stdout)["id"]
    (row,) = [line for line in _run(keys, "audit", config=config).stdout.splitlines() if identifier in line]
    assert "owner=the web shop" in row and "…" not in row
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "60")
    for command in ("list", "audit"):
        shown = _run(keys, command, config=config).stdout
        assert identifier in shown and "…" not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scopes", "root"],
        ["--scopes", "infer", "--models", "nosuch"],
        ["--scopes", "infer", "--limits", "rps=1"],
        ["--scopes", "infer", "--expires", "2001-01-01"],
        ["--scopes", "infer", "--expires", "soon"],
        [],
    ],
    ids=str,
)
def test_a_wrong_option_is_wrong_usage(arguments: list[str], config: Path) -> None:
    assert _run(keys, "create", *arguments, config=config).exit_code == 2


def test_configuration_that_cannot_be_used_is_wrong_usage(config: Path) -> None:
    config.write_text("[storage]\ndirektory = 'x'\n", encoding="utf-8")
    result = _run(db, "verify", config=config)
    assert result.exit_code == 2
    assert "did you mean 'directory'" in result.stderr


def test_the_configuration_in_this_directory_is_found(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    result = CliRunner().invoke(db, ["upgrade", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    assert (config.parent / "data" / "starloop.sqlite").exists()


def test_upgrading_says_the_revision(config: Path) -> None:
    result = _run(db, "upgrade", "--json", config=config)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"revision": "0001"}
    assert "0001" in _run(db, "upgrade", config=config).stdout


def test_a_sound_record_verifies_with_status_0(config: Path) -> None:
    _left_behind(config)
    result = _run(db, "verify", "--json", config=config)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "inferences": 2,
        "feedback": 0,
        "missing": 0,
        "duplicated": 0,
        "corrupt": 0,
        "erased": 0,
        "problems": [],
    }


@pytest.mark.parametrize(
    ("statement", "count"),
    [("UPDATE inference SET output = 'x'", {"corrupt": 2}), ("DELETE FROM inference", {"missing": 2})],
)
def test_an_unsound_record_verifies_with_status_1(
    statement: str, count: dict[str, int], config: Path
) -> None:
    _left_behind(config)
    assert _run(db, "verify", config=config).exit_code == 0
    database = _database(config)
    with database.session() as session:
        session.connection().execute(text(statement))
        session.commit()
    database.close()
    result = _run(db, "verify", "--json", config=config)
    assert result.exit_code == 1
    assert json.loads(result.stdout).items() >= count.items()
    assert str(next(iter(count))) in _run(db, "verify", config=config).stdout


def _left_behind(config: Path) -> None:
    """Two records in a journal whose process is gone."""
    journal = Journal.open(config.parent / "data", "os", NOW)
    journal.append([inference(0), inference(1)])
    journal.close()


@pytest.mark.parametrize(
    ("group", "command"),
    [
        (data, "list"),
        (data, "imports"),
        (data, "golden list"),
        (data, "golden draw"),
        (failures, "list"),
        (failures, "candidates"),
        (raters, "holds"),
    ],
    ids=lambda part: part if isinstance(part, str) else part.name,
)
def test_a_list_of_a_model_that_there_is_not_names_those_that_there_are(
    config: Path, group: click.Group, command: str
) -> None:
    _run(keys, "create", "--scopes", "infer", config=config)
    with _database(config).session() as session:
        session.add(RegisteredModel(name="former", base="starter", created=0))
        session.commit()
    wrong = _run(group, *command.split(), "--model", "asistant", config=config)
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "there is no model 'asistant'; there are: assistant, former" in wrong.stderr
    for name in ("assistant", "former"):  # configured, and known from before
        assert _run(group, *command.split(), "--model", name, config=config).exit_code == 0
