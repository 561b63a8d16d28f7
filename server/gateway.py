"""The parts of one running gateway, put together: what routes are given to work with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

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

_log = logging.getLogger(__name__)
Clock = Callable[[], datetime]


class Gateway:
    """One worker's parts. Made without touching anything; `open` and `close` are its life."""

    def __init__(self, settings: Settings, now: Clock) -> None:
        self.settings = settings
        self.now = now
        self.adapters = AdapterStore(settings.directory / "adapters")
        self.engines = Engines(settings.engine)
        self.live = LiveSnapshot(self._load)
        self._prepared = False
        self.database: Database
        self.tokens: FeedbackTokens
        self.sessions: Sessions
        self.journal: Journal
        self.drainer: Drainer
        self.capture: Capture
        self.counters: Counters

    async def open(self) -> None:
        """Start all parts. Neither an engine nor a database needs to be there yet.

        Raises `StorageError` when the data directory cannot be used.
        """
        await asyncio.to_thread(self._open_storage)
        self.capture = Capture(self.journal)
        self.drainer.start()
        self.live.start()
        await self.engines.start()

    async def close(self) -> None:
        """Stop all parts; what the drainer could not bring away stays in the journal for the next start."""
        await self.engines.stop()
        await asyncio.to_thread(self.live.stop)
        await asyncio.to_thread(self.drainer.stop)
        self.journal.close()
        self.counters.close()
        self.database.close()

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
