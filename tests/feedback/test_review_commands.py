"""`starloop failures` and `starloop data golden`: what a person needs in order to judge an answer."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from feedback.commands.data import data
from feedback.commands.failures import failures
from feedback.datasets.failures import list_failures, triage_model
from feedback.storage.database import Database
from feedback.storage.tables import Case
from tests.feedback.world import NOW, RIGHT, WRONG, World, settings_for

LONG = "Where is my parcel? " * 20 + "It was for Tuesday."


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, settings_for(tmp_path))


def run(directory: Path, group: click.Group, *arguments: str) -> str:
    done = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(directory)}).invoke(group, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def failed(world: World, prompt: str, answer: str = WRONG, comment: str | None = None) -> str:
    """A failure case; its id."""
    asked = world.ask(prompt, answer)
    world.say(asked, 1, RIGHT, comment=comment)
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        session.commit()
        (row,) = [
            row for row in list_failures(session, None, None, 50, None).items if row.inference_id == asked
        ]
    return row.id


def test_the_list_tells_each_case_by_its_prompt_and_answer(world: World, tmp_path: Path) -> None:
    identifier = failed(world, LONG)
    head, prompt, answer = run(tmp_path, failures, "list").splitlines()
    assert head == f"{identifier}  corrected  assistant  low_rating edited"
    assert prompt.startswith("    prompt: Where is my parcel?") and prompt.endswith(" …")
    assert answer == f"    answer: {WRONG}"


def test_one_case_is_shown_with_all_that_was_said_about_it(world: World, tmp_path: Path) -> None:
    identifier = failed(world, LONG, comment="not a bug\nat all")
    shown = run(tmp_path, failures, "show", identifier)
    for text in (
        LONG,
        WRONG,
        "low_rating: rated 1 of 5",
        "ann (user), 1 of 5",
        "not a bug\n",
        "at all",
        RIGHT,
    ):
        assert text in shown
    document = json.loads(run(tmp_path, failures, "show", identifier, "--json"))
    assert document["messages"] == [{"role": "user", "content": LONG}]
    assert (document["answer"], document["version"], document["state"]) == (WRONG, "base", "corrected")
    (said,) = document["feedback"]
    assert (said["rating"], said["correction"], said["comment"]) == (1, RIGHT, "not a bug\nat all")


def test_a_case_whose_texts_were_not_stored_is_shown_as_such(world: World, tmp_path: Path) -> None:
    asked = world.ask(None, None, request=None, stored=False)
    world.say(asked, 1)
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        session.commit()
        (row,) = list_failures(session, None, None, 50, None).items
    for arguments in (["list"], ["show", row.id]):
        shown = run(tmp_path, failures, *arguments)
        assert "prompt: (not stored)" in shown and "answer: (not stored)" in shown


def test_a_prompt_cannot_steer_the_terminal(world: World, tmp_path: Path) -> None:
    identifier = failed(world, "hello \x1b[2J\x07world")
    for arguments in (["list"], ["show", identifier]):
        shown = run(tmp_path, failures, *arguments)
        assert "world" in shown and "\x1b" not in shown and "\x07" not in shown


def test_a_failure_case_that_there_is_not_is_told(world: World, tmp_path: Path) -> None:
    world.write()
    done = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(tmp_path)}).invoke(failures, ["show", "none"])
    assert done.exit_code == 1 and "there is no failure case 'none'" in done.stderr


def test_golden_cases_are_listed_with_their_whole_messages(world: World, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": LONG}]
    with world.database.session() as session:
        session.add(
            Case(
                id="0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f",
                model="assistant",
                suite="golden",
                prompt_hash="p",
                group_key="g",
                messages=messages,
                created=NOW.timestamp(),
            )
        )
        session.commit()
    assert run(tmp_path, data, "golden", "list").splitlines() == [
        "0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f  drawn  assistant",
        "    system: Be brief.",
        f"    user: {LONG}",
    ]


def test_praised_cases_are_listed_with_whose_answers_they_are(world: World, tmp_path: Path) -> None:
    for place, (suite, state, version) in enumerate(
        [("golden", "drawn", None), ("regression", "confirmed", "1.0"), ("regression", "lapsed", "base")]
    ):
        with world.database.session() as session:
            session.add(
                Case(
                    id=f"case-{place}",
                    model="assistant",
                    suite=suite,
                    state=state,
                    prompt_hash="p",
                    group_key="g",
                    messages=[{"role": "user", "content": "Refund?"}],
                    answer=None if state == "drawn" else "yes",
                    version=version,
                    created=NOW.timestamp(),
                )
            )
            session.commit()
    shown = run(tmp_path, data, "golden", "list", "--suite", "regression")
    assert "case-1  confirmed  assistant  praised of 1.0" in shown and "case-2  lapsed" in shown
    assert "case-0" not in shown and "right answer: yes" in shown
    lapsed = run(tmp_path, data, "golden", "list", "--suite", "regression", "--state", "lapsed")
    assert "case-2  lapsed  assistant  praised of base" in lapsed and "case-1" not in lapsed
