"""Stands in for vLLM as a process: a front that answers `/health`, and a worker that outlives it when it is killed.

Run as a script. `GET /health` answers 200, or 503 once the file `sick` exists beside the worker's pid file.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

WORKER = "import signal, time\n{trap}\ntime.sleep(120)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--worker-pid", type=Path)
    parser.add_argument(
        "--worker-session", action="store_true", help="the worker begins a session of its own"
    )
    parser.add_argument("--stubborn", action="store_true", help="front and worker ignore SIGTERM")
    parser.add_argument("--exit", type=int, help="end at once with this status")
    options = parser.parse_args()
    print("fake engine starting", flush=True)
    if options.exit is not None:
        print("cannot go on: the reason stands here", flush=True)
        sys.exit(options.exit)
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.worker_pid:
        trap = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if options.stubborn else ""
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER.format(trap=trap)], start_new_session=options.worker_session
        )
        options.worker_pid.write_text(str(worker.pid))
    if options.port:
        _serve(options.port, options.worker_pid)
    else:
        time.sleep(120)


def _serve(port: int, beside: Path | None) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sick = beside is not None and beside.with_name("sick").exists()
            self.send_response(503 if sick else 200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
