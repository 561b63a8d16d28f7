"""The report on a busy month: `starloop report` over a hundred thousand and a million inferences of one month, in SQLite.

The command is a process of its own, whose seconds, CPU and memory the system counts. The page is asked for as its first
visitor does: the gateway shows it at once, and the month as soon as it is found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx

from feedback.datasets.failures import triage_in_steps
from feedback.storage.database import opened
from tests.bench import data_scale
from tests.server.served import served
from tests.server.upstream import fake_engine

_MONTH = f"{data_scale.START:%Y-%m}"
_DAYS = 28
_UNDER_WAY = 'aria-busy="true"'


class _Measured(NamedTuple):
    seconds: float
    cpu: float
    megabytes: float
    page: float
    """Seconds until a first visitor sees the month."""


def section(inferences: int) -> list[str]:
    """Lines of the report."""
    counts = (inferences // 10, inferences)
    found = []
    for count in counts:
        with TemporaryDirectory(prefix="starloop-bench-") as temporary:
            command = [sys.executable, "-m", "tests.bench.data_month", temporary, str(count)]
            subprocess.run(command, check=True)
            found.append(_measured(Path(temporary)))
    lines = [
        "## The report on a month",
        "",
        f"SQLite; all inferences within {_DAYS} days of one month, rated as above and triaged; `starloop report --format json`.",
        "",
        "| inferences | in all | CPU | most memory | the page's first visitor sees the month after |",
        "|--:|--:|--:|--:|--:|",
    ]
    for count, one in zip(counts, found, strict=True):
        lines.append(
            f"| {count:,} | **{one.seconds:.1f} s** | {one.cpu:.1f} s | {one.megabytes:,.0f} MB | {one.page:.1f} s |"
        )
    return [*lines, ""]


def _measured(folder: Path) -> _Measured:
    with fake_engine() as engine, served(folder, [engine.url]) as gateway:
        begun = time.perf_counter()
        address = f"{gateway.address}/report?model=assistant&month={_MONTH}"
        while _UNDER_WAY in (text := httpx.get(address, timeout=60).raise_for_status().text):
            time.sleep(0.1)
        page = time.perf_counter() - begun
    assert "Are users rating highly?" in text, text
    begun = time.perf_counter()
    command = [sys.executable, "-m", "server.command", "report", "--model", "assistant", "--format", "json"]
    arguments = ["--month", _MONTH, "--config", str(folder / "starloop.toml")]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return _Measured(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000, page)


def _prepare(folder: Path, count: int) -> None:
    data_scale.fill(folder, count, _DAYS * 86_400 / count)
    settings = data_scale.settings_of(folder)
    with opened(settings, existing=True) as database:
        triage_in_steps(database, "assistant", settings, datetime.now(UTC))


if __name__ == "__main__":
    _prepare(Path(sys.argv[1]), int(sys.argv[2]))
