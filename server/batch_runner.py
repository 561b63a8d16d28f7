"""Answers batches beside the users' requests: one worker of all gateways does, the holder of the lease `batches`.

Each line goes the way of any request, with the key that made the batch, and is captured with the purpose `batch`. What came
of a line is written down at once; whoever takes over after a kill asks only those of which nothing came.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from feedback.batches.kept import move, open_batches
from feedback.batches.output import end_batch
from feedback.errors import BadInputError, NoKeyError, StarloopError
from feedback.files.stored import path_of
from feedback.storage.batch_table import RequestBatch
from feedback.storage.lease import HeldLease, LeaseLostError
from server.access import caller_by_id
from server.batch_answers import Answering
from server.batch_lines import look
from server.batch_turns import Turns, users_under_way
from server.gateway import Gateway

_log = logging.getLogger(__name__)
LEASE_SECONDS = 10.0
_POLL_SECONDS, _TROUBLE_SECONDS = 1.0, 5.0
_AT_A_TIME = 4
"""Batches that are answered beside each other, so that a small one need not wait for a large one."""


class BatchRunner:
    """One worker's part in all batches; `start` lets it run beside the requests."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        concurrency = gateway.settings.server.batch_concurrency
        self._turns = Turns(concurrency, lambda: users_under_way(gateway.metrics))
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._lease: HeldLease

    def start(self) -> None:
        """Answer from now on, if no other worker does."""
        self._lease = HeldLease(self._gateway.database, "batches", LEASE_SECONDS, self._gateway.now)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Cut what is under way, and leave it to the next."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        leads = bool(self._tasks)
        await self._drop()
        if leads:
            with suppress(StarloopError):  # it runs out by itself
                await asyncio.to_thread(self._lease.release)

    async def _run(self) -> None:
        while True:
            pause = _POLL_SECONDS
            try:
                await self._look()
            except StarloopError as error:
                _log.warning("batches wait: %s", error)
                pause = _TROUBLE_SECONDS
            except Exception:  # the runner's own boundary
                _log.exception("batches go on after an unexpected error")
                pause = _TROUBLE_SECONDS
            await asyncio.sleep(pause)

    async def _look(self) -> None:
        """Renew the lease, and see that every open batch is worked on, as far as that goes at a time."""
        if self._gateway.live.problem is not None:
            return  # the database is away, as the gateway says itself
        waiting = await asyncio.to_thread(self._open)
        if not waiting and not self._tasks:
            return
        if not await asyncio.to_thread(self._lease.acquire):
            await self._drop()
            return
        for batch_id, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[batch_id]
        for batch_id in waiting:
            if batch_id not in self._tasks and len(self._tasks) < _AT_A_TIME:
                self._tasks[batch_id] = asyncio.create_task(self._guarded(batch_id))

    async def _drop(self) -> None:
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, batch_id: str) -> None:
        try:
            await self._work(batch_id)
            return
        except LeaseLostError:
            return  # whoever leads now goes on with it
        except StarloopError as error:
            _log.warning("batch %s waits: %s", batch_id, error)
        except Exception:  # one batch's boundary
            _log.exception("batch %s waits after an unexpected error", batch_id)
        await asyncio.sleep(_TROUBLE_SECONDS)

    # -- one batch

    async def _work(self, batch_id: str) -> None:
        """Bring a batch from where it stands to its end. Where its status changes meanwhile, the next look goes on."""
        row = await asyncio.to_thread(self._read, batch_id)
        if row.status == "validating":
            await asyncio.to_thread(self._check, row)
            row = await asyncio.to_thread(self._read, batch_id)
        if row.status == "in_progress":
            await self._answer(row)
            row = await asyncio.to_thread(self._read, batch_id)
        to = {"finalizing": "completed", "cancelling": "cancelled"}.get(row.status)
        if to is not None:
            await asyncio.to_thread(self._end, row, to)

    def _check(self, row: RequestBatch) -> None:
        gateway = self._gateway
        path = path_of(gateway.settings.directory, row.input_file_id)
        gateway.live.refresh()  # the key may be newer than this worker's view
        try:
            caller = caller_by_id(row.key_id, gateway.live.current, gateway.now())
        except NoKeyError as error:
            self._end(row, "failed", _problem("key_closed", error))
            return
        if not path.is_file():
            gone = BadInputError("the file was deleted before it was looked at; send it again")
            self._end(row, "failed", _problem("file_gone", gone))
            return
        limit = gateway.settings.server.body_limit
        total, errors = look(path, row.endpoint, limit, caller, gateway.live.current)
        if errors:
            self._end(row, "failed", errors)
        else:
            self._move(row, "in_progress", total=total)

    async def _answer(self, row: RequestBatch) -> None:
        answering = Answering(self._gateway, self._lease, self._turns, row)
        try:
            await answering.run()
        except BadInputError as error:  # it was there when it was looked at
            await asyncio.to_thread(self._end, row, "failed", _problem("file_gone", error))
            return
        if not answering.over:
            await asyncio.to_thread(self._move, row, "finalizing")
        elif answering.over == "expired":
            await asyncio.to_thread(self._end, row, "expired")
        elif answering.over == "key_closed":
            closed = NoKeyError("the key that it was made with is closed; make it again with another")
            await asyncio.to_thread(self._end, row, "failed", _problem("key_closed", closed))

    # -- the record

    def _open(self) -> list[str]:
        with self._gateway.database.reading() as session:
            return open_batches(session)

    def _read(self, batch_id: str) -> RequestBatch:
        with self._gateway.database.reading() as session:
            return session.get_one(RequestBatch, batch_id)

    def _move(self, row: RequestBatch, to: str, **values: Any) -> None:
        with self._gateway.database.session() as session:
            self._lease.confirm(session)
            move(session, row, row.status, to, self._gateway.now(), **values)
            session.commit()

    def _end(self, row: RequestBatch, to: str, errors: list[dict[str, Any]] | None = None) -> None:
        gateway, directory = self._gateway, self._gateway.settings.directory
        end_batch(gateway.database, directory, row, to, errors or [], self._lease.confirm, gateway.now())


def _problem(code: str, error: StarloopError) -> list[dict[str, Any]]:
    return [{"code": code, "line": None, "message": str(error), "param": None}]
