"""What `starloop erase` tells whoever ran it."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from feedback.commands.erase import erase
from feedback.storage.database import Database
from tests.feedback.world import World, settings_for


def test_a_name_that_nobody_has_is_told_rather_than_reported_as_erased(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, settings_for(tmp_path))
    world.correct("Where is my parcel?", user="ann")
    world.write()
    runner = CliRunner(env={"STARLOOP_STORAGE__DIRECTORY": str(tmp_path)})
    assert "nothing was found" in runner.invoke(erase, ["--user", "Ann"]).stdout
    assert "nothing was found" not in runner.invoke(erase, ["--user", "ann"]).stdout
