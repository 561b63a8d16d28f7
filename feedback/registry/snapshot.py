"""What the gateway must know to serve: models with their champions, and keys. Taken whole, then used without I/O."""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import select as columns_of
from sqlmodel import Session, col, select

from feedback.access.limits import Limits, read_limits
from feedback.registry.adapters import adapter_name
from feedback.registry.arms import Arms
from feedback.registry.models import SERVABLE
from feedback.registry.retirements import open_retirements
from feedback.storage.tables import Canary, Key, ModelVersion, RegisteredModel, Tuning


class ModelRoute(Struct, frozen=True):
    """One model as requests are routed to it."""

    name: str
    base: str
    champion: str | None
    """Number of the version that serves; None is the base itself."""
    versions: frozenset[str]
    """Numbers that may be asked for by name."""
    moves: int
    created: float
    hashes: dict[str, str] = {}
    """By number: the hash with which each of the versions was registered."""
    left: frozenset[str] = frozenset()
    """Numbers that no conversation stays on: rejected, or rolled back by what users said."""
    arms: Arms | None = None
    """Two versions that users compare just now; one of them is the champion."""


class Retiring(Struct, frozen=True):
    """A version that is on its way out."""

    id: str
    adapter: str
    base: str


class Grant(Struct, frozen=True):
    """What one open key allows."""

    id: str
    owner: str
    scopes: frozenset[str]
    models: frozenset[str] | None
    """Models the key is for; None is all."""
    limits: Limits | None = None
    expires: float | None = None
    """Unix seconds from which on it allows nothing."""
    internal: bool = False
    """The loop's own key."""


class Alias(Struct, frozen=True):
    """What a second name stands for."""

    model: str
    number: str
    created: float
    owner: str
    """Of the key that asked for the fine-tuning."""

    @property
    def name(self) -> str:
        return adapter_name(self.model, self.number)


class Snapshot(Struct, frozen=True):
    """One moment of the registry."""

    models: dict[str, ModelRoute]
    keys: dict[str, Grant]
    """By the secret's hash; revoked keys are not among them, expired ones are."""
    any_key: bool
    """A key was once created. Revoked ones count: revoking the last must not open the door to everyone."""
    by_id: dict[str, Grant] = {}
    """The open keys by their ids."""
    retiring: tuple[Retiring, ...] = ()
    aliases: dict[str, Alias] = {}
    """Second names of versions that can be asked for: `ft:…`, which fine-tunings give them."""
    owners: dict[tuple[str, str], frozenset[str]] = {}
    """Of the versions that fine-tunings made, by model and number: who asked for them."""


def load_snapshot(session: Session) -> Snapshot:
    """The registry as it stands, in six queries."""
    servable: dict[tuple[str, str], dict[str, str]] = {}
    left: dict[str, set[str]] = {}
    query = columns_of(
        col(ModelVersion.model),
        col(ModelVersion.base),
        col(ModelVersion.number),
        col(ModelVersion.adapter_hash),
        col(ModelVersion.state),
    ).where(col(ModelVersion.state).in_(SERVABLE))
    for model, base, number, adapter_hash, state in session.connection().execute(query):
        servable.setdefault((model, base), {})[number] = adapter_hash
        if state == "rejected":
            left.setdefault(model, set()).add(number)
    arms = {}
    for canary in session.exec(select(Canary).where(col(Canary.state).in_(("open", "rolled_back")))):
        if canary.state == "open":
            arms[canary.model] = Arms.of(canary)
        else:
            left.setdefault(canary.model, set()).add(canary.version)
    models = {
        row.name: ModelRoute(
            name=row.name,
            base=row.base,
            champion=row.champion,
            # an adapter of a base that the model had before does not fit the one it has now
            versions=frozenset(servable.get((row.name, row.base), ())),
            moves=row.moves,
            created=row.created,
            hashes=servable.get((row.name, row.base), {}),
            left=frozenset(left.get(row.name, ())) - {row.champion or ""},
            arms=arms.get(row.name),
        )
        for row in session.exec(select(RegisteredModel))
    }
    named = columns_of(
        col(Tuning.alias), col(Tuning.model), col(Tuning.version), col(Tuning.finished), col(Tuning.owner)
    )
    aliases = {
        alias: Alias(model, number, finished, owner)
        for alias, model, number, finished, owner in session.connection().execute(
            named.where(col(Tuning.alias).is_not(None))
        )
        if alias is not None and number is not None and finished is not None
        if model in models and number in models[model].versions
    }
    owners: dict[tuple[str, str], frozenset[str]] = {}
    for one in aliases.values():
        place = one.model, one.number
        owners[place] = owners.get(place, frozenset()) | {one.owner}
    keys = list(session.exec(select(Key)))
    grants = {key.secret_hash: _grant(key) for key in keys if key.revoked is None}
    return Snapshot(
        models=models,
        keys=grants,
        any_key=any(not key.internal for key in keys),
        by_id={grant.id: grant for grant in grants.values()},
        retiring=tuple(
            Retiring(row.id, adapter_name(row.model, row.number), row.base)
            for row in open_retirements(session)
        ),
        aliases=aliases,
        owners=owners,
    )


def _grant(key: Key) -> Grant:
    return Grant(
        id=key.id,
        owner=key.owner,
        scopes=frozenset(key.scopes),
        models=None if key.models is None else frozenset(key.models),
        limits=read_limits(key.limits),
        expires=key.expires,
        internal=key.internal,
    )
