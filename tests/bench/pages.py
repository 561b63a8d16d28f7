"""`make bench-pages`: the first paint of every page, and of every filter, in a real Chromium over a million inferences.

The record is filled and triaged in the folder that is given, or in one that is gone afterwards. Figures are medians of
some visits of each address, from the start of the navigation to Chromium's own mark of the first content, after one visit
that nobody counts: style and scripts are in the browser's cache then, as they are for whoever uses the pages.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from feedback.datasets.failures import triage_in_steps
from feedback.settings import Settings, Storage
from feedback.storage.database import opened
from tests.bench.report import machine
from tests.server.browsing import CHROMIUM, FLAGS
from tests.server.served import served
from tests.server.upstream import fake_engine

_PAGES = (
    "/",
    "/review",
    "/overview",
    "/inferences",
    "/cycles",
    "/versions",
    "/datasets",
    "/report",
    "/settings",
)
_FILTERS = (
    *("model=assistant", "version=base", "version=9.9", "rating_lte=1", "reason=low_rating", "user=user-7"),
    *("user=nobody", "q=order+4711", "q=xylophone", "since=2026-01-11&until=2026-01-12"),
    "q=order&user=user-7&rating_lte=2",
)
_VISITS = 7
_PAINT = """() => new Promise((done) => new PerformanceObserver((list) => {
  const found = list.getEntriesByName("first-contentful-paint");
  if (found.length) done(found[0].startTime);
}).observe({ type: "paint", buffered: true }))"""


def prepare(folder: Path, count: int) -> None:
    """A record of so many inferences, triaged, unless the folder holds one."""
    data = folder / "data"
    if not (data / "starloop.sqlite").exists():
        subprocess.run(
            [sys.executable, "-m", "tests.bench.data_scale", "fill", str(folder), str(count)], check=True
        )
    settings = Settings(storage=Storage(directory=str(data)))
    with opened(settings, existing=True) as database:
        triage_in_steps(database, "assistant", settings, datetime.now(UTC))


@contextmanager
def _browser(folder: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            folder / "profile", executable_path=CHROMIUM, args=FLAGS, headless=True
        )
        yield context
        context.close()


def paints(tab: Any, address: str) -> float:
    """Median milliseconds until the first content of an address is painted."""
    found = []
    for _ in range(_VISITS + 1):
        tab.goto(address)
        found.append(float(tab.evaluate(_PAINT)))
    return median(found[1:])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pages", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the record is, or is to be kept")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        prepare(folder, arguments.count)
        with (
            fake_engine() as engine,
            served(folder, [engine.url]) as gateway,
            _browser(Path(temporary)) as browser,
        ):
            tab = browser.new_page()
            newest = httpx.get(f"{gateway.address}/v1/inferences?limit=1", timeout=60).json()["items"][0][
                "id"
            ]
            for page in ("/overview", "/report"):  # found beside the gateway once, as by the first visitor
                while 'aria-busy="true"' in httpx.get(f"{gateway.address}{page}", timeout=60).text:
                    time.sleep(2)
            addresses = [*_PAGES, f"/inferences/{newest}", *(f"/inferences?{one}" for one in _FILTERS)]
            rows = [(one, paints(tab, f"{gateway.address}{one}")) for one in addresses]
            holder = {"model": "assistant", "holder": "a-page-of-a-bench", "skip": []}
            claims = []
            for _ in range(_VISITS):
                begun = time.perf_counter()
                httpx.post(f"{gateway.address}/v1/failures/claim", json=holder, timeout=60).raise_for_status()
                claims.append((time.perf_counter() - begun) * 1000)
    text = _report(arguments.count, [*rows, ("the next case of a review", median(claims))])
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


def _report(count: int, rows: list[tuple[str, float]]) -> str:
    lines = [
        "# First paint of the pages",
        "",
        f"`make bench-pages` over {count:,} inferences, a fifth of them rated, in SQLite. {machine()}",
        f"Medians of {_VISITS} visits in Chromium, from navigation to the first content; ids shortened.",
        "",
        "| address | ms |",
        "|---|---|",
        *(f"| `{name[:48]}` | {value:,.0f} |" for name, value in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
