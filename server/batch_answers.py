"""The requests of one batch, asked until each has an answer, or until it is cancelled, out of time or without its key."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from feedback.batches.kept import Answered, add_answers, answered_lines
from feedback.errors import NoKeyError
from feedback.files.stored import path_of
from feedback.storage.batch_table import RequestBatch
from feedback.storage.lease import HeldLease
from server.access import caller_by_id
from server.batch_lines import DIALECTS, Request, requests, told
from server.batch_turns import Turns
from server.completion import BATCH, begin
from server.errors import tell
from server.gateway import Gateway

_WATCH_SECONDS = 0.5
_READ = 50
_AWAY, _BROKEN = frozenset({429, 503}), frozenset({500, 502, 504})
"""Statuses after which a request is made again: for as long as there is time, and twice."""
_LONGEST = 30.0


class _Counts(Struct):
    """Tokens in the words of one API or the other."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Usage(Struct):
    usage: _Counts | None = None


class _Came(NamedTuple):
    """How one request was answered."""

    status: int
    content: bytes
    id: str | None
    wait: float


class Answering:
    """One batch that is `in_progress`."""

    def __init__(self, gateway: Gateway, lease: HeldLease, turns: Turns, row: RequestBatch) -> None:
        self._gateway = gateway
        self._lease = lease
        self._turns = turns
        self._row = row
        self._limit = gateway.settings.server.body_limit
        self._path = path_of(gateway.settings.directory, row.input_file_id)
        self._read: deque[Request] = deque()
        self._reading, self._writing = asyncio.Lock(), asyncio.Lock()
        self._pending: list[Answered] = []
        self.over = ""
        """Why nothing more is begun: `cancelled`, `expired`, `key_closed`; empty where all was asked."""

    async def run(self) -> None:
        """Ask what has no answer yet. Raises `BadInputError` where the file is gone, `LeaseLostError`."""
        self._lines = await asyncio.to_thread(self._unanswered)
        await self._look()
        count = self._gateway.settings.server.batch_concurrency
        askers = [asyncio.create_task(self._answer()) for _ in range(count)]
        watcher = asyncio.create_task(self._watch())
        try:
            await asyncio.gather(*askers)
        finally:
            for task in (*askers, watcher):
                task.cancel()
            await asyncio.gather(*askers, watcher, return_exceptions=True)
        if self.over == "expired":
            await asyncio.to_thread(self._give_up)

    async def _watch(self) -> None:
        while not self.over:
            await asyncio.sleep(_WATCH_SECONDS)
            await self._look()

    async def _look(self) -> None:
        """Whether it may go on."""
        gateway, row = self._gateway, self._row
        try:
            caller_by_id(row.key_id, gateway.live.current, gateway.now())
        except NoKeyError:
            self.over = "key_closed"
        if gateway.now().timestamp() >= row.expires:
            self.over = "expired"
        if await asyncio.to_thread(self._status) != "in_progress":
            self.over = "cancelled"

    def _status(self) -> str:
        with self._gateway.database.reading() as session:
            return session.get_one(RequestBatch, self._row.id).status

    # -- one line after the other, some beside each other

    async def _answer(self) -> None:
        while not self.over and (line := await self._next()) is not None:
            answered = await self._ask(line)
            if answered is not None:
                await self._keep(answered)

    async def _next(self) -> Request | None:
        async with self._reading:
            if not self._read:
                self._read.extend(await asyncio.to_thread(lambda: list(islice(self._lines, _READ))))
            return self._read.popleft() if self._read else None

    async def _ask(self, line: Request) -> Answered | None:
        """What came of it; None when it was stopped before."""
        tries = 0
        while not self.over:
            async with self._turns.take():
                came = None if self.over else await self._once(line)
            if came is None:
                return None
            tries += 1
            if came.status not in _AWAY and (came.status not in _BROKEN or tries > 2):
                return self._told(line, came)
            await self._rest(min(max(came.wait, 2.0**tries / 2), _LONGEST))
        return None

    async def _rest(self, seconds: float) -> None:
        while seconds > 0 and not self.over:
            await asyncio.sleep(min(seconds, _WATCH_SECONDS))
            seconds -= _WATCH_SECONDS

    async def _once(self, line: Request) -> _Came | None:
        """Ask it as the route would."""
        gateway, row = self._gateway, self._row
        scope: Any = {}
        head: dict[str, str] = {}
        status, pieces = 0, list[bytes]()

        async def receive() -> Any:
            await asyncio.Event().wait()  # a client that never goes away

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                head.update((name.decode(), value.decode("latin-1")) for name, value in message["headers"])
            else:
                pieces.append(message.get("body", b""))

        try:
            caller = caller_by_id(row.key_id, gateway.live.current, gateway.now())
            await begin(gateway, caller, DIALECTS[row.endpoint], line.body, BATCH)(scope, receive, send)
        except NoKeyError:
            self.over = "key_closed"
            return None
        except Exception as error:  # a request's boundary, as the application's own
            failure = tell(error)
            status, pieces, head = failure.status, [failure.content], failure.headers
        wait = float(head.get("retry-after", 0))
        return _Came(status, b"".join(pieces), head.get("x-starloop-inference-id"), wait)

    def _told(self, line: Request, came: _Came) -> Answered:
        content = came.content
        body = msgspec.json.decode(content) if b"\n" in content else Raw(content)  # each stands on one line
        response = {"status_code": came.status, "request_id": came.id, "body": body}
        whole = told(line, self._row.id, response, None)
        if came.status != 200:
            return Answered(line.line, False, whole)
        usage = msgspec.json.decode(content, type=_Usage).usage or _Counts()
        read = usage.prompt_tokens or usage.input_tokens or 0
        written = usage.completion_tokens or usage.output_tokens or 0
        return Answered(line.line, True, whole, read, written)

    async def _keep(self, answered: Answered) -> None:
        """Written when this returns, with what others brought meanwhile."""
        self._pending.append(answered)
        async with self._writing:
            answers, self._pending = self._pending, []
            if answers:
                await asyncio.to_thread(self._write, answers)

    def _write(self, answers: list[Answered]) -> None:
        with self._gateway.database.session() as session:
            self._lease.confirm(session)
            add_answers(session, self._row.id, answers)
            session.commit()

    # -- what has no answer

    def _unanswered(self) -> Iterator[Request]:
        with self._gateway.database.reading() as session:
            done = answered_lines(session, self._row.id)
        for one in requests(self._path, self._row.endpoint, self._limit):
            if isinstance(one, Request) and one.line not in done:
                yield one

    def _give_up(self) -> None:
        """Say of each line that was not asked in time that it was not."""
        problem = {
            "code": "batch_expired",
            "message": "there was no time left for this request in the batch's window",
        }
        lines = self._unanswered()
        while some := list(islice(lines, _READ)):
            self._write([Answered(one.line, False, told(one, self._row.id, None, problem)) for one in some])
