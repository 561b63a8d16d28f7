"""Pages that follow what goes on, in a real Chromium: a cycle to its decision, what awaits one, and review's progress."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlmodel import select

from feedback.registry.training_steps import write_steps
from feedback.storage.tables import Cycle, Failure, ModelVersion
from tests.server.browsing import MARKS, Site, Watched, narrow_and_dark
from tests.server.turns import add_cycle

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install playwright axe-playwright-python"
)
pytestmark = MARKS
SLOW = 15_000


def step(name: str, outcome: str | None = None, **fields: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {"step": name, "started": now, "ended": now if outcome else None, "outcome": outcome, **fields}


def change(site: Site, cycle: str, **fields: Any) -> None:
    with site.database.session() as session:
        row = session.get_one(Cycle, cycle)
        for name, value in (fields | {"updated": datetime.now(UTC).timestamp()}).items():
            setattr(row, name, value)
        session.add(row)
        session.commit()


def train(site: Site, cycle: str, steps: range) -> None:
    def row(number: int) -> dict[str, Any]:
        losses = {"loss": 2 / (number + 1), "validation_new": 3 / (number + 1), "validation_old": 0.5}
        notes = {"noticed": ["<b>the loss rises</b>"] if number == 5 else []}
        return {"step": number, "steps": 20, "epoch": 1, "epochs": 1, **losses, **notes}

    with site.database.session() as session:
        write_steps(session, cycle, [row(number) for number in steps], datetime.now(UTC).timestamp())
        session.commit()


def running(site: Site) -> str:
    going: dict[str, Any] = {"state": "running", "step": "dataset", "decision": None, "reason": None}
    plain = {"result": None, "steps": [step("triage", "12 failures")]}
    return add_cycle(site.database, datetime.now(UTC), None, **going, **plain)


def test_a_running_cycle_is_watched_to_its_decision_without_a_reload(site: Site, watched: Watched) -> None:
    cycle, tab = running(site), watched.tab
    tab.goto(f"{site.address}/cycles/{cycle}")
    tab.evaluate("window.stays = true")
    steps = tab.get_by_role("region", name="Steps")
    now = tab.locator(".steps .now strong")
    change(
        site,
        cycle,
        step="train",
        steps=[step("triage", "12 failures"), step("train", progress={"step": 3, "steps": 20})],
    )
    playwright.expect(now).to_have_text("train", timeout=SLOW)
    playwright.expect(steps.get_by_text("step 3 of 20")).to_be_visible()
    train(site, cycle, range(9))
    training = tab.get_by_role("region", name="Training")
    playwright.expect(training.get_by_text("step 8 of 20")).to_be_visible(timeout=SLOW)
    playwright.expect(training.get_by_text("<b>the loss rises</b>")).to_be_visible()
    train(site, cycle, range(9, 20))
    playwright.expect(training.get_by_text("step 19 of 20")).to_be_visible(timeout=SLOW)
    assert training.locator("svg").count() == 1 and not narrow_and_dark(tab)
    with site.database.session() as session:
        number = session.exec(select(ModelVersion.number).where(ModelVersion.model == "assistant")).first()
    ended = {"state": "done", "decision": "proposed", "reason": "it waits for a person", "version": number}
    change(
        site,
        cycle,
        **ended,
        steps=[step("triage", "12 failures"), step("train", "trained"), step("gate", "passed")],
    )
    playwright.expect(tab.locator("h1 .badge")).to_have_text("proposed", timeout=SLOW)
    playwright.expect(tab.get_by_role("button", name=f"Promote {number}")).to_be_visible()
    playwright.expect(tab.get_by_role("status").last).to_have_text("Cycle proposed")
    assert not now.count() and not tab.get_by_role("button", name="Cancel").count()
    assert not tab.locator("time[datetime]:not([title])").count()  # also those that came later
    assert tab.evaluate("window.stays") and not narrow_and_dark(tab) and not watched.complaints


def test_what_is_being_written_stays_and_a_form_that_came_later_works(site: Site, watched: Watched) -> None:
    cycle, tab = running(site), watched.tab
    tab.goto(f"{site.address}/cycles/{cycle}")
    field = tab.get_by_label("Why it is to end")
    field.fill("it takes too l")
    change(site, cycle, step="train", steps=[step("triage", "12 failures"), step("train")])
    playwright.expect(tab.locator(".steps .now strong")).to_have_text("train", timeout=SLOW)
    assert field.input_value() == "it takes too l"
    playwright.expect(field).to_be_focused()
    field.fill("")
    tab.locator("h2").first.click()
    change(site, cycle, mode="auto")
    playwright.expect(tab.get_by_text("mode auto")).to_be_visible(timeout=SLOW)
    field.fill("it takes too long")
    tab.keyboard.press("Enter")
    playwright.expect(tab.get_by_text("Its end was asked for")).to_be_visible(timeout=SLOW)
    with site.database.session() as session:
        assert session.get_one(Cycle, cycle).cancel_requested


def test_the_overview_and_the_list_of_cycles_tell_what_is_new(site: Site, watched: Watched) -> None:
    tab = watched.tab
    tab.goto(f"{site.address}/overview")
    playwright.expect(tab.get_by_role("heading", name="assistant since")).to_be_visible(timeout=SLOW)
    tab.evaluate("window.stays = true")
    waits = tab.get_by_role("region", name="Awaits a decision").get_by_text("failure cases have")
    before = int(waits.inner_text().split()[0])
    site.add_failure("A parcel is lost again")
    playwright.expect(waits).to_contain_text(f"{before + 1} failure cases", timeout=SLOW)
    assert tab.evaluate("window.stays")
    tab.goto(f"{site.address}/cycles")
    tab.evaluate("window.stays = true")
    cycle = running(site)
    playwright.expect(tab.locator(f"a[href='/cycles/{cycle}']")).to_be_visible(timeout=SLOW)
    assert tab.evaluate("window.stays") and not watched.complaints


def test_reviews_progress_follows_what_others_decide(site: Site, watched: Watched) -> None:
    tab = watched.tab
    other = site.add_failure("Somebody else decides on this")
    tab.goto(f"{site.address}/review")
    tab.wait_for_selector("#case:not([hidden])[aria-busy=false]")
    before = int(tab.locator("#waiting").inner_text())
    shown = tab.locator("#prompt").inner_text()
    for state, waiting in (("dismissed", before - 1), ("quarantine", before)):
        with site.database.session() as session:
            row = session.exec(select(Failure).where(Failure.inference_id == other)).one()
            row.state = state
            session.add(row)
            session.commit()
        playwright.expect(tab.locator("#waiting")).to_have_text(str(waiting), timeout=SLOW)
    assert tab.locator("#held").inner_text() == "0" and tab.locator("#prompt").inner_text() == shown


def test_signing_out_in_one_tab_ends_what_another_shows(keyed_site: Site, watched: Watched) -> None:
    site, tab = keyed_site, watched.tab
    tab.goto(site.address)
    tab.get_by_label("Key", exact=True).fill(site.key("infer", "train", owner="tom"))
    tab.keyboard.press("Enter")
    playwright.expect(tab.get_by_role("button", name="Sign out")).to_be_visible()
    other = tab.context.new_page()
    try:
        other.goto(f"{site.address}/cycles")
        playwright.expect(other.get_by_role("heading", name="Turns of the loop")).to_be_visible()
        tab.get_by_role("button", name="Sign out").click()
        playwright.expect(other.get_by_role("heading", name="Sign in first")).to_be_visible(timeout=SLOW)
    finally:
        other.close()


def test_a_page_listens_only_while_it_is_seen(site: Site, watched: Watched) -> None:
    tab = watched.tab
    tab.add_init_script(
        """
        window.open_ = 0;
        const Source = EventSource;
        window.EventSource = class extends Source {
          constructor(address) { super(address); window.open_ += 1; }
          close() { if (this.readyState !== Source.CLOSED) window.open_ -= 1; super.close(); }
        };
        Object.defineProperty(document, "hidden", { get: () => window.hidden_ ?? false });
        """
    )
    tab.goto(f"{site.address}/cycles")
    tab.wait_for_function("window.open_ === 1")
    for hidden, count in ((True, 0), (False, 1)):
        tab.evaluate(
            f"window.hidden_ = {str(hidden).lower()}; document.dispatchEvent(new Event('visibilitychange'))"
        )
        assert tab.evaluate("window.open_") == count
    assert not watched.complaints
