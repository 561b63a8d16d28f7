"""Are certain kinds of input failing? The tests, the groups for reading, and what is read from the record for them."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import false_discovery_control, fisher_exact

from feedback.analysis import terms as terms_module
from feedback.analysis.association import false_discovery_adjusted, more_often, more_often_in_one
from feedback.analysis.clusters import clusters_of
from feedback.analysis.kinds import failing_kinds
from feedback.analysis.terms import terms_of
from feedback.commands.failures import failures
from feedback.datasets import failing_kinds as reading
from feedback.datasets.failing_kinds import FailingKinds, Question, find_failing_kinds, kinds_apart
from feedback.datasets.failures import triage_in_steps
from feedback.storage.database import Database
from tests.bench import data_kinds
from tests.feedback.world import NOW, RIGHT, World, settings_for

ABOUT = ["the train", "my garden", "a new phone", "our holiday", "the weather", "this recipe"]
ASKED = ["What do you think of", "Tell me about", "How much is", "Where do I find", "Please explain"]


def traffic(count: int, seed: int = 0) -> list[str]:
    """Prompts of six topics, all put in many ways."""
    rng = random.Random(seed)
    return [f"{rng.choice(ASKED)} {rng.choice(ABOUT)} number {rng.randrange(999)}?" for _ in range(count)]


# -- the statistics


def test_the_tail_of_one_property_is_that_of_many() -> None:
    draw = random.Random(5)
    for _ in range(300):
        everything = draw.choice([20, 300, 2000])
        failures, with_all = draw.randint(0, everything), draw.randint(1, everything)
        bad = draw.randint(0, min(failures, with_all))
        (expected,) = more_often(np.array([bad]), np.array([with_all]), failures, everything)
        found = more_often_in_one(bad, with_all, failures, everything)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_the_test_is_fishers() -> None:
    for k, n in product(range(0, 6), (6, 10)):
        p = more_often(np.array([k]), np.array([n]), 8, 40)[0]
        table = [[k, n - k], [8 - k, 40 - 8 - (n - k)]]
        assert p == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_the_adjustment_is_benjamini_and_hochbergs() -> None:
    p = np.random.default_rng(1).uniform(size=50) ** 3
    assert false_discovery_adjusted(p) == pytest.approx(false_discovery_control(p))
    assert len(false_discovery_adjusted(np.array([]))) == 0


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
@pytest.mark.parametrize("least", [1, 3])
def test_terms_are_all_phrases_that_stand_in_enough_prompts(
    at_once: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terms_module, "_AT_ONCE", at_once)
    rng = random.Random(5)
    prompts = [" ".join(rng.choices("abcdef", k=rng.randrange(9))) for _ in range(60)]
    expected: dict[
        str, set[int]
    ] = {}  # in the order in which they first stand, the shorter before the longer
    for place, prompt in enumerate(prompts):
        words = prompt.split()
        for length in (1, 2, 3):
            for start in range(len(words) - length + 1):
                expected.setdefault(" ".join(words[start : start + length]), set()).add(place)
    kept = {name: places for name, places in expected.items() if len(places) >= least}
    terms = terms_of(prompts, least)
    assert terms.names == list(kept)
    assert len(kept) > 40
    columns = terms.matrix.toarray().T
    assert [set(np.flatnonzero(column).tolist()) for column in columns] == list(kept.values())
    assert columns.max() == 1


@pytest.mark.parametrize("prompts", [[], [""], ["", "!?"]])
def test_prompts_without_a_word_have_no_terms(prompts: list[str]) -> None:
    terms = terms_of(prompts)
    assert (terms.names, terms.matrix.shape) == ([], (len(prompts), 0))


def test_many_counts_have_the_chance_that_each_has_alone() -> None:
    bad, held = np.array([[3, 0, 3, 5, 3], [4, 4, 4, 9, 5]])
    each = [more_often_in_one(int(one), int(other), 20, 100) for one, other in zip(bad, held, strict=True)]
    assert more_often(bad, held, 20, 100) == pytest.approx(each)


def test_terms_are_words_and_phrases_whatever_their_case() -> None:
    terms = terms_of(["The card, the CARD", "a card"], least=2)
    assert terms.names == ["card"] and terms.matrix.toarray().tolist() == [[1], [1]]
    assert "don't" in terms_of(["I don't"]).names


# -- what is found


def test_a_topic_that_fails_is_found_with_its_figures() -> None:
    prompts = traffic(300)
    failed = ["garden" in prompt or n % 25 == 0 for n, prompt in enumerate(prompts)]
    found = failing_kinds(prompts, failed)
    (kind,) = found.found
    assert "garden" in kind.properties[0].name and found.tested > 5
    assert kind.prompts == [n for n, prompt in enumerate(prompts) if "garden" in prompt]
    assert kind.share == 1.0 and kind.failures == len(kind.prompts) and 0.02 < kind.elsewhere < 0.06
    assert kind.p_value <= kind.q_value < 0.001


def test_a_slice_of_metadata_that_fails_is_found() -> None:
    prompts = traffic(300)
    metadata = [{"channel": "voice" if n % 4 == 0 else "web", "day": str(n % 7)} for n in range(300)]
    failed = [n % 4 == 0 and n % 8 == 0 for n in range(300)]
    (kind,) = failing_kinds(prompts, failed, metadata).found
    assert [(one.kind, one.name) for one in kind.properties] == [("metadata", "channel=voice")]


def test_where_failures_fall_anywhere_hardly_anything_is_found() -> None:
    any_found = 0
    for seed in range(20):
        rng = random.Random(seed)
        any_found += bool(failing_kinds(traffic(300, seed), [rng.random() < 0.2 for _ in range(300)]).found)
    assert any_found <= 3


@pytest.mark.parametrize("failed", [[False] * 40, [True] * 40])
def test_without_failures_or_with_nothing_else_there_is_nothing_to_compare(failed: list[bool]) -> None:
    assert failing_kinds(traffic(40), failed).found == []
    assert failing_kinds([], []).found == []


def test_groups_for_reading_hold_what_is_alike() -> None:
    texts = [f"my parcel is late, order {n}" for n in range(12)] + [
        f"login fails on phone {n}" for n in range(8)
    ]
    first, second = clusters_of(texts, 2)
    assert sorted(first.members) == list(range(12)) and "parcel" in first.words
    assert sorted(second.members) == list(range(12, 20)) and "login" in second.words
    assert clusters_of(["alone"], 3) == [] and clusters_of([], 3) == []
    assert clusters_of(["same text"] * 5, 3)[0].members == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not data_kinds.DATA.exists(), reason="Banking77 is not in ../shared/data")
@pytest.mark.parametrize(("size", "recall", "precision"), [(600, 0.48, 0.85), (1500, 0.76, 0.67)])
def test_planted_topics_of_real_questions_are_found(size: int, recall: float, precision: float) -> None:
    outcomes = data_kinds.outcomes(data_kinds.rows(), data_kinds.SETTINGS[0], size, data_kinds.SEEDS[:8])
    assert mean(one.recall or 0 for one in outcomes) >= recall
    assert mean(one.precision for one in outcomes if one.precision is not None) >= precision


# -- from the record


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return answered(World(database, settings_for(tmp_path)))


def answered(world: World) -> World:
    """Traffic of many users in which questions about the garden are answered out of form, and voice calls get stars."""
    for n, prompt in enumerate(traffic(200)):
        fields: dict[str, Any] = {"metadata": {"channel": "voice" if n % 5 == 0 else "web", "deep": {"a": n}}}
        asked = world.ask(prompt, "sorry" if "garden" in prompt else RIGHT, user=f"user {n}", **fields)
        if n % 5 == 0:
            world.say(asked, 1, rater=f"user {n}")
    for _ in range(20):
        world.ask("What about my garden?", "sorry", user="one who asks and asks")
    triage_in_steps(world.write().database, "assistant", world.settings, NOW)
    return world


def kinds(world: World, **period: float) -> FailingKinds:
    with world.database.reading() as session:
        return find_failing_kinds(session, "assistant", **period)


def test_phrases_and_metadata_are_found_with_examples_and_groups(world: World) -> None:
    found = kinds(world)
    assert found.complete and found.prompts == 201  # whoever asks the same twenty times counts once
    phrases = {phrase for kind in found.items for phrase in kind.phrases}
    slices = {name for kind in found.items for name in kind.metadata}
    assert any("garden" in phrase for phrase in phrases) and slices == {"channel=voice"}
    assert all(len(kind.examples) == 3 for kind in found.items)
    assert sum(group.failures for group in found.groups) == found.failures
    assert found.items == sorted(found.items, key=lambda kind: kind.p_value)


def test_a_period_and_the_newest_are_all_that_is_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = NOW.timestamp()
    assert kinds(world, since=start + 3600).prompts == 0
    assert kinds(world, until=start).prompts == 0
    assert 0 < kinds(world, since=start, until=start + 1).prompts < 201
    monkeypatch.setattr(reading, "MOST", 50)
    some = kinds(world)
    assert not some.complete and some.prompts == 31


def test_in_a_process_of_its_own_the_same_is_found(sqlite_database: Database, tmp_path: Path) -> None:
    world = answered(World(sqlite_database, settings_for(tmp_path)))
    assert kinds_apart(Question(world.settings, "assistant")) == kinds(world)


def test_the_command_tells_it_to_people_and_to_programs(sqlite_database: Database, tmp_path: Path) -> None:
    answered(World(sqlite_database, settings_for(tmp_path)))
    runner = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(tmp_path)})
    shown = runner.invoke(failures, ["kinds", "--model", "assistant"])
    assert shown.exit_code == 0, shown.output
    assert "Fail more often than the rest:" in shown.stdout and "channel=voice" in shown.stdout
    assert "no test stands behind these" in shown.stdout
    told = json.loads(runner.invoke(failures, ["kinds", "--model", "assistant", "--json"]).stdout)
    assert told["next_cursor"] is None and told["items"][0]["failures"] > 5
    none = runner.invoke(failures, ["kinds", "--model", "assistant", "--until", "2020-01-01"])
    assert "0 of 0 prompts failed" in none.stdout and "No kind of input" not in none.stdout
    assert "starloop failures triage" in none.stdout  # failures may be there, and not looked for yet
    assert runner.invoke(failures, ["kinds", "--model", "other"]).exit_code == 1
    assert runner.invoke(failures, ["kinds", "--model", "assistant", "--since", "soon"]).exit_code == 2
