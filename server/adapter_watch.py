"""Sees to it that the folders which engines load from still hold what was registered.

An engine reads an adapter when a version is first asked for, and again after a restart, whenever that is. So before a
version is asked for the first time, and the first time after an engine came up, its files are proved against the
registry; from then on a look at sizes, times and inodes every 0.4 s (no file is read, no request waits) says whether
they must be proved again. A version whose files are not those registered is asked of no engine until they are back:
even one that has it in memory may have to read it again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from feedback.errors import StarloopError, UnavailableError, UnreadableAdapterError
from feedback.registry.adapters import AdapterStore, Fingerprint, adapter_name
from server.replicas import Engines
from server.routing import Route, is_served
from server.snapshot import LiveSnapshot

_log = logging.getLogger(__name__)
_INTERVAL_SECONDS = 0.4


class _Seen(NamedTuple):
    """What the last look at a folder said."""

    registered: str
    fingerprint: Fingerprint
    rises: int
    """How often an engine of the base had come up by then."""
    problem: str | None


class AdapterWatch:
    """What is known of the folders of the versions that this worker asks for."""

    def __init__(self, adapters: AdapterStore, live: LiveSnapshot, engines: Engines) -> None:
        self._adapters = adapters
        self._live = live
        self._engines = engines
        self._seen: dict[str, _Seen] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look at the folders from now on."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def admit(self, route: Route) -> None:
        """Let a request go on to an engine. Raises `UnavailableError` when the version was retired since the route
        was chosen, or when its files are not those that were registered."""
        snapshot = self._live.current
        if not is_served(route, snapshot):
            raise UnavailableError(f"{route.name} was retired just now; ask again", 1)
        if route.adapter is None:
            return
        registered = snapshot.models[route.model].hashes[route.version]
        seen = self._seen.get(route.adapter)
        rises = self._engines.rises(route.base)
        if seen is None or seen.rises != rises or seen.registered != registered:
            seen = await asyncio.to_thread(self._look, route.adapter, registered, rises)
        if seen.problem is not None:
            raise UnavailableError(f"{route.name} is not asked of any engine: {seen.problem}")

    def problem(self, adapter: str) -> str | None:
        """Why a version is not asked for, as far as that is known."""
        seen = self._seen.get(adapter)
        return None if seen is None else seen.problem

    def problems(self) -> dict[str, str]:
        """The versions that are not asked for, with the reason."""
        return {name: seen.problem for name, seen in list(self._seen.items()) if seen.problem is not None}

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            try:
                await asyncio.to_thread(self._look_at_all)
            except StarloopError:
                continue  # there was no view of the registry yet
            except Exception:  # the task's boundary: what changes later must be seen all the same
                _log.exception("the adapters' folders could not be looked at")

    def _look_at_all(self) -> None:
        """Look at what was asked for before, and at every champion, which will be."""
        snapshot = self._live.current
        for model in snapshot.models.values():
            rises = self._engines.rises(model.base)
            for number, registered in model.hashes.items():
                name = adapter_name(model.name, number)
                if name in self._seen or number == model.champion:
                    self._look(name, registered, rises)
        known = {
            adapter_name(model.name, number) for model in snapshot.models.values() for number in model.hashes
        }
        for name in set(self._seen) - known:
            self._seen.pop(name, None)

    def _look(self, name: str, registered: str, rises: int) -> _Seen:
        before = self._seen.get(name)
        fingerprint = self._adapters.fingerprint(name)
        if before is not None and (before.fingerprint, before.registered) == (fingerprint, registered):
            seen = before._replace(rises=rises)
        else:
            problem, passing = self._prove(name, registered)
            seen = _Seen(registered, () if passing else fingerprint, rises, problem)
            if problem is not None and (before is None or before.problem != problem):
                _log.error("%s is not asked of any engine: %s", name, problem)
            elif problem is None and before is not None and before.problem is not None:
                _log.info("%s is what was registered again", name)
        self._seen[name] = seen
        return seen

    def _prove(self, name: str, registered: str) -> tuple[str | None, bool]:
        """What is wrong with a folder, and whether that may pass though nothing in it changes."""
        try:
            if self._adapters.check(name) != registered:
                path = self._adapters.path(name)
                return f"{path}: holds other weights than were registered; restore the folder", False
        except StarloopError as error:
            return str(error), isinstance(error, UnreadableAdapterError)
        return None, False
