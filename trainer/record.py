"""One cycle's row as the loop writes it: every step's beginning and end, and how the cycle ended.

Each write renews the lease in the same transaction, so that a loop that lost it can write nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from feedback.errors import NotFoundError, StarloopError
from feedback.storage.database import Database
from feedback.storage.tables import Cycle
from trainer.attempts import wait
from trainer.lease import LoopLease

_PROGRESS_SECONDS = 2.0


class CycleCancelledError(StarloopError):
    """Somebody asked for this cycle to stop."""


class LoopStoppedError(StarloopError):
    """This process is to end; the cycle stays where it stands and goes on at the next start."""

    goes_on = True


class CycleRecord:
    """Reads and writes one cycle; `row` is how it stands."""

    def __init__(
        self,
        database: Database,
        lease: LoopLease,
        clock: Callable[[], datetime],
        stopping: threading.Event,
        cycle_id: str,
    ) -> None:
        self._database = database
        self._lease = lease
        self._clock = clock
        self._stopping = stopping
        self._told = 0.0
        with database.reading() as session:
            row = session.get(Cycle, cycle_id)
        if row is None:
            raise NotFoundError(f"there is no cycle {cycle_id!r}; `starloop cycle list` shows them")
        self.row = row

    @property
    def challenger(self) -> str:
        """Number of the version that the cycle trained."""
        assert self.row.version is not None
        return self.row.version

    def save(self, **fields: Any) -> None:
        """Write fields of the row. Raises `LeaseLostError`, with nothing written, where another loop leads."""
        with self._database.session() as session:
            self._lease.confirm(session)
            row = session.get_one(Cycle, self.row.id)
            for name, value in fields.items():
                setattr(row, name, value)
            row.updated = self._clock().timestamp()
            session.commit()
        self.row = row

    def add(self, **parts: Any) -> None:
        """Add parts to `result`."""
        self.save(result={**(self.row.result or {}), **parts})

    def begin(self, step: str) -> None:
        """Note that a step begins, or goes on after an interruption."""
        entries = [dict(entry) for entry in self.row.steps]
        if entries and entries[-1]["step"] == step and entries[-1]["ended"] is None:
            entries[-1]["resumed"] = entries[-1].get("resumed", 0) + 1
        else:
            entries.append(
                {"step": step, "started": self._clock().isoformat(), "ended": None, "outcome": None}
            )
        self.save(state="running", step=step, steps=entries, reason=None)

    def progress(self, **facts: Any) -> None:
        """Show how far the step is, at most every two seconds."""
        now = self._clock().timestamp()
        if abs(now - self._told) >= _PROGRESS_SECONDS:  # back by more is a clock that was set
            self._told = now
            self.save(steps=self._last(progress=facts))

    def end(self, outcome: str, **fields: Any) -> None:
        """Note what the step did, together with what it changes of the row."""
        self.save(steps=self._last(ended=self._clock().isoformat(), outcome=outcome, progress=None), **fields)

    def leave_to_users(self, outcome: str) -> None:
        """The step has begun a canary: the loop is free, the cycle waits for what the users say."""
        now = self._clock().isoformat()
        begun = {"step": "canary", "started": now, "ended": None, "outcome": None}
        steps = [*self._last(ended=now, outcome=outcome, progress=None), begun]
        self.save(steps=steps, state="canary", step="canary")

    def finish(self, decision: str, reason: str) -> None:
        """The cycle is done, with this decision."""
        self.end(reason, state="done", step=None, decision=decision, reason=reason)

    def stop(self, state: str, reason: str) -> None:
        """The cycle `failed` or was `cancelled`; `step` keeps saying where, and a step that had ended what it did."""
        steps = self.row.steps
        if self._at_work:
            steps = self._last(ended=self._clock().isoformat(), outcome=reason)
        self.save(state=state, reason=reason, steps=steps)

    def check(self) -> None:
        """Raise if the cycle was cancelled or this process is to end; called often enough to be quick about it."""
        if self._stopping.is_set():
            raise LoopStoppedError("the loop is stopping; the cycle goes on at its next start")
        with self._database.reading() as session:
            row = session.get(Cycle, self.row.id)
        if row is not None and row.cancel_requested:
            when = "during" if self._at_work or not self.row.steps else "after"
            raise CycleCancelledError(f"cancelled on request {when} {self.row.step or 'its start'}")

    def pause(self, seconds: float) -> None:
        """Wait, unless the cycle was cancelled or this process is to end."""
        wait(seconds, self._stopping, self.check)

    @property
    def _at_work(self) -> bool:
        """Whether a step has begun and not ended."""
        return bool(self.row.steps) and self.row.steps[-1]["ended"] is None

    def _last(self, **facts: Any) -> list[dict[str, Any]]:
        entries = [dict(entry) for entry in self.row.steps]
        entries[-1] |= facts
        if entries[-1].get("progress", 0) is None:
            del entries[-1]["progress"]
        return entries
