"""What the loop and its commands do is in the audit log."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from click.testing import CliRunner

from feedback.access.audit import list_audit
from feedback.storage.database import Database
from feedback.storage.tables import Audit
from tests.trainer.world import MODEL, World
from trainer.commands.cycle import cycle
from trainer.lease import LoopLease
from trainer.schedule import Loop


def log(database: Database) -> list[Audit]:
    with database.reading() as session:
        return list_audit(session, None, 50, None).items


def test_a_scheduled_cycle_is_noted_once(sqlite_database: Database, tmp_path: Path) -> None:
    world = World(sqlite_database, tmp_path)
    loop = Loop(world.workshop(), LoopLease(world.database, 15, world.clock), world.stopping)
    loop.poll()
    loop.request_all()
    loop.request_all()  # and not the one that was refused
    (only,) = log(sqlite_database)
    assert (only.actor, only.act, only.details["model"]) == ("schedule", "cycle.start", MODEL)


def test_a_cancelled_cycle_is_noted_in_the_name_of_who_is_at_the_machine(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, tmp_path)
    identifier = world.request()
    configuration = tmp_path / "starloop.toml"
    configuration.write_text(f'[storage]\ndirectory = "{tmp_path}"\n')
    arguments = ["cancel", identifier, "--config", str(configuration)]
    assert CliRunner().invoke(cycle, arguments).exit_code == 0
    assert CliRunner().invoke(cycle, arguments).exit_code == 1  # it has ended: nothing was done
    (only,) = log(sqlite_database)
    assert (only.actor, only.act, only.subject) == (
        pwd.getpwuid(os.getuid()).pw_name,
        "cycle.cancel",
        identifier,
    )
