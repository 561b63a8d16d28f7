"""When cycles run: by the clock for every model, and at once for those that somebody asked for.

Of several loops on one database the holder of the lease works; the others stand by.
"""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from feedback.access.audit import Actor, note
from feedback.cron import cron_trigger
from feedback.errors import ConflictError, StarloopError
from feedback.privacy.retention import expire
from feedback.registry.cycles import request_cycle
from trainer.canary_keeper import CanaryKeeper
from trainer.cycle import next_cycle, run_cycle
from trainer.lease import LeaseLostError, LoopLease
from trainer.notices import Notifier
from trainer.record import LoopStoppedError
from trainer.workshop import Workshop

_log = logging.getLogger(__name__)
_LATE_SECONDS = 3600
_TROUBLE_SECONDS = 5.0
_EXPIRY_HOURS = 6


class Loop:
    """Runs until `stopping` is set; what is under way then is resumed at the next start."""

    def __init__(self, workshop: Workshop, lease: LoopLease, stopping: threading.Event) -> None:
        self._workshop = workshop
        self._lease = lease
        self._stopping = stopping
        self._wanted = workshop.settings.schedule
        self._leads = False
        self._canaries = CanaryKeeper(workshop, lease, stopping)
        self._notices = Notifier(workshop.database, workshop.settings, workshop.clock, workshop.secrets)

    def run(self) -> None:
        """Keep the schedule."""
        scheduler = BackgroundScheduler(
            timezone="UTC",
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": _LATE_SECONDS},
        )
        if self._wanted.cron:
            scheduler.add_job(self.request_all, cron_trigger(self._wanted.cron))
        if self._workshop.settings.capture.retention_days:
            first = self._workshop.clock() + timedelta(minutes=1)  # by then it knows whether it leads
            scheduler.add_job(self.expire, "interval", hours=_EXPIRY_HOURS, next_run_time=first)
        scheduler.start()
        self._notices.start(lambda: self._leads)
        self._canaries.start(lambda: self._leads)
        try:
            while not self._stopping.is_set():
                if not self.poll():
                    self._stopping.wait(self._wanted.poll_seconds)
        finally:
            scheduler.shutdown(wait=False)
            self._canaries.stop()
            self._notices.stop()
            self._let_go()

    def poll(self) -> bool:
        """Run the next cycle if this loop leads and there is one; whether there was."""
        try:
            if not self._hold():
                return False
            with self._workshop.database.reading() as session:
                cycle_id = next_cycle(session)
            if cycle_id is None:
                return False
            with self._lease.kept():
                run_cycle(self._workshop, self._workshop.record(self._lease, self._stopping, cycle_id))
            return True
        except (LoopStoppedError, LeaseLostError) as error:
            _log.info("%s", error)
            return False
        except StarloopError as error:  # most often the database: the cycle stands where it stood
            _log.warning("the loop cannot work just now: %s", error)
        except Exception:  # the loop's own boundary
            _log.exception("the loop goes on after an unexpected error")
        self._stopping.wait(_TROUBLE_SECONDS)
        return False

    def request_all(self) -> None:
        """Ask for a cycle of every model; those that have one under way are left alone."""
        if not self._leads:
            return
        for model in self._workshop.settings.model:
            try:
                with self._workshop.database.session() as session:
                    now = self._workshop.clock()
                    asked = request_cycle(session, model.name, model.mode, [], "schedule", now)
                    facts = {"model": model.name, "mode": model.mode, "guards_off": []}
                    note(session, Actor("schedule"), "cycle.start", asked.id, now, **facts)
                    session.commit()
            except ConflictError as error:
                _log.info("no scheduled cycle of %s: %s", model.name, error)
            except StarloopError as error:
                _log.warning("no scheduled cycle of %s: %s", model.name, error)

    def expire(self) -> None:
        """Remove what is older than it may be, if this loop leads."""
        if not self._leads:
            return
        workshop = self._workshop
        try:
            expire(
                workshop.database,
                workshop.settings,
                Actor("schedule"),
                workshop.clock(),
                self._check_stopping,
            )
        except StarloopError as error:
            _log.warning("what is too old stays for now: %s", error)
        except Exception:  # the job's boundary
            _log.exception("what is too old stays for now")

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise LoopStoppedError("the loop is stopping; the rest goes at its next start")

    def _hold(self) -> bool:
        """Take or renew the lease; whether this loop leads."""
        try:
            leads = self._lease.acquire()
        except StarloopError as error:
            _log.warning("the lease cannot be renewed just now: %s", error)
            return False
        if leads != self._leads:
            _log.info("this loop leads now" if leads else "another loop leads; this one stands by")
        self._leads = leads
        return leads

    def _let_go(self) -> None:
        try:
            self._lease.release()
        except StarloopError as error:
            _log.warning("the lease runs out by itself: %s", error)
