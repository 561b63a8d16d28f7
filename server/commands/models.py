"""`starloop models`: what is served, its versions, and moving the champion.

Reading goes to the database. A move goes to the running gateway: it alone can warm an engine before traffic arrives.
"""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import entry_points
from typing import Any, cast
from urllib.parse import quote

import click
import httpx
from rich.table import Table
from sqlmodel import col, select

from feedback.access.keys import read_loop_key
from feedback.commands.options import Between, emit, json_option, listing, person, settings_option
from feedback.errors import BadFieldError, BadInputError, UnavailableError
from feedback.ids import parse_id
from feedback.registry.canaries import list_canaries
from feedback.registry.lineage import lineage as lineage_of
from feedback.registry.lineage import lineage_of_inference, lineage_of_user
from feedback.registry.models import get_model, list_moves
from feedback.registry.versions import list_versions
from feedback.settings import Settings
from feedback.storage.database import opened
from feedback.storage.tables import Canary, ModelVersion, Move, RegisteredModel
from server.access import PERSON_HEADER
from server.processes.ports import url_of
from server.routing import BASE
from server.views import moment

_MOVE_SECONDS = 180.0
_MOVES = 100
_LAST = 3
_CANARY = (
    "id",
    "model",
    "kind",
    "version",
    "against",
    "share",
    "state",
    "reason",
    "started_by",
    "cycle_id",
    "result",
)


_PLUGGED = "starloop.commands.models"


class _Group(click.Group):
    """Commands of this group that another package brings, which this one may not import, are found by entry point."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group=_PLUGGED).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry in entry_points(group=_PLUGGED, name=cmd_name):
            return cast(click.Command, entry.load())
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Group, short_help="what is served, its versions, promotion, rollback, lineage, export")
def models() -> None:
    """Models that clients call, and the versions of each."""


@models.command("list", short_help="registered models and their champions")
@json_option
@settings_option
def list_(settings: Settings, as_json: bool) -> None:
    """Registered models, each with the version that serves it.

    Example: starloop models list --json
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        rows = session.exec(select(RegisteredModel).order_by(col(RegisteredModel.name))).all()
        items = [_model(row) | {"versions": len(list_versions(session, row.name))} for row in rows]
    columns = ["name", "base", "champion", "previous", "versions"]
    emit(
        {"items": items, "next_cursor": None},
        as_json,
        lambda: listing("models", columns, [[item[name] for name in columns] for item in items]),
    )


