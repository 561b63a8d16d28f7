"""What is told of a request that has ended: to the metrics, to its trace, and to the log when it failed.

Of an error only its kind goes into the log. Its message may hold what the engine said, and so what the user wrote; the
record has all of it, under the inference's id.
"""

from __future__ import annotations

import logging
from collections.abc import Container

from feedback.storage.records import InferenceRecord
from server.telemetry.metrics import Metrics
from server.telemetry.traces import Trace

_log = logging.getLogger(__name__)
BROKE_OFF = 502


class Reports:
    """Where the request path says how a request ended."""

    def __init__(self, metrics: Metrics, log_requests: bool, counted: Container[str]) -> None:
        """`counted` are the routes whose refused requests are counted: those that answer."""
        self._metrics = metrics
        self._log_requests = log_requests
        self._counted = counted

    def inference(
        self, route: str, record: InferenceRecord, captured: bool, failure: str | None, trace: Trace | None
    ) -> None:
        """An inference has ended. `failure` is the kind of error that its client was told of."""
        status = outcome(record)
        self._metrics.inference(route, record, status)
        if trace is not None:
            trace.end(record, status, captured, failure)
        if status >= 500:
            self._say(logging.ERROR, "inference failed", route, record, status, failure)
        elif self._log_requests:
            self._say(logging.INFO, "inference", route, record, status, failure)
        if not captured:
            self._say(logging.ERROR, "inference was not captured", route, record, status, failure)

    def refused(self, route: str, status: int, error: Exception) -> None:
        """A request of any route ended with an error before or instead of an inference."""
        if route in self._counted:
            self._metrics.refused(route, status)
        if status >= 500:
            fields = {"route": route, "status": status, "error": type(error).__name__}
            _log.error("request failed", extra=fields)

    def _say(
        self, level: int, message: str, route: str, record: InferenceRecord, status: int, failure: str | None
    ) -> None:
        fields = {
            "inference_id": record.id,
            "model": record.model,
            "version": record.version,
            "route": route,
            "status": status,
            "ms": round(record.latency_ms, 1),
            "error": failure,
        }
        _log.log(level, message, extra=fields)


def outcome(record: InferenceRecord) -> int:
    """The status that an inference came to: a stream whose head said 200 may have broken off."""
    return BROKE_OFF if record.status == 200 and record.error is not None else record.status
