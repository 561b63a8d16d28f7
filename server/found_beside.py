"""What takes long to find, as it was last found: it is found beside the workers, so that no page waits for it.

What was found stands in the record, so that all workers show the same and one alone finds it; each keeps in memory what it
has read of that. An erasure takes it out of the record, and whoever is finding it just then keeps nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

import msgspec

from feedback.errors import StarloopError
from feedback.ids import new_id
from feedback.storage.database import Database
from feedback.storage.figures_table import KeptFigures
from feedback.storage.kept_figures import Standing, keep_figures, lease_name, standing, value_of
from feedback.storage.lease import HeldLease, LeaseLostError

_log = logging.getLogger(__name__)
K = TypeVar("K")
T = TypeVar("T")
_KEYS = 64
_LEASE_SECONDS = 30.0


class Found(NamedTuple, Generic[T]):
    """What was found last; `problem` says why there is nothing newer."""

    value: T | None
    when: float
    """Unix seconds at which it was begun to be found."""
    problem: str | None


class Place(NamedTuple):
    """Where findings are kept, and by which clock they grow old."""

    database: Callable[[], Database]
    now: Callable[[], datetime]


class FoundBeside(Generic[K, T]):
    """Findings of one kind, by key. Asking for one that is old, or not there, begins to find it, and does not wait."""

    def __init__(
        self, kind: str, form: type[T], find: Callable[[K, datetime], T], place: Place, kept_seconds: float
    ) -> None:
        """`find` runs in a thread, in one worker at a time for each key; what it raises as `StarloopError` becomes the problem."""
        self._kind = kind
        self._decoder = msgspec.json.Decoder(form)
        self.find = find
        self._place = place
        self._kept = kept_seconds
        self._lock = threading.Lock()
        self._read: dict[str, tuple[str, T | None]] = {}
        """What this worker has read, with its id."""
        self._under_way: set[str] = set()

    def get(self, key: K) -> Found[T] | None:
        """What is known; None before the first finding has ended. Raises what the database raises."""
        name = msgspec.json.encode(key).decode()
        with self._place.database().reading() as session:
            last = standing(session, self._kind, name)
            with self._lock:
                known = self._read.get(name)
            if last is not None and (known is None or known[0] != last.id):
                text = value_of(session, self._kind, name)
                known = last.id, None if text is None else self._decoder.decode(text)
        with self._lock:
            self._read.pop(name, None)
            if last is not None and known is not None:
                while len(self._read) >= _KEYS:
                    del self._read[next(iter(self._read))]
                self._read[name] = known
            if self._is_old(last) and name not in self._under_way and len(self._under_way) < _KEYS:
                self._under_way.add(name)
                threading.Thread(target=self._work, args=(key, name), daemon=True).start()
        return None if last is None or known is None else Found(known[1], last.begun, last.problem)

    @property
    def under_way(self) -> int:
        """How many this worker is finding."""
        return len(self._under_way)

    @property
    def remembered(self) -> int:
        """How many it holds in memory."""
        return len(self._read)

    def keep_only(self, ids: Collection[str]) -> None:
        """Let go of what does not stand in the record any more."""
        with self._lock:
            self._read = {name: known for name, known in self._read.items() if known[0] in ids}

    def _is_old(self, last: Standing | None) -> bool:
        return last is None or self._place.now().timestamp() - last.begun >= self._kept

    def _work(self, key: K, name: str) -> None:
        try:
            self._find_alone(key, name)
        except LeaseLostError:
            _log.info("what a page shows is found anew: something was erased meanwhile")
        except StarloopError as error:
            _log.warning("what a page shows cannot be kept: %s", error)
        except Exception:  # a thread's boundary: the next who asks may find it again
            _log.exception("what a page shows could not be kept")
        finally:
            with self._lock:
                self._under_way.discard(name)

    def _find_alone(self, key: K, name: str) -> None:
        database = self._place.database()
        lease = HeldLease(database, lease_name(self._kind, name), _LEASE_SECONDS, self._place.now)
        if not lease.acquire():
            return  # another worker finds it
        try:
            with database.reading() as session:
                if not self._is_old(standing(session, self._kind, name)):
                    return  # another worker has just found it
            with lease.kept():
                row = self._found(key, name)
            with database.session() as session:
                lease.confirm(session)
                keep_figures(session, row)
                session.commit()
        finally:
            lease.release()

    def _found(self, key: K, name: str) -> KeptFigures:
        now = self._place.now()
        value = problem = None
        try:
            value = msgspec.json.encode(self.find(key, now)).decode()
        except StarloopError as error:
            _log.warning("%s", error)
            problem = str(error)
        except Exception:  # what finds is not to end what keeps
            _log.exception("what a page shows could not be found")
            problem = "the gateway's log says why"
        return KeptFigures(
            kind=self._kind, key=name, id=new_id(now), begun=now.timestamp(), problem=problem, value=value
        )