@models.command(short_help="one model's versions, moves and canaries")
@click.argument("name", metavar="MODEL")
@json_option
@settings_option
def show(settings: Settings, name: str, as_json: bool) -> None:
    """A model's versions, its canaries, and the last hundred moves of its champion with who decided and why.

    Example: starloop models show assistant
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        row = get_model(session, name)
        versions = [_version(row, version) for version in list_versions(session, name)]
        moves = [_move(move) for move in list_moves(session, name, _MOVES, None).items]
        canaries = [_canary(one) for one in list_canaries(session, name, _MOVES, None).items]
    emit(
        _model(row) | {"versions": versions, "moves": moves, "canaries": canaries},
        as_json,
        lambda: _versions_table(name, versions),
    )
    if not as_json:
        emit(None, False, lambda: _moves_table(moves))
        for one in canaries[:_LAST]:
            click.echo(_compared(one))


@models.command(short_help="make a version the champion")
@click.argument("version", metavar="MODEL@VERSION")
@click.option("--reason", required=True, help="Why; it is recorded with the move.")
@click.option("--instead-of", metavar="VERSION", help="What it was compared with; moves only that champion.")
@json_option
@settings_option
def promote(settings: Settings, version: str, reason: str, instead_of: str | None, as_json: bool) -> None:
    """Send a model's traffic to a version, or to `base`; asks the running gateway, which warms the engines first.

    Example: starloop models promote assistant@1.2 --reason "better on refunds" --instead-of 1.1
    """
    name, number = _named(version)
    body = {"version": number, "reason": reason}
    if instead_of is not None:
        body["instead_of"] = instead_of
    moved = _call(settings, f"/v1/models/{quote(name)}/promote", body)
    emit(moved, as_json, lambda: _told(moved))


@models.command(short_help="make the champion before this one the champion again")
@click.argument("name", metavar="MODEL")
@click.option("--reason", required=True, help="Why; it is recorded with the move.")
@json_option
@settings_option
def rollback(settings: Settings, name: str, reason: str, as_json: bool) -> None:
    """Go back to the champion before this one; asks the running gateway.

    A second rollback in a row goes further back: what a rollback left serves again only once it is promoted.

    Example: starloop models rollback assistant --reason "refunds got worse"
    """
    moved = _call(settings, f"/v1/models/{quote(name)}/rollback", {"reason": reason})
    emit(moved, as_json, lambda: _told(moved))


@models.command(short_help="let some of the users compare a version with the champion")
@click.argument("version", metavar="MODEL@VERSION")
@click.option("--reason", required=True, help="Why; it is recorded.")
@click.option("--share", type=Between(0, 1, min_open=True, max_open=True), help="Of the users, who get it.")
@click.option("--hours", type=Between(0, 8784, min_open=True), help="Longest time.")
@json_option
@settings_option
def canary(
    settings: Settings, version: str, reason: str, share: float | None, hours: float | None, as_json: bool
) -> None:
    """Give a version a share of a model's users; asks the running gateway. The loop promotes it when their ratings say so.

    It is taken back when ratings, errors, format or latency get worse beyond chance. When its time is up and its ratings
    decided nothing, it ends, and you decide. Without --share and --hours the settings hold.

    Example: starloop models canary assistant@1.2 --share 0.1 --reason "better on refunds"
    """
    name, number = _named(version)
    body = {"version": number, "reason": reason, "share": share, "hours": hours}
    begun = _call(settings, f"/v1/models/{quote(name)}/canary", body)
    emit(begun, as_json, lambda: _compared(begun))


@models.command(name="end-canary", short_help="end the canary or the watch of a model")
@click.argument("name", metavar="MODEL")
@click.option("--reason", required=True, help="Why; it is recorded.")
@json_option
@settings_option
def end_canary(settings: Settings, name: str, reason: str, as_json: bool) -> None:
    """All users get the champion again; asks the running gateway.

    Example: starloop models end-canary assistant --reason "wrong version"
    """
    ended = _call(settings, f"/v1/models/{quote(name)}/canary/end", {"reason": reason})
    emit(ended, as_json, lambda: _compared(ended))


@models.command(short_help="turn down a version that was proposed")
@click.argument("version", metavar="MODEL@VERSION")
@click.option("--reason", required=True, help="Why; it stands in the audit log and on the cycle's page.")
@json_option
@settings_option
def reject(settings: Settings, version: str, reason: str, as_json: bool) -> None:
    """Say that a version which waits for a decision is not to serve; asks the running gateway.

    It keeps its number and its files, and may still be promoted by name.

    Example: starloop models reject assistant@1.3 --reason "invents refunds"
    """
    name, number = _named(version)
    done = _call(settings, f"/v1/models/{quote(name)}/reject", {"version": number, "reason": reason})
    emit(done, as_json, lambda: f"{done['name']} is rejected.")


@models.command(short_help="take a version out of service for good")
@click.argument("version", metavar="MODEL@VERSION")
@click.option("--reason", required=True, help="Why; it is recorded with the retirement.")
@json_option
@settings_option
def retire(settings: Settings, version: str, reason: str, as_json: bool) -> None:
    """Stop serving a version and remove its files; asks the running gateway, which lets every engine forget it first.

    Neither the champion nor the version that a rollback leads to can be retired. The record keeps where the version came from.

    Example: starloop models retire assistant@1.0 --reason "replaced by 1.2"
    """
    name, number = _named(version)
    done = _call(settings, f"/v1/models/{quote(name)}/retire", {"version": number, "reason": reason})
    emit(done, as_json, lambda: _farewell(done))


@models.command(short_help="from a version to what users said, and back")
@click.argument("version", metavar="MODEL@VERSION", required=False)
@click.option("--inference", metavar="ID", help="What became of this inference.")
@click.option("--user", metavar="U", help="What became of all that this user asked and said.")
@json_option
@settings_option
def lineage(
    settings: Settings, version: str | None, inference: str | None, user: str | None, as_json: bool
) -> None:
    """Where a version comes from: its cycle, dataset, examples, feedback and inferences. Or what became of an inference,
    or of a user's: examples, and the versions trained on them.

    Example: starloop models lineage assistant@1.2 --json
    """
    if sum(one is not None for one in (version, inference, user)) != 1:
        raise click.UsageError("name one of MODEL@VERSION, --inference ID and --user U")
    with opened(settings, existing=True) as database, database.reading() as session:
        if inference is not None:
            name = parse_id(inference, "--inference")
            found = lineage_of_inference(session, name)
        elif user is not None:
            name, found = user, lineage_of_user(session, user)
        else:
            name = str(version)
            found = lineage_of(session, *_named(name))
    emit(found, as_json, lambda: click.style(name, bold=True) + "\n" + _outline(found))


def _named(text: str) -> tuple[str, str]:
    name, _, number = text.partition("@")
    if not name or not number:
        raise BadFieldError("MODEL@VERSION", f"{text!r} names no version; write for example assistant@1.2")
    return name, number


def _call(settings: Settings, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask the gateway on this machine with the key that the loop uses, in the name of who stands at the terminal."""
    address = url_of(settings.server.host, settings.server.port)
    key = read_loop_key(settings.directory)
    headers: dict[bytes, bytes] = {}
    if key:
        headers = {
            b"authorization": f"Bearer {key}".encode(),
            PERSON_HEADER.encode(): person().name.encode("utf-8", "replace"),
        }
    try:
        # No proxy of the environment stands between this machine and itself.
        with httpx.Client(base_url=address, timeout=_MOVE_SECONDS, trust_env=False) as client:
            answer = client.post(path, json=body, headers=headers)
    except httpx.TransportError as error:
        raise UnavailableError(
            f"the gateway at {address} does not answer ({error}); start it with `starloop up`, "
            "or give the configuration that it runs with"
        ) from None
    if answer.status_code not in (200, 201, 202):
        raise BadInputError(_problem(answer))
    moved: dict[str, Any] = answer.json()
    return moved


