"""Retired versions leave the engines and the disk: routing stops, requests end, engines unload, files go.

An engine that still knows an adapter whose folder is gone dies, and every other version with it. So each step waits for
all gateway workers that share the database: no file is touched before each of them has stopped routing to the version,
ended its requests, and seen every engine of its own list it no more. A step that fails is tried again at every
tick, by whichever workers live; until it succeeds the version stays retired with its files in place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import NamedTuple

from feedback.access.audit import Actor
from feedback.errors import ConflictError, StarloopError, UnavailableError
from feedback.ids import new_id
from feedback.registry.adapters import AdapterStore, adapter_name
from feedback.registry.retirements import (
    Progress,
    begin_retirement,
    expendable_versions,
    finish_retirement,
    forget_worker,
    live_workers,
    progress_of,
    report_worker,
    routable,
    waits_for,
)
from feedback.registry.snapshot import Retiring
from feedback.settings import Engine, Settings
from feedback.storage.database import Database
from feedback.storage.tables import GatewayWorker, Retirement
from server.connections import BrokenAnswerError
from server.replicas import Engines, Replica
from server.snapshot import LiveSnapshot

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.4
_SIGN_OF_LIFE_SECONDS = 5.0
_WAIT_SECONDS = 45.0


class UnderWay:
    """How many requests to each adapter this worker has under way."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def on(self, adapter: str | None) -> Iterator[None]:
        """One request; None is the base, which is never retired. Look whether it may still serve after entering."""
        if adapter is None:
            yield
            return
        self._counts[adapter] += 1
        try:
            yield
        finally:
            self._counts[adapter] -= 1
            if not self._counts[adapter]:
                del self._counts[adapter]

    def count(self, adapter: str) -> int:
        return self._counts[adapter]


class Retired(NamedTuple):
    """What became of a retirement."""

    model: str
    version: str
    removed: bool
    """The files are gone."""
    waits_for: str | None
    """Why they are not, in words."""


