"""API keys: shown once, kept as a hash, revoked and never deleted."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from feedback.access.audit import Actor, note
from feedback.access.limits import Limits, stored_limits
from feedback.access.secret_file import read_or_create, read_secret, replace_secret
from feedback.errors import BadFieldError, NotFoundError
from feedback.ids import new_id
from feedback.storage.database import Database
from feedback.storage.tables import Key

SCOPES = ("infer", "feedback", "review", "train", "admin")
"""`admin` holds all the others."""
LOOP_KEY = "loop.key"
OWNER_LENGTH = 200


def hash_secret(secret: str) -> str:
    """SHA-256 (hex). The secret has 256 random bits, so a slow hash would protect nothing more."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def create_key(
    session: Session,
    scopes: Sequence[str],
    owner: str,
    models: Sequence[str] | None,
    now: datetime,
    limits: Limits | None = None,
    expires: datetime | None = None,
) -> tuple[Key, str]:
    """A new key and its secret, which stands nowhere else; the caller commits.

    Raises `BadFieldError` for a scope that there is not, or for none, and for an owner that is too long.
    """
    secret = _new_secret()
    key = _key(secret, scopes, owner, models, now)
    key.limits = stored_limits(limits)
    key.expires = None if expires is None else expires.timestamp()
    session.add(key)
    return key, secret


def revoke_key(session: Session, identifier: str, now: datetime) -> Key:
    """Close a key for good; one that was closed before keeps its time. The caller commits."""
    key = session.get(Key, identifier)
    if key is None:
        raise NotFoundError(f"there is no key {identifier!r}; `starloop keys list` shows their ids")
    if key.revoked is None:
        key.revoked = now.timestamp()
        session.add(key)
    return key


def list_keys(session: Session) -> list[Key]:
    """All keys, revoked and internal ones too, oldest first."""
    return list(session.exec(select(Key).order_by(col(Key.id))))


def ensure_loop_key(database: Database, directory: Path, now: datetime) -> str:
    """The secret with which the loop calls the server: made at first start, replaced once it was revoked.

    Safe when several processes start at once.
    """
    path = directory / LOOP_KEY
    secret = read_or_create(path, _new_secret())
    with database.session() as session:
        known = session.exec(select(Key).where(Key.secret_hash == hash_secret(secret))).first()
        if known is not None and known.revoked is not None:
            secret = _new_secret()
            replace_secret(path, secret)
            known = None
        if known is None:
            key = _key(secret, ["admin"], "loop", None, now, internal=True)
            session.add(key)
            note(session, Actor("gateway"), "key.create", key.id, now, scopes=key.scopes, owner=key.owner)
            try:
                session.commit()
            except IntegrityError:  # another process entered the same secret just now
                session.rollback()
    return secret


def read_loop_key(directory: Path) -> str | None:
    """The loop's secret, or None before the server's first start."""
    return read_secret(directory / LOOP_KEY)


def _new_secret() -> str:
    return f"sl-{secrets.token_urlsafe(32)}"


def _key(
    secret: str,
    scopes: Sequence[str],
    owner: str,
    models: Sequence[str] | None,
    now: datetime,
    internal: bool = False,
) -> Key:
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise BadFieldError("scopes", f"{', '.join(unknown) or 'none given'}; there are {', '.join(SCOPES)}")
    if len(owner) > OWNER_LENGTH:
        raise BadFieldError("owner", f"has {len(owner)} characters; at most {OWNER_LENGTH} are taken")
    return Key(
        id=new_id(now),
        secret_hash=hash_secret(secret),
        scopes=[scope for scope in SCOPES if scope in scopes],
        owner=owner,
        models=None if models is None else sorted(set(models)),
        internal=internal,
        created=now.timestamp(),
    )
