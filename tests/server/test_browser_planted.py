"""Markup planted wherever somebody can write, in a real Chromium: every page that shows it shows it as text, and nothing of it runs.

A policy keeps scripts in the text of a page from running even if one were in it; the browser then complains. So a page that
lets markup through fails here also where the policy saves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from msgspec.structs import replace
from sqlmodel import select

from feedback.datasets.freeze import build_dataset
from feedback.ids import new_id
from feedback.storage.tables import Failure, ModelVersion
from tests.feedback.world import RIGHT, World, settings_for
from tests.server.browsing import MARKS, Site, Watched, sign_in, standing
from tests.server.turns import add_canary, add_cycle
from tests.server.versions import add_version

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install playwright axe-playwright-python"
)
pytestmark = MARKS
KEY = "<img src=x onerror=attacked=1>"
EVIL = "\"'></title></textarea></script><script>attacked=2</script><img src=x onerror='attacked=3'><svg onload=attacked=4>"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site on which everything that can be written is markup that would run."""
    with standing(tmp_path_factory.mktemp("gallery")) as made:
        made.engine.answer = lambda body: f"answer {EVIL}"
        ask(made)
        plant_files(made)
        plant_versions(made)
        plant_datasets(made)
        made.ids["admin"] = made.key("admin", owner=f"owner {EVIL}")
        yield made


def ask(site: Site) -> None:
    body = {
        "model": "assistant",
        "messages": [{"role": "system", "content": EVIL}, {"role": "user", "content": f"prompt {EVIL}"}],
        "user": f"user {EVIL}",
        "metadata": {KEY: f"value {EVIL}"},
    }
    answer = httpx.post(f"{site.address}/v1/chat/completions", json=body).raise_for_status()
    site.ids["inference"] = answer.headers["x-starloop-inference-id"]
    said = {"rating": 1, "comment": f"comment {EVIL}", "correction": f"correction {EVIL}", "tags": [KEY]}
    rated = {"inference_id": site.ids["inference"], "rater": f"rater {EVIL}", **said}
    httpx.post(f"{site.address}/v1/feedback", json=rated).raise_for_status()
    site.inference(site.ids["inference"])


def plant_files(site: Site) -> None:
    rows = "".join(
        f'{{"prompt": "row {number} {KEY}", "completion": "told {number} {KEY}"}}\n' for number in range(5)
    )
    query = {"model": "assistant", "name": f"file {KEY}.jsonl"}
    httpx.post(
        f"{site.address}/v1/imports", params=query, content=rows.encode(), timeout=60
    ).raise_for_status()


def plant_versions(site: Site) -> None:
    now = datetime.now(UTC)
    site.ids["version"] = add_version(site.database, site.gateway.directory)
    steps = [
        {"step": KEY, "started": now.isoformat(), "ended": now.isoformat(), "outcome": f"outcome {EVIL}"}
    ]
    site.ids["cycle"] = add_cycle(
        site.database, now, site.ids["version"], reason=f"reason {EVIL}", requested_by=EVIL, steps=steps
    )
    add_canary(site.database, now, site.ids["cycle"], site.ids["version"])
    with site.database.session() as session:
        version = session.exec(select(ModelVersion)).one()
        version.note, version.facts = f"note {EVIL}", {"method": KEY, "examples": EVIL}
        session.add(version)
        session.commit()
    moved = {"version": site.ids["version"], "cycle_id": site.ids["cycle"], "reason": f"moved {EVIL}"}
    httpx.post(f"{site.address}/v1/models/assistant/promote", json=moved, timeout=60).raise_for_status()
    proposed = add_version(site.database, site.gateway.directory)
    add_cycle(site.database, now, proposed, reason=f"reason {EVIL}")


def plant_datasets(site: Site) -> None:
    settings = settings_for(site.gateway.directory, rater_minimum=50)
    anything = replace(settings.model[0], pattern="(?s).+")
    world = World(site.database, replace(settings, model=[anything]))
    world._moment = datetime.now(UTC) - timedelta(hours=1)
    failed = []
    for number in range(60):
        words = f"{number * 7919:x} {'abcdefghij'[number % 10] * 9}"
        fields: dict[str, Any] = {
            "user": f"{KEY} {number}",
            "metadata": {KEY: KEY if number % 2 else "plain"},
        }
        one = world.ask(f"asked {KEY} {words}", f"wrong {KEY}", **fields)
        if number % 2:
            failed.append(one)
            world.say(one, 1, f"{RIGHT} {KEY} {number}", rater=f"{KEY} {number}")
    world.write()
    now = datetime.now(UTC)
    reasons = [{"reason": "low_rating", "confidence": 1.0, "evidence": f"evidence {EVIL}"}]
    plain: dict[str, Any] = {"model": "assistant", "created": now.timestamp(), "reasons": reasons}
    with site.database.session() as session:
        session.add_all(Failure(id=new_id(now), inference_id=one, **plain) for one in failed)
        session.commit()
    for which in ("before", "dataset"):
        site.ids[which] = new_id(now)
        guards = ["replay", "agreement"] if which == "dataset" else ["replay"]
        build_dataset(world.database, world.settings, "assistant", site.ids[which], guards, now)


