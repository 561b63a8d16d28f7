"""`starloop keys`: who may call the server."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from rich.table import Table

from feedback.access.audit import ACTS, list_audit, note
from feedback.access.expiry import parse_expiry
from feedback.access.keys import SCOPES, create_key, list_keys, revoke_key
from feedback.access.limits import LIMITS, parse_limits, shown_limits
from feedback.commands.options import emit, json_option, listing, person, settings_option
from feedback.errors import BadFieldError
from feedback.settings import Settings
from feedback.storage.database import opened
from feedback.storage.tables import Audit, Key


@click.group(short_help="create, list and revoke API keys; who did what")
def keys() -> None:
    """Keys of those who may call the server.

    Until the first key is created, every scope is open to this machine and closed to all others.
    """


@keys.command(short_help="make a key; its secret is shown once")
@click.option("--scopes", required=True, help=f"Comma-separated, of: {', '.join(SCOPES)}.")
@click.option("--owner", default="", help="Whose key it is; shown in lists and decisions. Yours without it.")
@click.option("--models", default="", help="Comma-separated models that it is for; all without it.")
@click.option(
    "--limits",
    default="",
    help=f"Comma-separated, of {', '.join(LIMITS)}: requests and tokens a minute, completions at a time; "
    "none without it.",
)
@click.option("--expires", help="From when on it is refused: 90d, 12h, 4w, or a date or time in UTC.")
@json_option
@settings_option
def create(
    settings: Settings,
    scopes: str,
    owner: str,
    models: str,
    limits: str,
    expires: str | None,
    as_json: bool,
) -> None:
    """Make a key and show its secret, which is kept nowhere.

    Example: starloop keys create --scopes infer,feedback --owner web-shop --limits rpm=600,tpm=100000,concurrent=8
    """
    now = datetime.now(UTC)
    named = _names(models)
    unknown = [name for name in named if settings.model_named(name) is None]
    if unknown:
        known = ", ".join(model.name for model in settings.model)
        raise click.UsageError(f"models: no [[model]] is named {', '.join(unknown)}; there are {known}")
    with opened(settings) as database, database.session() as session:
        try:
            key, secret = create_key(
                session,
                _names(scopes),
                owner.strip() or person().name,
                named or None,
                now,
                parse_limits(limits),
                None if expires is None else parse_expiry(expires, now),
            )
        except BadFieldError as error:
            raise click.UsageError(str(error)) from error
        facts = {"scopes": key.scopes, "models": key.models, "limits": key.limits, "expires": key.expires}
        note(session, person(), "key.create", key.id, now, owner=key.owner, **facts)
        session.commit()
    emit(
        _shown(key) | {"secret": secret},
        as_json,
        lambda: (
            f"{secret}\n\nThis is key {key.id} for {', '.join(key.scopes)}. Keep the secret: it is not shown again."
        ),
    )


@keys.command("list", short_help="keys, without their secrets")
@json_option
@settings_option
def list_(settings: Settings, as_json: bool) -> None:
    """All keys, revoked ones and the loop's own too.

    Example: starloop keys list --json
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        found = list_keys(session)
    emit({"items": [_shown(key) for key in found], "next_cursor": None}, as_json, lambda: _lines(found))


@keys.command(short_help="close a key for good")
@click.argument("key_id", metavar="ID")
@json_option
@settings_option
def revoke(settings: Settings, key_id: str, as_json: bool) -> None:
    """Close a key; requests with it are refused within a second.

    Example: starloop keys revoke 0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f
    """
    with opened(settings, existing=True) as database, database.session() as session:
        now = datetime.now(UTC)
        key = revoke_key(session, key_id, now)
        note(session, person(), "key.revoke", key.id, now, owner=key.owner)
        session.commit()
    emit(_shown(key), as_json, lambda: f"Key {key.id} is revoked.")


@keys.command(short_help="who did what: the audit log")
@click.option("--act", type=click.Choice(ACTS), help="Only acts of this kind.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", help="next_cursor of the page before.")
@json_option
@settings_option
def audit(settings: Settings, act: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Administrative acts, newest first: on keys, champions, cycles, failure cases and evaluation cases.

    Example: starloop keys audit --act champion.promote
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        page = list_audit(session, act, limit, cursor)
    items = [row.model_dump() | {"created": _moment(row.created)} for row in page.items]
    emit({"items": items, "next_cursor": page.next_cursor}, as_json, lambda: _log(page.items))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _shown(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "scopes": key.scopes,
        "owner": key.owner,
        "models": key.models,
        "limits": key.limits,
        "internal": key.internal,
        "created": _moment(key.created),
        "expires": None if key.expires is None else _moment(key.expires),
        "revoked": None if key.revoked is None else _moment(key.revoked),
    }


def _lines(found: list[Key]) -> str:
    """One line a key, what it is for below: with whole ids, a table would leave too little for the rest."""
    now = datetime.now(UTC)
    lines = []
    for key in found:
        lines.append(
            f"{key.id}  {_state(key, now)}  created {_moment(key.created):%Y-%m-%d %H:%M} UTC  {key.owner}".rstrip()
        )
        models = "all models" if key.models is None else f"models {' '.join(key.models)}"
        lines.append(
            "; ".join(filter(None, [f"    {' '.join(key.scopes)}", models, shown_limits(key.limits)]))
        )
    return "\n".join(lines) or "there are no keys"


def _log(rows: list[Audit]) -> Table:
    shown = [
        [
            f"{_moment(row.created):%Y-%m-%d %H:%M:%S}",
            row.actor,
            row.act,
            row.subject,
            " ".join(f"{name}={value}" for name, value in row.details.items() if value not in (None, "", [])),
        ]
        for row in rows
    ]
    return listing("audit log", ["when (UTC)", "who", "did", "on", "details"], shown, ["on"])


def _state(key: Key, now: datetime) -> str:
    if key.revoked is not None:
        return f"revoked {_moment(key.revoked):%Y-%m-%d %H:%M}"
    if key.expires is None:
        return "open"
    expires = _moment(key.expires)
    return f"{'expired' if expires <= now else 'open until'} {expires:%Y-%m-%d %H:%M}"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
