"""The parts of one running gateway, put together: what routes are given to work with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Raw
from sqlmodel import Session

from feedback.access.keys import ensure_loop_key
from feedback.access.sessions import Sessions, open_sessions
from feedback.access.tokens import FeedbackTokens, open_tokens
from feedback.asleep import wanted_asleep
from feedback.checks.check import Report as Checked
from feedback.checks.frozen import Frozen, check_apart
from feedback.datasets.believed import Asked, Belief, belief_apart
from feedback.datasets.contract import constraint_of
from feedback.errors import StarloopError, UnavailableError
from feedback.files.tickets import UploadTickets, open_tickets
from feedback.registry.adapters import AdapterStore
from feedback.registry.models import ensure_models
from feedback.registry.snapshot import Snapshot, load_snapshot
from feedback.reports.apart import Wanted, report_apart
from feedback.reports.document import Report
from feedback.reports.overview import PERIODS, Overview, Span, overview_apart
from feedback.reports.pulse import Pulse, Topic, pulse_of
from feedback.reports.version_stars import VersionStars, version_stars_apart
from feedback.settings import Model, Settings
from feedback.storage.carrier import Apart, Carrier, Task
from feedback.storage.conversations import forget_conversations
from feedback.storage.database import Database, open_database
from feedback.storage.drain import Drainer
from feedback.storage.journal import Journal
from feedback.storage.kept_figures import standing_ids
from server.adapter_watch import AdapterWatch
from server.capture import Capture
from server.conversations import Conversations
from server.counters import Counters
from server.dialects.served import DIALECTS
from server.engine.neutral import neutral_name
from server.found_beside import FoundBeside, Place
from server.replicas import Engines, Replica
from server.retirement import Retirements, UnderWay
from server.routing import BASE, Route, answering
from server.snapshot import LiveSnapshot
from server.telemetry.gauges import Gauges
from server.telemetry.metrics import Metrics
from server.telemetry.reports import Reports
from server.telemetry.traces import Traces
from server.updates import Updates

_log = logging.getLogger(__name__)
_KEPT_SECONDS = 30 * 86_400.0
_BELIEF_SECONDS, _OVERVIEW_SECONDS, _CHECK_SECONDS = 600.0, 120.0, 86_400.0
"""After so long each is found anew, when somebody asks."""
INFERENCE_ROUTES = tuple(dialect.path for dialect in DIALECTS)
Clock = Callable[[], datetime]


class Looked(NamedTuple):
    """Which overview is kept: of a model's last days, cut by a zone."""

    model: str
    days: int
    zone: str


