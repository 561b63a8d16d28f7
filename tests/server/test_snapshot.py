"""The gateway's view of the registry, where somebody asks for what is younger than it."""

from __future__ import annotations

import asyncio

from feedback.registry.snapshot import Alias, Snapshot
from server.snapshot import LiveSnapshot

NAME = "ft:starter:ann:mine:0123456789ab"


class Registry:
    """Counts how often it is looked at."""

    def __init__(self) -> None:
        self.looks = 0
        self.aliases: dict[str, Alias] = {}

    def load(self) -> Snapshot:
        self.looks += 1
        return Snapshot(models={}, keys={}, any_key=False, by_id={}, retiring=(), aliases=dict(self.aliases))


def test_a_name_that_is_younger_than_the_newest_view_is_found() -> None:
    registry = Registry()
    live = LiveSnapshot(registry.load)
    live.refresh()  # a moment before the version is registered
    registry.aliases[NAME] = Alias("assistant", "1.0", 0.0, "ann")
    assert NAME in asyncio.run(live.with_name(NAME)).aliases


def test_names_that_nobody_has_share_one_new_view() -> None:
    registry = Registry()
    live = LiveSnapshot(registry.load)
    live.refresh()

    async def all_at_once() -> None:
        await asyncio.gather(*(live.with_name(NAME) for _ in range(100)))

    asyncio.run(all_at_once())
    assert registry.looks == 2


def test_a_name_that_is_known_or_no_fine_tunings_needs_no_new_view() -> None:
    registry = Registry()
    registry.aliases[NAME] = Alias("assistant", "1.0", 0.0, "ann")
    live = LiveSnapshot(registry.load)
    live.refresh()
    for name in (NAME, "assistant", "nobody"):
        asyncio.run(live.with_name(name))
    assert registry.looks == 1
