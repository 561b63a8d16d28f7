"""`/cycles`: what a turn of the loop did and found, and what a person may decide about it."""

from __future__ import annotations

import re

import pytest

from feedback.reports.plots import curves
from feedback.storage.tables import Cycle
from tests.server.inside import Inside
from tests.server.test_access import bearing, make_key
from tests.server.test_reading_pages import visitor
from tests.server.test_session import guarded, sign_in
from tests.server.turns import add_canary, add_cycle
from tests.server.versions import add_version

EVIL = "<img src=x onerror=alert(1)>"


def page(gateway: Inside, address: str, headers: dict[str, str] | None = None, status: int = 200) -> str:
    answer = gateway.call("GET", address, None, headers)
    assert answer.status == status, answer.body
    text: str = answer.body.decode()
    assert " style=" not in text and not re.search(r"<[^>]* on[a-z]+=", text)
    assert "<img src=x" not in text
    return text


@pytest.fixture
def cycle(gateway: Inside) -> str:
    number = add_version(gateway.gateway.database, gateway.settings.directory)
    return add_cycle(gateway.gateway.database, gateway.gateway.now(), number)


def test_a_cycle_shows_steps_losses_comparison_and_the_gates_numbers(gateway: Inside, cycle: str) -> None:
    text = page(gateway, f"/cycles/{cycle}")
    for shown in (
        "<strong>dataset</strong>",
        "40.0 s",
        "dataset did what it does",
        "step 60 of 60",
        "forgetting: the loss on old examples rose",
        "golden: right, of 90",
        "70.0 %",
        '<th class="number">base (champion)</th>',
        '<th class="number">improvement</th><th class="number">95 %</th>',
        '<td class="number">+0.0 points</td>',
        "Gate: promoted",
        "golden set: ",
        "critical cases: none of 9 regressed",
        "+22.2",
        "1.05 times",
    ):
        assert shown in text, shown
    assert text.count('<path class="line curve-') == 4 and "data-again" not in text
    listed = page(gateway, "/cycles")
    assert f'href="/cycles/{cycle}"' in listed and "proposed" in listed and "waits for a person" in listed


def test_a_judges_preferences_stand_beside_how_far_it_agrees_with_people(gateway: Inside) -> None:
    database, now = gateway.gateway.database, gateway.gateway.now()
    number = add_version(database, gateway.settings.directory)
    versions = {name: {"golden": {"n": 90}} for name in ("base", number)}
    said = {"cases": 90, "wins": 27, "losses": 9, "agreement": 0.875, "known": 24, "counts": False}
    shown = add_cycle(database, now, number, result={"champion": "base", "versions": versions, "judge": said})
    text = page(gateway, f"/cycles/{shown}")
    assert (
        "golden: preferred by the judge, of 90 (agreement with people 87.5 % of 24; does not count)" in text
    )
    assert text.index("10.0 %") < text.index("30.0 %")


def test_contenders_stand_beside_the_versions_with_their_price(gateway: Inside) -> None:
    database, now = gateway.gateway.database, gateway.gateway.now()
    figures = {"n": 90, "accuracy": 0.7, "valid_format": 1.0}
    versions = {name: {"golden": figures} for name in ("base", "1.0")}
    golden = {"golden": {"n": 60, "accuracy": 0.85, "valid_format": 0.9}}
    told = {"model": "big", "per_thousand": 1.25, "stopped": "the budget", "suites": golden}
    result = {"champion": "base", "versions": versions, "contenders": {"hosted": told}}
    text = page(gateway, f"/cycles/{add_cycle(database, now, '1.0', result=result)}")
    assert '<th class="number">hosted</th>' in text and "85.0 % of 60" in text
    prices = text.split("a thousand answers cost")[1].split("</tr>")[0]
    assert re.findall(r'<td class="number">(.+?)</td>', prices) == ["–", "–", "–", "–", "1.25"]


def test_what_people_and_models_wrote_is_text(gateway: Inside) -> None:
    now = gateway.gateway.now()
    identifier = add_cycle(gateway.gateway.database, now, None, reason=EVIL, requested_by=EVIL)
    assert "&lt;img src=x" in page(gateway, f"/cycles/{identifier}")
    assert "&lt;img src=x" in page(gateway, "/cycles")


