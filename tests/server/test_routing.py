from __future__ import annotations

import pytest

from feedback.registry.snapshot import ModelRoute, Snapshot
from server.routing import Route, UnknownModelError, choose


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
