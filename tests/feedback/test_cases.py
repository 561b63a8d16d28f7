"""The cases that versions are judged by: drawn blind, answered by people, never trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from feedback.access.audit import list_audit
from feedback.commands.data import data
from feedback.datasets.cases import (
    confirm_case,
    draw_cases,
    drop_case,
    golden_cases,
    holdout_cases,
    import_base_examples,
    list_cases,
    regression_cases,
)
from feedback.datasets.contract import TaskContract
from feedback.datasets.failures import triage_model
from feedback.datasets.freeze import build_dataset
from feedback.datasets.groups import KnownPrompts, normalise, prompt_hash
from feedback.datasets.splits import row_side, user_key
from feedback.errors import BadFieldError, ConflictError, DataRefusedError, NotFoundError
from feedback.settings import Dataset
from feedback.starter.grammar import SCHEMA
from feedback.storage.database import Database
from feedback.storage.tables import Case
from tests.feedback.test_freeze import rows_of, topics
from tests.feedback.world import NOW, OTHER, RIGHT, WRONG, World, settings_for

CONTRACT = TaskContract(SCHEMA)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, settings_for(tmp_path, evaluation_share=0.5))


def drawn(world: World, count: int, seed: int = 1) -> list[Case]:
    with world.database.session() as session:
        found = draw_cases(session, "assistant", count, world.settings, seed, NOW)
        session.commit()
        return found


def confirm(world: World, case: Case, answer: str = RIGHT) -> Case:
    with world.database.session() as session:
        with pytest.raises(BadFieldError, match="by: is empty; name who answers for the case"):
            confirm_case(session, case.id, answer, " ", NOW, CONTRACT)
        row = confirm_case(session, case.id, answer, "rob", NOW, CONTRACT)
        session.commit()
        return row


def prompts(cases: Sequence[Case]) -> list[str]:
    return [case.messages[-1]["content"] for case in cases]


def test_cases_are_drawn_from_the_evaluation_side_one_for_each_group_and_once(world: World) -> None:
    for n, prompt in enumerate(topics(60)):
        world.ask(prompt, user=f"user {n}")
        world.ask(prompt + " !", user=f"user {n}")
    world.write()
    first = drawn(world, 5)
    rest = drawn(world, 1000, seed=2)
    cases = [*first, *rest]
    assert len(first) == 5 and 8 < len(cases) < 30  # a quarter of 60 groups
    assert len({case.group_key for case in cases}) == len(cases)
    assert all(case.state == "drawn" and case.suite == "golden" for case in cases)
    assert drawn(world, 1000, seed=3) == []


def test_the_draw_is_blind_to_what_was_answered_and_said(sqlite_database: Database, tmp_path: Path) -> None:
    """The same traffic with other answers and ratings gives the same cases."""
    world = World(sqlite_database, settings_for(tmp_path, evaluation_share=0.5))
    for n, prompt in enumerate(topics(40)):
        world.ask(prompt, RIGHT if n % 2 else WRONG, user=f"user {n}")
    world.write()
    with sqlite_database.session() as session:
        before = prompts(draw_cases(session, "assistant", 6, world.settings, 4, NOW))
        session.rollback()
    with sqlite_database.session() as session:
        session.connection().execute(text("UPDATE inference SET output = 'sorry', finish_reason = 'length'"))
        session.commit()
    assert prompts(drawn(world, 6, seed=4)) == before


def test_only_production_chats_are_drawn(world: World) -> None:
    asked = topics(30)
    for n, prompt in enumerate(asked):
        world.ask(prompt, user=f"user {n}", purpose="evaluation")
        world.ask(prompt, user=f"user {n}", request=None, stored=False)
        world.ask(prompt, user=f"user {n}", request='{"prompt": "a completion"}')
        world.ask(prompt, user=f"user {n}", model="another")
    assert drawn(world.write(), 100) == []


def test_a_case_counts_once_a_person_gave_its_answer(world: World) -> None:
    for n, prompt in enumerate(topics(30)):
        world.ask(prompt, user=f"user {n}")
    case, other = drawn(world.write(), 2)
    with world.database.reading() as session:
        assert golden_cases(session, "assistant") == []
    row = confirm(world, case)
    assert (row.state, row.answer, row.confirmed_by, row.slice) == ("confirmed", RIGHT, "rob", "refund")
    with world.database.reading() as session:
        (golden,) = golden_cases(session, "assistant")
        assert (golden.id, golden.messages, golden.answer) == (case.id, case.messages, RIGHT)
        assert regression_cases(session, "assistant") == []
    assert confirm(world, case, OTHER).answer == OTHER  # a better answer
    with world.database.session() as session:
        drop_case(session, case.id)
        drop_case(session, other.id)
        session.commit()
    with world.database.reading() as session:
        assert golden_cases(session, "assistant") == []
    with pytest.raises(ConflictError, match="was dropped"):
        confirm(world, case)


def test_an_answer_against_the_task_contract_is_refused(world: World) -> None:
    for n, prompt in enumerate(topics(30)):
        world.ask(prompt, user=f"user {n}")
    (case,) = drawn(world.write(), 1)
    with pytest.raises(BadFieldError, match="answer: is not JSON"):
        confirm(world, case, "a refund")
    with world.database.session() as session, pytest.raises(NotFoundError):
        drop_case(session, "nothing")


def test_a_person_marks_a_golden_case_as_critical_and_takes_the_mark_away(world: World) -> None:
    for n, prompt in enumerate(topics(30)):
        world.ask(prompt, user=f"user {n}")
    (case,) = drawn(world.write(), 1)

    def said(answer: str | None = None, critical: bool | None = None) -> tuple[str | None, bool, bool]:
        with world.database.session() as session:
            row = confirm_case(session, case.id, answer, "rob", NOW, CONTRACT, critical)
            session.commit()
            (golden,) = golden_cases(session, "assistant")
            return row.answer, row.critical, golden.critical

    with pytest.raises(BadFieldError, match=f"answer: is required: case {case.id} has no answer yet"):
        said(critical=True)
    assert said(RIGHT) == (RIGHT, False, False)
    assert said(critical=True) == (RIGHT, True, True)
    assert said(OTHER) == (OTHER, True, True)  # a better answer leaves the mark
    assert said(critical=False) == (OTHER, False, False)
    with world.database.session() as session:  # by another contract than its answer was confirmed under
        row = confirm_case(session, case.id, None, "ada", NOW, TaskContract(labels=["yes", "no"]), True)
        assert (row.critical, row.answer, row.slice, row.confirmed_by) == (True, OTHER, "login", "rob")


def test_a_praised_answer_that_was_withdrawn_is_confirmed_by_nobody_who_does_not_give_it(
    sqlite_database: Database,
) -> None:
    row = Case(id="old", model="assistant", suite="regression", prompt_hash="", group_key="", created=0.0)
    row.messages, row.answer, row.state = [{"role": "user", "content": "hello"}], RIGHT, "lapsed"
    with sqlite_database.session() as session:
        session.add(row)
        session.flush()
        for critical in (None, False):
            with pytest.raises(BadFieldError, match="answer: is required: case old is lapsed"):
                confirm_case(session, "old", None, "rob", NOW, CONTRACT, critical)
        assert row.state == "lapsed"
        assert confirm_case(session, "old", RIGHT, "rob", NOW, CONTRACT).confirmed_by == "rob"


def test_a_case_of_the_regression_suite_cannot_be_critical(sqlite_database: Database) -> None:
    row = Case(id="old", model="assistant", suite="regression", prompt_hash="", group_key="", created=0.0)
    row.messages, row.answer, row.state = [{"role": "user", "content": "hello"}], RIGHT, "confirmed"
    with sqlite_database.session() as session:
        session.add(row)
        session.flush()
        with pytest.raises(BadFieldError, match="critical: case old is of the regression suite"):
            confirm_case(session, "old", None, "rob", NOW, CONTRACT, True)
        assert not confirm_case(session, "old", None, "rob", NOW, CONTRACT, False).critical


def test_the_command_marks_a_case_as_critical_and_shows_it(sqlite_database: Database, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "May I have my money back?"}]
    with sqlite_database.session() as session:
        case = Case(id="one", model="assistant", suite="golden", prompt_hash="", group_key="", created=0.0)
        case.messages = messages
        session.add(case)
        session.commit()
    runner = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(tmp_path)})
    told = runner.invoke(data, ["golden", "confirm", "one", "--answer", RIGHT, "--critical"])
    assert (told.exit_code, told.stdout) == (0, "Case one is confirmed and critical.\n"), told.output
    assert "one  confirmed  assistant  critical" in runner.invoke(data, ["golden", "list"]).stdout
    told = runner.invoke(data, ["golden", "confirm", "one", "--not-critical"])
    assert (told.exit_code, told.stdout) == (0, "Case one is confirmed.\n"), told.output
    with sqlite_database.reading() as session:
        rows = reversed(list_audit(session, "case.confirm", 10, None).items)
        assert [row.details["critical"] for row in rows] == [True, False]


def test_cases_are_listed_by_suite_and_state_in_pages(world: World) -> None:
    for n, prompt in enumerate(topics(40)):
        world.ask(prompt, user=f"user {n}")
    cases = drawn(world.write(), 5)
    confirm(world, cases[0])
    with world.database.reading() as session:
        waiting = list_cases(session, "assistant", "golden", "drawn", 3, None)
        rest = list_cases(session, "assistant", "golden", "drawn", 3, waiting.next_cursor)
        assert len(waiting.items) == 3 and len(rest.items) == 1
        assert [case.id for case in list_cases(session, None, None, "confirmed", 9, None).items] == [
            cases[0].id
        ]
        assert list_cases(session, "assistant", "regression", None, 9, None).items == []


def with_examples(database: Database, directory: Path, count: int = 60) -> World:
    file = directory / "examples.jsonl"
    lines = [
        json.dumps(
            {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": RIGHT}]}
        )
        for prompt in topics(count, seed=9)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return World(database, settings_for(directory, str(file), evaluation_share=0.5, replay=20.0))


def test_base_examples_for_evaluation_become_regression_cases_once_and_the_others_are_replayed(
    database: Database, tmp_path: Path
) -> None:
    world = with_examples(database, tmp_path)
    counts = []
    for _ in range(2):
        with database.session() as session:
            counts.append(import_base_examples(session, world.settings, "assistant", NOW))
            session.commit()
    assert 5 < counts[0] < 30 and counts[1] == 0
    for n, prompt in enumerate(topics(30)):
        world.correct(prompt, user=f"user {n}")
    dataset = build_dataset(database, world.write().settings, "assistant", "one", (), NOW)
    with database.reading() as session:
        cases = regression_cases(session, "assistant")
    judged = {case.messages[-1]["content"] for case in cases}
    taught = {row["messages"][-1]["content"] for row in rows_of(world, dataset) if row["source"] == "base"}
    assert len(judged) == counts[0] and taught and not judged & taught
    assert all((case.answer, case.slice) == (RIGHT, "refund") for case in cases)


def test_corrected_failures_for_evaluation_are_held_out_and_never_trained_on(world: World) -> None:
    asked = topics(60)
    for n, prompt in enumerate(asked):
        world.correct(prompt, user=f"user {n}")
        world.say(world.ask(asked[n] + " again?", user=f"user {n}"), 1)
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        session.commit()
    with world.database.reading() as session:
        assert holdout_cases(session, "assistant") == []  # no dataset yet, so no sides
    dataset = build_dataset(world.database, world.settings, "assistant", "one", ("replay",), NOW)
    with world.database.reading() as session:
        held = holdout_cases(session, "assistant")
    assert 5 < len(held) < 30 and all(case.answer == RIGHT for case in held)
    taught = {row["messages"][-1]["content"] for row in rows_of(world, dataset)}
    assert not taught & {case.messages[-1]["content"] for case in held}


def test_a_group_with_a_case_is_never_trained_on_even_were_the_share_changed(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, settings_for(tmp_path, evaluation_share=0.9))
    for n, prompt in enumerate(topics(10)):
        world.correct(prompt, user=f"user {n}")
    cases = drawn(world.write(), 100)
    world.settings = settings_for(tmp_path, evaluation_share=0.01)
    try:
        dataset = build_dataset(world.database, world.settings, "assistant", "one", ("replay",), NOW)
        taught = {row["group"] for row in rows_of(world, dataset)}
    except DataRefusedError:
        taught = set()
    assert cases and not taught & {case.group_key for case in cases}


WORDS = ["alpha", "brave", "candle", "delta", "echo", "figure", "garden"]
TRAFFIC = st.lists(
    st.tuples(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join),
        st.sampled_from(["u1", "u2", "u3", "u4", "u5", "u6", None]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TRAFFIC, st.integers(1, 39))
def test_no_row_changes_side_and_no_group_or_user_is_on_two(
    traffic: list[tuple[str, str | None]], cut: int
) -> None:
    """However much comes later: a row's side stays, and neither its group nor its user is on the other side."""
    rules = Dataset(evaluation_share=0.5)
    known = KnownPrompts(rules)
    groups = {}
    sides: list[list[str | None]] = []
    for part in (traffic[:cut], traffic):
        fresh = {prompt_hash(prompt): normalise(prompt) for prompt, _ in part}
        rows = known.place({key: text for key, text in fresh.items() if key not in groups})
        groups |= {row.prompt_hash: row for row in rows}
        sides.append([])
        for n, (prompt, user) in enumerate(part):
            row = groups[prompt_hash(prompt)]
            who = user_key(user, None, str(n))
            sides[-1].append(None if row.unused else row_side(row.group_key, who, 0.5))
    assert sides[1][: len(sides[0])] == sides[0]
    seen: dict[str, str] = {}
    for (prompt, user), side in zip(traffic, sides[1], strict=True):
        for key in (f"group {groups[prompt_hash(prompt)].group_key}", f"user {user}" if user else None):
            if side is not None and key is not None:
                assert seen.setdefault(key, side) == side


