"""Which version answers: plain functions over a snapshot of the registry. Only names that stand in it go further."""

from __future__ import annotations

from typing import NamedTuple

from feedback.errors import NotFoundError
from feedback.registry.adapters import adapter_name
from feedback.registry.snapshot import ModelRoute, Snapshot

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


def choose(requested: str, snapshot: Snapshot, stays: str | None = None) -> Route:
    """The route for what a client wrote under `model`: a registered name, `name@version` or `name@base`.

    `stays` is the version that the conversation is on already: it goes before the champion as long as it can serve.
    Raises `UnknownModelError`.
    """
    name, pinned, version = requested.partition("@")
    model = snapshot.models.get(name)
    if model is None:
        known = ", ".join(sorted(snapshot.models)) or "none yet"
        raise UnknownModelError(f"there is no model {_short(name)}; registered are: {known}")
    if pinned:
        return Route(name, _servable(model, version), model.base)
    if stays is not None and (stays == BASE or stays in model.versions):
        return Route(name, stays, model.base)
    return Route(name, model.champion or BASE, model.base)


def is_served(route: Route, snapshot: Snapshot) -> bool:
    """Whether a route that was chosen a moment ago still leads somewhere."""
    model = snapshot.models.get(route.model)
    return model is not None and (route.version == BASE or route.version in model.versions)


def is_pinned(requested: str) -> bool:
    """Whether the client named the version itself."""
    return "@" in requested


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
