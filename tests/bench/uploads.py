"""`make bench-uploads`: what a large file does to a worker's memory, and what pages of many files and fine-tunings cost."""

from __future__ import annotations

import argparse
import itertools
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from feedback.ids import new_id
from feedback.storage.database import Database
from feedback.storage.tables import Tuning
from tests.bench.report import machine
from tests.server.served import Served, served
from tests.server.upstream import fake_engine

_HEAD = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
)
_TAIL = b"\r\n--x--\r\n"
_TYPE = {"content-type": "multipart/form-data; boundary=x"}
_PIECE = b"x" * (1 << 20)


class _Watch(threading.Thread):
    """The most memory that a gateway's processes have together, in bytes, while the block runs."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process, self._over, self.most = process, threading.Event(), 0

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, _memory(self._process))

    def __enter__(self) -> _Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-uploads", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--files", type=int, default=1000)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        fake_engine() as engine,
        served(Path(folder), [engine.url]) as gateway,
    ):
        print(f"Machine: {machine()}.")
        print(_large(gateway, options.megabytes))
        print(_broken_off(gateway))
        print(_pages(gateway, options.files))
        print(_jobs(gateway, options.files))


def _large(gateway: Served, megabytes: int) -> str:
    process = psutil.Process(gateway.process.pid)
    _send(gateway, 1)  # what is loaded at the first time is none of the file's
    before = _memory(process)
    with _Watch(process) as watch:
        begun = time.monotonic()
        _send(gateway, megabytes)
        seconds = time.monotonic() - begun
    more = (watch.most - before) / 1e6
    return f"A file of {megabytes} MB: {seconds:.1f} s, {more:.0f} MB more memory at most ({before / 1e6:.0f} MB before)."


def _broken_off(gateway: Served) -> str:
    """A client that closes its connection amid a file; what lies in the folder a second later."""
    files = gateway.directory / "files"
    before = sorted(files.iterdir())
    address = httpx.URL(gateway.address)
    with socket.create_connection((address.host, address.port or 80)) as connection:
        head = (
            f"POST /v1/files HTTP/1.1\r\nhost: {address.host}:{address.port}\r\ncontent-length: 99999999\r\n"
            f"content-type: {_TYPE['content-type']}\r\n\r\n"
        )
        connection.sendall(head.encode() + _HEAD + _PIECE * 20)
    deadline = time.monotonic() + 5
    while sorted(files.iterdir()) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    left = len(set(files.iterdir()) - set(before))
    return f"A file that broke off after 20 MB left {left} files or folders."


def _pages(gateway: Served, count: int) -> str:
    with httpx.Client(base_url=gateway.address, timeout=60) as client:
        for _ in range(count):
            client.post("/v1/files", content=_HEAD + b"x" + _TAIL, headers=_TYPE).raise_for_status()
    return f"Pages of {count} files, {_took(gateway, '/v1/files', '')}."


def _jobs(gateway: Served, count: int) -> str:
    """Fine-tunings that have ended, as they stand in the record."""
    plain: dict[str, Any] = {"model": "assistant", "base": "starter", "asked": "assistant", "owner": "local"}
    plain |= {"training_file": new_id(datetime.now(UTC)), "method": "supervised", "seed": 0}
    told = [{"time": 0.0, "level": "info", "text": f"Message {number} of a job"} for number in range(6)]
    database = Database(f"sqlite:///{gateway.directory / 'starloop.sqlite'}")
    with database.session() as session:
        session.add_all(
            Tuning(
                id=new_id(datetime.now(UTC)),
                state="succeeded",
                created=0.0,
                finished=1.0,
                messages=told,
                metadata_={"team": str(number % 10)},
                **plain,
            )
            for number in range(count)
        )
        session.commit()
    database.close()
    return f"Pages of {count} fine-tunings, {_took(gateway, '/v1/fine_tuning/jobs', '?limit=1000')}."


def _took(gateway: Served, address: str, whole: str) -> str:
    """Times of pages with all, a hundred and twenty items."""
    took = []
    with httpx.Client(base_url=gateway.address, timeout=60) as client:
        for query in [whole, "?limit=100", "?limit=20"] * 10:
            begun = time.monotonic()
            client.get(f"{address}{query}").raise_for_status()
            took.append((time.monotonic() - begun) * 1e3)
    told = ", ".join(
        f"{name} {median(took[first::3]):.1f}" for first, name in enumerate(("all", "100", "20"))
    )
    return f"median ms: {told}; slowest {max(took):.1f}"


def _send(gateway: Served, megabytes: int) -> None:
    def form() -> Iterator[bytes]:
        yield _HEAD
        yield from itertools.repeat(_PIECE, megabytes)
        yield _TAIL

    answer = httpx.post(f"{gateway.address}/v1/files", content=form(), headers=_TYPE, timeout=600)
    answer.raise_for_status()


def _memory(process: psutil.Process) -> int:
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main()
