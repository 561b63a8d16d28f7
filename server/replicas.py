"""The engines: which replica serves which base, which of them is well, and which has the least to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from feedback import settings
from feedback.errors import UnavailableError
from server.answers import read_answer, read_error
from server.connections import BrokenAnswerError, Connection, Connections, UnreachableError
from server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
_PATIENCE = 5.0
_WARM_SECONDS = 120.0
# A busy engine may answer late; only silence that lasts makes it unwell. A refused connection does at once.
_MISSES = 3
_ASLEEP_SECONDS = 60
"""After which it is worth asking an engine again that sleeps."""


class _Card(msgspec.Struct):
    id: str
    parent: str | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class Replica:
    """One engine process at one address."""

    def __init__(
        self,
        url: str,
        patience: float,
        by_priority: bool,
        ejected: Callable[[str], None],
        prepare: Prepare,
    ) -> None:
        """`ejected` is told its address when it is taken out of service; `prepare` is done before it comes into it."""
        self.connections = Connections(url)
        self._ejected = ejected
        self.patience = patience
        self.by_priority = by_priority
        """It lets requests wait that say that they may."""
        self._prepare = prepare
        self.healthy = False
        self.asleep = False
        """It was put to sleep, as configured, and comes back by itself."""
        self.problem = "it was not asked yet"
        self.base_id = ""
        """What the engine calls its base model."""
        self.neutral: str | None = None
        """The adapter that stands for the base in requests, where the engine needs one."""
        self.rises = 0
        """How often it came up: what it had loaded before, it has to read again."""
        self.outstanding = 0
        self._misses = 0

    async def look(self) -> None:
        """Ask whether it is well, and what its base is called."""
        try:
            health = await self.call("GET", "/health")
            if health[0] != 200:
                raise UnreachableError(f"the engine at {self.connections.url} says that it is not well")
            if not self.healthy:
                self.base_id = _base_id(await self._cards(), self.connections.url)
                self.rises += 1
                await self._prepare(self)
        except UnavailableError as error:
            self._misses += 1
            if isinstance(error, UnreachableError) or self._misses >= _MISSES or not self.healthy:
                self.fall(str(error))
            return
        self._misses = 0
        self.asleep = False
        if not self.healthy:
            _log.info("engine at %s serves %s", self.connections.url, self.base_id)
            self.healthy, self.problem = True, ""

    def fall(self, problem: str) -> None:
        """Take it out of service until it is well again."""
        if self.healthy:
            _log.warning("%s", problem)
            self._ejected(self.connections.url)
        self.healthy, self.problem = False, problem
        if self.asleep:
            self.problem = f"it wakes up: {problem}"

    def rest(self, why: str) -> None:
        """It sleeps: no request goes to it until it is well again."""
        if not self.asleep:
            _log.info("the engine at %s sleeps: %s", self.connections.url, why)
        self.healthy, self.asleep, self.problem = False, True, f"it sleeps {why}"

    async def call(
        self, method: str, path: str, body: object = None, patience: float | None = None
    ) -> tuple[int, bytes]:
        """One request of our own, and its answer's status and body. Raises `UnavailableError`."""
        content = b"" if body is None else msgspec.json.encode(body)
        patience = patience or _PATIENCE
        connection = await self.connections.take()
        try:
            await connection.send(self.connections.request(method, path, content), patience)
            return connection.status, await connection.read_all(patience)
        finally:
            self.connections.give_back(connection)

    @property
    def base_name(self) -> str:
        """What to ask for in order to be answered by the base."""
        return self.neutral or self.base_id

    async def warm(self, adapter: str | None, form: msgspec.Raw | None = None) -> None:
        """Let it answer once as an adapter, or as its base: what it has to load, it loads now. `form` is held to meanwhile.

        The adapter's files must have been checked. Raises `UnavailableError` when it cannot answer as that.
        """
        asked = adapter or self.base_name
        body: dict[str, Any] = {"model": asked, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        if form is not None:
            body["structured_outputs"] = form
        status, content = await self.call("POST", "/v1/completions", body, _WARM_SECONDS)
        if status != 200:
            told = read_error(content) or f"status {status}"
            raise BrokenAnswerError(f"the engine at {self.connections.url} does not serve {asked!r}: {told}")
        read_answer(content, asked)

    async def listed(self) -> set[str]:
        """The models and adapters that the engine knows now. Raises `UnavailableError`."""
        return {card.id for card in await self._cards()}

    async def _cards(self) -> list[_Card]:
        status, body = await self.call("GET", "/v1/models")
        try:
            return msgspec.json.decode(body, type=_Cards).data
        except msgspec.DecodeError as error:
            url = self.connections.url
            raise BrokenAnswerError(
                f"{url}/v1/models is not what vLLM answers (status {status}: {error})"
            ) from None


async def _nothing(_base: str, _replica: Replica) -> None:
    pass


Prepare = Callable[[Replica], Awaitable[None]]
PrepareBase = Callable[[str, Replica], Awaitable[None]]


class Engines:
    """All replicas of all bases."""

    def __init__(
        self,
        engines: Sequence[settings.Engine],
        metrics: Metrics,
        prepare: PrepareBase = _nothing,
        asleep: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`prepare` is done with each replica of a base before it gets its first request.

        `asleep` tells why the managed engines sleep; None where they do not.
        """
        self._asleep = asleep
        self._managed = {engine.base for engine in engines if not engine.urls}
        self._bases = {
            engine.base: [
                Replica(
                    url,
                    engine.request_seconds,
                    engine.by_priority,
                    partial(metrics.ejected, engine.base),
                    partial(prepare, engine.base),
                )
                for url in engine.urls or [f"http://{engine.host}:{engine.port}"]
            ]
            for engine in engines
        }
        self._polling: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Look once at every replica, then go on looking. Comes back also when none is there."""
        looks = [asyncio.create_task(self._look(base, replica)) for base, replica in self.all()]
        await asyncio.wait(looks, timeout=1.0)
        self._polling = [asyncio.create_task(self._poll(base, replica)) for base, replica in self.all()]

    async def stop(self) -> None:
        """Stop looking, and close idle connections."""
        for task in self._polling:
            task.cancel()
        await asyncio.gather(*self._polling, return_exceptions=True)
        for replicas in self._bases.values():
            for replica in replicas:
                replica.connections.close()

    def all(self) -> list[tuple[str, Replica]]:
        """Every replica, with its base."""
        return [(base, replica) for base, replicas in self._bases.items() for replica in replicas]

    def of(self, base: str) -> list[Replica]:
        """The replicas that serve a base."""
        return self._bases.get(base, [])

    def rises(self, base: str) -> int:
        """How often a replica of a base came up."""
        return sum(replica.rises for replica in self.of(base))

    def missing(self) -> dict[str, str]:
        """Bases that no replica serves now, with the reason."""
        return {
            base: "; ".join(replica.problem for replica in replicas)
            for base, replicas in self._bases.items()
            if not any(replica.healthy for replica in replicas)
        }

    def check_awake(self, base: str) -> None:
        """Raise `UnavailableError` where all that serve a base sleep: such a request is not an inference that failed."""
        replicas = self.of(base)
        if replicas and all(replica.asleep for replica in replicas):
            raise UnavailableError(f"the engine for {base!r} is away: {replicas[0].problem}", _ASLEEP_SECONDS)

    def pick(self, base: str, avoid: Sequence[Replica] = ()) -> Replica:
        """The healthy replica with the fewest requests under way. Raises `UnavailableError` when there is none."""
        self.check_awake(base)
        well = [replica for replica in self.of(base) if replica.healthy and replica not in avoid]
        if not well:
            problems = "; ".join(replica.problem for replica in self.of(base)) or "no [[engine]] serves it"
            raise UnavailableError(f"the engine for {base!r} is away ({problems}); try again shortly", 2)
        return min(well, key=lambda replica: replica.outstanding)

    async def _look(self, base: str, replica: Replica) -> None:
        why = self._asleep() if base in self._managed else None
        if why is None:
            await replica.look()
        else:
            replica.rest(why)

    async def _poll(self, base: str, replica: Replica) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS if replica.healthy else _POLL_SECONDS / 2)
            try:
                await self._look(base, replica)
            except Exception:  # the task's boundary: an engine that nobody looks at never gets traffic again
                _log.exception("the engine at %s could not be looked at", replica.connections.url)
                replica.fall("looking at the engine failed; the log says how")

    @asynccontextmanager
    async def ask(
        self, base: str, request: Callable[[Replica], bytes], opened: Callable[[Connection], None]
    ) -> AsyncIterator[tuple[Connection, Replica]]:
        """Send a request to the least busy replica; the connection, with the answer's head read.

        `request` writes it for a replica, `opened` is told of each connection before anything is sent over it. Goes to
        another replica only when nothing reached the first one.
        """
        avoid: list[Replica] = []
        fresh = False
        while True:
            replica = self.pick(base, avoid)
            try:
                connection = await replica.connections.take(fresh)
            except UnreachableError as error:
                replica.fall(str(error))
                avoid.append(replica)
                continue
            replica.outstanding += 1
            try:
                opened(connection)
                try:
                    await connection.send(request(replica), replica.patience)
                except BrokenAnswerError:
                    if connection.reused and connection.untouched and not fresh:
                        fresh = True  # closed by the engine while it was idle: nobody read the request
                        continue
                    raise
                yield connection, replica
                return
            finally:
                replica.outstanding -= 1
                replica.connections.give_back(connection)


def _base_id(cards: list[_Card], url: str) -> str:
    """The name of the model that is nobody's adapter."""
    for card in cards:
        if card.parent is None:
            return card.id
    raise BrokenAnswerError(f"{url}/v1/models names no base model")
