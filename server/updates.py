"""What tells open pages that something changed. One look at the database a second serves all who listen to a worker.

Nobody listening, nothing is looked up. A stream ends when its listener may no longer see the page, when this worker ends, and
after some minutes in any case: a browser comes back by itself, with the cookie that it has then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import suppress

import msgspec

from feedback.errors import StarloopError, UnavailableError
from feedback.reports.pulse import Pulse, Topic

_log = logging.getLogger(__name__)
MOST, MOST_OF_ONE = 256, 32
"""Streams of a worker, and of one key among them."""
_LIFE_SECONDS, _BEAT_SECONDS, _RETRY_MS = 300.0, 15.0, 2000
_PATIENCE = 5
"""Looks that may fail to come before a listener sees to it that there is one."""

Read = Callable[[Collection[Topic]], Mapping[Topic, Pulse]]


class Updates:
    """One worker's listeners, by topic."""

    def __init__(self, read: Read, tick_seconds: float = 1.0) -> None:
        """`read` runs in a thread, once for all topics; while it raises, what was known stays."""
        self._read = read
        self._tick = tick_seconds
        self._topics: Counter[Topic] = Counter()
        self._callers: Counter[str] = Counter()
        self._known: dict[Topic, Pulse] = {}
        self._turn = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def listeners(self) -> int:
        return self._callers.total()

    def need_room(self, caller: str) -> None:
        """Raises `UnavailableError` when there is no place for one more."""
        if self._stopped or self.listeners >= MOST or self._callers[caller] >= MOST_OF_ONE:
            raise UnavailableError(
                "too many pages listen for changes; close some, or reload this one to see what is new", 30
            )

    def stop(self) -> None:
        """End all streams at once, so that a worker on its way out need not wait for them."""
        self._stopped = True
        self._turn.set()

    async def listen(self, topic: Topic, caller: str, may: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Server-sent events: how the topic stands, now and whenever it changes; `may` is asked at every look."""
        loop = asyncio.get_running_loop()
        begun = heard = loop.time()
        sent: Pulse | None = None
        self._topics[topic] += 1
        self._callers[caller] += 1
        try:
            yield b"retry: %d\n\n" % _RETRY_MS
            while not self._stopped and loop.time() - begun < _LIFE_SECONDS:
                if not may():
                    yield b"event: ended\ndata: {}\n\n"
                    return
                pulse = self._known.get(topic)
                if pulse is not None and pulse != sent:
                    yield b"data: " + msgspec.json.encode(pulse) + b"\n\n"
                    sent, heard = pulse, loop.time()
                elif loop.time() - heard >= _BEAT_SECONDS:
                    yield b": still here\n\n"
                    heard = loop.time()
                await self._next_look()
        finally:
            self._leave(topic, caller)

    async def _next_look(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        # The database may be slow: what else ends a stream is looked at even so. Not `wait_for`, which loses a cancellation that
        # comes together with the turn (Python 3.11).
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE * self._tick):
                await self._turn.wait()

    async def _look(self) -> None:
        while self._topics and not self._stopped:
            try:
                self._known |= await asyncio.to_thread(self._read, list(self._topics))
            except StarloopError as error:
                _log.warning("pages are not told of changes: %s", error)
            turn, self._turn = self._turn, asyncio.Event()
            turn.set()
            await asyncio.sleep(self._tick)

    def _leave(self, topic: Topic, caller: str) -> None:
        self._callers[caller] -= 1
        if not self._callers[caller]:
            del self._callers[caller]
        self._topics[topic] -= 1
        if not self._topics[topic]:
            del self._topics[topic]
            self._known.pop(topic, None)
