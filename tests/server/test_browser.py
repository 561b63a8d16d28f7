"""Every page in a real Chromium: accessible in light and dark, narrow, small, from this host alone; and worked by keyboard."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files

import httpx
import pytest

from tests.server.browsing import MARKS, Site, Watched, narrow_and_dark, shop, violations

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install playwright axe-playwright-python"
)
pytestmark = MARKS
PAGES = (
    *("/", "/review", "/overview", "/inferences", "/inferences/{inference}", "/cycles", "/cycles/{cycle}"),
    *(
        "/cycles/{running}",
        "/versions",
        "/versions?before=base&after=1.0",
        "/datasets",
        "/datasets/{dataset}",
    ),
    *("/datasets/{dataset}?example=3", "/report", "/settings", "/widget", "/inferences/none"),
)
MOST_BYTES = 150_000


@pytest.mark.parametrize("address", PAGES)
def test_a_page_is_accessible_narrow_small_and_from_here_alone(
    site: Site, watched: Watched, address: str
) -> None:
    tab = watched.tab
    tab.goto(site.address + address.format(**site.ids))
    if address == "/review":
        tab.wait_for_selector("#case:not([hidden])")
    wrong = narrow_and_dark(tab)
    assert not wrong, "\n".join(wrong)
    assert all(one.startswith(site.address) for one in watched.addresses), watched.addresses
    if not address.endswith("/none"):  # a page of what there is not: the browser says so, too
        assert not watched.complaints
    assert watched.sizes <= MOST_BYTES


def test_an_address_that_leads_nowhere_is_a_page_for_browsers_and_an_error_object_for_programs(
    site: Site, watched: Watched
) -> None:
    tab = watched.tab
    for address in ("/cyclez", "/versions/1.0", "/<img src=x onerror=attacked=1>"):
        came = tab.goto(site.address + address)
        assert came.status == 404 and "script-src 'self'" in came.headers["content-security-policy"]
        playwright.expect(tab.get_by_role("heading", name="There is no such page")).to_be_visible()
    assert not narrow_and_dark(tab) and tab.evaluate("typeof attacked") == "undefined"
    for address, headers in (("/cyclez", {}), ("/v1/nothing", {"accept": "text/html"})):
        told = httpx.get(site.address + address, headers=headers)
        assert (told.status_code, told.json()["error"]["code"]) == (404, "not_found")


def test_on_a_narrow_screen_the_pages_are_a_menu_of_one_row_that_keys_open_without_scripts(
    site: Site, watched: Watched
) -> None:
    tab = watched.tab
    tab.route("**/static/*.js*", lambda route: route.abort())
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.goto(f"{site.address}/versions")
    assert tab.locator("header").bounding_box()["height"] < 60
    link = tab.get_by_role("link", name="Cycles", exact=True)
    playwright.expect(link).to_be_hidden()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    playwright.expect(tab.locator("summary", has_text="Pages")).to_be_focused()
    tab.keyboard.press("Enter")
    playwright.expect(link).to_be_visible()
    for _ in range(5):
        tab.keyboard.press("Tab")
    playwright.expect(link).to_be_focused()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/cycles")


def test_times_are_told_in_the_readers_zone_and_hold_those_of_utc(site: Site, watched: Watched) -> None:
    tab = watched.tab
    tab.goto(f"{site.address}/inferences/{site.ids['inference']}")
    made = datetime.fromisoformat(site.inference(site.ids["inference"])["created"])
    time_ = tab.locator("time").first
    assert time_.get_attribute("title") == f"{made:%Y-%m-%d %H:%M:%S} UTC"
    hour = (made.hour + 9) % 24
    assert f"{hour:02}:{made:%M}" in time_.inner_text()


def test_days_of_the_overview_are_the_readers_from_the_first_visit_on(site: Site, watched: Watched) -> None:
    tab = watched.tab
    today = "new Date().toLocaleDateString('sv')"
    days = [tab.evaluate(today)]
    tab.goto(f"{site.address}/overview?days=90")
    figures = tab.locator("[data-zone]")
    playwright.expect(figures).to_have_attribute("data-zone", "Asia/Tokyo", timeout=30_000)
    playwright.expect(tab.get_by_text("days are those of Asia/Tokyo")).to_be_visible()
    titles = tab.locator("svg[aria-label^='Answers'] title").all_text_contents()
    days.append(tab.evaluate(today))  # midnight may have passed
    assert titles[-1].partition(": ")[0] in days
    tab.goto(f"{site.address}/report")
    playwright.expect(tab.get_by_text("in UTC as the month is")).to_be_visible(timeout=30_000)


def test_a_bad_file_is_told_in_the_pages_own_words_and_in_red(site: Site, watched: Watched) -> None:
    tab = watched.tab
    tab.emulate_media(color_scheme="light")
    tab.goto(f"{site.address}/datasets")
    rows = b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n'
    tab.locator("#upload input[type=file]").set_input_files(
        [{"name": "<b>.jsonl", "mimeType": "text/plain", "buffer": rows}]
    )
    tab.get_by_role("button", name="Send").click()
    told = tab.locator("#upload .outcome")
    expected = (
        "<b>.jsonl: 1 bad and 1 good rows; nothing was imported. Mend them, or choose “Leave bad rows out”."
    )
    playwright.expect(told).to_have_text(expected, timeout=20_000)
    assert told.evaluate("one => getComputedStyle(one).color") == "rgb(179, 38, 30)"
    assert tab.locator("#bad-rows tbody tr").count() == 1


def test_what_is_being_written_is_not_lost_when_the_raters_are_weighed(site: Site, watched: Watched) -> None:
    tab = watched.tab
    tab.route("**/static/again.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    tab.goto(f"{site.address}/settings")
    tab.unroute("**/static/again.js")
    script = files("server").joinpath("pages/static/again.js").read_text(encoding="utf-8")
    tab.get_by_label("Owner").fill("web-shop")
    tab.get_by_role("heading", name="Settings").click()
    tab.evaluate(f"() => {{ document.body.dataset.again = 0.01; {script} }}")
    tab.wait_for_timeout(300)
    assert tab.get_by_label("Owner").input_value() == "web-shop"
    tab.get_by_label("Owner").fill("")
    tab.get_by_role("heading", name="Settings").click()
    tab.wait_for_event("load")


def test_failures_are_reviewed_with_two_keystrokes_each_at_most(site: Site, watched: Watched) -> None:
    tab, strokes = watched.tab, 0
    tab.goto(f"{site.address}/review")
    decided = tab.locator("#decided")

    def waiting() -> int:
        return int(tab.locator("#waiting").inner_text())

    tab.wait_for_selector("#case:not([hidden])[aria-busy=false]")
    before = waiting()
    for done, keys in enumerate(("a", "1a", "d", "r"), 1):
        tab.wait_for_selector("#case:not([hidden])[aria-busy=false]")
        for key in keys:
            tab.keyboard.press(key)
            strokes += 1
        playwright.expect(decided).to_have_text(str(done))
    accepted = httpx.get(f"{site.address}/v1/candidates?model=assistant&state=accepted").json()["items"]
    assert len(accepted) == 2 and len(site.failures("dismissed")) == 1
    assert strokes <= 2 * 4 and waiting() == before - 4
    tab.keyboard.press("u")
    playwright.expect(decided).to_have_text("3")
    assert waiting() == before - 3
    assert not watched.complaints


def test_an_answer_is_rated_by_keyboard_on_a_page_of_another_site_under_a_strict_policy(
    site: Site, watched: Watched
) -> None:
    headers, tab = site.ask("Where is it?", "bob"), watched.tab
    inference = headers["x-starloop-inference-id"]
    page = (
        '<!doctype html><html lang="en"><head><meta name="viewport" content="width=device-width"><title>Shop</title>'
        '<link rel="icon" href="data:,"></head><body><main><h1>Shop</h1>'
        f'<script src="{site.address}/widget.js" async></script><star-rating inference-id="{inference}" '
        f'token="{headers["x-starloop-feedback-token"]}"></star-rating></main></body></html>'
    )
    policy = f"default-src 'none'; img-src data:; script-src {site.address}; connect-src {site.address}"
    with shop(page, policy) as address:
        tab.goto(address)
        stars = tab.get_by_role("radiogroup", name="Rate this answer")
        stars.wait_for()
        assert not violations(tab)
        tab.keyboard.press("Tab")
        for _ in range(3):
            tab.keyboard.press("ArrowRight")
        playwright.expect(stars.get_by_role("radio", name="3 of 5 stars")).to_be_checked()
        playwright.expect(tab.get_by_role("status")).to_have_text("Thank you.")
        tab.keyboard.press("5")
        playwright.expect(tab.locator("star-rating[stars='5']")).to_be_attached()
        site.until(lambda: [one["rating"] for one in site.said(inference) if one["current"]] == [5])
        assert {one["rater"] for one in site.said(inference)} == {"bob"}
        assert not watched.complaints
        tab.locator("star-rating").evaluate("stars => stars.setAttribute('token', 'AAAAAAAAAAAA.AAAA')")
        tab.keyboard.press("1")
        playwright.expect(tab.get_by_role("status")).to_have_text("This rating was not accepted.")
        playwright.expect(stars.get_by_role("radio", name="5 of 5 stars")).to_be_checked()
        tab.context.set_offline(True)
        tab.keyboard.press("2")
        playwright.expect(tab.get_by_role("status")).to_have_text("No connection. Please try again.")
        tab.context.set_offline(False)


def test_with_a_key_one_signs_in_by_keyboard_and_the_session_decides(
    keyed_site: Site, watched: Watched
) -> None:
    site, tab = keyed_site, watched.tab
    secret = site.key("infer", "review", owner="rita")
    tab.goto(f"{site.address}/review")
    playwright.expect(tab.get_by_role("heading", name="Sign in first")).to_be_visible()
    assert not violations(tab)
    tab.get_by_label("Key", exact=True).fill("sl-wrong")
    tab.keyboard.press("Enter")
    playwright.expect(tab.get_by_role("status")).to_contain_text("not known, or was revoked")
    assert [one for one in watched.complaints if "401" not in one] == []
    watched.complaints.clear()
    tab.get_by_label("Key", exact=True).focus()
    tab.keyboard.type(secret)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#case:not([hidden])[aria-busy=false]")
    tab.keyboard.press("d")
    playwright.expect(tab.locator("#outcome")).to_have_text("Dismissed.")
    tab.goto(f"{site.address}/settings")
    playwright.expect(tab.get_by_role("heading", name="Sign in first")).to_be_visible()
    assert secret not in tab.content() and not watched.complaints
