"""Versions in a real Chromium: promoted, rolled back, promoted from a cycle's page, and any two of them compared."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from feedback.datasets.case_hash import case_hash
from feedback.settings import Evaluation
from feedback.storage.tables import Case, EvaluationResult
from tests.server.browsing import MARKS, Site, Watched, narrow_and_dark, standing
from tests.server.turns import add_cycle
from tests.server.versions import add_version

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install playwright axe-playwright-python"
)
pytestmark = MARKS
EVIL = "<img src=x onerror=document.title='ran'>"
OUTCOMES = {
    "stays right": ("refund", "refund"),
    "was fixed": ("bug", "refund"),
    f"was broken {EVIL}": ("refund", f"bug {EVIL}"),
    "was broken, and matters": ("refund", "login"),
    "was never right": ("bug", "login"),
}


CASE = "0199aa00-0000-7000-8000-00000000000"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with three versions, of which two have answered five cases."""
    with standing(tmp_path_factory.mktemp("shelf")) as made:
        numbers = [add_version(made.database, made.gateway.directory) for _ in range(3)]
        made.ids |= {"first": numbers[0], "second": numbers[1], "third": numbers[2]}
        evaluate(made, numbers[:2])
        yield made


def evaluate(site: Site, numbers: list[str]) -> None:
    tokens = Evaluation().max_tokens
    with site.database.session() as session:
        for place, (prompt, outputs) in enumerate(OUTCOMES.items()):
            messages = [{"role": "user", "content": prompt}]
            plain: dict[str, Any] = {"model": "assistant", "prompt_hash": str(place), "created": 0.0}
            asked: dict[str, Any] = {"suite": "golden", "state": "confirmed", "group_key": str(place)}
            critical = "matters" in prompt
            session.add(
                Case(
                    id=f"{CASE}{place}",
                    messages=messages,
                    answer="refund",
                    critical=critical,
                    **asked,
                    **plain,
                )
            )
            for number, output in zip(numbers, outputs, strict=True):
                row: dict[str, Any] = {"version": number, "case_hash": case_hash(messages, tokens)}
                session.add(EvaluationResult(output=output, latency_ms=5.0, **row, **plain))
        session.commit()


def serving(site: Site) -> str:
    """The version that answers."""
    return str(site.ask("Who answers?")["x-starloop-version"])


def test_a_version_is_promoted_and_rolled_back_by_keyboard_and_the_timeline_tells_why(
    shelf: Site, watched: Watched
) -> None:
    tab, first, second = watched.tab, shelf.ids["first"], shelf.ids["second"]
    badge = tab.locator("tr:has(.badge) th")
    before = serving(shelf)
    for number, reason in ((first, "it fixes refunds"), (second, f"better still {EVIL}")):
        tab.goto(f"{shelf.address}/versions")
        form = tab.locator("form.act", has=tab.get_by_role("button", name="Promote"))
        form.get_by_label("Version").select_option(number)
        form.get_by_label("Why").fill(reason)
        tab.keyboard.press("Enter")
        playwright.expect(badge).to_have_text(f"{number} serves")
        assert serving(shelf) == f"assistant@{number}"
        newest = tab.get_by_role("region", name="Timeline").locator("li").first
        playwright.expect(newest).to_contain_text(f"→ {number} {reason}")
        playwright.expect(newest).to_contain_text("by local")
    assert not narrow_and_dark(tab)
    for number, left in ((first, second), ("base", first)):
        form = tab.locator("form.act", has=tab.get_by_role("button", name=f"Roll back to {number}"))
        form.get_by_label("Why").fill("users rate it lower")
        form.get_by_role("button").click()
        playwright.expect(badge).to_have_text(f"{number} serves")
        newest = tab.locator(".timeline li").first
        playwright.expect(newest).to_contain_text(f"{left} → {number} users rate it lower")
    assert serving(shelf) == before == "assistant@base"
    assert not tab.get_by_role("button", name="Roll back").count()
    assert tab.title() != "ran" and not watched.complaints


def test_a_move_without_a_reason_or_from_a_page_that_is_out_of_date_is_told_in_its_place(
    shelf: Site, watched: Watched
) -> None:
    tab, third = watched.tab, shelf.ids["third"]
    tab.goto(f"{shelf.address}/versions")
    form = tab.locator("form.act", has=tab.get_by_role("button", name="Promote"))
    form.get_by_label("Version").select_option(third)
    form.get_by_role("button").click()
    assert serving(shelf) == "assistant@base"  # the browser asks for a reason first
    other = tab.context.new_page()
    other.goto(f"{shelf.address}/versions")
    for page in (other, tab):
        page.locator("form.act", has=page.get_by_role("button", name="Promote")).get_by_label(
            "Version"
        ).select_option(third)
        page.get_by_label("Why").first.fill("one of two tabs")
    other.get_by_role("button", name="Promote").dblclick()
    playwright.expect(other.locator("tr:has(.badge) th")).to_have_text(f"{third} serves")
    moves = other.locator(".timeline .promotion", has_text="one of two tabs")
    assert moves.count() == 1  # two clicks are one promotion
    other.close()
    tab.get_by_role("button", name="Promote").click()
    told = form.get_by_role("status")
    playwright.expect(told).to_contain_text(f"assistant@{third} is the champion already")
    assert "`" not in told.inner_text() and form.get_by_role("button").is_enabled()


