"""Runs several children together until a signal or a hopeless failure, and leaves none behind.

Knows in which order they start and stop; what each is stands in its `Child`. Runs in the main thread: signals arrive
there, and Linux ties children to the thread that starts them.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.engine.rest import Rest
from server.processes.child import Child
from server.processes.leash import adopt_orphans, collect_orphans

_TICK_SECONDS = 0.2
_COLLECT_SECONDS = 2.0


@dataclass(frozen=True)
class Post:
    """A child and the one that has to be ready before it starts."""

    child: Child
    after: Child | None = None


class Supervisor:
    """Starts, watches and ends children; `posts` stand in the order in which they are to be stopped."""

    def __init__(
        self, posts: Sequence[Post], say: Callable[[str], None], announce: str, rest: Rest | None = None
    ) -> None:
        """`announce` is said once, when all that are essential are ready for the first time; `rest` lets some sleep."""
        self._posts = list(posts)
        self._rest = rest
        self._say = say
        self._announce: str | None = announce
        self._signals = 0
        self._wake = threading.Event()

    def run(self) -> int:
        """Exit status: 0 after a signal, 1 when an essential child can never start or one could not be ended."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        adopt_orphans()
        status = 0
        try:
            status = self._watch()
        finally:
            left = self._stop()
        return 1 if left else status

    def _watch(self) -> int:
        next_collect = 0.0
        while not self._signals:
            now = time.monotonic()
            if self._rest is not None:
                self._rest.tick(now)
            for post in self._posts:
                child = post.child
                if self._due(post) and child.begin(now):
                    self._say(f"{child.name}: starting" + (f" ({child.hint})" if child.hint else ""))
                child.tick(now)
                if child.state == "failed":
                    return 1
            needed = [post.child for post in self._posts if post.child.essential]
            if self._announce and all(child.state == "ready" for child in needed):
                self._say(self._announce)
                self._announce = None
            if now >= next_collect:
                next_collect = now + _COLLECT_SECONDS
                collect_orphans(self._own())
            self._wake.wait(_TICK_SECONDS)
        return 0

    def _due(self, post: Post) -> bool:
        """Whether its child is to be started for the first time, or after a sleep."""
        sleeps = self._rest is not None and self._rest.wanted and post.child in self._rest.children
        return (
            post.child.state == "stopped"
            and not sleeps
            and (post.after is None or post.after.state == "ready")
        )

    def _stop(self) -> bool:
        """End all, one after the other; True when something could not be ended."""
        running = [post.child for post in self._posts if post.child.pid is not None]
        if running:
            self._say(f"stopping {', '.join(child.name for child in running)}")
        left = [one for child in running for one in child.stop(lambda: self._signals > 1)]
        collect_orphans(())
        for one in left:
            self._say(f"process {one.pid} could not be ended; the next start tries again")
        return bool(left)

    def _own(self) -> set[int]:
        return {post.child.pid for post in self._posts if post.child.pid is not None}

    def _on_signal(self, _number: int, _frame: object) -> None:
        """The first asks for a graceful end, the second for a quick one."""
        self._signals += 1
        self._wake.set()
