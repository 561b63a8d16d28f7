"""Puts what happened into the journal, and knows whether that is possible now."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import NamedTuple

from feedback.errors import BadFieldError, StorageError
from feedback.privacy.redaction import without_pii
from feedback.settings import Capture as CaptureSettings
from feedback.storage.journal import Journal
from feedback.storage.records import FeedbackRecord, InferenceRecord
from server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
_REMEMBERED = 4096
# Characters up to which looking for personal data takes a few milliseconds, less than handing it to a thread and back.
_SHORT = 8_000


class Recent(NamedTuple):
    """What feedback must know of an inference that is not in the database yet."""

    model: str
    version: str
    user: str | None
    key_id: str | None


class Capture:
    """The journal as the request path sees it."""

    def __init__(self, journal: Journal, metrics: Metrics, settings: CaptureSettings) -> None:
        self._journal = journal
        self._redacts = settings.pii == "redact"
        self.keeps_content = settings.content == "all"
        """False where the operator wants nothing kept that anybody wrote."""
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
        """Write one feedback; it stands when this returns.

        Raises `StorageError`, and `BadFieldError` for words where only metadata is kept: they are not dropped unsaid.
        """
        if not self.keeps_content:
            for field in ("comment", "correction"):
                if getattr(record, field) is not None:
                    raise BadFieldError(
                        field, 'cannot be kept here ([capture] content is "metadata"); send the rating alone'
                    )
        await self._write(record)

    def recent(self, inference_id: str) -> Recent | None:
        """An inference of this worker's last few thousand."""
        return self._recent.get(inference_id)

    async def _write(self, record: InferenceRecord | FeedbackRecord) -> None:
        if self._redacts:
            size = sum(
                len(value)
                for name in record.__struct_fields__
                if isinstance(value := getattr(record, name), str)
            )
            record = without_pii(record) if size <= _SHORT else await asyncio.to_thread(without_pii, record)
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
