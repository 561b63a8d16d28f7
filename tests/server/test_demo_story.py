"""The demo's story, told to a client that answers from memory: drift is asked about, lies are told twice."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from feedback.starter.grammar import DRIFT, INTENTS, KNOWN
from server.demo.client import Answer, DemoClient
from server.demo.population import Opinion, Request
from server.demo.scores import VersionScore
from server.demo.story import Pace, Story
from server.demo.tables import turns_table, versions_table

PACE = Pace(turn_requests=120, golden_cases=10, quiet_requests=40, liar_requests=5, per_known=4, per_drift=4)


class FakeClient(DemoClient):
    """A Starloop whose versions know the first topics, one pair more with each promotion."""

    def __init__(self, decisions: Sequence[str]) -> None:
        self._decisions = iter(decisions)
        self._knows = {"base": set(KNOWN)}
        self._champion = "base"
        self._answers: dict[str, tuple[str, str]] = {}
        self.cycles: list[tuple[str, ...]] = []
        self.heard: list[Request] = []

    async def ask(self, model: str, text: str, user: str | None, evaluation: bool = False) -> Answer:
        version = model.partition("@")[2] or self._champion
        intent, right = self._answers.get(text) or (None, "")
        return Answer(
            right if intent in self._knows[version] else "no idea", "id", f"assistant@{version}", 5.0
        )

    def learn_the_truth(self, messages: Sequence[Any]) -> None:
        self._answers |= {message.text: (message.intent, message.answer) for message in messages}

    async def converse(
        self,
        requests: Sequence[Request],
        think: Callable[[Request, str], Opinion | None],
        advance: Callable[[], None],
    ) -> list[tuple[Request, Answer, Opinion | None]]:
        self.learn_the_truth([request.message for request in requests])
        self.heard += requests
        said = []
        for request in requests:
            answer = await self.ask("assistant", request.message.text, request.user)
            said.append((request, answer, think(request, answer.text)))
        return said

    async def review(self, count: int, right: dict[str, str], advance: Callable[[], None]) -> int:
        assert count == PACE.golden_cases and len(right) > count
        return count

    async def cycle(self, guards_off: Sequence[str], show: Callable[[str], None]) -> dict[str, Any]:
        self.cycles.append(tuple(guards_off))
        decision = next(self._decisions)
        number = f"1.{len(self._knows) - 1}"
        cycle = {"state": "done", "decision": decision, "reason": f"{decision} for a reason", "version": None}
        if decision != "skipped":
            cycle["version"] = number
            self._knows[number] = set() if decision == "rejected" else set(INTENTS)
        if decision == "promoted":
            self._champion = number
        return cycle


def told(decisions: Sequence[str], turns: int, poison: bool = True) -> tuple[Story, FakeClient]:
    client = FakeClient(decisions)
    story = Story(client, Console(file=io.StringIO()), seed=3, pace=PACE)
    client.learn_the_truth(story._yardstick)
    asyncio.run(story.tell(turns, poison))
    return story, client


@pytest.fixture(scope="module")
def whole() -> tuple[Story, FakeClient]:
    """Two turns of drift, the lies with guards on and with one off."""
    return told(["promoted", "promoted", "skipped", "rejected"], turns=2)


def test_drift_comes_first_and_the_lies_are_told_with_guards_on_and_then_off(
    whole: tuple[Story, FakeClient],
) -> None:
    story, client = whole
    assert [(turn["turn"], turn["kind"]) for turn in story.turns] == [
        (1, "drift"),
        (2, "drift"),
        (3, "poison"),
        (4, "poison"),
    ]
    assert client.cycles == [(), (), (), ("raters",)]


def test_a_turn_without_a_version_names_none(whole: tuple[Story, FakeClient]) -> None:
    assert [turn.get("version") for turn in whole[0].turns] == ["1.0", "1.1", None, "1.2"]
    assert [row.version for row in whole[0].versions] == ["base", "1.0", "1.1", "1.2"]


def test_each_version_is_measured_on_the_same_messages_and_says_what_was_decided(
    whole: tuple[Story, FakeClient],
) -> None:
    base, first, second, poisoned = whole[0].versions
    assert base.accuracy == pytest.approx(len(KNOWN) / len(INTENTS)) and base.accuracy_old == 1.0
    assert (first.accuracy, poisoned.accuracy) == (1.0, 0.0)
    assert first.fixes == 4 * (len(INTENTS) - len(KNOWN)) and first.regressions == 0
    assert poisoned.regressions == len(whole[0]._yardstick), "compared with the version before it"
    assert first.decision == "promoted: promoted for a reason" and second.fixes == 0


def test_stars_are_the_honest_users_and_go_to_the_version_that_answered(
    whole: tuple[Story, FakeClient],
) -> None:
    base, first, second, poisoned = whole[0].versions
    assert base.mean_stars is not None and first.mean_stars is not None and second.mean_stars is not None
    assert 3.0 < base.mean_stars < first.mean_stars
    assert second.mean_stars > 4.0, "liars, who give one star, do not count"
    assert poisoned.mean_stars is None


def test_each_turn_brings_the_topics_that_are_new_in_it(whole: tuple[Story, FakeClient]) -> None:
    heard = whole[1].heard
    first, second = heard[: PACE.turn_requests], heard[PACE.turn_requests : 2 * PACE.turn_requests]
    assert {request.message.intent for request in first} & {*DRIFT[0], *DRIFT[1]} == set(DRIFT[0])
    assert {request.message.intent for request in second} >= set(DRIFT[1])


def test_a_rejected_version_is_not_what_the_next_one_is_compared_with() -> None:
    story, _ = told(["rejected", "promoted"], turns=2, poison=False)
    base, rejected, promoted = story.versions
    assert rejected.regressions > 0 and promoted.regressions == 0
    assert promoted.fixes == sum(promoted.right) - sum(base.right)


def test_the_same_seed_tells_the_same_story(whole: tuple[Story, FakeClient]) -> None:
    again, client = told(["promoted", "promoted", "skipped", "rejected"], turns=2)
    assert [row.shown() for row in again.versions] == [row.shown() for row in whole[0].versions]
    assert client.heard == whole[1].heard


def test_the_tables_show_every_version_and_turn(whole: tuple[Story, FakeClient]) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(versions_table(whole[0].versions), turns_table(whole[0].turns))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert any("1.2" in line and "rejected" in line and "0.0%" in line for line in lines)
    assert any("skipped" in line and "–" in line for line in lines)


def test_a_terminal_of_80_columns_shows_every_figure_and_decision() -> None:
    score = VersionScore("base", 1.0, 1.0, 1.0, 123.4, 1000, 1000, {}, [True], mean_stars=4.25)
    others = [replace(score, decision=f"{name}: why") for name in ("inconclusive", "promoted")]
    console = Console(file=io.StringIO(), width=80)
    console.print(versions_table([score, *others]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    figures = ["base", "100.0%", "100.0%", "4.25", "100.0%", "123", "1000", "1000"]
    rows = [line.split() for line in text.splitlines()]
    assert [*figures, "inconclusive"] in rows and [*figures, "promoted"] in rows
    assert [*figures, "serving", "at"] in rows and ["the", "start"] in rows
    assert "accuracy" in text and "…" not in text
