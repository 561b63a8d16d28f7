"""The queue of failure cases, worked through by keyboard alone: a hundred, by two at once, and many alike by one key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from feedback.ids import new_id
from feedback.storage.tables import Candidate, Failure
from tests.feedback.world import RIGHT, World, settings_for
from tests.server.browsing import MARKS, Site, Watched, narrow_and_dark, standing

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install playwright axe-playwright-python"
)
pytestmark = MARKS
CASES = 100
ALIKE = "Where is my parcel with the green bow?"
EVIL = "<img src=x onerror=document.title='ran'>"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose queue holds a hundred cases that are like no other, with a teacher's proposal each."""
    with standing(tmp_path_factory.mktemp("desk")) as made:
        add(made, [f"{number * 7919:x} {'abcdefghij'[number % 10] * 9} {EVIL}" for number in range(CASES)])
        yield made


def add(site: Site, prompts: list[str]) -> list[str]:
    """Failure cases, put straight into the record."""
    world = World(site.database, settings_for(site.gateway.directory))
    asked = [world.ask(prompt) for prompt in prompts]
    for one in asked:
        world.say(one, 1)
    world.write()
    now = datetime.now(UTC)
    reasons = [{"reason": "low_rating", "confidence": 1.0, "evidence": "rated 1 of 5"}]
    checks = [{"check": "task contract", "passed": True, "told": "it meets it"}]
    origin: dict[str, Any] = {"source": "teacher", "origin": "big", "request_hash": "0", "answer": RIGHT}
    rows: list[Any] = []
    for one in asked:
        plain: dict[str, Any] = {"inference_id": one, "model": "assistant", "created": now.timestamp()}
        rows.append(Failure(id=new_id(now), reasons=reasons, **plain))
        rows.append(Candidate(id=new_id(now), checks=checks, state="checked", **origin, **plain))
    with site.database.session() as session:
        session.add_all(rows)
        session.commit()
    return asked


def shown(tab: Any) -> str:
    """The prompt of the case that a tab shows."""
    tab.wait_for_selector("#case:not([hidden])[aria-busy=false]")
    return str(tab.locator("#prompt").inner_text())


def test_a_hundred_failures_are_reviewed_by_keyboard_with_two_keystrokes_each_at_most(
    desk: Site, watched: Watched
) -> None:
    tab, strokes = watched.tab, 0
    tab.goto(f"{desk.address}/review")
    decided, prompt, seen = tab.locator("#decided"), tab.locator("#prompt"), []
    for done in range(1, CASES + 1):
        seen.append(shown(tab))
        keys = "d" if done % 7 == 0 else "1a" if done % 5 == 0 else "a"
        for key in keys:
            tab.keyboard.press(key)
        strokes += len(keys)
        playwright.expect(decided).to_have_text(str(done))
        if done % 25 == 0:  # taken back, and done again
            tab.keyboard.press("u")
            playwright.expect(decided).to_have_text(str(done - 1))
            playwright.expect(prompt).to_have_text(seen[-1])
            tab.keyboard.press("a")
            playwright.expect(decided).to_have_text(str(done))
        if done < CASES:
            playwright.expect(prompt).not_to_have_text(seen[-1])
    tab.wait_for_selector("#none:not([hidden])")
    assert len(set(seen)) == CASES and strokes <= 2 * CASES
    assert len(desk.failures("dismissed")) == CASES // 7
    playwright.expect(tab.locator("#waiting")).to_have_text("0")
    assert tab.title() != "ran" and not watched.complaints


def test_two_reviewers_at_once_never_see_one_case(desk: Site, watched: Watched, browser: Any) -> None:
    add(desk, [f"{number} of two at once: {'xyzuvwrs'[number] * 12}" for number in range(8)])
    tabs, seen = [watched.tab, browser.new_page()], []
    for tab in tabs:
        tab.goto(f"{desk.address}/review")
    for _ in range(3):
        both = [shown(tab) for tab in tabs]
        assert both[0] != both[1]
        seen += both
        for tab, before in zip(tabs, both, strict=True):
            tab.keyboard.press("d")
            playwright.expect(tab.locator("#prompt")).not_to_have_text(before)
    tabs[1].close()
    assert len(set(seen)) == 6  # nobody was given what the other had decided on either
    assert not watched.complaints


def test_one_key_decides_on_all_that_are_alike_and_one_takes_it_back(desk: Site, watched: Watched) -> None:
    tab = watched.tab
    add(desk, [ALIKE] * 4)
    tab.goto(f"{desk.address}/review")
    assert shown(tab) == ALIKE
    playwright.expect(tab.locator("#alike-count")).to_have_text("3")
    assert not narrow_and_dark(tab)
    waits = int(tab.locator("#waiting").inner_text())
    for key in "ga":
        tab.keyboard.press(key)
    playwright.expect(tab.locator("#outcome")).to_contain_text("So are 3 more like it.")
    tab.keyboard.press("u")
    playwright.expect(tab.locator("#outcome")).to_have_text("Taken back.")
    playwright.expect(tab.locator("#waiting")).to_have_text(str(waits))
    playwright.expect(tab.locator("#prompt")).to_have_text(ALIKE)
    assert not watched.complaints