def test_a_rollback_leads_where_its_button_says_or_nowhere(shelf: Site, watched: Watched) -> None:
    tab, other = watched.tab, watched.tab.context.new_page()
    for number in (shelf.ids["first"], shelf.ids["second"]):
        body = {"version": number, "reason": "to be rolled back from"}
        httpx.post(f"{shelf.address}/v1/models/assistant/promote", json=body).raise_for_status()
    for page in (other, tab):
        page.goto(f"{shelf.address}/versions")
        page.locator("form.act").last.get_by_label("Why").fill("both saw it")
    other.get_by_role("button", name=f"Roll back to {shelf.ids['first']}").dblclick()
    playwright.expect(other.locator("tr:has(.badge) th")).to_have_text(f"{shelf.ids['first']} serves")
    other.close()
    tab.get_by_role("button", name=f"Roll back to {shelf.ids['first']}").click()
    playwright.expect(tab.locator("form.act").last.get_by_role("status")).to_contain_text(
        "the champion was moved meanwhile"
    )
    assert serving(shelf) == f"assistant@{shelf.ids['first']}"


def test_what_a_cycle_proposes_is_promoted_on_its_page(shelf: Site, watched: Watched) -> None:
    tab, number = watched.tab, add_version(shelf.database, shelf.gateway.directory)
    cycle = add_cycle(shelf.database, datetime.now(UTC), number)
    tab.goto(f"{shelf.address}/overview")
    proposed = tab.get_by_role("region", name="Awaits a decision").locator(f"a[href='/cycles/{cycle}']")
    playwright.expect(proposed).to_have_text(f"assistant@{number}")
    proposed.click()
    tab.get_by_label("Why it is to serve").fill("the gate is content, and so am I")
    tab.get_by_role("button", name=f"Promote {number}").click()
    told = f"local made {number} the champion: the gate is content, and so am I"
    playwright.expect(tab.get_by_text(told)).to_be_visible()
    assert not tab.get_by_role("button", name="Promote").count()
    assert serving(shelf) == f"assistant@{number}" and not watched.complaints


def test_what_a_cycle_proposes_is_rejected_on_its_page_with_a_reason(shelf: Site, watched: Watched) -> None:
    tab, number, before = watched.tab, add_version(shelf.database, shelf.gateway.directory), serving(shelf)
    cycle = add_cycle(shelf.database, datetime.now(UTC), number)
    tab.goto(f"{shelf.address}/cycles/{cycle}")
    tab.get_by_label("Why it is not to serve").fill("it invents refunds")
    tab.get_by_role("button", name=f"Reject {number}").click()
    playwright.expect(tab.get_by_text(f"local rejected {number}: it invents refunds")).to_be_visible()
    assert not tab.get_by_role("button", name="Reject").count()
    tab.goto(f"{shelf.address}/overview")
    assert not tab.locator(f"a[href='/cycles/{cycle}']").count()
    assert serving(shelf) == before and not watched.complaints


def test_two_versions_are_compared_case_by_case_side_by_side(shelf: Site, watched: Watched) -> None:
    tab, first, second = watched.tab, shelf.ids["first"], shelf.ids["second"]
    tab.goto(f"{shelf.address}/versions")
    tab.get_by_label("Before").select_option(first)
    tab.get_by_label("After").select_option(second)
    tab.get_by_role("button", name="Compare").click()
    tab.wait_for_url(f"**/versions?model=assistant&before={first}&after={second}#beside")
    beside = tab.get_by_role("region", name="Compare two")
    row = beside.get_by_role("row", name="golden").first
    assert [cell.inner_text() for cell in row.get_by_role("cell").all()][:5] == [
        *("5", "60.0 %", "40.0 %", "1", "2")
    ]
    cases = beside.locator("article")
    told = [[part.inner_text() for part in case.locator(".asked, .said").all()] for case in cases.all()]
    assert told == [
        ["was broken, and matters", "refund", "refund", "login"],
        [f"was broken {EVIL}", "refund", "refund", f"bug {EVIL}"],
        ["was fixed", "refund", "bug", "refund"],
    ]
    assert [one.inner_text() for one in beside.locator("h3").all()] == ["Broken", "Fixed"]
    playwright.expect(cases.first.get_by_text("critical", exact=True)).to_be_visible()
    left, right = (
        cases.first.locator("figure", has_text=name).bounding_box()
        for name in (f"assistant@{first}", f"assistant@{second}")
    )
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    assert not narrow_and_dark(tab)
    left, right = (one.bounding_box() for one in cases.first.locator("figure").all()[-2:])
    assert left["x"] == right["x"] and left["y"] < right["y"]  # on a narrow screen one below the other
    for label, marked in (("No version may lose it", True), ("It is not critical", False)):
        last = cases.filter(has_text="was fixed")
        last.get_by_role("button", name=label).click()
        playwright.expect(last.get_by_text("critical", exact=True)).to_have_count(int(marked))
        with shelf.database.reading() as session:
            assert session.get_one(Case, f"{CASE}1").critical is marked
    assert tab.title() != "ran" and not watched.complaints
    tab.get_by_label("After").select_option(shelf.ids["third"])
    tab.get_by_role("button", name="Compare").click()
    playwright.expect(beside.get_by_text("They share no case")).to_be_visible()
