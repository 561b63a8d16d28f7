"""A stand-in engine and a gateway before it, new for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.browsing import browser, keyed_site, site, watched
from tests.server.inside import Inside, inside, settings_for
from tests.server.openai_client import Client, clients
from tests.server.upstream import FakeEngine, fake_engine

__all__ = ["browser", "keyed_site", "site", "watched"]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with fake_engine() as running:
        yield running


@pytest.fixture
def data(sqlite_template: Path, tmp_path: Path) -> Path:
    """A data directory whose database is up to date already."""
    directory = tmp_path / "data"
    directory.mkdir()
    shutil.copy(sqlite_template, directory / "starloop.sqlite")
    return directory


@pytest.fixture
def gateway(engine: FakeEngine, data: Path) -> Iterator[Inside]:
    """A gateway with the model `assistant` on its base, and no key created."""
    with inside(settings_for(data, [engine.url])) as running:
        yield running


@pytest.fixture
def client(gateway: Inside) -> Iterator[Client]:
    """Official clients of `gateway`, by key."""
    with clients(gateway) as made:
        yield made
