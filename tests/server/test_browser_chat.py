"""The chat page in a real Chromium: rated and corrected by key, stopped, asked again, two versions side by side, and attacked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.browsing import MARKS, Site, Watched, narrow_and_dark
from tests.server.upstream import FakeEngine

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install playwright axe-playwright-python"
)
pytestmark = MARKS


@pytest.fixture
def engine(site: Site) -> Iterator[FakeEngine]:
    """The site's own, as it was afterwards."""
    before = {name: getattr(site.engine, name) for name in ("answer", "pause", "pieces", "status")}
    yield site.engine
    for name, value in before.items():
        setattr(site.engine, name, value)


@pytest.fixture
def chat(site: Site, engine: FakeEngine, watched: Watched) -> Any:
    watched.tab.goto(site.address)
    return watched.tab


def ask(tab: Any, text: str) -> None:
    tab.keyboard.press("m")
    tab.get_by_label("Message", exact=True).fill(text)
    tab.keyboard.press("Enter")


def answered(tab: Any, number: int = 0) -> Any:
    """The answer, once it is whole."""
    answer = tab.locator(".answer").nth(number)
    playwright.expect(answer.locator(".opinion")).to_be_visible()
    return answer


def inference_of(answer: Any) -> str:
    return str(answer.locator(".kept").get_attribute("href")).rpartition("/")[2]


def current(site: Site, inference: str) -> list[dict[str, Any]]:
    return [one for one in site.said(inference) if one["current"]]


def test_an_answer_is_rated_and_corrected_in_its_place_by_keyboard_alone(
    site: Site, chat: Any, watched: Watched, engine: FakeEngine
) -> None:
    engine.answer = lambda body: "The parcel was sent yesterday"
    chat.get_by_label("Message", exact=True).focus()
    chat.keyboard.type("Where is it?")
    chat.keyboard.press("Enter")
    answer = answered(chat)
    playwright.expect(answer).to_be_focused()
    chat.keyboard.press("2")
    inference = inference_of(answer)
    site.until(lambda: [one["rating"] for one in current(site, inference)] == [2])
    chat.keyboard.press("e")
    field = answer.get_by_label("The right answer")
    playwright.expect(field).to_have_value("The parcel was sent yesterday")
    chat.keyboard.press("Control+Shift+ArrowLeft")
    chat.keyboard.type("today")
    shown = answer.locator(".difference")
    playwright.expect(shown.locator("del")).to_have_text("yesterday")
    playwright.expect(shown.locator("ins")).to_have_text("today")
    assert not narrow_and_dark(chat)
    chat.keyboard.press("Control+Enter")
    playwright.expect(answer.locator(".said").first.locator("ins")).to_have_text("today")
    playwright.expect(answer).to_be_focused()
    answer.get_by_label("Comment").fill("it left this morning")
    chat.keyboard.press("Enter")
    kept = {"rating": 2, "correction": "The parcel was sent today", "comment": "it left this morning"}
    site.until(lambda: [{name: one[name] for name in kept} for one in current(site, inference)] == [kept])
    assert not narrow_and_dark(chat) and not watched.complaints


def test_a_digit_in_a_message_is_a_digit_and_keys_can_be_switched_off(site: Site, chat: Any) -> None:
    ask(chat, "Hello")
    inference = inference_of(answered(chat))
    chat.get_by_label("Message", exact=True).focus()
    chat.keyboard.type("1 parcel")
    assert chat.get_by_label("Message", exact=True).input_value() == "1 parcel"
    chat.get_by_label("Single keys act").uncheck()
    chat.locator(".answer").focus()
    chat.keyboard.press("1")
    assert not chat.locator(".rate input:checked").count() and not site.said(inference)


def test_a_stopped_answer_stays_as_it_was_and_asking_again_keeps_it_in_reach(
    site: Site, chat: Any, engine: FakeEngine
) -> None:
    engine.answer, engine.pieces, engine.pause = (lambda body: "word " * 60), 60, 0.1
    ask(chat, "A long one")
    said = chat.locator(".answer .said").first
    playwright.expect(said).to_contain_text("word word")
    chat.keyboard.press("Escape")
    playwright.expect(chat.locator(".latency")).to_contain_text("stopped")
    stopped = said.inner_text()
    inference = inference_of(chat.locator(".answer"))
    assert 0 < stopped.count("word") < 60
    kept = site.inference(inference)
    assert kept["status"] == 499 and stopped.strip() in kept["output"] and kept["output"].count("word") < 60
    assert chat.locator("#send").is_enabled()
    engine.answer, engine.pause = (lambda body: "short"), 0.0
    chat.keyboard.press("r")
    again = answered(chat, 1)
    playwright.expect(again.locator(".said").first).to_have_text("short")
    playwright.expect(chat.locator(".place")).to_have_text("answer 2 of 2")
    assert not said.is_visible()
    chat.get_by_role("button", name="Earlier answer").click()
    playwright.expect(said).to_have_text(stopped)
    chat.get_by_role("button", name="Better than answer 2").click()
    playwright.expect(chat.get_by_text("Only whole answers can be compared.")).to_be_visible()
    assert engine.completions()[-1].body["messages"] == [{"role": "user", "content": "A long one"}]


def test_of_two_answers_to_one_prompt_the_better_is_told(
    site: Site, chat: Any, watched: Watched, engine: FakeEngine
) -> None:
    replies = iter(["first", "second"])
    engine.answer = lambda body: next(replies)
    ask(chat, "Which?")
    first = inference_of(answered(chat))
    chat.keyboard.press("5")
    chat.keyboard.press("r")
    second = inference_of(answered(chat, 1))
    assert not narrow_and_dark(chat)
    chat.keyboard.press("3")
    chat.get_by_role("button", name="Better than answer 1").click()
    playwright.expect(chat.get_by_text("your preference is kept")).to_be_visible()
    site.until(
        lambda: [(one["rating"], one["preferred_over"]) for one in current(site, second)] == [(3, first)]
    )
    site.until(lambda: [one["rating"] for one in current(site, first)] == [5])
    assert not watched.complaints