def _canary(row: Canary) -> dict[str, Any]:
    times = {name: moment(getattr(row, name)) for name in ("created", "limit", "ended")}
    return {name: getattr(row, name) for name in _CANARY} | times


def _compared(row: dict[str, Any]) -> str:
    name = f"{row['model']}@{row['version']}"
    if row["state"] != "open":
        return f"{row['kind']} of {name}: {row['state']}: {row['reason']}"
    told = (row["result"] or {}).get("reason") or "no look yet"
    whom = "gets it" if row["kind"] == "canary" else f"keeps {row['against']}"
    return f"{row['kind']} of {name}: {row['share']:.0%} of the users {whom}, until {row['limit']} at the latest; {told}"


def _problem(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.url} answered with status {answer.status_code}; is it Starloop that listens there?"


def _model(row: RegisteredModel) -> dict[str, Any]:
    return {
        "name": row.name,
        "base": row.base,
        "champion": row.champion or BASE,
        "previous": row.previous,
        "created": moment(row.created),
    }


def _version(row: RegisteredModel, version: ModelVersion) -> dict[str, Any]:
    return {
        "number": version.number,
        "name": f"{row.name}@{version.number}",
        "state": version.state,
        "champion": version.number == row.champion,
        "dataset_id": version.dataset_id,
        "cycle_id": version.cycle_id,
        "note": version.note,
        "created": moment(version.created),
    }


def _move(move: Move) -> dict[str, Any]:
    return {
        "id": move.id,
        "kind": move.kind,
        "from": move.from_version or BASE,
        "to": move.to_version or BASE,
        "reason": move.reason,
        "decided_by": move.decided_by,
        "cycle_id": move.cycle_id,
        "created": moment(move.created),
    }


def _versions_table(name: str, versions: list[dict[str, Any]]) -> Table:
    rows = [
        [one["number"], "champion" if one["champion"] else one["state"], _minute(one), one["note"]]
        for one in versions
    ]
    return listing(f"versions of {name}", ["version", "state", "created (UTC)", "note"], rows)


def _moves_table(moves: list[dict[str, Any]]) -> Table:
    rows = [
        [_minute(one), one["kind"], one["from"], one["to"], one["decided_by"], one["reason"]] for one in moves
    ]
    return listing("moves of its champion", ["when (UTC)", "kind", "from", "to", "by", "reason"], rows)


def _minute(one: dict[str, Any]) -> str:
    return f"{one['created']:%Y-%m-%d %H:%M}"


def _told(moved: dict[str, Any]) -> str:
    return f"{moved['model']}: {moved['version']} serves now ({moved['previous']} did before)."


def _farewell(done: dict[str, Any]) -> str:
    name = f"{done['model']}@{done['version']}"
    if done["removed"]:
        return f"{name} is retired, and its files are removed."
    return f"{name} is retired. Its files are still there, and go later: {done['waits_for']}."


def _outline(found: Any, depth: int = 1) -> str:
    """Nested data as indented lines, without what there is not; a list shows how long it is and its first three."""
    pad = "  " * depth
    if isinstance(found, dict):
        return "\n".join(
            f"{pad}{name}:\n{_outline(value, depth + 1)}"
            if isinstance(value, dict | list) and value
            else f"{pad}{name}: {_plain(value)}"
            for name, value in found.items()
            if value is not None
        )
    if isinstance(found, list):
        lines = [_outline(value, depth) for value in found[:3]]
        return "\n".join(lines if len(found) <= 3 else [*lines, f"{pad}… {len(found)} in all"])
    return f"{pad}{found}"


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    return "none" if value in ([], {}) else str(value)
