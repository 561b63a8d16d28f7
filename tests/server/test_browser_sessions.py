"""Sessions that end while somebody works, in a real Chromium: it is told in words, and nothing that was written is lost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.browsing import MARKS, Site, Watched, sign_in

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install playwright axe-playwright-python"
)
pytestmark = MARKS
ENDED = "Your session has ended"


def end(tab: Any) -> None:
    tab.context.clear_cookies()


def test_a_chat_goes_on_where_it_was_when_its_reader_signs_in_again(
    keyed_site: Site, watched: Watched
) -> None:
    tab, key = watched.tab, keyed_site.key("infer", "feedback", owner="ina")
    sign_in(tab, keyed_site, key)
    message, send = (
        tab.get_by_label("Message", exact=True),
        tab.locator("#send"),
    )
    message.fill("The first question")
    send.click()
    playwright.expect(tab.locator(".opinion")).to_be_visible()
    end(tab)
    message.fill("A long question, thought about for a while")
    send.click()
    playwright.expect(tab.locator("#lock-problem")).to_contain_text(ENDED)
    tab.get_by_label("Key", exact=True).fill("sl-not-a-key")
    tab.keyboard.press("Enter")
    told = tab.locator("#lock-problem")
    playwright.expect(told).to_contain_text("not known, or was revoked")
    assert "`" not in told.inner_text()
    playwright.expect(told.locator("code").first).to_contain_text("starloop keys create")
    tab.get_by_label("Key", exact=True).fill(key)
    tab.keyboard.press("Enter")
    playwright.expect(message).to_have_value("A long question, thought about for a while")
    playwright.expect(message).to_be_focused()
    assert tab.locator(".turn .asked", has_text="The first question").is_visible()
    tab.keyboard.press("Enter")
    playwright.expect(tab.locator(".opinion:visible")).to_have_count(2)


def test_forms_tell_an_ended_session_and_keep_what_was_written(keyed_site: Site, watched: Watched) -> None:
    site, tab = keyed_site, watched.tab
    sign_in(tab, site, site.ids["admin"])
    other = tab.context.new_page()
    forms = {
        "/settings": ("Owner", "Make a key", "#new-key .outcome"),
        "/widget": ("Question", "Ask", "#try .outcome"),
        "/cycles": ("Why", "Start a cycle", "form.act .outcome"),
    }
    for address, (label, button, outcome) in forms.items():
        tab.goto(site.address + address)
        field = tab.get_by_label(label, exact=True).first
        field.fill("what I wrote")
        if address == "/settings":
            tab.get_by_label("infer").check()
        end(tab)
        tab.get_by_role("button", name=button).click()
        playwright.expect(tab.locator(outcome)).to_contain_text(ENDED)
        assert field.input_value() == "what I wrote"
        sign_in(other, site, site.ids["admin"])
        tab.get_by_role("button", name=button).click()
        playwright.expect(tab.locator(outcome).first).not_to_contain_text(ENDED)
    other.close()


def test_a_correction_under_way_survives_an_ended_session_in_review(
    keyed_site: Site, watched: Watched
) -> None:
    tab = watched.tab
    keyed_site.add_failure("Nine parcels are lost")  # the tabs of other tests may hold all others
    sign_in(tab, keyed_site, keyed_site.ids["admin"])
    tab.goto(f"{keyed_site.address}/review")
    tab.wait_for_selector("#case:not([hidden])[aria-busy=false]")
    tab.keyboard.press("e")
    field = tab.get_by_label("The right answer")
    field.fill("an answer that took minutes")
    end(tab)
    tab.keyboard.press("Control+Enter")
    playwright.expect(tab.locator("#problem")).to_contain_text(ENDED)
    assert field.input_value() == "an answer that took minutes"


def test_a_file_that_is_refused_names_what_to_do_as_code(site: Site, watched: Watched) -> None:
    tab = watched.tab
    tab.goto(f"{site.address}/datasets")
    for name, content, code in (
        ("utf16.jsonl", '{"prompt": "a", "completion": "b"}'.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        ("rows.jsonl", b'["a"]\n', "jq -c '.[]'"),
    ):
        file = {"name": name, "mimeType": "text/plain", "buffer": content}
        tab.locator("#upload input[type=file]").set_input_files([file])
        tab.get_by_role("button", name="Send").click()
        told = tab.locator("#sent ~ *, section[aria-labelledby=sent]").first
        playwright.expect(told.locator("code", has_text=code).last).to_be_visible(timeout=20_000)
        assert "`" not in told.inner_text()


@pytest.mark.parametrize("address", ["/", "/review", "/inferences/none", "/cycles", "/settings", "/nowhere"])
def test_a_session_is_signed_out_of_where_one_stands(
    keyed_site: Site, watched: Watched, address: str
) -> None:
    tab = watched.tab
    # A key that opens none of them but the first: there, too, one must be able to come with another.
    sign_in(tab, keyed_site, keyed_site.key("feedback", owner="fay"))
    tab.goto(keyed_site.address + address)
    playwright.expect(tab.locator(".session")).to_contain_text("fay")
    tab.get_by_role("button", name="Sign out").click()
    playwright.expect(tab.get_by_role("button", name="Sign out")).to_have_count(0)
    assert not [one for one in tab.context.cookies() if one["name"] == "starloop-session"]


def test_without_a_session_there_is_nothing_to_sign_out_of(site: Site, watched: Watched) -> None:
    watched.tab.goto(f"{site.address}/versions")
    playwright.expect(watched.tab.locator(".session, #leave")).to_have_count(0)
