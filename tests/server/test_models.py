"""What can be called, which version answers, and moving the champion."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from feedback.registry.models import list_moves
from feedback.registry.versions import get_version
from tests.server.inside import HELLO, Answer, Inside, inside, settings_for
from tests.server.test_access import bearing, make_key
from tests.server.turns import add_cycle
from tests.server.upstream import FakeEngine, fake_engine
from tests.server.versions import add_version


def new_version(gateway: Inside, state: str = "registered") -> str:
    number = add_version(gateway.gateway.database, gateway.settings.directory, state=state)
    gateway.gateway.live.refresh()
    return number


def promote(gateway: Inside, version: str, **more: Any) -> Answer:
    body = {"version": version, "reason": "it is better", **more}
    return gateway.call("POST", "/v1/models/assistant/promote", body)


def reject(gateway: Inside, version: str) -> Answer:
    return gateway.call("POST", "/v1/models/assistant/reject", {"version": version, "reason": "it is worse"})


def roll_back(gateway: Inside) -> Answer:
    return gateway.call("POST", "/v1/models/assistant/rollback", {"reason": "it was not"})


def serving(gateway: Inside) -> str:
    return gateway.ask().headers["x-starloop-version"]


def test_models_are_listed_in_openais_form(gateway: Inside) -> None:
    listed = gateway.call("GET", "/v1/models").json
    assert listed["object"] == "list"
    (card,) = listed["data"]
    assert (card["id"], card["object"], card["owned_by"]) == ("assistant", "model", "starloop")
    assert (card["base"], card["version"]) == ("starter", "base")
    assert card["created"] > 1_700_000_000
    assert gateway.call("GET", "/v1/models/assistant").json == card
    assert gateway.call("GET", "/v1/models/nobody").json["error"]["code"] == "model_not_found"


def test_versions_are_listed_newest_first_with_what_is_known_of_them(gateway: Inside) -> None:
    rejected, registered = new_version(gateway, "rejected"), new_version(gateway)
    listed = gateway.call("GET", "/v1/models/assistant/versions").json
    assert (listed["model"], listed["champion"], listed["next_cursor"]) == ("assistant", "base", None)
    assert [(item["number"], item["state"]) for item in listed["items"]] == [
        (registered, "registered"),
        (rejected, "rejected"),
    ]
    assert listed["items"][0]["name"] == "assistant@1.1"
    assert listed["items"][0]["note"] == "a test"
    assert gateway.call("GET", "/v1/models/nobody/versions").status == 404


def test_promotion_moves_every_request_at_once_and_rollback_moves_them_back(
    gateway: Inside, engine: FakeEngine
) -> None:
    first, second = new_version(gateway), new_version(gateway)
    assert serving(gateway) == "assistant@base"
    told = promote(gateway, first)
    assert told.status == 200
    assert {name: told.json[name] for name in ("model", "version", "previous")} == {
        "model": "assistant",
        "version": "1.0",
        "previous": "base",
    }
    assert serving(gateway) == "assistant@1.0"
    assert engine.completions()[-1].body["model"] == "assistant@1.0"
    assert promote(gateway, second).json["previous"] == "1.0"
    assert serving(gateway) == "assistant@1.1"
    assert roll_back(gateway).json["version"] == "1.0"
    assert serving(gateway) == "assistant@1.0"
    listed = gateway.call("GET", "/v1/models/assistant/versions").json
    assert [item["number"] for item in listed["items"] if item["champion"]] == ["1.0"]


def test_a_second_rollback_goes_on_to_what_served_before_that_and_a_third_is_refused(gateway: Inside) -> None:
    for number in (new_version(gateway), new_version(gateway)):
        promote(gateway, number)
    assert [roll_back(gateway).json["version"] for _ in range(2)] == ["1.0", "base"]
    refused = roll_back(gateway)
    assert refused.status == 409
    assert "promote a version by name" in refused.json["error"]["message"]
    assert serving(gateway) == "assistant@base"


def test_a_rollback_that_would_lead_elsewhere_than_was_expected_moves_nothing(gateway: Inside) -> None:
    for number in (new_version(gateway), new_version(gateway)):
        promote(gateway, number)
    address, body = "/v1/models/assistant/rollback", {"reason": "it was not", "version": "1.0"}
    assert gateway.call("POST", address, body).json["version"] == "1.0"
    refused = gateway.call("POST", address, body)
    assert refused.status == 409
    assert "leads to base now, not to 1.0" in refused.json["error"]["message"]
    assert serving(gateway) == "assistant@1.0"
    assert gateway.call("POST", address, {**body, "version": "assistant@base"}).json["version"] == "base"


def test_a_person_may_go_back_to_the_base(gateway: Inside) -> None:
    promote(gateway, new_version(gateway))
    assert promote(gateway, "base").status == 200
    assert serving(gateway) == "assistant@base"


def test_every_move_is_written_down_with_who_decided_and_why(gateway: Inside) -> None:
    number = new_version(gateway)
    ann = bearing(make_key(gateway, "admin", owner="ann"))
    body = {"version": f"assistant@{number}", "reason": "gate passed"}
    gateway.call("POST", "/v1/models/assistant/promote", body, ann)
    with gateway.gateway.database.reading() as session:
        (move,) = list_moves(session, "assistant", 10, None).items
    assert (move.kind, move.from_version, move.to_version) == ("promotion", None, "1.0")
    assert (move.reason, move.decided_by, move.cycle_id) == ("gate passed", "ann", None)


def test_the_loop_promotes_on_the_gates_word_and_may_ask_twice(gateway: Inside) -> None:
    number = new_version(gateway)
    secret = gateway.settings.directory.joinpath("loop.key").read_text().strip()
    body = {"version": number, "reason": "better by 12 points", "cycle_id": "cycle-1"}
    first = gateway.call("POST", "/v1/models/assistant/promote", body, bearing(secret))
    again = gateway.call("POST", "/v1/models/assistant/promote", body, bearing(secret))
    assert first.json == again.json
    with gateway.gateway.database.reading() as session:
        (move,) = list_moves(session, "assistant", 10, None).items
    assert (move.decided_by, move.cycle_id) == ("gate", "cycle-1")


@pytest.mark.parametrize("state", ["staged", "retired"])
def test_what_may_not_serve_is_refused_before_an_engine_hears_of_it(
    gateway: Inside, engine: FakeEngine, state: str
) -> None:
    told = promote(gateway, new_version(gateway, state))
    assert told.status == 409
    assert state in told.json["error"]["message"]
    assert engine.completions() == []


def test_what_waits_for_a_decision_is_rejected_once_and_may_be_promoted_all_the_same(gateway: Inside) -> None:
    number = new_version(gateway)
    told = reject(gateway, number)
    assert (told.status, told.json["state"]) == (200, "rejected")
    with gateway.gateway.database.session() as session:
        assert (
            get_version(session, "assistant", number).rejected is not None
        )  # the oldest of them make room first
    again = reject(gateway, number)
    assert again.status == 409 and "rejected already" in again.json["error"]["message"]
    assert promote(gateway, number).status == 200
    served = reject(gateway, number)
    assert served.status == 409 and "it is promoted" in served.json["error"]["message"]


def test_what_a_canary_or_a_cycle_decides_on_is_not_rejected_beside_it(gateway: Inside) -> None:
    database, now = gateway.gateway.database, datetime.now(UTC)
    tried, going = new_version(gateway), new_version(gateway)
    began = {"version": tried, "reason": "let users say"}
    assert gateway.call("POST", "/v1/models/assistant/canary", began).status == 201
    told = reject(gateway, tried)
    assert told.status == 409 and all(
        way in told.json["error"]["message"] for way in ("/canary/end", "models end-canary assistant")
    )
    cycle = add_cycle(database, now, going, state="running", step="gate", decision=None, reason=None)
    with database.session() as session:
        get_version(session, "assistant", going).cycle_id = cycle
        session.commit()
    told = reject(gateway, going)
    assert told.status == 409 and f"/v1/cycles/{cycle}/cancel" in told.json["error"]["message"]


def test_unknown_models_and_versions_are_404(gateway: Inside) -> None:
    assert promote(gateway, "9.9").status == 404
    assert promote(gateway, "../x").status == 404
    body = {"version": "1.0", "reason": "x"}
    assert gateway.call("POST", "/v1/models/nobody/promote", body).status == 404
    assert gateway.call("POST", "/v1/models/nobody/rollback", {"reason": "x"}).status == 404


def test_the_champion_is_not_promoted_again_and_nothing_is_rolled_back_to_nothing(gateway: Inside) -> None:
    assert roll_back(gateway).status == 409
    number = new_version(gateway)
    promote(gateway, number)
    assert promote(gateway, number).status == 409


def test_an_adapter_that_changed_since_publication_never_reaches_an_engine(
    gateway: Inside, engine: FakeEngine
) -> None:
    number = new_version(gateway)
    file = gateway.settings.directory / "adapters" / f"assistant@{number}" / "adapter_model.safetensors"
    file.write_bytes(b"poison")
    told = promote(gateway, number)
    assert (told.status, told.json["error"]["code"]) == (409, "unsound_adapter")
    assert engine.completions() == []
    assert serving(gateway) == "assistant@base"


def test_an_adapter_that_was_replaced_whole_never_reaches_an_engine(
    gateway: Inside, engine: FakeEngine, tmp_path: Path
) -> None:
    number = new_version(gateway)
    name = f"assistant@{number}"
    store = gateway.gateway.adapters
    shutil.rmtree(store.path(name))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "adapter_model.safetensors").write_bytes(b"poison with a manifest of its own")
    store.publish(tmp_path / "other", name, {})
    told = promote(gateway, number)
    assert (told.status, told.json["error"]["code"]) == (409, "unsound_adapter")
    assert engine.completions() == []


def test_a_version_answers_on_every_replica_before_it_gets_traffic(data: Path) -> None:
    with (
        fake_engine() as one,
        fake_engine() as two,
        inside(settings_for(data, [one.url, two.url])) as gateway,
    ):
        promote(gateway, new_version(gateway))
        assert [request.body["model"] for request in one.completions()] == ["assistant@1.0"]
        assert [request.body["model"] for request in two.completions()] == ["assistant@1.0"]
        two.status = 500
        refused = promote(gateway, new_version(gateway))
        assert refused.status == 502
        assert two.url in refused.json["error"]["message"]
        assert serving(gateway) == "assistant@1.0"


def test_an_engine_that_comes_back_answers_as_the_champion_before_it_gets_traffic(
    gateway: Inside, engine: FakeEngine
) -> None:
    promote(gateway, new_version(gateway))
    engine.stop()
    gateway.wait_for(gateway.gateway.engines.missing)
    engine.loaded.clear()
    engine.delay = 0.3
    engine.start()
    gateway.wait_for(lambda: not gateway.gateway.engines.missing())
    assert engine.loaded == {"assistant@1.0"}


def test_an_engine_that_cannot_load_it_keeps_the_champion(gateway: Inside, engine: FakeEngine) -> None:
    engine.adapters = set()
    refused = promote(gateway, new_version(gateway))
    assert refused.status == 502
    assert "does not exist" in refused.json["error"]["message"]
    assert serving(gateway) == "assistant@base"


def test_without_an_engine_nothing_is_promoted(gateway: Inside, engine: FakeEngine) -> None:
    number = new_version(gateway)
    engine.healthy = False
    gateway.wait_for(gateway.gateway.engines.missing)
    assert promote(gateway, number).status == 503
    assert gateway.call("GET", "/v1/models/assistant").json["version"] == "base"


def test_versions_can_be_asked_for_by_name(gateway: Inside, engine: FakeEngine) -> None:
    number = new_version(gateway, "rejected")
    pinned = gateway.ask({"model": f"assistant@{number}"})
    assert pinned.headers["x-starloop-version"] == "assistant@1.0"
    assert pinned.json["choices"][0]["message"]["content"] == "assistant@1.0 answers"
    based = gateway.ask({"model": "assistant@base"})
    assert based.headers["x-starloop-version"] == "assistant@base"
    staged = new_version(gateway, "staged")
    unknown = gateway.ask({"model": f"assistant@{staged}"})
    assert unknown.status == 404
    assert "it serves: base, 1.0" in unknown.json["error"]["message"]


def test_a_version_that_the_engine_lost_is_503_and_not_another_versions_answer(
    gateway: Inside, engine: FakeEngine
) -> None:
    promote(gateway, new_version(gateway))
    engine.adapters = set()
    lost = gateway.ask()
    assert lost.status == 503
    assert "cannot load 'assistant@1.0'" in lost.json["error"]["message"]


@pytest.fixture
def two_gateways(engine: FakeEngine, data: Path) -> Iterator[tuple[Inside, Inside]]:
    """Two workers over one data directory."""
    with inside(settings_for(data, [engine.url])) as one, inside(settings_for(data, [engine.url])) as other:
        yield one, other


@pytest.mark.alone
def test_a_promotion_reaches_the_other_workers_within_a_second(two_gateways: tuple[Inside, Inside]) -> None:
    one, other = two_gateways
    assert promote(one, new_version(one)).status == 200

    async def until_it_is_there() -> None:
        async with asyncio.timeout(1):
            while (await other.send("POST", "/v1/chat/completions", HELLO)).headers[
                "x-starloop-version"
            ] != "assistant@1.0":
                await asyncio.sleep(0.02)

    other.run(until_it_is_there())


def test_promotions_under_load_fail_no_request_and_every_answer_is_of_the_version_it_names(
    gateway: Inside, engine: FakeEngine
) -> None:
    engine.delay = 0.005
    first, second = new_version(gateway), new_version(gateway)

    async def one(number: int) -> Answer:
        return await gateway.send("POST", "/v1/chat/completions", {**HELLO, "stream": number % 2 == 0})

    async def asking(start: int, counts: Counter[str]) -> None:
        for number in range(start, start + 40):
            answer = await one(number)
            assert answer.status == 200 and answer.complete
            version = answer.headers["x-starloop-version"].replace("assistant@base", engine.base)
            assert version.encode() in answer.body
            assert f'"model": "{version}"'.encode() in answer.body
            counts[version] += 1

    async def moving() -> None:
        for version in (first, second, first, second, "base", first):
            body = {"version": version, "reason": "churn"}
            told = await gateway.send("POST", "/v1/models/assistant/promote", body)
            assert told.status == 200, told.body
            await asyncio.sleep(0.05)

    async def both() -> Counter[str]:
        counts: Counter[str] = Counter()
        await asyncio.gather(moving(), *(asking(start, counts) for start in range(0, 20 * 40, 40)))
        return counts

    counts = gateway.run(both())
    assert sum(counts.values()) == 800
    assert set(counts) >= {"assistant@1.0", "assistant@1.1"}


def test_nothing_is_promoted_in_the_place_of_a_champion_that_was_moved_meanwhile(gateway: Inside) -> None:
    first, second = new_version(gateway), new_version(gateway)
    promote(gateway, first)
    body = {"version": second, "reason": "better", "instead_of": "base"}
    told = gateway.call("POST", "/v1/models/assistant/promote", body)
    assert told.status == 409
    assert f"the champion is assistant@{first} by now" in told.json["error"]["message"]
    body["instead_of"] = f"assistant@{first}"
    assert gateway.call("POST", "/v1/models/assistant/promote", body).status == 200
