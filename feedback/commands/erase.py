"""`starloop erase`: a user's data, out of the record and everything made of it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from feedback.commands.options import emit, json_option, person, settings_option
from feedback.settings import Settings
from feedback.storage.database import opened


@click.command(short_help="remove a user's data, and name the versions trained on it")
@click.option("--user", required=True, help="The user, as your application sends it in `user`.")
@click.option(
    "--yes", is_flag=True, help="Do not ask; where nobody sits at the terminal, nobody is asked anyway."
)
@json_option
@settings_option
def erase(settings: Settings, user: str, yes: bool, as_json: bool) -> None:
    """Erase a user: inferences, feedback, failure and evaluation cases, examples, and their traces in the files.

    Dataset versions lose the user's rows and are marked, versions that were trained on them are named, and a retrain
    without them is queued. Signed tombstones stay, so that `starloop db verify` still holds. May run beside the server;
    interrupted, it goes on when it is run again. Backups and files that were exported are yours to delete.

    Example: starloop erase --user ann --json
    """
    from feedback.privacy.erasure import Erased, erase_user

    if not (yes or as_json) and sys.stdin.isatty():
        click.confirm(f"Erase all that {user!r} asked and said? It cannot be undone.", abort=True)
    with opened(settings, existing=True) as database:
        done = erase_user(database, settings, user, person(), lambda: datetime.now(UTC))

    def told(found: Erased) -> str:
        lines = [f"Erasure {found.id} is done."]
        lines += [
            f"  {count} {name.replace('_', ' ')}" for name, count in sorted(found.counts.items()) if count
        ]
        if not any(found.counts.values()):
            lines.append(
                "  nothing was found; the name has to be written as the application sends it in `user`"
            )
        lines += [f"  dataset {one}: marked" for one in found.datasets]
        for one in found.versions:
            serving = ", serving now" if one.champion else ""
            lines.append(f"  {one.model}@{one.version} was trained on it ({one.state}{serving})")
        lines += [f"  cycle {one} trains without it" for one in found.cycles]
        lines.append("Backups and exported files are not reached: delete those that are older than this.")
        return "\n".join(lines)

    emit(done, as_json, lambda: told(done))
