"""`starloop db`: the database's form and soundness."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from feedback.commands.options import emit, json_option, listing, person, settings_option
from feedback.registry.soundness import prove
from feedback.settings import Settings
from feedback.storage.database import open_database, opened


@click.group(short_help="upgrade, prove, back up and restore the record")
def db() -> None:
    """The database that holds the record."""


@db.command(short_help="bring the tables to this release's form")
@json_option
@settings_option
def upgrade(settings: Settings, as_json: bool) -> None:
    """Run the migrations that are missing; every process does so at its start too.

    Example: starloop db upgrade --config starloop.toml
    """
    database = open_database(settings)
    try:
        revision = database.upgrade()
    finally:
        database.close()
    emit({"revision": revision}, as_json, lambda: f"The database is at revision {revision}.")


@db.command(short_help="prove that nothing is lost or changed")
@json_option
@settings_option
def verify(settings: Settings, as_json: bool) -> None:
    """Recompute every hash, and look for rows that were acknowledged and are neither there nor erased.

    Rows, imports, kept files, examples, dataset files with their manifests, and the adapters of versions that may serve.

    Exit status 1 when anything is missing, duplicated or corrupt. May run beside the server.

    Example: starloop db verify --json
    """
    with opened(settings, existing=True) as database:
        found = prove(database, settings.directory)
    names = [name for name in found.__struct_fields__ if name != "problems"]
    emit(found, as_json, lambda: listing("record", names, [[getattr(found, name) for name in names]]))
    if found.problems and not as_json:
        click.echo("\n".join(found.problems), err=True)
    sys.exit(0 if found.sound else 1)


@db.command(short_help="remove what is older than [capture] retention_days")
@json_option
@settings_option
def expire(settings: Settings, as_json: bool) -> None:
    """Remove inferences of before `[capture] retention_days`, with their feedback and failure cases.

    The loop does so by itself a few times a day. Signed tombstones stay, and what was frozen: dataset versions, evaluation
    cases, model versions. May run beside the server.

    Example: starloop db expire --json
    """
    from feedback.privacy.retention import Expired, expire

    with opened(settings, existing=True) as database:
        done = expire(database, settings, person(), datetime.now(UTC))

    def told(found: Expired) -> str:
        if found.before is None:
            return "Everything is kept for ever: [capture] retention_days is 0."
        went = (
            ", ".join(f"{count} {name}" for name, count in sorted(found.counts.items()) if count) or "nothing"
        )
        return f"Older than {found.before:%Y-%m-%d %H:%M} UTC: {went} removed."

    emit(done, as_json, lambda: told(done))


@db.command(short_help="everything in one archive")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@settings_option
def backup(settings: Settings, file: Path, as_json: bool) -> None:
    """Write database, journals, datasets, adapters and secrets into one archive. May run beside the server.

    The archive holds what users wrote, and the secrets: keep it like them. A user who is erased later is still in it.

    Example: starloop db backup /backups/starloop-2026-03-01.tar.gz
    """
    from feedback.storage.backup import back_up

    with opened(settings, existing=True) as database:
        made = back_up(database, settings, file, datetime.now(UTC))
    size = file.stat().st_size
    told = {"file": str(file), "bytes": size, "files": len(made.files), "created": made.created}
    emit(told, as_json, lambda: f"{file}: {len(made.files)} files, {size:,} bytes.")


@db.command(short_help="bring an archive back")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@json_option
@settings_option
def restore(settings: Settings, file: Path, as_json: bool) -> None:
    """Bring a backup into an empty data directory and prove it. Nothing is ever overwritten.

    Users who were erased after the backup was made are in it again: erase them again.

    Example: starloop db restore /backups/starloop-2026-03-01.tar.gz
    """
    from feedback.storage.backup import restore

    made = restore(settings, file)
    with opened(settings) as database:
        found = prove(database, settings.directory)
    names = found.__struct_fields__
    told = {"file": str(file), "created": made.created, "verified": found}
    title = f"restored, as of {made.created}"
    emit(told, as_json, lambda: listing(title, names, [[getattr(found, name) for name in names]]))
    sys.exit(0 if found.sound else 1)