def settled(tab: Any, address: str) -> None:
    """Go there, and wait for what is found beside the gateway."""
    tab.goto(address)
    playwright.expect(tab.locator("main [aria-busy=true]")).to_have_count(0, timeout=60_000)


def check(tab: Any, watched: Watched) -> None:
    assert tab.evaluate("typeof attacked") == "undefined"
    assert not tab.locator("main img, main script, main [onerror], main [onload]").count()
    assert not [one for one in watched.complaints if "Failed to load resource" not in one]


SHOWN = {
    "/": (f"prompt {EVIL}", f"answer {EVIL}"),
    "/inferences": (f"prompt {EVIL}", f"user {EVIL}"),
    "/inferences/{inference}": (
        *(f"{KEY}=value {EVIL}", f"comment {EVIL}", f"correction {EVIL}", f"rater {EVIL}", f"user {EVIL}"),
        f'"{KEY}"',  # in the request as it came
    ),
    "/overview": (f"asked {KEY}", f"reason {EVIL}", KEY),
    "/cycles": (f"reason {EVIL}", f"by {EVIL}"),
    "/cycles/{cycle}": (
        f"reason {EVIL}",
        f"outcome {EVIL}",
        f"local made {{version}} the champion: moved {EVIL}",
    ),
    "/versions": (f"note {EVIL}", f"moved {EVIL}", KEY),
    "/datasets": (f"file {KEY}.jsonl",),
    "/datasets/{dataset}": (f"asked {KEY}", f"{RIGHT} {KEY}"),
    "/datasets/{dataset}?against={before}": (),
    "/datasets/{dataset}?check=1": (),
    "/datasets/{dataset}?example=1": (f"{KEY}",),
    "/report": (f"moved {EVIL}",),
    "/settings": (f"owner {EVIL}", KEY),
    "/widget": (),
}


@pytest.mark.parametrize("place", range(len(SHOWN)), ids=list(SHOWN))
def test_planted_markup_is_text_on_every_page(gallery: Site, watched: Watched, place: int) -> None:
    tab = watched.tab
    sign_in(tab, gallery, gallery.ids["admin"])
    address, texts = list(SHOWN.items())[place]
    settled(tab, gallery.address + address.format(**gallery.ids))
    check(tab, watched)
    shown = tab.locator("main").text_content()
    for text in texts:
        assert text.replace("{version}", gallery.ids["version"]) in shown, text


def test_planted_markup_is_text_in_review_and_in_its_differences(gallery: Site, watched: Watched) -> None:
    tab = watched.tab
    sign_in(tab, gallery, gallery.ids["admin"])
    tab.goto(f"{gallery.address}/review")
    tab.wait_for_selector("#case:not([hidden])[aria-busy=false]")
    playwright.expect(tab.locator("#reasons")).to_contain_text(f"evidence {EVIL}")
    assert KEY in tab.locator("#prompt").inner_text() and KEY in tab.locator("#remarks").inner_text()
    tab.keyboard.press("e")
    tab.get_by_label("The right answer").fill(EVIL)
    check(tab, watched)


def test_names_of_files_and_bad_rows_are_text_when_they_are_sent(gallery: Site, watched: Watched) -> None:
    tab = watched.tab
    sign_in(tab, gallery, gallery.ids["admin"])
    tab.goto(f"{gallery.address}/datasets")
    rows = f'{{"{KEY}": "{KEY}"}}\n{{"prompt": 5, "completion": "{KEY}"}}\n'.encode()
    file = {"name": f"{KEY}.jsonl", "mimeType": "text/plain", "buffer": rows}
    tab.locator("#upload input[type=file]").set_input_files([file])
    tab.get_by_role("button", name="Send").click()
    playwright.expect(tab.locator("#sent ~ #upload .outcome")).to_contain_text(KEY, timeout=20_000)
    check(tab, watched)


REFLECTED = (
    *(
        f"/inferences?{name}={{evil}}"
        for name in ("model", "version", "reason", "user", "since", "until", "q", "cursor")
    ),
    *(
        f"{page}?model={{evil}}"
        for page in ("/review", "/overview", "/cycles", "/versions", "/datasets", "/report", "/settings")
    ),
    *(
        "/overview?days={evil}",
        "/report?month={evil}",
        "/versions?before={evil}&after=base",
        "/cycles?cursor={evil}",
    ),
    *("/inferences/{evil}", "/cycles/{evil}", "/datasets/{evil}"),
    *(
        f"/datasets/{{dataset}}?{name}={{evil}}"
        for name in ("source", "new", "after", "example", "against", "check")
    ),
)


def test_markup_in_an_address_is_text_on_the_page_that_it_leads_to(gallery: Site, watched: Watched) -> None:
    tab = watched.tab
    sign_in(tab, gallery, gallery.ids["admin"])
    for address in REFLECTED:
        for evil in (
            EVIL.replace("/", "") if address.endswith("/{evil}") else EVIL,
            "javascript:attacked=5",
            "\u202e%00",
        ):
            came = tab.goto(gallery.address + address.format(evil=quote(evil, safe=""), **gallery.ids))
            assert came.status in (200, 400, 404), (address, came.status)
            assert came.headers["content-type"].startswith("text/html"), (address, came.text()[:200])
            check(tab, watched)
            assert not tab.locator("[href^='javascript:'], [action^='javascript:']").count()
