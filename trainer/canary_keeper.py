"""Keeps canaries and watches: looks at what users say, and acts when that or a guardrail decides.

It has a thread of its own in the loop that leads, so a training of hours holds no rollback up. Every act is one
transaction or one call to the server, and what follows from it is read off the record: a loop that is killed in between
leaves nothing that the next one would not find. A cycle whose users are deciding is in state `canary`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from sqlmodel import Session, col, select

from feedback.access.audit import Actor
from feedback.errors import ConflictError, StarloopError, UnavailableError
from feedback.registry.canaries import (
    BASE,
    End,
    begin_watch,
    canary_of,
    end_canary,
    open_canaries,
    unwatched_promotion,
)
from feedback.registry.models import GATE, get_model
from feedback.storage.tables import Canary, Cycle
from feedback.threads import name_this_thread
from trainer.canary import Arm, Look, Ruling, look
from trainer.canary_evidence import Evidence
from trainer.clock_watch import SET_SECONDS, ClockWatch
from trainer.guardrails import FEW, LAST_LOOK, Tally, due_look, guard
from trainer.lease import LeaseLostError, LoopLease
from trainer.workshop import Workshop

ACTOR = Actor("canary")
_RATINGS_SHARE = 0.05
"""Most of the time that counting ratings may take: with many of them it is done less often than looking at guardrails."""
_log = logging.getLogger(__name__)


class CanaryKeeper:
    """One for each loop; works while its loop leads."""

    def __init__(
        self,
        workshop: Workshop,
        lease: LoopLease,
        stopping: threading.Event,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is in seconds, measures what passes, and is never set."""
        self._workshop = workshop
        self._lease = lease
        self._loop_stopping = stopping
        self._now = now
        self._wanted = workshop.settings.canary
        self._watched: dict[str, _Watched] = {}
        self._troubles: dict[str, str] = {}
        self._clock = ClockWatch(workshop.clock, now)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, leads: Callable[[], bool]) -> None:
        """Look in the background while `leads` says so."""
        self._thread = threading.Thread(target=self._run, args=(leads,), name="canary", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the look that is under way."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def look_at_all(self) -> None:
        """One look at every canary and watch, at the cycles that waited for one that has ended, and at what people promoted."""
        self._mind_the_clock()
        with self._workshop.database.reading() as session:
            rows = open_canaries(session)
        self._watched = {row.id: self._watched[row.id] for row in rows if row.id in self._watched}
        for row in rows:
            with self._apart(f"the {row.kind} of {row.model}@{row.version}"):
                self._look_at(row)
        self._go_on_with_cycles()
        if self._wanted.holdback:
            for model in self._workshop.settings.model:
                if model.mode == "auto":
                    with self._apart(f"watching {model.name}"):
                        self._watch_a_persons(model.name)

    def _run(self, leads: Callable[[], bool]) -> None:
        name_this_thread("canary")
        while not self._stopping.wait(self._wanted.look_seconds):
            if not leads():
                self._clock.forget()
                continue
            try:
                self.look_at_all()
            except LeaseLostError as error:
                _log.info("%s", error)
            except StarloopError as error:  # the database, most often: nothing is decided meanwhile
                _log.warning("canaries cannot be looked at just now: %s", error)
            except Exception:  # the thread's boundary
                _log.exception("canaries cannot be looked at just now")

    def _mind_the_clock(self) -> None:
        """Where the machine's clock was set since the last look, or stood still while the machine slept, begin and limit move with
        it: no version is promoted because a day was skipped in which nobody could try it, and what users got since is seen.
        One that begins in time to come was begun before the clock was set back, while no loop looked."""
        moved, clock = self._clock.moved(), self._workshop.clock().timestamp()
        with self._workshop.database.reading() as session:
            begun = [row.created for row in open_canaries(session)]
        if moved or any(_set_by(created, moved, clock) for created in begun):
            with self._workshop.database.session() as session:
                self._lease.confirm(session)
                for row in open_canaries(session):
                    by = _set_by(row.created, moved, clock)
                    row.created, row.limit = row.created + by, row.limit + by
                    session.add(row)
                    told = "the clock was set by %+.0f s, so the %s of %s@%s ends as much later"
                    _log.warning(told, by, row.kind, row.model, row.version)
                session.commit()
            self._watched = {}  # what they remember begins at the old time
        self._clock.noted()

    def _look_at(self, row: Canary) -> None:
        if self._cancelled(row):
            self._end(row, "withdrawn", "its cycle was cancelled on request")
            return
        if row.id not in self._watched:
            self._watched[row.id] = self._watch(row)
        watched = self._watched[row.id]
        if watched.evidence is None:
            self._end(row, "withdrawn", f"there is no [[model]] {row.model!r} in the configuration any more")
            return
        seen = self._look(row, watched, watched.evidence)
        if seen.ruling == "go on":
            return
        if seen.ruling != watched.ruling:
            watched.ruling = seen.ruling
            _log.info("%s of %s@%s: %s, %s", row.kind, row.model, row.version, seen.ruling, seen.reason)
        if row.kind == "watch":
            self._end_watch(row, seen)
        elif seen.ruling == "roll back":
            self._end(row, "rolled_back", seen.reason)
        elif seen.ruling == "take back":
            self._end(row, "withdrawn", seen.reason)
        elif seen.ruling == "not shown":
            self._not_shown(row, seen.reason)
        elif seen.ruling == "time is up" and row.started_by != GATE:
            told = f"{row.started_by} began it and no gate's word stands behind it, so a person decides"
            self._end(row, "withdrawn", f"{seen.reason}; {told}")
        elif seen.ruling == "time is up" and self._wanted.at_limit == "hold":
            self._end(row, "withdrawn", f"{seen.reason}; [canary] at_limit leaves it to a person")
        else:
            self._promote(row, seen.reason)

    def _watch(self, row: Canary) -> _Watched:
        model = self._workshop.settings.model_named(row.model)
        return _Watched(row, None if model is None else Evidence(self._workshop.settings, model, row))

    def _look(self, row: Canary, watched: _Watched, evidence: Evidence) -> Look:
        """Count what there is, keep the numbers in the record, and say what follows."""
        with self._workshop.database.reading() as session:
            if self._now() >= watched.count_again:
                begun = self._now()
                watched.arms = evidence.arms(session)
                watched.count_again = self._now() + (self._now() - begun) / _RATINGS_SHARE
            on_trial, against = evidence.tallies(session)
            if len(against.malformed) < FEW:
                watched.earlier = watched.earlier or evidence.earlier(session)
            else:
                watched.earlier = None
        ours, theirs = watched.arms
        due = due_look(max(len(on_trial.failed), ours.answers), watched.looks)
        slower = None if row.against == BASE else self._wanted.latency
        over = self._workshop.clock().timestamp() >= row.limit
        number = due if due > watched.looks else LAST_LOOK if over else None
        guardrails = guard(on_trial, against, number, self._wanted.guardrail, slower, watched.earlier)
        failing = on_trial.failing and against.hardly_asked
        watch, sound = row.kind == "watch", on_trial.sound > 0
        seen = look(ours, theirs, guardrails, self._wanted, over, watch, sound, failing)
        result = {"looks": due, **msgspec.to_builtins(seen)}
        if due > watched.looks or result != watched.told:
            with self._workshop.database.session() as session:
                self._lease.confirm(session)
                kept = session.get_one(Canary, row.id)
                kept.result = result
                session.add(kept)
                session.commit()
            watched.looks, watched.told = due, result
        return seen

    def _promote(self, row: Canary, reason: str) -> None:
        """Ask the server to move the champion, which ends the canary; what it refuses ends it too."""
        reason = f"canary{'' if row.started_by == GATE else f' begun by {row.started_by}'}: {reason}"
        try:
            self._workshop.gateway.promote(
                row.model, row.version, reason, row.cycle_id, row.against, once=True
            )
        except UnavailableError:
            raise
        except StarloopError as error:
            self._end(row, "withdrawn", f"it passed, but could not be promoted: {error}")

    def _not_shown(self, row: Canary, reason: str) -> None:
        """Give it its time once more, as a quiet day says nothing of a version; then leave it to a person."""
        if row.extended:
            told = f"begin another canary of {row.model}@{row.version} when users of both versions ask"
            self._end(row, "withdrawn", f"{reason}, also in as much time again; {told}")
            return
        with self._workshop.database.session() as session:
            self._lease.confirm(session)
            kept = session.get_one(Canary, row.id)
            kept.limit, kept.extended = kept.limit + (kept.limit - kept.created), True
            session.add(kept)
            session.commit()

    def _end_watch(self, row: Canary, seen: Look) -> None:
        if seen.ruling == "roll back":
            try:
                self._workshop.gateway.roll_back(row.model, row.against, f"watch: {seen.reason}")
            except ConflictError as error:
                self._end(row, "withdrawn", f"it should be rolled back ({seen.reason}), but: {error}")
        else:
            self._end(row, "passed", seen.reason)

    def _end(self, row: Canary, state: End, reason: str) -> None:
        with self._workshop.database.session() as session:
            self._lease.confirm(session)
            end_canary(session, row.id, state, reason, ACTOR, self._workshop.clock())
            session.commit()

    def _cancelled(self, row: Canary) -> bool:
        if row.cycle_id is None or row.kind == "watch":
            return False
        with self._workshop.database.reading() as session:
            cycle = session.get(Cycle, row.cycle_id)
        return cycle is not None and cycle.cancel_requested

    def _go_on_with_cycles(self) -> None:
        """End the cycles whose canary has ended, as that did."""
        with self._workshop.database.reading() as session:
            waiting = list(session.exec(select(Cycle).where(Cycle.state == "canary").order_by(col(Cycle.id))))
            ended = [(cycle, canary_of(session, cycle.id, "canary")) for cycle in waiting]
        for cycle, canary in ended:
            if canary is not None and canary.state == "open":
                continue
            with self._apart(f"cycle {cycle.id} of {cycle.model}"):
                self._go_on(cycle, canary)

    @contextmanager
    def _apart(self, about: str) -> Iterator[None]:
        """What goes wrong with one is told, once, and tried again at the next look; it holds up no other."""
        try:
            yield
        except LeaseLostError:
            raise
        except Exception as error:
            if self._troubles.get(about) != str(error):
                self._troubles[about] = str(error)
                unexpected = None if isinstance(error, StarloopError) else error
                _log.warning("%s waits: %s", about, error, exc_info=unexpected)
        else:
            self._troubles.pop(about, None)

    def _watch_a_persons(self, model: str) -> None:
        """Begin the watch of what a person promoted, by hand or through a canary of theirs; so late only as it would last."""
        now, wanted = self._workshop.clock(), self._wanted
        since = now.timestamp() - 3600 * wanted.watch_hours
        with self._workshop.database.reading() as session:
            move = unwatched_promotion(session, model, since)
        if move is None or move.to_version is None:
            return
        before, share, hours = move.from_version or BASE, wanted.holdback, wanted.watch_hours
        with self._workshop.database.session() as session:
            self._lease.confirm(session)
            begin_watch(session, model, move.to_version, before, share, hours, ACTOR, None, now, move.id)
            session.commit()

    def _go_on(self, cycle: Cycle, canary: Canary | None) -> None:
        record = self._workshop.record(self._lease, self._loop_stopping, cycle.id)
        if canary is None or (canary.state == "withdrawn" and cycle.cancel_requested):
            record.stop("cancelled", "cancelled on request during its canary")
        elif canary.state == "passed":  # also where it was cancelled while the champion moved
            with self._workshop.database.session() as session:
                self._lease.confirm(session)
                watch_promotion(self._workshop, session, cycle, canary.against)
                session.commit()
            record.finish("promoted", canary.reason or "")
        else:
            decision = "rejected" if canary.state == "rolled_back" else "inconclusive"
            record.finish(decision, canary.reason or "")


class _Watched:
    """What the keeper remembers of one open canary between two looks; lost with it, and no harm done."""

    def __init__(self, row: Canary, evidence: Evidence | None) -> None:
        self.evidence = evidence
        self.arms = (Arm(), Arm())
        self.earlier: Tally | None = None
        self.count_again = 0.0
        self.looks = int(row.result.get("looks", 0))
        self.told: dict[str, object] | None = None
        self.ruling: Ruling = "go on"


def _set_by(created: float, moved: float, clock: float) -> float:
    """By how many seconds a comparison moves where the clock was seen to be set by `moved`; all are seconds."""
    ahead = created + moved - clock
    return moved - ahead if ahead >= SET_SECONDS else moved


def watch_promotion(workshop: Workshop, session: Session, cycle: Cycle, before: str) -> None:
    """Leave the configured share of the users with the champion before, while the promotion is watched."""
    wanted = workshop.settings.canary
    if not wanted.holdback or cycle.version is None:
        return
    if (get_model(session, cycle.model).champion or BASE) != cycle.version:
        return
    begin_watch(
        session,
        cycle.model,
        cycle.version,
        before,
        wanted.holdback,
        wanted.watch_hours,
        ACTOR,
        cycle.id,
        workshop.clock(),
    )
