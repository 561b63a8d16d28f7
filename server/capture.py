"""Puts what happened into the journal, and knows whether that is possible now."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import NamedTuple

from feedback.errors import StorageError
from feedback.storage.journal import Journal
from feedback.storage.records import FeedbackRecord, InferenceRecord
from server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
_REMEMBERED = 4096


class Recent(NamedTuple):
    """What feedback must know of an inference that is not in the database yet."""

    model: str
    version: str
    user: str | None
    key_id: str | None


class Capture:
    """The journal as the request path sees it."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics
        self._recent: OrderedDict[str, Recent] = OrderedDict()
        self.problem: str | None = None
        """Why the last write failed; None while captures succeed."""

    async def inference(self, record: InferenceRecord) -> None:
        """Write one inference; it stands when this returns. Raises `StorageError`."""
        await self._write(record)
        self._recent[record.id] = Recent(record.model, record.version, record.user, record.key_id)
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    async def feedback(self, record: FeedbackRecord) -> None:
        """Write one feedback; it stands when this returns. Raises `StorageError`."""
        await self._write(record)

    def recent(self, inference_id: str) -> Recent | None:
        """An inference of this worker's last few thousand."""
        return self._recent.get(inference_id)

    async def _write(self, record: InferenceRecord | FeedbackRecord) -> None:
        try:
            await self._journal.write(record)
        except StorageError as error:
            self._metrics.captures_failed.add()
            if self.problem is None:
                _log.error("capture fails: %s", error)
            self.problem = str(error)
            raise
        if self.problem is not None:
            _log.warning("capture works again")
            self.problem = None
