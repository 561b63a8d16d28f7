"""A static engine for the benchmark: vLLM's HTTP with answers made beforehand, so that it is never what is measured.

`asyncio` on uvloop without a parser: requests are told apart by their length alone, which answers some 150,000 of them a
second on one core. What it takes of the machine beside a contender is in the table as `direct`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

MODEL = "bench"
CHUNKS = 64
"""Content chunks of one stream; the role, the finish reason, usage and `[DONE]` come beside them."""

_ANSWER = (
    "A static answer, about as long as most real ones are: a few sentences of ordinary words that somebody might have "
    "asked for. It says the same every time, and what it costs to pass it on is what this benchmark wants to know."
)
_ID = "chatcmpl-018f0000-0000-7000-8000-000000000000"
_USAGE = '{"prompt_tokens":96,"completion_tokens":64,"total_tokens":160}'
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": ?true')
_NUMBER = re.compile(rb"stream number (\d+)")


def _plain(body: str, kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def _chunk(event: str) -> bytes:
    data = f"data: {event}\n\n"
    return f"{len(data):x}\r\n{data}\r\n".encode()


def _event(choices: str, usage: str = "") -> bytes:
    return _chunk(
        f'{{"id":"{_ID}","object":"chat.completion.chunk","created":1760000000,"model":"{MODEL}",'
        f'"choices":[{choices}]{usage}}}'
    )


def _word(role: str = "") -> bytes:
    return _event(f'{{"index":0,"delta":{{{role}"content":" word"}},"logprobs":null,"finish_reason":null}}')


_HEALTH = _plain("", "text/plain")
_MODELS = _plain(f'{{"object":"list","data":[{{"id":"{MODEL}","object":"model","parent":null}}]}}')
_COMPLETION = _plain(
    f'{{"id":"{_ID}","object":"chat.completion","created":1760000000,"model":"{MODEL}","choices":[{{"index":0,'
    f'"message":{{"role":"assistant","content":"{_ANSWER}","refusal":null,"tool_calls":[],"reasoning_content":null}},'
    '"logprobs":null,"finish_reason":"stop","stop_reason":null}],"service_tier":null,"system_fingerprint":null,'
    f'"usage":{_USAGE},"prompt_logprobs":null,"kv_transfer_params":null}}'
)
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_PIECES = [_HEAD + _word('"role":"assistant",'), *[_word()] * (CHUNKS - 1)]
_TAIL = (
    _event('{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":null}')
    + _event("", f',"usage":{_USAGE}')
    + _chunk("[DONE]")
    + b"0\r\n\r\n"
)


class Stream:
    """One answer that goes out chunk by chunk, each when `release` is called."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._sent = 0

    @property
    def over(self) -> bool:
        return self._sent > CHUNKS

    def release(self) -> None:
        """Send the next chunk; after the last content, all that ends a stream at once."""
        if self._sent < CHUNKS:
            self._write(_PIECES[self._sent])
        elif self._sent == CHUNKS:
            self._write(_TAIL)
        self._sent += 1


class Upstream:
    """What all connections share: how much was asked, and the streams under way by the number in their request."""

    def __init__(self) -> None:
        self.asked = 0
        self.streams: dict[int, Stream] = {}

    def open(self, number: int, write: Callable[[bytes], None]) -> None:
        """Begin a stream with its first chunk; the next ones wait for `release`."""
        stream = self.streams[number] = Stream(write)
        stream.release()

    def release(self, number: int) -> None:
        """Let the next chunk of a stream go: its last one has arrived."""
        stream = self.streams.get(number)
        if stream is not None:
            stream.release()
            if stream.over:
                del self.streams[number]


class UpstreamConnection(asyncio.Protocol):
    """One connection of a contender, or of a client that reports what arrived (`RELEASE <number>`)."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write: Callable[[bytes], None] = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(data, 0, end)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(data) < size:
                break
            self._answer(data[:size])
            data = data[size:]
        self._rest = data

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"POST"):
            self._upstream.asked += 1
            if _STREAMED.search(request):
                number = _NUMBER.search(request)
                self._upstream.open(int(number[1]) if number else -1, self._write)
            else:
                self._write(_COMPLETION)
        elif request.startswith(b"RELEASE "):
            self._upstream.release(int(request[8:-4]))
        elif request.startswith(b"GET /v1/models"):
            self._write(_MODELS)
        else:
            self._write(_HEALTH)