def test_while_a_cycle_goes_on_the_page_looks_again_and_offers_its_end(gateway: Inside) -> None:
    steps = [
        {"step": "train", "started": "2026-01-01T10:00:00+00:00", "ended": None, "outcome": None}
        | {"progress": {"step": 7, "steps": 20}}
    ]
    identifier = add_cycle(
        gateway.gateway.database,
        gateway.gateway.now(),
        None,
        state="running",
        step="train",
        decision=None,
        reason=None,
        steps=steps,
        result=None,
    )
    text = page(gateway, f"/cycles/{identifier}")
    assert f'data-live="/pages/events?about=cycle&amp;of={identifier}"' in text
    assert "/static/live.js" in text and '<progress max="20" value="7">' in text
    assert f'data-to="/v1/cycles/{identifier}/cancel"' in text and "Promote" not in text
    address = f"/v1/cycles/{identifier}/cancel?reason=it+took+%3Cb%3Etoo+long"
    assert gateway.call("POST", address).status == 200
    after = page(gateway, f"/cycles/{identifier}")
    assert "local asked for its end: it took &lt;b&gt;too long" in after and "/cancel" not in after


def test_a_cycle_is_started_with_a_reason_that_the_page_tells(gateway: Inside) -> None:
    text = page(gateway, "/cycles")
    assert 'data-to="/v1/cycles"' in text and "as set (propose)" in text
    body = {"model": "assistant", "mode": "report", "reason": "new topics came"}
    asked = gateway.call("POST", "/v1/cycles", body)
    assert asked.status == 202
    told = page(gateway, f"/cycles/{asked.json['id']}")
    assert "local asked for it: new topics came" in told and "It has not begun." in told


def test_only_who_may_promote_is_offered_it_and_the_cycle_then_tells_who_did(
    gateway: Inside, cycle: str
) -> None:
    offered = 'data-to="/v1/models/assistant/promote"'
    trainer, admin = make_key(gateway, "train"), sign_in(gateway, make_key(gateway, "admin", owner="ada"))
    assert offered not in page(gateway, f"/cycles/{cycle}", bearing(trainer))
    assert offered in page(gateway, f"/cycles/{cycle}", guarded(admin))
    with gateway.gateway.database.reading() as session:
        number = session.get_one(Cycle, cycle).version
    body = {"version": number, "cycle_id": cycle, "reason": "it is better"}
    assert gateway.call("POST", "/v1/models/assistant/promote", body, guarded(admin)).status == 200
    after = page(gateway, f"/cycles/{cycle}", guarded(admin))
    assert f"ada made {number} the champion: it is better" in after and offered not in after


def test_a_promotion_on_its_page_names_the_champion_and_tells_of_one_that_it_was_not_compared_with(
    gateway: Inside, cycle: str
) -> None:
    named = '<input type="hidden" name="instead_of" value="{}">'
    before = page(gateway, f"/cycles/{cycle}")
    assert named.format("base") in before and "by now the champion is" not in before
    number = add_version(gateway.gateway.database, gateway.settings.directory)
    body = {"version": number, "reason": "by hand"}
    assert gateway.call("POST", "/v1/models/assistant/promote", body).status == 200
    after = page(gateway, f"/cycles/{cycle}")
    assert named.format(number) in after
    assert f"It was compared with base; by now the champion is {number}." in after


def test_a_canary_is_shown_with_its_numbers_and_can_be_ended(gateway: Inside, cycle: str) -> None:
    add_canary(gateway.gateway.database, gateway.gateway.now(), cycle, "1.0")
    text = page(gateway, f"/cycles/{cycle}")
    for shown in ("Canary: open", "10 % of the users", "+0.33 stars", "3.83", "3.50"):
        assert shown in text, shown
    assert 'data-to="/v1/models/assistant/canary/end"' in text


def test_who_may_not_train_sees_no_cycle(gateway: Inside, cycle: str) -> None:
    for scopes in (("review",), ("infer", "feedback")):
        assert "Sign in first" in page(gateway, f"/cycles/{cycle}", visitor(gateway, *scopes))
    other = visitor(gateway, "train", models=["other"])
    assert "there is no cycle" in page(gateway, f"/cycles/{cycle}", other, 404)
    assert "is not for the model" in page(gateway, "/cycles?model=assistant", other, 403)


def test_addresses_that_lead_nowhere_are_told(gateway: Inside) -> None:
    assert 'role="alert"' in page(gateway, "/cycles/nonsense", status=400)
    assert "there is no cycle" in page(gateway, "/cycles/0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f", status=404)
    assert 'role="alert"' in page(gateway, "/cycles?cursor=nonsense", status=400)


def test_many_steps_are_thinned_and_small_losses_fill_the_plot() -> None:
    drawn = curves("T", {"<a>": [(step, 0.004) for step in range(10_000)], "none": []})
    assert len(drawn) < 12_000 and "&lt;a&gt; 0.004" in drawn and "0.005" in drawn
    assert curves("T", {"none": []}) == ""