class Gateway:
    """One worker's parts. Made without touching anything; `open` and `close` are its life."""

    def __init__(
        self,
        settings: Settings,
        now: Clock,
        shared_metrics: Path | None = None,
        drains_apart: bool = False,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        """`shared_metrics` is the directory where the workers of this gateway count together; None counts alone.

        `drains_apart` brings records to the database in a process beside this one, which then has more time.
        `origins` is where settings come from (`settings_file.origins`). Raises `SettingsError` for a form that cannot be read.
        """
        self.settings = settings
        self.origins = origins or {}
        self.now = now
        self.metrics = Metrics()
        self.reports = Reports(self.metrics, settings.server.log_requests, INFERENCE_ROUTES)
        self.traces: Traces | None = None
        self.adapters = AdapterStore(settings.directory / "adapters")
        sleep = wanted_asleep(settings.directory).told if settings.training.engine_asleep else lambda: None
        self.engines = Engines(settings.engine, self.metrics, self._prepare_replica, sleep)
        self.conversations = Conversations()
        at = Place(lambda: self.database, now)
        self.beliefs = FoundBeside("beliefs", Belief, self._weigh, at, _BELIEF_SECONDS)
        self.overviews = FoundBeside("overviews", Overview, self._look_over, at, _OVERVIEW_SECONDS)
        self.stars = FoundBeside("stars", VersionStars, self._count_stars, at, _OVERVIEW_SECONDS)
        self.months = FoundBeside("months", Report, self._report, at, _OVERVIEW_SECONDS)
        self.checks = FoundBeside("checks", Checked, self._check, at, _CHECK_SECONDS)
        self.updates = Updates(self._pulses)
        self.live = LiveSnapshot(self._load)
        self.adapter_watch = AdapterWatch(self.adapters, self.live, self.engines)
        self.under_way = UnderWay()
        self.retirements = Retirements(settings, self.adapters, self.engines, self.live, self.under_way, now)
        self.constraints = _constraints(settings.model)
        self._shared_metrics = shared_metrics
        self._prepared = False
        self._drains_apart = drains_apart
        self.database: Database
        self.tokens: FeedbackTokens
        self.tickets: UploadTickets
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
        self.capture = Capture(self.journal, self.metrics, self.settings.capture)
        self.drainer.start()
        self.live.start()
        await self.engines.start()
        self.gauges = Gauges(self.metrics, self.engines, self.live, self.journal, self.drainer)
        self.gauges.start()
        self.adapter_watch.start()
        self.retirements.start(self.database)

    async def close(self) -> None:
        """Stop all parts; what the drainer could not bring away stays in the journal for the next start."""
        self.updates.stop()
        await self.retirements.stop()
        await self.adapter_watch.stop()
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

    async def _prepare_replica(self, base: str, replica: Replica) -> None:
        """Before an engine that came up gets traffic, it answers once as each version that it is to serve."""
        replica.neutral = None
        name = neutral_name(replica.base_id)
        try:
            if self.adapters.fingerprint(name):
                await asyncio.to_thread(self.adapters.check, name)
                await replica.warm(name)
                replica.neutral = name
        except StarloopError as error:
            _log.warning(
                "%s is asked for its base by the base's own name: %s", replica.connections.url, error
            )
        await self._warm_versions(base, replica)
        await self._try_constraints(base, replica)

    async def _try_constraints(self, base: str, replica: Replica) -> None:
        """Let it write a token within each form that answers are held to: what it refuses, it would refuse every user."""
        for model in self.settings.model:
            form = self.constraints.get(model.name)
            if model.base != base or form is None:
                continue
            try:
                await replica.warm(None, form)
            except StarloopError as error:
                _log.error(
                    "[[model]] %r: with constrain = true its requests will be refused, as the engine cannot hold "
                    "answers to its form: %s",
                    model.name,
                    error,
                )

    async def _warm_versions(self, base: str, replica: Replica) -> None:
        try:
            routes = [
                Route(model.name, version, base)
                for model in self.live.current.models.values()
                for version in answering(model)
                if model.base == base and version != BASE
            ]
        except UnavailableError:
            return  # there is no view of the registry yet, and so no traffic
        for route in routes:
            try:
                with self.under_way.on(route.adapter):
                    await self.adapter_watch.admit(route)
                    await replica.warm(route.adapter)
            except UnavailableError as error:
                _log.warning("%s is not warm: %s", route.name, error)

    def _weigh(self, model: str, now: datetime) -> Belief:
        return belief_apart(Asked(self.settings, model, now))

    def _look_over(self, which: Looked, now: datetime) -> Overview:
        return overview_apart(Span(self.settings, which.model, which.days, now, which.zone))

    def _count_stars(self, which: tuple[str, str], now: datetime) -> VersionStars:
        model, zone = which
        return version_stars_apart(Span(self.settings, model, PERIODS[-1], now, zone))

    def _report(self, which: tuple[str, str], now: datetime) -> Report:
        return report_apart(Wanted(self.settings, *which, now))

    def _check(self, which: tuple[str, str], _now: datetime) -> Checked:
        return check_apart(Frozen(self.settings, *which))

    def _pulses(self, topics: Collection[Topic]) -> dict[Topic, Pulse]:
        with self.database.reading() as session:
            return {topic: pulse_of(session, topic, self.now()) for topic in topics}

    def _open_storage(self) -> None:
        self.database = open_database(self.settings)
        self.tokens = open_tokens(self.settings.directory, self.settings.server.feedback_token_days)
        self.tickets = open_tickets(self.settings.directory)
        self.sessions = open_sessions(self.settings.directory, self.settings.server.session_hours)
        self.counters = Counters.open(self.settings.directory)
        try:
            self.live.refresh()
        except UnavailableError as error:
            _log.warning("starting without the database: %s", error)
        capture = self.settings.capture
        self.journal = Journal.open(self.settings.directory, capture.sync, self.now(), capture.journal_bytes)
        self.drainer = Drainer(self.journal, self.database, self.settings.directory, self._carrier())

    def _carrier(self) -> Carrier | None:
        if not self._drains_apart:
            return None
        settings, path = self.settings, self.journal.path
        directory, form = str(settings.directory), settings.server.log
        return Apart(Task(settings.database_url, settings.capture.sync, directory, str(path), form))

    def _load(self) -> Snapshot:
        if not self._prepared:
            self._prepare()
            self._prepared = True
        with self.database.reading() as session:
            self.conversations.hear(session)
            self._hear_of_figures(session)
            return load_snapshot(session)

    def _hear_of_figures(self, session: Session) -> None:
        """Let go of what was found anew elsewhere, and of what an erasure took out of the record."""
        ids = standing_ids(session)
        for kind in (self.beliefs, self.overviews, self.stars, self.months, self.checks):
            kind.keep_only(ids)

    def _prepare(self) -> None:
        """What must have happened once in a database before it can be served from."""
        self.database.upgrade()
        with self.database.session() as session:
            ensure_models(session, self.settings, self.now())
            forget_conversations(session, self.now().timestamp() - _KEPT_SECONDS)
            session.commit()
        ensure_loop_key(self.database, self.settings.directory, self.now())


def _constraints(models: Collection[Model]) -> dict[str, Raw]:
    """By model what its requests tell the engine of the form of answers, for those that are to be held to it while they are
    written. Raises `SettingsError`."""
    forms = {model.name: constraint_of(model) for model in models}
    return {name: Raw(msgspec.json.encode(form)) for name, form in forms.items() if form is not None}
