"""When cycles run: by the clock for every model, when corrections or ratings call for one, and when somebody asks.

Fine-tunings that clients ask for take turns with them: one training at a time, in the order in which they were asked for.

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
from feedback.reports.monthly import find_month
from feedback.settings import Model
from feedback.storage.tables import Cycle
from feedback.window import Window
from trainer.canary_keeper import CanaryKeeper
from trainer.clock_watch import ClockWatch
from trainer.cycle import run_cycle
from trainer.lease import LeaseLostError, LoopLease
from trainer.leftovers import sweep
from trainer.notices import Notifier
from trainer.record import LoopStoppedError
from trainer.triggers import reason_to_begin
from trainer.tuning import TuningRecord, look_at_files, run_tuning
from trainer.turns import next_turn, tell_waiting
from trainer.workshop import Workshop

_log = logging.getLogger(__name__)
_TROUBLE_SECONDS = 5.0
_EXPIRY_HOURS = 6
_MONTH_HOURS = 1
"""How often it is looked whether a month's failing kinds are to be found: the record knows which were."""
_DUE_MINUTES = 1
_SWEEP_MINUTES = 10


class Loop:
    """Runs until `stopping` is set; what is under way then is resumed at the next start."""

    def __init__(self, workshop: Workshop, lease: LoopLease, stopping: threading.Event) -> None:
        self._workshop = workshop
        self._lease = lease
        self._stopping = stopping
        self._wanted = workshop.settings.schedule
        self._window = Window.parse(workshop.settings.training.window)
        self._leads = False
        self._looking = threading.Lock()
        self._owed: dict[str, str] = {}
        """Cycles that could not be asked for yet: models, and what asks for one."""
        self._clock = ClockWatch(workshop.clock)
        self._canaries = CanaryKeeper(workshop, lease, stopping)
        self._notices = Notifier(workshop.database, workshop.settings, workshop.clock, workshop.secrets)

    def run(self) -> None:
        """Keep the schedule."""
        scheduler = BackgroundScheduler(
            timezone="UTC",
            # what the machine slept over is done once, however late
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._plan(scheduler)
        scheduler.start()
        self._notices.start(lambda: self._leads)
        self._canaries.start(lambda: self._leads)
        try:
            while not self._stopping.is_set():
                self._mind_the_clock(scheduler)
                if not self.poll():
                    self._stopping.wait(self._wanted.poll_seconds)
        finally:
            scheduler.shutdown(wait=False)
            self._canaries.stop()
            self._notices.stop()
            self._let_go()

    def _plan(self, scheduler: BackgroundScheduler) -> None:
        """Set up what is done by the clock as it is set now."""
        scheduler.remove_all_jobs()
        if self._wanted.cron:
            scheduler.add_job(self.request_all, cron_trigger(self._wanted.cron))
        if self._wanted.new_corrections or self._wanted.new_ratings or self._wanted.rating_drop:
            scheduler.add_job(self.request_where_due, "interval", minutes=_DUE_MINUTES)
        scheduler.add_job(self.request_owed, "interval", seconds=max(1.0, self._wanted.poll_seconds))
        scheduler.add_job(self.look_at_files, "interval", seconds=max(1.0, self._wanted.poll_seconds))
        first = self._workshop.clock() + timedelta(minutes=1)  # by then it knows whether it leads
        scheduler.add_job(self.find_kinds, "interval", hours=_MONTH_HOURS, next_run_time=first)
        scheduler.add_job(self.sweep, "interval", minutes=_SWEEP_MINUTES, next_run_time=first)
        if self._workshop.settings.capture.retention_days:
            scheduler.add_job(self.expire, "interval", hours=_EXPIRY_HOURS, next_run_time=first)

    def _mind_the_clock(self, scheduler: BackgroundScheduler) -> None:
        """Where the clock was set back, plan anew: what was planned by a clock that was ahead would not come for as long."""
        moved = self._clock.moved()
        if moved < 0:
            _log.warning("the clock was set back by %.0f s: the schedule is planned anew", -moved)
            self._plan(scheduler)
        self._clock.noted()

    def poll(self) -> bool:
        """Run the next cycle if this loop leads and there is one; whether there was."""
        try:
            if not self._hold():
                return False
            self.look_at_files()
            with self._workshop.database.reading() as session:
                waiting = next_turn(session, self._window, self._workshop.clock())
            if waiting is None:
                self._tell_waiting()
                return False
            with self._lease.kept():
                if isinstance(waiting, Cycle):
                    run_cycle(self._workshop, self._workshop.record(self._lease, self._stopping, waiting.id))
                else:
                    record = TuningRecord(self._workshop, self._lease, self._stopping, waiting.id)
                    run_tuning(self._workshop, record)
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

    def _tell_waiting(self) -> None:
        """Say in the record what waits for the training window."""
        now = self._workshop.clock()
        if self._window is None or self._window.open_at(now):
            return
        with self._workshop.database.session() as session:
            if tell_waiting(session, self._window, now):
                self._lease.confirm(session)
                session.commit()

    def look_at_files(self) -> None:
        """Take in the files of fine-tunings that were just asked for, also while something else trains."""
        if not self._leads or not self._looking.acquire(blocking=False):
            return
        try:
            look_at_files(self._workshop, self._lease, self._stopping)
        except LeaseLostError as error:
            _log.info("%s", error)
        except StarloopError as error:
            _log.warning("files of fine-tunings wait: %s", error)
        except Exception:  # the job's boundary
            _log.exception("files of fine-tunings wait")
        finally:
            self._looking.release()

    def request_all(self) -> None:
        """Ask for a cycle of every model; those that have one under way are left alone."""
        if not self._leads:
            return
        for model in self._workshop.settings.model:
            self._request(model, "schedule")

    def request_where_due(self) -> None:
        """Ask for a cycle of each model whose corrections or ratings call for one."""
        if not self._leads:
            return
        for model in self._workshop.settings.model:
            try:
                with self._workshop.database.reading() as session:
                    reason = reason_to_begin(session, model.name, self._wanted, self._workshop.clock())
            except StarloopError as error:
                _log.warning("whether %s needs a cycle is not known just now: %s", model.name, error)
                continue
            except Exception:  # the job's boundary
                _log.exception("whether %s needs a cycle is not known just now", model.name)
                continue
            if reason is not None:
                self._request(model, reason)

    def request_owed(self) -> None:
        """Ask for the cycles that could not be asked for when they were due, as the database was away."""
        for name, by in list(self._owed.items()):
            model = self._workshop.settings.model_named(name)
            assert model is not None
            self._request(model, by)

    def _request(self, model: Model, by: str) -> None:
        """Ask for a cycle, unless the model has one under way; it is owed where that cannot be written down."""
        try:
            with self._workshop.database.session() as session:
                self._lease.confirm(session)  # another may have led while this machine slept
                now = self._workshop.clock()
                asked = request_cycle(session, model.name, model.mode, [], by, now)
                facts = {"model": model.name, "mode": model.mode, "guards_off": [], "because": by}
                note(session, Actor("schedule"), "cycle.start", asked.id, now, **facts)
                session.commit()
        except ConflictError as error:
            _log.info("no cycle of %s (%s): %s", model.name, by, error)
        except StarloopError as error:
            if model.name not in self._owed:
                _log.warning("no cycle of %s (%s) yet, it is asked for again: %s", model.name, by, error)
            self._owed[model.name] = by
            return
        self._owed.pop(model.name, None)

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

    def sweep(self) -> None:
        """Clear away what trainings left that nobody goes on with, if this loop leads."""
        if not self._leads:
            return
        try:
            sweep(self._workshop)
        except StarloopError as error:
            _log.warning("what trainings left stays for now: %s", error)
        except Exception:  # the job's boundary
            _log.exception("what trainings left stays for now")

    def find_kinds(self) -> None:
        """Find which kinds of each model's input failed in the month that has ended, where that was not done yet."""
        if not self._leads:
            return
        workshop = self._workshop
        for model in workshop.settings.model:
            if self._stopping.is_set():
                return
            try:
                found = find_month(
                    workshop.database, workshop.settings, model.name, workshop.clock(), self._lease.confirm
                )
                if found is not None:
                    _log.info("%s: %s", model.name, found.told)
            except LeaseLostError as error:
                _log.info("%s", error)
                return
            except StarloopError as error:
                _log.warning("which kinds of input of %s failed is not known yet: %s", model.name, error)
            except Exception:  # the job's boundary
                _log.exception("which kinds of input of %s failed is not known yet", model.name)

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
