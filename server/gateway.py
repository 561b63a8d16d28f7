"""The parts of one running gateway, put together: what routes are given to work with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from feedback.access.keys import ensure_loop_key
from feedback.access.sessions import Sessions, open_sessions
from feedback.access.tokens import FeedbackTokens, open_tokens
from feedback.errors import UnavailableError
from feedback.registry.adapters import AdapterStore
from feedback.registry.models import ensure_models
from feedback.registry.snapshot import Snapshot, load_snapshot
from feedback.settings import Settings
from feedback.storage.database import Database, open_database
from feedback.storage.drain import Drainer
from feedback.storage.journal import Journal
from server.capture import Capture
from server.counters import Counters
from server.replicas import Engines
from server.snapshot import LiveSnapshot
from server.telemetry.gauges import Gauges
from server.telemetry.metrics import Metrics
from server.telemetry.reports import Reports
from server.telemetry.traces import Traces

_log = logging.getLogger(__name__)
INFERENCE_ROUTES = ("/v1/chat/completions", "/v1/completions")
Clock = Callable[[], datetime]


class Gateway:
    """One worker's parts. Made without touching anything; `open` and `close` are its life."""

    def __init__(self, settings: Settings, now: Clock, shared_metrics: Path | None) -> None:
        """`shared_metrics` is the directory where the workers of this gateway count together; None counts alone."""
        self.settings = settings
        self.now = now
        self.metrics = Metrics()
        self.reports = Reports(self.metrics, settings.server.log_requests, INFERENCE_ROUTES)
        self.traces: Traces | None = None
        self.adapters = AdapterStore(settings.directory / "adapters")
        self.engines = Engines(settings.engine, self.metrics)
        self.live = LiveSnapshot(self._load)
        self._shared_metrics = shared_metrics
        self._prepared = False
        self.database: Database
        self.tokens: FeedbackTokens
        self.sessions: Sessions
        self.journal: Journal
        self.drainer: Drainer
        self.capture: Capture
        self.gauges: Gauges
        self.counters: Counters

    async def open(self) -> None:
        """Start all parts. Neither an engine nor a database needs to be there yet.

        Raises `StorageError` when the data directory cannot be used, `SettingsError` when traces cannot be sent.
        """
        if self._shared_metrics is not None:
            self.metrics.share(self._shared_metrics)
        if self.settings.server.traces:
            self.traces = Traces(self.settings.server.traces)
        await asyncio.to_thread(self._open_storage)
        self.capture = Capture(self.journal, self.metrics)
        self.drainer.start()
        self.live.start()
        await self.engines.start()
        self.gauges = Gauges(self.metrics, self.engines, self.live, self.journal, self.drainer)
        self.gauges.start()

    async def close(self) -> None:
        """Stop all parts; what the drainer could not bring away stays in the journal for the next start."""
        await self.engines.stop()
        await asyncio.to_thread(self.live.stop)
        await asyncio.to_thread(self.drainer.stop)
        self.gauges.stop()
        self.journal.close()
        self.counters.close()
        self.database.close()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)
        self.metrics.close()

    def _open_storage(self) -> None:
        self.database = open_database(self.settings)
        self.tokens = open_tokens(self.settings.directory, self.settings.server.feedback_token_days)
        self.sessions = open_sessions(self.settings.directory, self.settings.server.session_hours)
        self.counters = Counters.open(self.settings.directory)
        try:
            self.live.refresh()
        except UnavailableError as error:
            _log.warning("starting without the database: %s", error)
        self.journal = Journal.open(self.settings.directory, self.settings.capture.sync, self.now())
        self.drainer = Drainer(self.journal, self.database, self.settings.directory)

    def _load(self) -> Snapshot:
        if not self._prepared:
            self._prepare()
            self._prepared = True
        with self.database.reading() as session:
            return load_snapshot(session)

    def _prepare(self) -> None:
        """What must have happened once in a database before it can be served from."""
        self.database.upgrade()
        with self.database.session() as session:
            ensure_models(session, self.settings, self.now())
            session.commit()
        ensure_loop_key(self.database, self.settings.directory, self.now())