def test_what_is_sent_along_is_the_answer_that_is_shown(chat: Any, engine: FakeEngine) -> None:
    replies = iter(["first", "second", "third"])
    engine.answer = lambda body: next(replies)
    chat.get_by_label("Send earlier messages too").check()
    ask(chat, "One")
    answered(chat)
    chat.keyboard.press("r")
    answered(chat, 1)
    chat.get_by_role("button", name="Earlier answer").click()
    ask(chat, "Two")
    answered(chat, 2)
    sent = [one["content"] for one in engine.completions()[-1].body["messages"]]
    assert sent == ["One", "first", "Two"]


@pytest.mark.parametrize("chance", [0, 1])
def test_two_versions_answer_side_by_side_blind_until_one_is_chosen(
    site: Site, watched: Watched, engine: FakeEngine, chance: int
) -> None:
    engine.answer = lambda body: "mine" if body["model"].endswith("1.0") else "yours"
    tab = watched.tab
    tab.add_init_script(f"crypto.getRandomValues = (bytes) => bytes.fill({chance})")
    tab.goto(site.address)
    tab.get_by_label("Version").select_option("1.0")
    tab.get_by_label("Beside it").select_option("base")
    ask(tab, f"Whose, {chance}?")
    playwright.expect(tab.get_by_role("button", name="A is better")).to_be_visible()
    tab.wait_for_timeout(700)  # after so long the list of what was asked lately would have told
    left, right = (one.inner_text() for one in tab.locator(".answer .said:visible").all())
    assert (left, right) == (("mine", "yours"), ("yours", "mine"))[chance]
    assert "@" not in tab.locator("#turns").inner_text() and not tab.locator(".opinion:visible").count()
    assert f"Whose, {chance}?" not in tab.locator("#recent").inner_text()
    assert not narrow_and_dark(tab)
    tab.keyboard.press("b")
    versions = ("assistant@1.0", "assistant@base")[:: -1 if chance else 1]
    for number, name in enumerate(versions):
        playwright.expect(tab.locator(".side").nth(number)).to_have_text(f"{'AB'[number]}: {name}")
    playwright.expect(tab.get_by_text("your preference is kept")).to_be_visible()
    worse, better = (inference_of(answered(tab, number)) for number in (0, 1))
    site.until(lambda: [one["preferred_over"] for one in current(site, better)] == [worse])
    assert site.inference(better)["version"] == versions[1].partition("@")[2] and not site.said(worse)
    tab.locator(".answer").nth(1).focus()
    tab.keyboard.press("4")
    site.until(
        lambda: [(one["rating"], one["preferred_over"]) for one in current(site, better)] == [(4, worse)]
    )
    assert not narrow_and_dark(tab) and not watched.complaints


def test_equal_answers_and_a_failed_side_ask_for_no_preference(chat: Any, engine: FakeEngine) -> None:
    chat.get_by_label("Beside it").select_option("1.0")
    engine.answer = lambda body: "the same"
    ask(chat, "Equal?")
    playwright.expect(chat.get_by_text("Both answered the same.")).to_be_visible()
    assert not chat.locator(".which:visible").count()
    engine.status = 500
    ask(chat, "Broken?")
    playwright.expect(chat.locator(".problem:visible")).to_have_count(2)
    assert not chat.locator(".which:visible").count()
    assert chat.locator("#send").is_enabled()


ATTACK = (
    "</p><script>window.attacked = 1</script><img src=x onerror='window.attacked = 2'><svg onload=attacked=3>"
)


def test_nothing_in_a_prompt_an_answer_a_comment_or_a_correction_can_run(
    site: Site, chat: Any, watched: Watched, engine: FakeEngine
) -> None:
    engine.answer = lambda body: f"answer {ATTACK}"
    ask(chat, f"prompt {ATTACK}")
    answer = answered(chat)
    inference = inference_of(answer)
    chat.keyboard.press("e")
    answer.get_by_label("The right answer").fill(f"correction {ATTACK}{ATTACK}")
    chat.keyboard.press("Control+Enter")
    playwright.expect(answer.locator(".said ins").first).to_be_visible()
    answer.get_by_label("Comment").fill(f"comment {ATTACK}")
    chat.keyboard.press("Enter")
    site.until(lambda: [bool(one["comment"]) for one in current(site, inference)] == [True])
    for address in (None, "/", f"/inferences/{inference}", "/inferences"):
        if address:
            chat.goto(site.address + address)
        shown = chat.locator("main").inner_text()
        assert f"prompt {ATTACK}"[:60] in shown
        assert chat.evaluate("window.attacked === undefined")
        assert not chat.locator("main img, main script, main .said svg, main .asked svg").count()
    assert not watched.complaints


def test_without_the_right_to_ask_the_page_says_so_in_words(keyed_site: Site, watched: Watched) -> None:
    secret, tab = keyed_site.key("review", owner="rita"), watched.tab
    tab.goto(keyed_site.address)
    made = tab.evaluate(
        "key => fetch('/session', {method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify({key})}).then(got => got.status)",
        secret,
    )
    assert made == 201
    tab.goto(keyed_site.address)
    ask(tab, "May I?")
    playwright.expect(tab.locator(".problem")).to_contain_text("infer")
    tab.get_by_role("button", name="Sign out").click()
    playwright.expect(tab.get_by_label("Key", exact=True)).to_be_visible()
    assert httpx.get(keyed_site.address).status_code == 200
