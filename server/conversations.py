"""Which version each conversation is on, as this worker knows it: asked on the hot path, so only ever from memory.

A worker knows at once what it answered itself. What other workers and gateways answered it hears from the database
together with the registry, in the same thread and at the same pace; after a start it hears the newest first. So nothing
waits for the database here. The price: a follow-up that comes to another worker within about half a second, while
the champion moves in just that time, finds the conversation unknown and goes to the new champion.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from sqlmodel import Session

from feedback.storage.conversations import conversation_key, heard_since

_CAPACITY = 65_536
# Two gateways' clocks, and a transaction that took its time, may put rows behind the last one that was seen.
_OVERLAP_SECONDS = 2.0


class Conversations:
    """The conversations heard of last, at most `capacity` (about 250 bytes each)."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._known: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._lock = threading.Lock()
        self._heard = 0.0

    def version(self, model: str, conversation: str) -> str | None:
        """The version that it is on; None for one that is not known."""
        known = self._known.get(conversation_key(model, conversation))
        return None if known is None else known[1]

    def answered(self, model: str, conversation: str, version: str, created: float) -> None:
        """A version answered a request that was made at `created` (Unix seconds) without naming it."""
        self._keep(conversation_key(model, conversation), version, created)

    def hear(self, session: Session) -> None:
        """Take in what was stored since the last time. Raises what the database raises."""
        for heard in heard_since(session, self._heard - _OVERLAP_SECONDS, self._capacity):
            self._keep(heard.key, heard.version, heard.created)
            self._heard = max(self._heard, heard.stored)

    def _keep(self, key: str, version: str, created: float) -> None:
        with self._lock:
            known = self._known.get(key)
            if known is not None and known[0] > created:
                return
            self._known[key] = (created, version)
            self._known.move_to_end(key)
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)
