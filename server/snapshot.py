"""The gateway's own view of the registry and the keys: refreshed by a thread, used without waiting for anything."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from feedback.errors import StarloopError, UnavailableError
from feedback.registry.snapshot import Snapshot
from feedback.threads import name_this_thread
from feedback.tuning.requests import NAMED

_log = logging.getLogger(__name__)
_INTERVAL_SECONDS = 0.4
_FRESH_SECONDS = 0.05


class LiveSnapshot:
    """The last snapshot that could be taken. With the database away it simply grows older."""

    def __init__(self, load: Callable[[], Snapshot]) -> None:
        self._load = load
        self._snapshot: Snapshot | None = None
        self._taken = 0.0
        self._turn = threading.Lock()
        self._asking = asyncio.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
        self.problem: str | None = "the database was not asked yet"
        """Why the last refresh failed; None while they succeed."""

    @property
    def current(self) -> Snapshot:
        """Raises `UnavailableError` when there never was one."""
        if self._snapshot is None:
            raise UnavailableError(f"the registry and the keys could not be read yet: {self.problem}", 2)
        return self._snapshot

    @property
    def age_seconds(self) -> float | None:
        """How old the view is; None when there never was one."""
        return None if self._snapshot is None else monotonic() - self._taken

    def refresh(self) -> None:
        """Take a new view now; returns when it is in use. Raises what the database raises."""
        with self._turn:
            started = monotonic()
            try:
                self._snapshot = self._load()
            except StarloopError as error:
                if self.problem is None:
                    _log.warning("serving on with the last view of the registry: %s", error)
                self.problem = str(error)
                raise
            if self.problem is not None and self._taken:
                _log.info("the registry can be read again")
            self._taken, self.problem = started, None

    async def with_name(self, name: str) -> Snapshot:
        """The view, taken anew where a fine-tuned version's name is not in it: whoever saw its job succeed calls it at once.

        All that wait share one new view, so names that nobody has cost no more than twenty a second.
        """
        if name.startswith(NAMED) and name not in self.current.aliases:
            came = monotonic()
            async with self._asking:
                if self._taken < came:  # a moment ago is not enough: the version may be younger still
                    await asyncio.sleep(max(0.0, self._taken + _FRESH_SECONDS - monotonic()))
                    with suppress(StarloopError):  # the one there is has to do
                        await asyncio.to_thread(self.refresh)
        return self.current

    def start(self) -> None:
        """Refresh from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop refreshing; waits for one that is under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        name_this_thread("snapshot")
        while not self._stopping.wait(_INTERVAL_SECONDS):
            try:
                self.refresh()
            except StarloopError:
                continue  # told once by `refresh`, and by readiness as long as it lasts
            except Exception:  # the thread's boundary: serving must not stop because a refresh did
                _log.exception("the registry could not be read")
                self.problem = "reading the registry failed; the log says how"