def test_the_command_says_when_there_is_less_to_draw_than_was_asked_for(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, settings_for(tmp_path))
    world.ask("Where is my parcel?")
    shown = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(tmp_path)}).invoke(
        data, ["golden", "draw", "--model", "assistant", "--count", "5"]
    )
    assert shown.exit_code == 0, shown.output
    assert " of 5 cases drawn; no other live prompt" in shown.stdout


def test_a_case_of_any_suite_is_dropped_by_the_command_and_judges_nothing_any_more(
    sqlite_database: Database, tmp_path: Path
) -> None:
    with sqlite_database.session() as session:
        for suite in ("golden", "regression"):
            case = Case(
                id=suite, model="assistant", suite=suite, state="confirmed", prompt_hash=suite, created=0.0
            )
            case.group_key, case.messages, case.answer = suite, [{"role": "user", "content": suite}], "right"
            session.add(case)
        session.commit()
    runner = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(tmp_path)})
    for suite, cases in (("golden", golden_cases), ("regression", regression_cases)):
        with sqlite_database.reading() as session:
            assert len(cases(session, "assistant")) == 1
        shown = runner.invoke(data, ["golden", "drop", suite])
        assert (shown.exit_code, shown.stdout) == (0, f"Case {suite} is dropped.\n")
        with sqlite_database.reading() as session:
            assert cases(session, "assistant") == []
    unknown = runner.invoke(data, ["golden", "drop", "nobody"])
    assert unknown.exit_code == 1 and "there is no case" in unknown.stderr
