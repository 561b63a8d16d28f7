from __future__ import annotations

import pytest

from feedback.registry.arms import Arms, place_of, unit_of
from feedback.registry.snapshot import ModelRoute, Snapshot
from server.routing import Route, UnknownModelError, answering, choose


def snapshot(champion: str | None = None) -> Snapshot:
    versions = frozenset({"1.0", "1.9", "1.10"})
    model = ModelRoute("assistant", "starter", champion, versions, 0, 0.0)
    return Snapshot({"assistant": model}, {}, False)


def test_a_name_goes_to_the_champion_or_to_the_base_where_there_is_none() -> None:
    assert choose("assistant", snapshot()) == Route("assistant", "base", "starter")
    assert choose("assistant", snapshot("1.9")) == Route("assistant", "1.9", "starter")


def test_a_pinned_version_is_that_version_whoever_is_champion() -> None:
    route = choose("assistant@1.10", snapshot("1.9"))
    assert (route.name, route.adapter) == ("assistant@1.10", "assistant@1.10")
    base = choose("assistant@base", snapshot("1.9"))
    assert (base.name, base.adapter) == ("assistant@base", None)


def test_a_conversation_stays_on_its_version_while_that_can_serve() -> None:
    assert choose("assistant", snapshot("1.10"), "1.9").version == "1.9"
    assert choose("assistant", snapshot("1.10"), "base").version == "base"
    assert choose("assistant", snapshot("1.10"), "0.9").version == "1.10"
    assert choose("assistant@1.0", snapshot("1.10"), "1.9").version == "1.0"


@pytest.mark.parametrize(
    "name",
    ["", "@", "nobody", "nobody@1.0", "assistant@", "assistant@2.0", "assistant@1.0@1.0", "assistant@../1.0"],
)
def test_all_other_names_are_unknown(name: str) -> None:
    with pytest.raises(UnknownModelError):
        choose(name, snapshot())


def test_an_unknown_version_is_told_which_there_are_in_their_order() -> None:
    with pytest.raises(UnknownModelError, match=r"it serves: base, 1\.0, 1\.9, 1\.10"):
        choose("assistant@7.0", snapshot())


def test_a_name_of_any_length_makes_a_short_error() -> None:
    with pytest.raises(UnknownModelError) as refused:
        choose("x" * 100_000, snapshot())
    assert len(str(refused.value)) < 200


def compared(kind: str, champion: str, share: float, left: frozenset[str] = frozenset()) -> Snapshot:
    """1.10 on trial against 1.9."""
    arms = Arms(kind, "1.10", "1.9", share, "cycle-1")  # type: ignore[arg-type]
    versions = frozenset({"1.0", "1.9", "1.10"})
    model = ModelRoute("assistant", "starter", champion, versions, 0, 0.0, left=left, arms=arms)
    return Snapshot({"assistant": model}, {}, False)


UNITS = [unit_of(f"user-{number}", None, "") for number in range(2000)]


def test_in_a_canary_a_share_of_the_users_gets_the_challenger_and_each_always_the_same() -> None:
    view = compared("canary", "1.9", 0.2)
    got = [choose("assistant", view, unit=unit).version for unit in UNITS]
    assert set(got) == {"1.9", "1.10"}
    assert 0.17 < got.count("1.10") / len(got) < 0.23
    assert got == [choose("assistant", view, unit=unit).version for unit in UNITS]
    assert choose("assistant", view).version == "1.9"  # nobody's request: an evaluation that names no version
    assert set(answering(view.models["assistant"])) == {"1.9", "1.10"}


def test_in_a_watch_a_few_keep_the_champion_before_and_none_who_had_the_challenger() -> None:
    canary, watch = compared("canary", "1.9", 0.2), compared("watch", "1.10", 0.05)
    had = {unit for unit in UNITS if choose("assistant", canary, unit=unit).version == "1.10"}
    held = {unit for unit in UNITS if choose("assistant", watch, unit=unit).version == "1.9"}
    assert 0.03 < len(held) / len(UNITS) < 0.07
    assert not had & held


def test_a_conversation_stays_through_a_canary_and_leaves_what_was_rolled_back() -> None:
    view = compared("canary", "1.9", 0.999)
    assert choose("assistant", view, "1.0", UNITS[0]).version == "1.0"
    rolled_back = compared("canary", "1.9", 0.001, frozenset({"1.0"}))
    assert choose("assistant", rolled_back, "1.0", UNITS[0]).version == "1.9"


def test_who_is_dealt_what_depends_on_the_user_else_the_conversation_else_the_request() -> None:
    assert unit_of("ann", "thread", "id") == unit_of("ann", None, "other")
    assert unit_of(None, "thread", "id") == unit_of(None, "thread", "other")
    assert unit_of(None, None, "id") != unit_of(None, None, "other")
    assert len({unit_of("x", None, ""), unit_of(None, "x", ""), unit_of(None, None, "x")}) == 3
    places = [place_of(unit, "cycle-1") for unit in UNITS]
    assert all(0 <= place < 1 for place in places)
    others = [place_of(unit, "cycle-2") for unit in UNITS]
    both = sum(one < 0.2 and two < 0.2 for one, two in zip(places, others, strict=True))
    assert 0.025 < both / len(UNITS) < 0.055  # another cycle deals anew
