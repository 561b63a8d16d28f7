"""Which version answers: plain functions over a snapshot of the registry. Only names that stand in it go further."""

from __future__ import annotations

from typing import NamedTuple

from feedback.errors import NotFoundError
from feedback.registry.adapters import adapter_name
from feedback.registry.snapshot import ModelRoute, Snapshot
from feedback.tuning.requests import NAMED
from server.access import Caller

BASE = "base"


class UnknownModelError(NotFoundError):
    """No registered model, or no servable version of it, has that name."""


class Route(NamedTuple):
    """Where one request goes."""

    model: str
    version: str
    """Number of the version, or `base`."""
    base: str
    """The base as the settings name it: it says which engine serves it."""

    @property
    def name(self) -> str:
        """What the client is told: `assistant@1.2` or `assistant@base`."""
        return f"{self.model}@{self.version}"

    @property
    def adapter(self) -> str | None:
        """The adapter to ask the engine for; None for the base itself."""
        return None if self.version == BASE else adapter_name(self.model, self.version)


def choose(requested: str, snapshot: Snapshot, stays: str | None = None, unit: str | None = None) -> Route:
    """The route for what a client wrote under `model`: a registered name, `name@version`, `name@base` or a version's `ft:…`.

    `stays` is the version that the conversation is on already: it goes before the champion as long as it can serve and
    was not rejected or rolled back. `unit` (`registry.arms.unit_of`) is whom the request counts for while users
    compare two versions; without it the champion answers. Raises `UnknownModelError`.
    """
    alias = snapshot.aliases.get(requested)
    name, pinned, version = (requested if alias is None else alias.name).partition("@")
    model = snapshot.models.get(name)
    if model is None:
        known = ", ".join(sorted(snapshot.models)) or "none yet"
        raise UnknownModelError(f"there is no model {_short(name)}; registered are: {known}")
    if pinned:
        return Route(name, _servable(model, version), model.base)
    if stays is not None and stays not in model.left and (stays == BASE or stays in model.versions):
        return Route(name, stays, model.base)
    if unit is not None and model.arms is not None:
        dealt = model.arms.version_for(unit)
        if dealt == BASE or dealt in model.versions:
            return Route(name, dealt, model.base)
    return Route(name, model.champion or BASE, model.base)


def chosen_by(
    caller: Caller, requested: str, snapshot: Snapshot, stays: str | None = None, unit: str | None = None
) -> Route:
    """The route for what a caller wrote, as `choose` has it.

    Raises `NotAllowedError` for a model that the key is not for, and `UnknownModelError` also for somebody else's fine-tuning.
    """
    route = choose(requested, snapshot, stays, unit)
    caller.need_model(route.model)
    if is_pinned(requested) and not is_seen(caller, route.model, route.version, snapshot):
        raise UnknownModelError(
            f"there is no model {_short(requested)}; GET /v1/models lists those there are"
        )
    return route


def is_seen(caller: Caller, model: str, number: str, snapshot: Snapshot) -> bool:
    """Whether a version is the caller's to name: all are, but for another owner's fine-tuning that serves no users."""
    owner = caller.only_of
    if owner is None or number in answering(snapshot.models[model]):
        return True
    return snapshot.owners.get((model, number), frozenset()) <= {owner}


def is_served(route: Route, snapshot: Snapshot) -> bool:
    """Whether a route that was chosen a moment ago still leads somewhere."""
    model = snapshot.models.get(route.model)
    return model is not None and (route.version == BASE or route.version in model.versions)


def answering(model: ModelRoute) -> tuple[str, ...]:
    """The versions that users get who name none: the champion, and where they compare two, both."""
    champion = model.champion or BASE
    return (champion,) if model.arms is None else tuple({model.arms.version, model.arms.against, champion})


def is_pinned(requested: str) -> bool:
    """Whether the client named the version itself."""
    return "@" in requested or requested.startswith(NAMED)


def _servable(model: ModelRoute, version: str) -> str:
    if version == BASE or version in model.versions:
        return version
    known = ", ".join([BASE, *sorted(model.versions, key=_order)])
    raise UnknownModelError(
        f"the model {model.name!r} serves no version {_short(version)}; it serves: {known}"
    )


def _order(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split(".")))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
