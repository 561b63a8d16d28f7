"""The state of a worker's parts, written down once a second so that a scrape at any worker shows it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import process_time

import psutil

from feedback.storage.drain import Drainer
from feedback.storage.journal import Journal
from server.replicas import Engines
from server.snapshot import LiveSnapshot
from server.telemetry import families
from server.telemetry.metrics import NOTHING_SAID, Metrics

_INTERVAL_SECONDS = 1.0


class Gauges:
    """Reads the parts and writes into the metrics; for the event loop's thread."""

    def __init__(
        self, metrics: Metrics, engines: Engines, live: LiveSnapshot, journal: Journal, drainer: Drainer
    ) -> None:
        self._live, self._journal, self._drainer = live, journal, drainer
        self._backlog = metrics.series(families.JOURNAL_BACKLOG)
        self._lag = metrics.series(families.DRAIN_LAG)
        self._age = metrics.series(families.SNAPSHOT_AGE)
        self._workers = metrics.series(families.WORKERS)
        self._cpu = metrics.series(families.CPU_SECONDS)
        self._memory = metrics.series(families.RESIDENT_MEMORY)
        self._replicas = [
            (
                replica,
                metrics.series(families.ENGINE_HEALTHY, base, replica.connections.url),
                metrics.series(families.ENGINE_OUTSTANDING, base, replica.connections.url),
            )
            for base, replica in engines.all()
        ]
        self._cpu_seen = 0.0
        self._process = psutil.Process()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Write now and from now on."""
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL_SECONDS, self.start)
        self.write()

    def stop(self) -> None:
        """Write a last time."""
        if self._timer is not None:
            self._timer.cancel()
            self.write()

    def write(self) -> None:
        """Write what is true now."""
        self._backlog.set(self._journal.backlog())
        self._lag.set(self._drainer.lag_seconds)
        age = self._live.age_seconds
        self._age.set(NOTHING_SAID if age is None else age)
        for replica, healthy, outstanding in self._replicas:
            healthy.set(replica.healthy)
            outstanding.set(replica.outstanding)
        self._workers.set(1)
        spent = process_time()
        self._cpu.add(spent - self._cpu_seen)
        self._cpu_seen = spent
        with suppress(OSError):  # no more files can be opened: the last figure has to do
            self._memory.set(self._process.memory_info().rss)
