"""`/overview`: figures that are found beside the gateway, and what waits for a person."""

from __future__ import annotations

import re
from datetime import datetime

from feedback.errors import UnavailableError
from feedback.reports.overview import Overview, Span, look_over
from server.gateway import Looked
from tests.server.inside import Inside, found_by
from tests.server.test_access import make_key
from tests.server.test_reading_pages import visitor
from tests.server.test_review_page import waiting

EVIL = "<img src=x onerror=alert(1)>"


def page(gateway: Inside, query: str = "", headers: dict[str, str] | None = None, status: int = 200) -> str:
    answer = gateway.call("GET", f"/overview{query}", None, headers)
    assert answer.status == status, answer.body
    text: str = answer.body.decode()
    assert " style=" not in text and not re.search(r"<[^>]* on[a-z]+=", text)
    return text


def found_here(gateway: Inside) -> None:
    """Find the figures in the test's own process."""
    inner = gateway.gateway

    def find(which: Looked, now: datetime) -> Overview:
        with inner.database.reading() as session:
            return look_over(session, Span(inner.settings, which.model, which.days, now, which.zone))

    found_by(inner.overviews, find)


def whole(gateway: Inside, query: str = "") -> str:
    """The page once the figures are there."""
    gateway.eventually(lambda: 'aria-busy="true"' not in page(gateway, query), 60.0)
    return page(gateway, query)


def test_the_figures_come_after_the_page_and_what_waits_at_once(gateway: Inside) -> None:
    waiting(gateway, EVIL)
    first = page(gateway)
    assert 'aria-busy="true"' in first and "/static/again.js" in first
    assert 'href="/review?model=assistant">1 failure case</a> has' in first
    text = whole(gateway)  # by the process that finds them
    assert "/static/again.js" not in text and "<dt>Answers</dt><dd>1</dd>" in text
    assert '<svg viewBox="0 0 640 180" role="img" aria-label="Mean stars a day' in text
    assert "<dt>Cost</dt><dd>–</dd>" in text and "no price_per_hour is set" in text
    assert "low rating 1" in text and "nobody rated" not in text.lower()


def test_what_users_wrote_is_text(gateway: Inside) -> None:
    found_here(gateway)
    for number in range(2):
        waiting(gateway, f"{EVIL} {number}")
    text = whole(gateway)
    assert "<img src=x" not in text and "&lt;img src=x" in text


def test_days_are_cut_by_the_zone_that_the_readers_browser_is_in(gateway: Inside) -> None:
    found_here(gateway)
    waiting(gateway, "Where is it?")
    assert "days are those of UTC" in whole(gateway)
    for zone, told in (("Asia/Tokyo", "Asia/Tokyo"), ("<b>", "UTC"), ("../etc", "UTC")):
        headers = {"cookie": f"theme=dark; starloop-zone={zone}"}
        gateway.eventually(lambda: 'aria-busy="true"' not in page(gateway, "", headers), 60.0)  # noqa: B023
        text = page(gateway, "", headers)
        assert f'data-zone="{told}"' in text and f"Mean stars a day ({told})" in text


def test_days_that_are_no_choice_and_unknown_models_are_told(gateway: Inside) -> None:
    assert "is none of 7, 30, 90" in page(gateway, "?days=8", status=400)
    assert "there is no model" in page(gateway, "?model=nobody", status=404)


def test_what_cannot_be_found_just_now_is_told(gateway: Inside) -> None:
    def find(which: Looked, now: datetime) -> Overview:
        raise UnavailableError("the database does not answer")

    found_by(gateway.gateway.overviews, find)
    assert "There are no newer figures: the database does not answer" in whole(gateway)


def test_strangers_and_other_scopes_see_nothing_and_find_nothing(gateway: Inside) -> None:
    asked: list[str] = []

    def find(which: Looked, now: datetime) -> Overview:
        asked.append(which[0])
        raise UnavailableError("no")

    found_by(gateway.gateway.overviews, find)
    assert "Sign in first" in page(gateway, headers=visitor(gateway, "infer", "feedback"))
    make_key(gateway, "admin")
    assert "Sign in first" in page(gateway)
    other = visitor(gateway, "review", models=["other"])
    assert "is not for the model" in page(gateway, "?model=assistant", other, 403)
    assert asked == []
