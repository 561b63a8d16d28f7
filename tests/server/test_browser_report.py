"""A month's report in a real Chromium: words stay whole on any screen, and only what nothing breaks is broken."""

from __future__ import annotations

from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import pytest
from msgspec.structs import replace

from feedback.ids import new_id
from feedback.reports.document import Changed, CycleRow, MoveRow, Report
from feedback.reports.facts import gather
from feedback.reports.forms import fragment, html
from feedback.storage.database import Database
from tests.feedback.world import NOW, World, settings_for
from tests.server.browsing import LONG, MARKS, Watched

pytestmark = MARKS
WORDY = (
    "The gate says that the new version answers two more of the golden cases and breaks none of them. " * 4
)
BROKEN = """() => [...document.querySelectorAll("th, td")].flatMap((cell) => {
    const lines = (from, to) => {
        const range = document.createRange();
        range.setStart(cell.firstChild, from);
        range.setEnd(cell.firstChild, to);
        return new Set([...range.getClientRects()].map((one) => Math.round(one.top))).size;
    };
    const text = cell.textContent;
    const whole = cell.tagName === "TH" || cell.classList.contains("number");
    const parts = whole ? [{0: text, index: 0}] : [...text.matchAll(/\\S+/g)];
    return parts.filter((one) => one[0] && one[0].length < 40 && lines(one.index, one.index + one[0].length) > 1);
}).map((one) => one[0])"""


@pytest.fixture
def found(sqlite_database: Database, tmp_path: Path) -> Report:
    """A month with long prose, ids, and a word that is wider than any screen."""
    world = World(sqlite_database, settings_for(tmp_path))
    for place in range(3):
        world.say(world.ask(f"question {place}", user=f"user {place}"), 4, rater=f"user {place}")
    world.write()
    with sqlite_database.reading() as session:
        report = gather(session, world.settings, "assistant", f"{NOW:%Y-%m}", NOW + timedelta(days=3))
    changed = Changed(WORDY, "x" * 500, LONG, '{"intent": "restock", "urgency": "normal"}')
    at = NOW.isoformat(timespec="seconds")
    turn = CycleRow(id=new_id(NOW), at=at, outcome="promoted", version="1.0", reason=WORDY)
    move = MoveRow(
        at=at,
        kind="promotion",
        from_version="base",
        to_version="1.0",
        reason=f"{WORDY} {'y' * 500}",
        decided_by="gate",
        fixes=2,
        regressions=1,
        difference=0.1,
        interval=(0.05, 0.15),
        fixed=[changed],
        broken=[changed],
    )
    return replace(report, cycles=[turn], moves=[move])


@pytest.mark.parametrize("form", ["page", "file"])
@pytest.mark.parametrize("width", [360, 1280])
def test_words_and_numbers_stay_whole_and_nothing_widens_the_page(
    found: Report, watched: Watched, form: str, width: int
) -> None:
    style = files("server").joinpath("pages/static/page.css").read_text(encoding="utf-8")
    page = f'<style>{style}</style><main><article class="card report">{fragment(found)}</article></main>'
    tab = watched.tab
    tab.set_viewport_size({"width": width, "height": 800})
    tab.set_content(html(found) if form == "file" else page)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("td", has_text=found.cycles[0].id).count() == 1
    assert tab.evaluate(BROKEN) == []
    widest = "Math.max(...[...document.querySelectorAll('td')].map((one) => one.offsetWidth))"
    assert (
        tab.evaluate(widest) <= 600
    )  # a word that nothing breaks is broken, so that its neighbours stay near
