"""A model elsewhere: a real HTTP server in a thread that speaks OpenAI's API and Anthropic's, and says what a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Elsewhere:
    """What it says; `says` gets the last message and may return a status with a message instead of a text."""

    says: Callable[[str], str | tuple[int, str]]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lacks: tuple[str, ...] = ()
    """Parameters that it refuses, as models that reason do."""

    def respond(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.headers.append(headers)
        self.bodies.append(body)
        for name in self.lacks:
            if name in body:
                told = f"Unsupported parameter: '{name}' is not supported with this model."
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                return 400, {"error": {"message": told + hint}}
        said = self.says(body["messages"][-1]["content"])
        if not isinstance(said, str):
            return said[0], {"type": "error", "error": {"type": "error", "message": said[1]}}
        if path == "/v1/messages":
            return 200, {
                "type": "message",
                "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": said}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 100, "output_tokens": 10},
            }
        assert path == "/v1/chat/completions"
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}


@contextmanager
def elsewhere(says: Callable[[str], str | tuple[int, str]]) -> Iterator[Elsewhere]:
    """It listens as long as the block takes."""
    one = Elsewhere(says)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, document = one.respond(self.path, headers, body)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    one.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
