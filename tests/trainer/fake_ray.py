"""A Ray cluster as Starloop sees it: its jobs over HTTP, each a real process of this machine, and every way to misbehave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).parents[2]


class FakeRay:
    """What was asked of it stands in `submitted` and `stopped`; the other fields are set by tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.submitted: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.runs: dict[str, subprocess.Popen[bytes]] = {}
        self.entrypoint: str | None = None
        """Runs instead of what is asked for."""
        self.tokens: list[str] = []
        self.away = False
        self.full = False
        """No node has room: jobs stay PENDING."""
        self.forgets = False
        self.answers: tuple[int, bytes] | None = None
        """To everything."""
        self.url = ""

    def answer(
        self, method: str, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> tuple[int, Any]:
        if self.answers is not None:
            return self.answers
        if path == "/api/version":
            self.tokens.append(headers.get("authorization", ""))
            return 200, {"version": "4", "ray_version": "2.60.0"}
        if (method, path) == ("POST", "/api/jobs/"):
            self.submitted.append(body)
            if not self.full:
                self.start(body["submission_id"], self.entrypoint or body["entrypoint"])
            return 200, {"submission_id": body["submission_id"], "job_id": body["submission_id"]}
        _, _, _, name, *rest = path.split("/")
        if self.forgets or name not in [one["submission_id"] for one in self.submitted]:
            return 404, b"Job does not exist"
        if rest == ["stop"]:
            self.stopped.append(name)
            self.end(name, signal.SIGTERM)
            return 200, {"stopped": True}
        if rest == ["logs"]:
            return 200, {"logs": self.log(name)}
        return 200, {"status": self.status(name), "message": self.log(name), "submission_id": name}

    def start(self, name: str, entrypoint: str) -> None:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            self.runs[name] = subprocess.Popen(
                ["/bin/sh", "-c", entrypoint],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def status(self, name: str) -> str:
        if name in self.stopped:
            return "STOPPED"
        if name not in self.runs:
            return "PENDING"
        code = self.runs[name].poll()
        return "RUNNING" if code is None else "SUCCEEDED" if code == 0 else "FAILED"

    def log(self, name: str) -> str:
        file = self.folder / f"{name}.log"
        return file.read_text() if file.exists() else ""

    def end(self, name: str, by: signal.Signals) -> None:
        """End a job's processes, as the cluster or a dying node does."""
        if name in self.runs:
            with suppress(ProcessLookupError):
                os.killpg(self.runs[name].pid, by)
            self.runs[name].wait()

    @property
    def running(self) -> list[str]:
        return [name for name, run in self.runs.items() if run.poll() is None]


@contextmanager
def fake_ray(folder: Path) -> Iterator[FakeRay]:
    folder.mkdir(parents=True, exist_ok=True)
    ray = FakeRay(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._do("GET")

        def do_POST(self) -> None:
            self._do("POST")

        def _do(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if ray.away:
                return  # and the connection ends without a word
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, said = ray.answer(method, self.path, json.loads(body or b"{}"), headers)
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        ray.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield ray
        finally:
            server.shutdown()
            thread.join()
            for name in ray.runs:
                ray.end(name, signal.SIGKILL)
