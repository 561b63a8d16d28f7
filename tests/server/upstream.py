"""A stand-in for vLLM: a real HTTP server in a thread that speaks its OpenAI shape and does what a test tells it to.

It answers with the name of the model that was asked for, so a test can see which version wrote what.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.server.served import free_port
from tests.server.upstream_shapes import SHAPES

Json = dict[str, Any]


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Json


@dataclass
class FakeEngine:
    """What the stand-in does; fields may be changed while it runs."""

    base: str = "bases/starter"
    adapters: set[str] | None = None
    """Adapters that load; None loads any."""
    healthy: bool = True
    health_delay: float = 0.0
    held: bool = False
    """Keep all answers back for as long as it is set."""
    delay: float = 0.0
    """Seconds before the first byte of an answer."""
    pieces: int = 4
    """Content events of a stream."""
    pause: float = 0.0
    """Seconds between the events of a stream."""
    die_after: int | None = None
    """Events of a stream after which the connection is cut."""
    cut_answer: bool = False
    """Close the connection in the middle of a plain answer."""
    status: int = 200
    """Answered to every completion."""
    impostor: str | None = None
    """The model that answers in the place of the one that was asked."""
    garbage: bytes | None = None
    """Answered instead of a completion."""
    routes: tuple[str, ...] = (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
    )
    """Where it can be asked."""
    answer: Callable[[Json], str] = lambda body: f"{body['model']} answers"
    loaded: set[str] = field(default_factory=set)
    """Adapters that it knows: those it answered as, until they are unloaded."""
    unloads: bool = True
    """Whether it does unload what it is told to."""
    seen: list[Seen] = field(default_factory=list)
    gone: int = 0
    """Requests whose client went away before the answer was complete."""
    port: int = 0
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; a second start after `stop` takes the same port."""
        ready = threading.Event()
        self.port = self.port or free_port()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)
            ready.set()
            async with self._server:
                try:
                    await self._server.serve_forever()
                except asyncio.CancelledError:
                    for writer in list(self._open):
                        writer.transport.abort()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()
        assert ready.wait(30)

    def stop(self) -> None:
        """Refuse connections and cut those that are open."""
        loop, thread, server = self._loop, self._thread, self._server
        assert loop is not None and thread is not None and server is not None

        def cut() -> None:
            for writer in list(self._open):
                writer.transport.abort()
            server.close()
            for task in asyncio.all_tasks():
                task.cancel()

        loop.call_soon_threadsafe(cut)
        thread.join(10)

    def completions(self) -> list[Seen]:
        """The completion requests that arrived, in order."""
        return [request for request in self.seen if request.path in self.routes]

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {
                    k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)
                }
                raw = await reader.readexactly(int(headers.get("content-length", "0")))
                if not await self._answer(method, path, headers, raw, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client closed, or the test stops the engine
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        raw: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer one request; False when the connection is over."""
        if path == "/health":
            await asyncio.sleep(self.health_delay)
            return _plain(writer, 200 if self.healthy else 503, b"")
        if path == "/v1/models":
            cards: list[Json] = [{"id": self.base, "object": "model", "root": self.base, "parent": None}]
            names = sorted(self.loaded | (self.adapters or set()))
            cards += [{"id": name, "object": "model", "parent": self.base} for name in names]
            return _json(writer, 200, {"object": "list", "data": cards})
        body: Json = json.loads(raw)
        self.seen.append(Seen(path, headers, body))
        if path == "/v1/unload_lora_adapter":
            return self._unload(body["lora_name"], writer)
        if path.removesuffix("/count_tokens") not in self.routes:
            return _json(writer, 404, {"detail": "Not Found"})
        left = False
        while self.held and not left:
            left = await _left(reader, 0.01)
        if left or await _left(reader, self.delay):
            self.gone += 1
            return False
        if self.status != 200:
            return _json(writer, self.status, _error("told to fail", self.status))
        if body["model"] != self.base and self.adapters is not None and body["model"] not in self.adapters:
            return _json(writer, 404, _error(f"The model `{body['model']}` does not exist.", 404))
        if body["model"] != self.base:
            self.loaded.add(body["model"])
        if path.endswith("/count_tokens"):
            return _json(writer, 200, {"input_tokens": len(json.dumps(body["messages"]).split())})
        if body.get("max_tokens", 1) < 1:
            return _json(writer, 400, _error("max_tokens must be at least 1", 400))
        if self.garbage is not None:
            return _plain(writer, 200, self.garbage, "text/html")
        if self.impostor is not None:
            body["model"] = self.impostor
        if body.get("stream"):
            return await self._stream(path, headers, body, reader, writer)
        completion = self._whole(path, headers, body)
        if self.cut_answer:
            data = json.dumps(completion).encode()
            writer.write(_head(200, "application/json", len(data)) + data[: len(data) // 2])
            await writer.drain()
            return False
        return _json(writer, 200, completion)

    def _unload(self, name: str, writer: asyncio.StreamWriter) -> bool:
        if name not in self.loaded:
            return _json(writer, 404, _error(f"The lora adapter '{name}' cannot be found.", 404))
        if self.unloads:
            self.loaded.discard(name)
        return _plain(writer, 200, f"Success: LoRA adapter '{name}' removed successfully.".encode())

    def _whole(self, path: str, headers: dict[str, str], body: Json) -> Json:
        text = self.answer(body)
        if path in SHAPES:
            return SHAPES[path].whole(headers, body, text)
        chat = path.endswith("chat/completions")
        choices: list[Json] = []
        for index in range(body.get("n", 1)):
            said: Json = {"message": {"role": "assistant", "content": text, "tool_calls": []}}
            choices.append({"index": index, **(said if chat else {"text": text}), "finish_reason": "stop"})
        return {**_envelope(path, headers, body), "choices": choices, "usage": _usage(text)}

    async def _stream(
        self,
        path: str,
        headers: dict[str, str],
        body: Json,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        writer.write(_head(200, "text/event-stream; charset=utf-8", None))
        for number, event in enumerate(self._events(path, headers, body)):
            if number == self.die_after:
                await writer.drain()
                return False
            named = f"event: {event['type']}\n" if path in SHAPES and isinstance(event, dict) else ""
            data = f"{named}data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
            if await _left(reader, self.pause):
                self.gone += 1
                return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _events(self, path: str, headers: dict[str, str], body: Json) -> Iterator[Json | str]:
        chat = path.endswith("chat/completions")
        text = self.answer(body)
        size = max(1, -(-len(text) // self.pieces))
        if path in SHAPES:
            pieces = [text[start : start + size] for start in range(0, len(text), size)]
            yield from SHAPES[path].events(headers, body, pieces)
            return
        envelope = _envelope(path, headers, body, chunk=True)

        def event(piece: str | None, reason: str | None = None, role: bool = False) -> Json:
            delta: Json = {} if piece is None else {"content": piece}
            said = (
                {"delta": {"role": "assistant", **delta} if role else delta}
                if chat
                else {"text": piece or ""}
            )
            return {**envelope, "choices": [{"index": 0, **said, "finish_reason": reason}]}

        if chat:
            yield event("", role=True)
        for start in range(0, len(text), size):
            yield event(text[start : start + size])
        yield event(None, "stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {**envelope, "choices": [], "usage": _usage(text)}
        yield "[DONE]"


@contextmanager
def fake_engine(**facts: Any) -> Iterator[FakeEngine]:
    """A running stand-in."""
    engine = FakeEngine(**facts)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def _envelope(path: str, headers: dict[str, str], body: Json, chunk: bool = False) -> Json:
    chat = path.endswith("chat/completions")
    kind = ("chat.completion.chunk" if chunk else "chat.completion") if chat else "text_completion"
    prefix = "chatcmpl" if chat else "cmpl"
    name = f"{prefix}-{headers.get('x-request-id', 'none')}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": body["model"]}


def _usage(text: str) -> Json:
    count = len(text.split())
    return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}


def _error(message: str, code: int) -> Json:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}


def _head(status: int, kind: str, length: int | None) -> bytes:
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{size}\r\n\r\n".encode()


def _plain(writer: asyncio.StreamWriter, status: int, data: bytes, kind: str = "text/plain") -> bool:
    writer.write(_head(status, kind, len(data)) + data)
    return True


def _json(writer: asyncio.StreamWriter, status: int, body: Json) -> bool:
    return _plain(writer, status, json.dumps(body).encode(), "application/json")


async def _left(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Wait; True as soon as the client has closed the connection."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return reader.at_eof()
    try:
        return not await asyncio.wait_for(reader.read(1), seconds)
    except TimeoutError:
        return False