class Retirements:
    """One worker's part in all retirements; `start` lets it run beside the requests."""

    def __init__(
        self,
        settings: Settings,
        adapters: AdapterStore,
        engines: Engines,
        live: LiveSnapshot,
        under_way: UnderWay,
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._adapters = adapters
        self._engines = engines
        self._live = live
        self._under_way = under_way
        self._now = now
        self._id = new_id(now())
        self._place = f"{socket.gethostname()}:{os.getpid()}"
        self._said = 0.0
        self._stopping = asyncio.Event()
        self._database: Database
        self._task: asyncio.Task[None] | None = None

    def start(self, database: Database) -> None:
        """Take part from now on."""
        self._database = database
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Take no part any more, and let nobody wait for this worker."""
        self._stopping.set()
        if self._task is not None:
            await self._task  # not cancelled: a report on its way would come after the farewell
        try:
            await asyncio.to_thread(self._leave)
        except StarloopError as error:
            _log.warning("the others are not told that this worker ends: %s", error)

    async def retire(self, model: str, version: str, reason: str, actor: Actor) -> Retired:
        """Retire a version, and wait a while for its files to go; they go later where something holds that up.

        Raises `NotFoundError` and `ConflictError`, see `begin_retirement`.
        """
        row = await asyncio.to_thread(self._begin, model, version, reason, actor)
        await asyncio.to_thread(self._live.refresh)
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while True:
            finished, waiting = await asyncio.to_thread(self._state, row.id)
            if finished or asyncio.get_running_loop().time() > deadline:
                return Retired(model, version, finished, None if finished else waiting)
            await asyncio.sleep(_TICK_SECONDS / 2)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._tick()
            except StarloopError as error:
                _log.debug(
                    "retirements wait: %s", error
                )  # told by the snapshot, which needs the same database
            except Exception:  # the task's boundary: retirements of other versions must go on
                _log.exception("a step of a retirement failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._stopping.wait()

    async def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        retiring = self._live.current.retiring
        if not retiring and self._said and now < self._said + _SIGN_OF_LIFE_SECONDS:
            return
        others = await asyncio.to_thread(self._others) if retiring else []
        progress = {one.id: await self._advance(one, others) for one in retiring}
        workers = await asyncio.to_thread(self._report, progress)
        self._said = now
        for one in retiring:
            if workers[0].id == self._id and all(_unloaded(worker, one) for worker in workers):
                await self._remove(one, progress)
        if not retiring:
            for engine in self._settings.engine:
                await asyncio.to_thread(self._make_room, engine)

    async def _advance(self, one: Retiring, others: list[GatewayWorker]) -> Progress:
        """The next step of this worker: it is not routed to any more, as the snapshot in use says so."""
        count = self._under_way.count(one.adapter)
        if count:
            return Progress("busy", f"{count} requests are under way on it")
        steps = [progress_of(worker, one.id) for worker in others]
        if any(step is None or step.step == "busy" for step in steps):
            return Progress("left")
        try:
            await self._unload(one)
        except UnavailableError as error:
            return Progress("left", str(error))
        return Progress("unloaded")

    async def _unload(self, one: Retiring) -> None:
        for replica in self._engines.of(one.base):
            await unload(replica, one.adapter)

    async def _remove(self, one: Retiring, progress: dict[str, Progress]) -> None:
        """Move the folder away, so that nothing can load it any more; look at the engines again; then delete it."""
        adapters, name = self._adapters, one.adapter
        try:
            await asyncio.to_thread(adapters.move_away, name)
            try:
                await self._unload(one)
            except UnavailableError:
                await asyncio.to_thread(adapters.move_back, name)
                raise
            await asyncio.to_thread(adapters.remove, name)
            await asyncio.to_thread(self._finish, one)
        except StarloopError as error:
            _log.warning("%s is retired, but its files are still there: %s", name, error)
            await asyncio.to_thread(self._report, progress | {one.id: Progress("left", str(error))})
            return
        _log.info("%s is retired and its files are removed", name)
        await asyncio.to_thread(self._live.refresh)

    # -- in threads, with the database

    def _others(self) -> list[GatewayWorker]:
        with self._database.reading() as session:
            workers = live_workers(session, self._now())
        return [worker for worker in workers if worker.id != self._id]

    def _report(self, progress: dict[str, Progress]) -> list[GatewayWorker]:
        with self._database.session() as session:
            report_worker(session, self._id, self._place, progress, self._now())
            session.flush()
            workers = live_workers(session, self._now())
            session.commit()
        return workers

    def _finish(self, one: Retiring) -> None:
        with self._database.session() as session:
            finish_retirement(session, one.id, self._now())
            session.commit()

    def _leave(self) -> None:
        with self._database.session() as session:
            forget_worker(session, self._id)
            session.commit()

    def _begin(self, model: str, version: str, reason: str, actor: Actor) -> Retirement:
        with self._database.session() as session:
            row = begin_retirement(session, model, version, reason, actor, self._now())
            session.commit()
        return row

    def _state(self, identifier: str) -> tuple[bool, str]:
        now: datetime = self._now()
        with self._database.reading() as session:
            row = session.get(Retirement, identifier)
            assert row is not None
            return row.finished is not None, "" if row.finished else waits_for(session, row, now)

    def _make_room(self, engine: Engine) -> None:
        """Retire a version where an engine's memory for adapters is full: the next one needs a place.

        The first of the expendable ones that may go: it may still answer users, or be what a rollback leads to.
        """
        with self._database.reading() as session:
            if routable(session, engine.base) < engine.adapter_limit:
                return
            here = [model for model in self._settings.model if model.base == engine.base]
            most = max(1, engine.adapter_limit // max(1, len(here)) - 2)  # beside champion and challenger
            keep = {model.name: min(model.keep_champions, most) for model in here}
            found = expendable_versions(session, engine.base, self._now(), keep)
            candidates = [(one.model, one.number, what) for one, what in found]
        for model, number, what in candidates:
            reason = f"[[engine]] max_cpu_loras is {engine.adapter_limit}, and this is the oldest {what} that may go"
            with self._database.session() as session:
                if routable(session, engine.base) < engine.adapter_limit:
                    return  # another worker was quicker
                try:
                    begin_retirement(session, model, number, reason, Actor("gateway"), self._now())
                except ConflictError as error:
                    _log.debug("no room is made by retiring %s: %s", adapter_name(model, number), error)
                    continue
                session.commit()
            _log.info("%s is retired: %s", adapter_name(model, number), reason)
            return


async def unload(replica: Replica, adapter: str) -> None:
    """Make one engine forget an adapter. Raises `UnavailableError` unless the engine then lists it no more.

    An engine that cannot be reached may still know it, so that is a failure too.
    """
    status, content = await replica.call("POST", "/v1/unload_lora_adapter", {"lora_name": adapter})
    if status not in (200, 404):  # 404: it does not know the adapter, or not this address; the list decides
        raise BrokenAnswerError(
            f"the engine at {replica.connections.url} did not unload {adapter} (status {status}): {content[:200]!r}"
        )
    if adapter in await replica.listed():
        raise UnavailableError(
            f"the engine at {replica.connections.url} still lists {adapter}; it must run with "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, or be started again",
        )


def _unloaded(worker: GatewayWorker, one: Retiring) -> bool:
    progress = progress_of(worker, one.id)
    return progress is not None and progress.step == "unloaded"
