"""A gateway inside the test's own process, called over ASGI: real parts all through, and a client that can do anything.

What uvicorn adds (sockets, workers) is tested in `test_served.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from litestar import Litestar

from feedback.settings import Capture, Engine, Model, Server, Settings, Storage
from server.app import create_app
from server.found_beside import FoundBeside
from server.gateway import Clock, Gateway

K = TypeVar("K")
T = TypeVar("T")
HELLO = {"model": "assistant", "messages": [{"role": "user", "content": "Hello?"}]}


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    """Each `set-cookie` as it came."""
    pieces: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of a stream's events, decoded where they are JSON."""
        data = [event.removeprefix("data: ") for event in self.body.decode().split("\n\n") if event]
        return [one if one == "[DONE]" else json.loads(one) for one in data]


class Inside:
    """The application, started."""

    def __init__(self, settings: Settings, now: Clock | None = None) -> None:
        self.settings = settings
        self.app: Litestar = create_app(settings) if now is None else create_app(settings, now=now)
        self.gateway: Gateway = self.app.state.gateway
        self._loop = asyncio.new_event_loop()
        self._told: asyncio.Queue[Any] = asyncio.Queue()
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._life: asyncio.Task[None] | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the application's event loop run until `work` is done."""
        return self._loop.run_until_complete(asyncio.wait_for(work, 30))

    def start(self) -> None:
        async def begin() -> None:
            scope: Any = {"type": "lifespan", "state": {}, "asgi": {"version": "3.0"}}
            self._life = asyncio.create_task(self.app(scope, self._told.get, self._heard.put))
            await self._told.put({"type": "lifespan.startup"})
            said = await self._heard.get()
            assert said["type"] == "lifespan.startup.complete", said

        self.run(begin())

    def stop(self) -> None:
        async def end() -> None:
            await self._told.put({"type": "lifespan.shutdown"})
            said = await self._heard.get()
            assert said["type"] == "lifespan.shutdown.complete", said

        self.run(end())
        self._loop.close()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        peer: str = "127.0.0.1",
    ) -> Answer:
        """One request, from this machine unless `peer` says otherwise."""
        return self.run(self.send(method, path, body, headers, peer))

    def ask(self, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Answer:
        """A chat completion; `body` is laid over a simple one."""
        return self.call("POST", "/v1/chat/completions", {**HELLO, **(body or {})}, headers)

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        peer: str = "127.0.0.1",
        leaves: Callable[[Answer], bool] | None = None,
    ) -> Answer:
        """As `call`, for work that runs beside it. The client goes away once `leaves` holds of what has come."""
        path, _, query = path.partition("?")
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent: dict[str, str] = {
            "host": "127.0.0.1:8000",
            "content-length": str(len(content)),
            **(headers or {}),
        }
        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
            "client": (peer, 50_000),
            "server": ("127.0.0.1", 8000),
            "extensions": {},
            "state": {},
        }
        answer = Answer()
        read = False
        over = asyncio.Event()  # as ASGI has it: the client left, or has its answer

        async def receive() -> Any:
            nonlocal read
            if not read:
                read = True
                return {"type": "http.request", "body": content, "more_body": False}
            while not over.is_set() and leaves is not None and not leaves(answer):
                await asyncio.sleep(0.01)
            if leaves is None:
                await over.wait()
            return {"type": "http.disconnect"}

        async def take(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                answer.cookies = [
                    value.decode() for name, value in message["headers"] if name == b"set-cookie"
                ]
            else:
                answer.pieces.append(message.get("body", b""))
                answer.complete = not message.get("more_body", False)
                if answer.complete:
                    over.set()

        await self.app(scope, receive, take)
        return answer

    async def until(self, condition: Any, seconds: float = 20.0) -> None:
        """Wait for something that other threads or tasks bring about."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    def wait_for(self, condition: Any, seconds: float = 20.0) -> None:
        self.run(self.until(condition, seconds))

    def eventually(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """As `wait_for`, for a condition that makes requests itself."""
        deadline = monotonic() + seconds
        while not condition():
            assert monotonic() < deadline
            self.run(asyncio.sleep(0.05))

    def record(self, inference_id: str) -> Any:
        """The inference as the API shows it, once it has been drained."""
        self.wait_for(lambda: self.gateway.journal.backlog() == 0)
        found = self.call("GET", f"/v1/inferences/{inference_id}")
        assert found.status == 200, found.body
        return found.json


def found_by(figures: FoundBeside[K, T], find: Callable[[K, datetime], T]) -> None:
    """Have figures found in the test's own process, or not at all."""
    figures.find = find


def settings_for(
    directory: Path,
    urls: Sequence[str],
    models: Sequence[str] = ("assistant",),
    database: str = "",
    server: Server | None = None,
    request_seconds: float = 30.0,
) -> Settings:
    """A configuration with one base, served by the given engines."""
    return Settings(
        storage=Storage(directory=str(directory), database=database),
        server=server or Server(),
        engine=[Engine(base="starter", urls=list(urls), request_seconds=request_seconds)],
        model=[Model(name=name) for name in models],
        capture=Capture(sync="os"),
    )


@contextmanager
def inside(settings: Settings, now: Clock | None = None) -> Iterator[Inside]:
    """A started gateway, by a clock of the test's own if it has one."""
    gateway = Inside(settings, now)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()
