"""Why an example is in a dataset version, why another is not, and the forms that versions are exported in."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from sqlmodel import select

from feedback.commands.data import data
from feedback.commands.failures import failures
from feedback.commands.raters import raters
from feedback.datasets.cases import holdout_cases
from feedback.datasets.exports import exported
from feedback.datasets.failures import triage_model
from feedback.datasets.files import read_rows
from feedback.datasets.groups import prompt_hash
from feedback.datasets.splits import row_side, user_key
from feedback.errors import BadFieldError
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import DatasetVersion, Failure
from tests.feedback.test_freeze import build, promote, topics
from tests.feedback.world import NOW, OTHER, RIGHT, WRONG, World, settings_for


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, settings_for(tmp_path))


def triage(world: World, settings: Settings | None = None) -> dict[str, Failure]:
    with world.database.session() as session:
        triage_model(session, "assistant", settings or world.settings, NOW + timedelta(hours=2))
        session.commit()
    return cases(world)


def cases(world: World) -> dict[str, Failure]:
    with world.database.reading() as session:
        return {row.inference_id: row for row in session.exec(select(Failure))}


def liar(world: World) -> tuple[str, DatasetVersion]:
    """Eve contradicts Ann and Bob on six prompts, then corrects one alone; its id, and the dataset after it."""
    *shared, alone = topics(7)
    for prompt in shared:
        for user, answer in (("ann", RIGHT), ("bob", RIGHT), ("eve", OTHER)):
            world.correct(prompt, answer, user)
    inference_id = world.correct(alone, OTHER, "eve")
    world.write()
    triage(world)
    return inference_id, build(world)


def run(directory: Path, group: click.Group, *arguments: str, code: int = 0) -> Any:
    done = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(directory)}).invoke(
        group, [*arguments, "--json"]
    )
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if code == 0 else done.output


def test_a_correction_that_is_not_believed_goes_back_to_quarantine_with_the_reason(world: World) -> None:
    inference_id, _ = liar(world)
    row = cases(world)[inference_id]
    assert (row.state, row.correction, row.resolved_by) == ("quarantine", OTHER, "eve")
    assert row.waits is not None and row.waits.startswith("the reliability of its rater is low")
    assert triage(world)[inference_id].state == "quarantine"


def test_what_waits_is_looked_at_again_once_more_is_said(world: World) -> None:
    inference_id, _ = liar(world)
    world._moment += timedelta(hours=3)
    world.say(inference_id, 1, OTHER, rater="kim")
    world.write()
    assert triage(world)[inference_id].state == "corrected"


def test_a_lie_is_not_held_out_as_a_failure_either(world: World) -> None:
    settings = settings_for(world.settings.directory, evaluation_share=0.5)
    world.settings = settings
    rows = [
        (prompt, user)
        for prompt in topics(60, seed=4)
        for user in ("ann", "bob", "eve")
        if row_side(prompt_hash(prompt), user_key(user, None, ""), 0.5)
    ]
    for prompt, user in rows:
        world.correct(prompt, OTHER if user == "eve" else RIGHT, user)
    world.write()
    triage(world)
    dataset = build(world)
    held = list(read_rows(settings.directory, dataset.id, "holdout"))
    taught = list(read_rows(settings.directory, dataset.id, "train"))
    assert {row["answer"] for row in [*held, *taught]} == {RIGHT} and len(held) == dataset.manifest["counts"][
        "holdout"
    ]
    assert not {row["group"] for row in held} & {row["group"] for row in taught}
    with world.database.reading() as session:
        assert {case.answer for case in holdout_cases(session, "assistant")} <= {RIGHT}


def test_why_shows_each_rule_and_figure_as_they_were_frozen(world: World) -> None:
    _, dataset = liar(world)
    directory = world.settings.directory
    found = run(directory, data, "why", dataset.id, "0")
    assert found["why"]["votes"]["raters"] == 2 and found["why"]["rater"]["reliability"] > 0.6
    told = "\n".join(found["told"])
    for word in ("a user wrote it", "believed", "reliability", "of at most", "weight: 1", "contract", "side"):
        assert word in told
    for n in range(30):  # what comes later changes nothing
        world.correct(f"something else {n}", OTHER, "ann")
    world.write()
    assert run(directory, data, "why", dataset.id, found["id"][:16]) == found
    assert "has no example '999'" in run(directory, data, "why", dataset.id, "999", code=1)


def test_why_of_an_inference_says_where_its_correction_went(world: World) -> None:
    inference_id, dataset = liar(world)
    directory = world.settings.directory
    found = run(directory, data, "why", "--inference", inference_id, "--model", "assistant")
    assert (
        found["told"].startswith("it waits: the reliability of its rater is low") and found["datasets"] == []
    )
    with world.database.reading() as session:
        row = next(row for row in session.exec(select(Failure)) if row.state == "corrected")
    good = run(directory, data, "why", "--inference", row.inference_id, "--model", "assistant")
    assert dataset.id in good["told"] or "another of its prompt group" in good["told"]
    run(directory, data, "why", "--inference", "nothing", "--model", "assistant", code=1)
    run(directory, data, "why", dataset.id, code=2)


def test_raters_are_listed_with_their_figures_the_least_believed_first(world: World) -> None:
    liar(world)
    found = run(world.settings.directory, raters, "list", "--model", "assistant")
    assert found["items"][0]["rater"] == "eve" and found["items"][0]["low"]
    assert "agrees with others in" in found["items"][0]["why"]
    assert run(world.settings.directory, raters, "holds") == {"items": [], "next_cursor": None}


def test_the_list_of_failures_says_what_waits_and_why(world: World) -> None:
    liar(world)
    done = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(world.settings.directory)}).invoke(
        failures, ["list", "--state", "quarantine"]
    )
    assert "    waits: the reliability of its rater is low" in done.stdout


def test_a_version_is_exported_in_the_forms_that_trainers_read(world: World) -> None:
    world.correct(topics(1)[0])
    dataset = build(world.write())
    directory = world.settings.directory
    prompt = [{"role": "user", "content": topics(1)[0]}]
    right, wrong = ([{"role": "assistant", "content": text}] for text in (RIGHT, WRONG))

    def rows(form: str) -> list[dict[str, Any]]:
        return list(exported(directory, dataset.id, form, None))

    assert rows("chat") == [{"messages": [*prompt, *right]}]
    assert rows("trl-completion") == [{"prompt": prompt, "completion": right}]
    assert rows("trl-preference") == [{"prompt": prompt, "chosen": right, "rejected": wrong}]
    assert rows("kto") == [
        {"prompt": prompt, "completion": right, "label": True},
        {"prompt": prompt, "completion": wrong, "label": False},
    ]
    assert rows("rows")[0]["why"]["rung"] == "demonstration"
    with pytest.raises(BadFieldError, match="has no splits"):
        exported(directory, dataset.id, "trl-preference", "train")


def test_the_note_says_what_was_taken_out_since_the_parent(world: World) -> None:
    one, two = topics(2)
    inference_id = world.correct(one, user="ann")
    promote(world, build(world.write()), "c1")
    world.say(inference_id, 5, rater="ann")
    world.correct(two, user="bob")
    assert "took out 1" in build(world.write()).note
