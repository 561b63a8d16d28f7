"""Pages to read: what they show, to whom, and that filters and trouble are told on the page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from feedback.datasets.case_hash import case_hash
from feedback.reports.traffic import Stars
from feedback.reports.version_stars import VersionStars
from feedback.storage.tables import Case, EvaluationResult
from server.timeline import timeline
from tests.server.inside import Inside
from tests.server.test_access import make_key
from tests.server.test_session import carried, sign_in
from tests.server.upstream import FakeEngine
from tests.server.versions import add_version

PAGES = ("/inferences", "/versions", "/report")


def shown(gateway: Inside, address: str, headers: dict[str, str] | None = None, status: int = 200) -> str:
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    answer = gateway.call("GET", address, None, headers)
    assert answer.status == status, answer.body
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    text: str = answer.body.decode()
    assert (
        set(re.findall("<script[^>]*>", text))
        <= {f'<script type="module" src="/static/{name}.js">' for name in ("act", "again", "every", "signin")}
        and " style=" not in text
        and "//" not in re.sub(r'value="[^"]*"', "", text)
    )
    return text


def visitor(gateway: Inside, *scopes: str, models: list[str] | None = None) -> dict[str, str]:
    return carried(sign_in(gateway, make_key(gateway, *scopes, models=models)))


def test_inferences_are_found_by_what_stands_in_the_address(gateway: Inside) -> None:
    asked = [
        gateway.ask({"messages": [{"role": "user", "content": text}], "user": user})
        for text, user in (("Where is my parcel?", "ann"), ("I was charged twice.", "bob"))
    ]
    gateway.call(
        "POST", "/v1/feedback", {"inference_id": asked[1].headers["x-starloop-inference-id"], "rating": 2}
    )
    page = shown(gateway, "/inferences")
    assert "Where is my parcel?" in page and "I was charged twice." in page and "★★☆☆☆" in page
    assert "charged" not in shown(gateway, "/inferences?q=parcel")
    assert "parcel" not in shown(gateway, "/inferences?user=bob")
    only = shown(gateway, "/inferences?rating_lte=2")
    assert "charged" in only and "parcel" not in only
    assert "Nothing matches." in shown(gateway, "/inferences?version=9.9")
    wrong = shown(gateway, "/inferences?since=yesterday", status=400)
    assert 'role="alert"' in wrong and 'value="yesterday"' in wrong


def test_times_to_search_between_are_the_readers(gateway: Inside) -> None:
    gateway.ask({"messages": [{"role": "user", "content": "just now"}]})
    now = gateway.gateway.now()
    there = now.astimezone(ZoneInfo("Asia/Tokyo"))
    tokyo = {"cookie": "starloop-zone=Asia/Tokyo"}
    between = f"?since={there - timedelta(hours=1):%Y-%m-%dT%H:%M}&until={there + timedelta(hours=1):%Y-%m-%dT%H:%M}"
    found = shown(gateway, f"/inferences{between}", tokyo)
    assert "just now" in found and "those of Asia/Tokyo" in found
    assert "Nothing matches." in shown(gateway, f"/inferences{between}")


def test_older_ones_are_a_link_away_with_the_same_filter(gateway: Inside) -> None:
    for number in range(52):
        gateway.ask({"messages": [{"role": "user", "content": f"number {number:02d} of many"}]})
    first = shown(gateway, "/inferences?q=of+many")
    (following,) = re.findall(r'href="(/inferences\?[^"]+cursor=[^"]+)"', first)
    second = shown(gateway, following.replace("&amp;", "&"))
    assert "number 51" in first and "number 01" in second and "number 51" not in second
    assert 'value="of many"' in second


def test_one_inference_shows_all_that_was_said_and_nothing_of_it_is_markup(
    gateway: Inside, engine: FakeEngine
) -> None:
    engine.answer = lambda body: "</pre><script>alert(1)</script>"
    asked = gateway.ask(
        {"messages": [{"role": "user", "content": "<b>bold</b>"}], "metadata": {"<i>": "<u>"}}
    ).headers["x-starloop-inference-id"]
    gateway.call(
        "POST",
        "/v1/feedback",
        {"inference_id": asked, "rating": 1, "correction": "<s>right</s>", "comment": "<q>"},
    )
    page = shown(gateway, f"/inferences/{asked}")
    for text in ("&lt;b&gt;bold", "&lt;s&gt;right", "&lt;q&gt;", "&lt;i&gt;=&lt;u&gt;", "★☆☆☆☆"):
        assert text in page, text
    assert "there is no inference" in shown(
        gateway, "/inferences/0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f", status=404
    )
    assert 'role="alert"' in shown(gateway, "/inferences/nonsense", status=400)


def test_versions_say_which_serves_and_who_moved_it(gateway: Inside) -> None:
    number = add_version(gateway.gateway.database, gateway.settings.directory)
    gateway.call("POST", "/v1/models/assistant/promote", {"version": number, "reason": "better & <faster>"})
    page = shown(gateway, "/versions")
    assert re.search(rf"{re.escape(number)} <span class=\"badge\">serves", page)
    assert "better &amp; &lt;faster&gt;" in page and f"base → {number}" in page
    assert "there is no model" in shown(gateway, "/versions?model=nobody", status=404)


def test_only_who_may_move_the_champion_is_offered_it(gateway: Inside) -> None:
    number = add_version(gateway.gateway.database, gateway.settings.directory)
    page = shown(gateway, "/versions")
    assert f"<option>{number}</option>" in page and 'data-to="/v1/models/assistant/promote"' in page
    assert '<input type="hidden" name="instead_of" value="base">' in page
    assert "Roll back" not in page
    gateway.call("POST", "/v1/models/assistant/promote", {"version": number, "reason": "better"})
    moved = shown(gateway, "/versions")
    assert "Roll back to base" in moved and f"<option>{number}</option>" not in moved
    assert f'<input type="hidden" name="instead_of" value="{number}">' in moved
    assert "data-to" not in shown(gateway, "/versions", visitor(gateway, "review", "train"))


def test_versions_and_moves_stand_in_one_line_of_time(gateway: Inside) -> None:
    database, directory = gateway.gateway.database, gateway.settings.directory
    assert "Nothing was trained yet" in shown(gateway, "/versions")
    number = add_version(database, directory)
    for what, body in (("promote", {"version": number}), ("rollback", {})):
        said = {**body, "reason": f"<b>{what}</b> of a test"}
        moved = gateway.call("POST", f"/v1/models/assistant/{what}", said)
        assert moved.status == 200, moved.body
    page = shown(gateway, "/versions")
    line = page[page.index('class="timeline"') :]
    marks = re.findall(r'<li class="(\w+)">', line)
    assert marks == ["rollback", "promotion", "made"]
    assert f"<strong>{number} → base</strong> &lt;b&gt;rollback" in line
    assert f"<strong>{number}</strong> a test" in line


def test_stars_of_a_version_stand_beside_it_once_they_are_found() -> None:
    stars = Stars(ratings=5, raters=3, mean=4.25, interval=(3.9, 4.6))
    found = VersionStars("2026-01-01", {"1.0": stars})
    versions: Any = [
        SimpleNamespace(number=number, created=1.0, note="", cycle_id=None, dataset_id=None)
        for number in ("1.1", "1.0")
    ]
    told = {mark.title: mark.stars for mark in timeline(versions, [], found, 9)}
    assert told == {"1.1": "", "1.0": "4.25 stars since 2026-01-01 from 3 raters, 95 % from 3.90 to 4.60"}
    assert [mark.title for mark in timeline(versions, [], None, 1)] == ["1.1"]


def test_stars_of_versions_count_from_a_midnight_of_the_reader(gateway: Inside) -> None:
    evening = datetime(2026, 3, 1, 20, tzinfo=UTC)
    since = {
        zone: gateway.gateway.stars.find(("assistant", zone), evening).since for zone in ("UTC", "Asia/Tokyo")
    }
    assert since == {"UTC": "2025-12-02", "Asia/Tokyo": "2025-12-03"}
    page = shown(gateway, "/versions", {"cookie": "starloop-zone=Asia/Tokyo"})
    assert 'id="timeline" data-zone="Asia/Tokyo"' in page


def test_the_report_is_the_months_and_wrong_months_are_told(gateway: Inside) -> None:
    gateway.ask({"messages": [{"role": "user", "content": "Hello?"}]})
    first = shown(gateway, "/report")
    assert 'aria-busy="true"' in first and "/static/again.js" in first and "rating highly" not in first
    gateway.eventually(lambda: 'aria-busy="true"' not in shown(gateway, "/report"), 60.0)
    page = shown(gateway, "/report")
    assert "Are users rating highly?" in page and "<svg" in page and "/static/again.js" not in page
    assert "write YYYY-MM" in shown(gateway, "/report?month=soon", status=400)


@pytest.mark.parametrize("address", PAGES)
def test_strangers_and_keys_of_another_scope_are_asked_to_sign_in(gateway: Inside, address: str) -> None:
    gateway.ask({"messages": [{"role": "user", "content": "a secret question"}]})
    page = shown(gateway, address, visitor(gateway, "feedback"))
    assert "Sign in first" in page and "secret question" not in page
    make_key(gateway, "admin")
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    assert "Sign in first" in shown(gateway, address, {"x-forwarded-for": "10.0.0.9"})


def test_a_key_sees_its_own_inferences_and_its_own_models(gateway: Inside) -> None:
    mine, other = make_key(gateway, "infer"), make_key(gateway, "infer")
    body = {"messages": [{"role": "user", "content": "the other's question"}]}
    asked = gateway.ask(body, {"authorization": f"Bearer {other}"}).headers["x-starloop-inference-id"]
    me = carried(sign_in(gateway, mine))
    assert "question" not in shown(gateway, "/inferences", me)
    assert "there is no inference" in shown(gateway, f"/inferences/{asked}", me, 404)
    narrow = visitor(gateway, "review", models=["another"])
    assert "is not for the model" in shown(gateway, "/versions?model=assistant", narrow, 403)
    assert "is not for the model" in shown(gateway, "/report?model=assistant", narrow, 403)


def test_the_page_that_one_is_on_is_marked_in_the_navigation(gateway: Inside) -> None:
    for address in PAGES:
        assert f'<a href="{address}" aria-current="page">' in shown(gateway, address)


def test_two_versions_are_compared_on_the_confirmed_cases_that_both_answered(gateway: Inside) -> None:
    first, second = (add_version(gateway.gateway.database, gateway.settings.directory) for _ in range(2))
    address = f"/versions?before={first}&after={second}"
    assert "They share no case" in shown(gateway, address)
    tokens = gateway.settings.evaluation.max_tokens
    outputs = [("yes", "yes"), ("no", "yes"), ("yes", "<b>no</b>"), ("yes", None)]
    with gateway.gateway.database.session() as session:
        for place, answers in enumerate(outputs):
            messages = [{"role": "user", "content": f"case number {place}"}]
            plain = {"model": "assistant", "prompt_hash": str(place), "created": 0.0}
            session.add(
                Case(
                    id=str(place),
                    suite="golden",
                    state="confirmed",
                    group_key="g",
                    messages=messages,
                    answer="yes",
                    **plain,
                )
            )
            for number, output in zip((first, second), answers, strict=True):
                if output is not None:
                    row = {"version": number, "case_hash": case_hash(messages, tokens), "latency_ms": 5.0}
                    session.add(EvaluationResult(output=output, **row, **plain))
        session.add(
            EvaluationResult(
                version="base",
                case_hash=case_hash(messages, tokens, "revision"),
                output="yes",
                latency_ms=1.0,
                **plain,
            )
        )
        session.commit()
    page = shown(gateway, address)
    assert re.search(
        r'golden</th><td class="number">3</td><td class="number">66.7 %</td><td class="number">66.7 %', page
    )
    assert (
        "Fixed" in page and "case number 1" in page and "&lt;b&gt;no" in page and "case number 0" not in page
    )
    assert ">1</td>" in shown(gateway, f"/versions?before=base&after={first}")
    assert "has no version" in shown(gateway, "/versions?before=9.9&after=base", status=400)
    assert "case number 1" not in shown(gateway, address, visitor(gateway, "train"))


OPEN_TO = {
    "/review": {"review", "admin"},
    "/overview": {"review", "train", "admin"},
    "/inferences": {"infer", "review", "admin"},
    "/cycles": {"train", "admin"},
    "/datasets": {"review", "train", "admin"},
    "/settings": {"admin"},
}


def test_each_page_is_for_the_scopes_it_names_and_asks_all_others_to_sign_in(gateway: Inside) -> None:
    for scope in ("infer", "feedback", "review", "train", "admin"):
        headers = visitor(gateway, scope)
        for address, scopes in OPEN_TO.items():
            answer = gateway.call("GET", address, None, headers)
            asked = "Sign in first" in answer.body.decode()
            assert (answer.status, asked) == (200, scope not in scopes), (scope, address)
