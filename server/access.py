"""Who is calling and what they may do: by key, or by standing at this machine while there are no keys yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from feedback.access.audit import Actor
from feedback.access.keys import OWNER_LENGTH, SCOPES, hash_secret
from feedback.access.limits import Limits
from feedback.errors import BadFieldError, NoKeyError, NotAllowedError
from feedback.files.stored import Viewer
from feedback.registry.snapshot import Grant, Snapshot
from server.loopback import is_local

PERSON_HEADER = "x-starloop-person"
"""In whose name the loop's own key is used: commands at the terminal borrow it."""
_PERSON = PERSON_HEADER.encode("ascii")
_BEARER = "bearer "
_MAKE = "make one with `starloop keys create --scopes infer,feedback`, and send it as `Authorization: Bearer sl-…`"


class Caller(NamedTuple):
    """Who a request comes from."""

    key_id: str | None
    """None for who stands at this machine without a key."""
    owner: str
    scopes: frozenset[str]
    models: frozenset[str] | None
    """Models the key is for; None is all."""
    limits: Limits | None = None
    loop: bool = False
    """The loop itself, and not a person who moves something with its key."""

    @property
    def actor(self) -> Actor:
        """Who the audit log names."""
        return Actor(self.owner, self.key_id)

    def may(self, *scopes: str) -> bool:
        """Whether one of the scopes is held; `admin` holds all."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)

    def need(self, *scopes: str) -> None:
        """Raises `NotAllowedError` unless one of the scopes is held."""
        if not self.may(*scopes):
            held = ", ".join(sorted(self.scopes))
            raise NotAllowedError(
                f"this needs a key with the scope {' or '.join(scopes)}; this one has: {held}"
            )

    def reaches(self, model: str) -> bool:
        """Whether the key is for this model."""
        return self.models is None or model in self.models

    @property
    def only_of(self) -> str | None:
        """Whose fine-tunings the key sees: its owner's, or with the admin scope everybody's, which is None."""
        return None if self.may() else self.owner

    def need_model(self, model: str) -> None:
        """Raises `NotAllowedError` unless the key is for this model."""
        if not self.reaches(model):
            raise NotAllowedError(
                f"this key is not for the model {model!r}; it is for: {_listed(self.models)}"
            )

    def narrowed(self, model: str | None) -> str | None:
        """The model to list things of, when `model` is asked for: None is all, which a key for some may not see.

        Raises `NotAllowedError` for a model that the key is not for, `BadFieldError` when it must name one.
        """
        if model is not None:
            self.need_model(model)
            return model
        if self.models is None:
            return None
        if len(self.models) == 1:
            return next(iter(self.models))
        raise BadFieldError("model", f"name one of those this key is for: {_listed(self.models)}")


AT_THIS_MACHINE = Caller(None, "local", frozenset(SCOPES), None)


def identify(
    peer: str | None,
    headers: Mapping[bytes, bytes],
    snapshot: Snapshot,
    now: datetime,
    session_of: str | None = None,
) -> Caller:
    """The caller of a request; `session_of` is the id of the key that a session speaks for.

    Raises `NoKeyError` when it has no key that is open and needs one, `NotAllowedError` when it speaks in somebody's name
    and is not the loop's key.
    """
    caller = _identify(peer, headers, snapshot, now, session_of)
    name = headers.get(_PERSON)
    return caller if name is None else _in_the_name_of(name, caller, session_of)


def _identify(
    peer: str | None,
    headers: Mapping[bytes, bytes],
    snapshot: Snapshot,
    now: datetime,
    session_of: str | None,
) -> Caller:
    secret = bearer(headers)
    if secret is not None:
        grant = snapshot.keys.get(hash_secret(secret))
    else:
        grant = None if session_of is None else snapshot.by_id.get(session_of)
    if grant is not None:
        return _caller(grant, now)
    if not snapshot.any_key:
        if is_local(peer, headers):
            return AT_THIS_MACHINE
        raise NoKeyError(
            "without keys only programs on this machine are answered, and this request came from elsewhere, through a "
            f"proxy, or from a page of another site; {_MAKE}"
        )
    if secret is None:
        raise NoKeyError(f"this needs an API key; {_MAKE}")
    raise _unknown()


def caller_with(secret: str, snapshot: Snapshot, now: datetime) -> tuple[Grant, Caller]:
    """What a key allows, and who its bearer is. Raises `NoKeyError` for one that is not open."""
    grant = snapshot.keys.get(hash_secret(secret))
    if grant is None:
        raise _unknown()
    return grant, _caller(grant, now)


def caller_by_id(key_id: str | None, snapshot: Snapshot, now: datetime) -> Caller:
    """Who a key speaks for whose secret is not at hand. Raises `NoKeyError` for one that is not open any more."""
    if key_id is None:
        return AT_THIS_MACHINE
    grant = snapshot.by_id.get(key_id)
    if grant is None:
        raise _unknown()
    return _caller(grant, now)


def viewer_of(caller: Caller) -> Viewer:
    """An admin of all models sees everybody's files, everyone else what was sent with their own key."""
    return Viewer(caller.key_id, caller.may() and caller.models is None)


def bearer(headers: Mapping[bytes, bytes]) -> str | None:
    """The secret in `Authorization: Bearer …`, else in `x-api-key`, as Anthropic's clients send it, or None."""
    value = headers.get(b"authorization", b"").decode("latin-1")
    if value[: len(_BEARER)].lower() == _BEARER:
        return value[len(_BEARER) :].strip() or None
    return headers.get(b"x-api-key", b"").decode("latin-1").strip() or None


def _unknown() -> NoKeyError:
    return NoKeyError(f"this API key is not known, or was revoked; {_MAKE}")


def _caller(grant: Grant, now: datetime) -> Caller:
    if grant.expires is not None and now.timestamp() >= grant.expires:
        ended = datetime.fromtimestamp(grant.expires, UTC)
        raise NoKeyError(f"this API key expired at {ended:%Y-%m-%d %H:%M:%S} UTC; {_MAKE}")
    owner = grant.owner.strip() or f"key {grant.id[:8]}"
    return Caller(grant.id, owner, grant.scopes, grant.models, grant.limits, grant.internal)


def _in_the_name_of(name: bytes, caller: Caller, session_of: str | None) -> Caller:
    """The loop's key in the hand of a person; a session of the pages is nobody's terminal."""
    if not caller.loop or session_of is not None:
        raise NotAllowedError(
            f"the header {PERSON_HEADER} is taken with the loop's own key alone (loop.key in the data directory of this "
            "gateway); leave it out"
        )
    person = name.decode("utf-8", "replace").strip()
    if not person or len(person) > OWNER_LENGTH or not person.isprintable():
        raise BadFieldError(PERSON_HEADER, f"must name a person in 1 to {OWNER_LENGTH} characters")
    return caller._replace(owner=person, loop=False)


def _listed(models: Iterable[str] | None) -> str:
    return ", ".join(sorted(models or ())) or "none"
