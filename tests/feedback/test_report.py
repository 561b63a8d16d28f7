"""The monthly report: its figures are those of the record, and what users wrote never becomes markup."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner
from sqlalchemy import func
from sqlalchemy import select as columns_of
from sqlmodel import col, select

from feedback.commands.report import report as command
from feedback.datasets.failures import resolve_failure, triage_model
from feedback.errors import BadFieldError, NotFoundError
from feedback.ids import new_id
from feedback.registry.models import get_model, move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.reports.criteria import IMPROVEMENT
from feedback.reports.document import Report
from feedback.reports.facts import gather
from feedback.reports.forms import html, markdown
from feedback.reports.monthly import month_of
from feedback.reports.plots import bars, line
from feedback.reports.tables import Table, sections
from feedback.reports.traffic import Period, percentile
from feedback.settings import Engine, Settings
from feedback.storage.arrival_tables import TriageMark
from feedback.storage.database import Database
from feedback.storage.tables import Case, Cycle, EvaluationResult, Failure, Inference, ModelVersion
from tests.feedback.world import NOW, OTHER, RIGHT, WRONG, World, settings_for

MONTH = f"{NOW:%Y-%m}"
LATER = NOW + timedelta(days=3)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, settings_for(tmp_path))


def _report(
    world: World, month: str = MONTH, settings: Settings | None = None, now: datetime = LATER
) -> Report:
    with world.database.reading() as session:
        return gather(session, settings or world.settings, "assistant", month, now)


def test_ratings_count_users_not_ratings_and_the_newest_word_of_each(world: World) -> None:
    for _ in range(20):
        world.say(world.ask("again and again", user="ann"), 1, rater="ann")
    world.say(world.ask("once", user="bob", version="1.0"), 5, rater="bob")
    changed = world.ask("twice", user="cleo")
    world.say(changed, 2, rater="cleo")
    world.say(changed, 3, rater="cleo")
    world.ask("nobody rates this", user="dora")
    world.ask("nor this", user="dora", version="1.1")
    found = _report(world.write())
    assert found.stars.mean == pytest.approx((1 + 5 + 3) / 3)
    assert (found.stars.raters, found.stars.ratings) == (3, 22)
    assert found.stars.rated_share == pytest.approx(22 / 24)
    low, high = found.stars.interval or (0.0, 0.0)
    assert low == 1.0 and high == 5.0  # Student's t with three raters so far apart says nearly nothing
    by_version = {row.version: row.stars for row in found.versions}
    assert (by_version["1.1"].rated_share, by_version["1.1"].mean) == (0.0, None)
    assert (by_version["1.0"].mean, by_version["1.0"].interval) == (5.0, None)
    assert by_version["base"].mean == pytest.approx(2.0)


def test_the_interval_is_students_over_the_raters_means(world: World) -> None:
    for user, stars in (("ann", 4), ("bob", 5), ("cleo", 4), ("dora", 3)):
        world.say(world.ask(f"of {user}", user=user), stars, rater=user)
    low, high = _report(world.write()).stars.interval or (0.0, 0.0)
    half = 3.182446 * (2 / 3) ** 0.5 / 2  # t at 3 degrees of freedom × standard deviation / √n
    assert (low, high) == (pytest.approx(4 - half), pytest.approx(5.0))


def test_latencies_are_percentiles_of_what_was_answered_and_errors_stand_apart(world: World) -> None:
    for number in range(1, 101):
        world.ask(f"prompt {number}", latency_ms=float(number), prompt_tokens=3, completion_tokens=2)
    world.ask("slow", latency_ms=12_345.0, streamed=True, first_token_ms=250.0)
    world.ask("broken", None, status=502, error="down", latency_ms=99_999.0)
    world.ask("gone", None, status=499, latency_ms=99_999.0)
    world.ask("measured by the gate", purpose="evaluation", latency_ms=99_999.0)
    volume = _report(world.write()).volume
    assert (volume.answers, volume.errors) == (101, 1)
    assert (volume.p50_ms, volume.p95_ms) == (51.0, 96.0)
    assert (volume.first_token_p50_ms, volume.first_token_p95_ms) == (250.0, 250.0)
    assert (volume.prompt_tokens, volume.completion_tokens) == (300, 200)


def test_a_month_ends_where_the_next_begins(world: World) -> None:
    since, until = month_of("2026-02")
    assert (since, until) == (
        datetime(2026, 2, 1, tzinfo=UTC).timestamp(),
        datetime(2026, 3, 1, tzinfo=UTC).timestamp(),
    )
    for moment in (since - 0.001, since, until - 0.001, until):
        when = datetime.fromtimestamp(moment, UTC)
        world.ask(f"at {moment}", id=new_id(when), created=moment)
    world.write()
    assert [_report(world, month).volume.answers for month in ("2026-01", "2026-02", "2026-03")] == [1, 2, 1]
    shown = _report(world, "2026-02").days
    assert [day.day for day in shown] == [f"2026-02-{number:02}" for number in range(1, 29)]
    assert [day.day for day in shown if day.answers] == ["2026-02-01", "2026-02-28"]
    assert [day.day for day in _report(world, MONTH).days] == [f"2026-03-0{number}" for number in range(1, 5)]


def test_a_month_is_found_in_a_record_of_years_by_an_index(sqlite_database: Database) -> None:
    period = Period("assistant", *month_of(MONTH))
    query = columns_of(func.count()).select_from(Inference).where(period.covers())
    with sqlite_database.reading() as session:
        compiled = query.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
        plan = [row[3] for row in session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")]
    assert [step for step in plan if "(model=? AND version=? AND id>? AND id<?)" in step], plan
    assert not [step for step in plan if step.startswith("SCAN inference")], plan


def test_a_month_without_anything_is_an_honest_empty_report(world: World) -> None:
    found = _report(world, "2025-12")
    assert found.volume.answers == 0 and found.complete
    assert {one.state for one in found.criteria} == {"unknown"}
    assert "Nobody asked this model" in markdown(found)
    assert "<svg" not in html(found)


@pytest.mark.parametrize("month", ["2026", "2026-13", "2026-00", "march", "2026-1", "9999-12", ""])
def test_what_is_no_month_is_told(world: World, month: str) -> None:
    with pytest.raises(BadFieldError, match="month"):
        _report(world, month)


def test_a_month_that_has_not_begun_and_a_model_that_is_not_there_are_told(world: World) -> None:
    with pytest.raises(BadFieldError, match="has not begun; the newest month is 2026-03"):
        _report(world, "2026-04")
    with world.database.reading() as session, pytest.raises(NotFoundError, match="there are: assistant"):
        gather(session, world.settings, "nobody", MONTH, LATER)


def _failed(world: World, inference_id: str, *reasons: str) -> Failure:
    return Failure(
        id=new_id(NOW),
        inference_id=inference_id,
        model="assistant",
        created=NOW.timestamp(),
        reasons=[{"reason": name, "confidence": 1.0, "evidence": {}} for name in reasons],
    )


def test_failures_are_counted_by_reason_and_form_by_those_that_broke_it(world: World) -> None:
    asked = [world.ask(f"prompt {number}") for number in range(40)]
    world.write()
    with world.database.session() as session:
        session.add(_failed(world, asked[0], "schema_invalid", "low_rating"))
        session.add(_failed(world, asked[1], "low_rating"))
        session.commit()
    assert _report(world).valid_format is None  # triage has not said that it looked
    with world.database.session() as session:
        session.add(TriageMark(model="assistant", stored=LATER.timestamp(), rules="x"))
        session.commit()
    found = _report(world)
    assert found.reasons == {"low_rating": 2, "schema_invalid": 1}
    assert found.valid_format == pytest.approx(39 / 40)
    assert {one.name: one.state for one in found.criteria}["right form"] == "met"
    assert found.waiting == 2


def test_the_share_of_right_form_is_of_what_triage_has_looked_at(world: World) -> None:
    early = [world.ask(f"prompt {number}") for number in range(10)]
    later = NOW + timedelta(days=1)
    for number in range(30):
        world.ask(f"later {number}", id=new_id(later), created=later.timestamp())
    world.write()
    with world.database.session() as session:
        session.add(_failed(world, early[0], "schema_invalid"))
        session.add(TriageMark(model="assistant", stored=(NOW + timedelta(hours=1)).timestamp(), rules="x"))
        session.commit()
    found = _report(world)
    assert found.valid_format == pytest.approx(0.9)
    assert found.looked_until == "2026-03-01T13:00:00+00:00"
    assert "until 2026-03-01T13:00" in markdown(found).replace("\\", "")


def test_form_and_shares_are_of_what_triage_could_look_at(world: World) -> None:
    for number in range(10):
        world.ask(f"kept {number}", RIGHT if number > 1 else "not JSON")
    unstored: dict[str, Any] = {"request": None, "stored": False}
    for _ in range(10):
        world.ask(None, None, **unstored)
    for _ in range(5):
        world.ask("broken", None, status=502, error="down")
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, LATER - timedelta(days=1))
        session.commit()
    found = _report(world)
    assert found.valid_format == pytest.approx(0.8)
    assert {one.name: one.state for one in found.criteria}["right form"] == "not met"
    (failures,) = (section for section in sections(found) if section.title == "Which inputs fail?")
    table = failures.parts[0]
    assert isinstance(table, Table)
    assert table.rows[:2] == [
        ["error", "5", "25 requests", "20.0 %"],
        ["schema invalid", "2", "10 answers with text", "20.0 %"],
    ]


def test_without_any_text_kept_the_form_is_not_known(world: World) -> None:
    unstored: dict[str, Any] = {"request": None, "stored": False}
    for _ in range(10):
        world.ask(None, None, **unstored)
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        session.commit()
    found = _report(world)
    assert found.looked_until is not None and found.valid_format is None
    (form,) = (one for one in found.criteria if one.name == "right form")
    assert form.state == "unknown" and form.found.startswith("not known")


def test_what_a_reviewer_found_to_be_no_failure_is_not_counted_among_them(world: World) -> None:
    for number in range(4):
        world.say(world.ask(f"question {number}", "not JSON" if number == 3 else RIGHT, f"user {number}"), 1)
    world.write()
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        rows = session.exec(select(Failure).order_by(col(Failure.inference_id))).all()
        for row, action in zip(rows, ("accept", "dismiss", "correct", "accept"), strict=True):
            right = OTHER if action == "correct" else None
            resolve_failure(session, row.id, action, right, "rev", world.settings, NOW)  # type: ignore[arg-type]
        session.commit()
    found = _report(world)
    assert (found.reasons, found.cleared) == ({"low_rating": 1}, 3)
    assert found.valid_format == pytest.approx(0.75)  # whatever a reviewer makes of it, it has not the form
    assert "Not among them: 3 that a reviewer found to be none" in markdown(found)


def _turn(world: World) -> None:
    """A cycle that promoted 1.0 over the base, with its golden cases and answers."""
    with world.database.session() as session:
        cases = [("one", RIGHT, WRONG, RIGHT), ("two", RIGHT, RIGHT, OTHER), ("three", RIGHT, WRONG, RIGHT)]
        for prompt, right, before, after in cases:
            session.add(
                Case(
                    id=new_id(NOW),
                    model="assistant",
                    suite="golden",
                    state="confirmed",
                    prompt_hash=prompt,
                    group_key=prompt,
                    messages=[{"role": "user", "content": f"<b>{prompt}</b> | *"}],
                    answer=right,
                    created=NOW.timestamp(),
                )
            )
            for version, output in (("base", before), ("1.0", after)):
                session.add(
                    EvaluationResult(
                        model="assistant",
                        version=version,
                        case_hash=f"{prompt} {version}",
                        prompt_hash=prompt,
                        output=output,
                        latency_ms=1.0,
                        created=NOW.timestamp(),
                    )
                )
        golden = {
            "n": 3,
            "fixes": 2,
            "regressions": 1,
            "p_value": 1.0,
            "difference": 1 / 3,
            "interval": [-0.5, 0.8],
        }
        cycle = Cycle(
            id=new_id(NOW),
            model="assistant",
            mode="auto",
            state="done",
            decision="promoted",
            reason="better",
            requested_by="test",
            version="1.0",
            result={
                "gate": {"suites": {"golden": golden}},
                "versions": {
                    "base": {"golden": {"n": 3, "accuracy": 0.4}},
                    "1.0": {"golden": {"n": 3, "accuracy": 0.75}},
                },
            },
            created=NOW.timestamp(),
            updated=NOW.timestamp(),
        )
        session.add(cycle)
        session.add(
            ModelVersion(
                id=new_id(NOW),
                model="assistant",
                number="1.0",
                base="starter",
                base_revision="x",
                adapter_hash="x",
                note="added refunds",
                facts={"seconds": 1800.0},
                created=NOW.timestamp(),
            )
        )
        session.flush()
        move_champion(
            session,
            "assistant",
            "1.0",
            kind="promotion",
            reason="better",
            decided_by="gate",
            now=NOW,
            cycle_id=cycle.id,
        )
        session.commit()
        assert get_model(session, "assistant").champion == "1.0"


def test_a_promotion_shows_what_it_fixed_and_broke(world: World) -> None:
    _turn(world)
    found = _report(world)
    (move,) = found.moves
    assert (move.from_version, move.to_version, move.fixes, move.regressions) == ("base", "1.0", 2, 1)
    assert [one.after for one in move.fixed] == [RIGHT, RIGHT] and [one.after for one in move.broken] == [
        OTHER
    ]
    assert found.improvement["improvement"] == pytest.approx(0.35) and IMPROVEMENT == 0.1
    assert {one.name: one.state for one in found.criteria}["better than the base"] == "met"


def test_after_a_rollback_to_the_base_the_report_says_that_the_base_serves(world: World) -> None:
    _turn(world)
    world.ask("one")
    world.write()
    with world.database.session() as session:
        move_champion(session, "assistant", None, "rollback", "complaints", "ann", None, LATER)
        session.commit()
    found = _report(world, now=LATER + timedelta(hours=1))
    (goal,) = (one for one in found.criteria if one.name == "better than the base")
    assert (goal.state, goal.found) == ("not met", "the base itself serves: 40.0 % of 3 cases")
    assert not [step for step in found.next_steps if "draw golden cases" in step]


def test_what_to_do_next_names_every_version_that_waits_and_no_other(world: World) -> None:
    _turn(world)  # 1.0 is promoted
    world.ask("one")
    world.write()
    plain: dict[str, Any] = {"model": "assistant", "mode": "propose", "requested_by": "ann", "state": "done"}
    with world.database.session() as session:
        waits = reserve_version(session, "assistant", None, None, "starter", "r", "h", "", {}, NOW)
        mark_version(session, "assistant", waits.number, "registered")
        for hours, (decision, version) in enumerate(
            (("proposed", waits.number), ("proposed", "1.0"), ("inconclusive", None)), start=1
        ):
            moment = NOW + timedelta(hours=hours)
            told = {"decision": decision, "version": version, "reason": f"of hour {hours}"}
            times = {"created": moment.timestamp(), "updated": moment.timestamp()}
            session.add(Cycle(id=new_id(moment), **told, **times, **plain))
        session.commit()
    steps = [step for step in _report(world).next_steps if "of hour" in step]
    proposed, inconclusive = steps
    assert f"proposes assistant@{waits.number}, to promote or to reject: of hour 1" in proposed
    assert "was inconclusive: of hour 3" in inconclusive and "waits" not in inconclusive


def test_contenders_of_the_last_evaluation_stand_with_the_costs(world: World) -> None:
    _turn(world)
    golden = {"golden": {"n": 40, "accuracy": 0.9}}
    told = {"model": "big", "per_thousand": 1.25, "stopped": "", "suites": golden}
    with world.database.session() as session:
        cycle = session.exec(select(Cycle)).one()
        cycle.result = {**(cycle.result or {}), "contenders": {"hosted": told}}
        session.add(cycle)
        session.commit()
    found = _report(world)
    (one,) = found.improvement["contenders"]
    assert (one["name"], one["cases"], one["per_thousand"]) == ("hosted", 40, 1.25)
    (costs,) = (section for section in sections(found) if section.title == "Are costs as expected?")
    shown = costs.parts[-1]
    assert isinstance(shown, Table) and shown.rows[1] == ["hosted (big)", "90.0 % of 40", "1.25"]


def test_what_a_judge_said_stands_with_what_changed_and_with_its_cost(world: World) -> None:
    _turn(world)
    said = {
        "judge": "big",
        "cases": 100,
        "wins": 30,
        "losses": 10,
        "known": 20,
        "agreement": 0.9,
        "counts": False,
    }
    with world.database.session() as session:
        cycle = session.exec(select(Cycle)).one()
        cycle.result = {**(cycle.result or {}), "judge": {**said, "tokens": 8000, "cost": 0.25}}
        session.add(cycle)
        session.commit()
    found = _report(world)
    (one,) = found.judged
    assert (one.wins, one.losses, one.agreement, one.cost) == (30, 10, 0.9, 0.25)
    assert one.interval[0] == pytest.approx(0.078, abs=0.002)
    (changes,) = (section for section in sections(found) if section.title == "What changed?")
    shown = changes.parts[-1]
    assert isinstance(shown, Table)
    assert shown.rows[0][1:] == [
        "30 of 100",
        "10",
        "+7.9 to +31.7",
        "90.0 % of 20; does not count",
        "8,000",
        "0.25",
    ]


def test_costs_come_from_prices_and_hours(world: World) -> None:
    _turn(world)
    world.ask("one")
    world.write()
    priced = msgspec.structs.replace(
        world.settings,
        engine=[Engine(price_per_hour=2.0)],
        training=msgspec.structs.replace(world.settings.training, price_per_hour=4.0),
        model=[msgspec.structs.replace(world.settings.model[0], monthly_budget=100.0)],
    )
    costs = _report(world, settings=priced).costs
    assert costs.serving == pytest.approx(2 * 3 * 24)  # the model is three days old
    assert (costs.training, costs.total) == (2.0, 146.0)
    found = {one.name: one for one in _report(world, settings=priced).criteria}["cost"]
    assert (found.state, found.wanted) == ("not met", "≤ 100.00 a month")


def test_what_users_wrote_stays_text_in_both_forms(world: World) -> None:
    _turn(world)
    for _ in range(60):
        world.ask('<script>alert("x")</script> | `code`')
    found = _report(world.write())
    page, text = html(found), markdown(found)
    assert "<b>one</b>" not in page and "&lt;b&gt;one&lt;/b&gt; | *" in page
    assert "<script" not in page and "http" not in page
    assert "\\<b\\>one\\</b\\> \\| \\*" in text
    ElementTree.fromstring(
        page.replace("<!doctype html>", "")
        .replace('<meta charset="utf-8">', "")
        .replace('<meta name="viewport" content="width=device-width, initial-scale=1">', "")
    )


def test_plots_show_their_values_and_gaps() -> None:
    drawn = bars("Answers", ["<1>", "2"], [10, 0])
    assert "&lt;1&gt;: 10" in drawn and drawn.count("<rect") == 2
    broken = line("Stars", ["a", "b", "c"], [4.0, None, 3.0], 1, 5)
    assert broken.count("<circle") == 2 and broken.count("M") == 2
    assert bars("none", [], []).startswith("<svg")
    for count in (1, 2, 9, 10, 31):
        labels = [f"day {number}" for number in range(1, count + 1)]
        named = ElementTree.fromstring(bars("Answers", labels, [1.0] * count)).iterfind("text")
        assert [one.text for one in named if (one.text or "").startswith("day")] == [
            *dict.fromkeys((labels[0], labels[-1]))
        ]


def test_percentiles_are_the_smallest_value_that_enough_do_not_exceed() -> None:
    assert percentile({}, 0.5) is None
    assert [percentile({1: 1, 2: 1, 3: 2}, share) for share in (0.25, 0.5, 0.51, 1.0)] == [1, 2, 3, 3]


def test_the_command_writes_each_form(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    database = Database(f"sqlite:///{directory / 'starloop.sqlite'}")
    directory.mkdir()
    database.upgrade()
    database.close()
    environment = {"STARLOOP_STORAGE__DIRECTORY": str(directory)}

    def run(*arguments: str) -> Any:
        return CliRunner(env=environment).invoke(command, ["--model", "assistant", *arguments])

    assert run().stdout.startswith("# assistant in ")
    assert run("--format", "html").stdout.startswith("<!doctype html>")
    assert json.loads(run("--json").stdout)["model"] == "assistant"
    for month in ("soon", ""):
        wrong = run("--month", month)
        assert wrong.exit_code == 1 and "write YYYY-MM" in wrong.stderr
