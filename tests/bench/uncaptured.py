"""`starloop serve` with capture taken out: the other side of "what does capture cost".

There is no setting for this, as nobody should be able to lose records by one. Records are made and then dropped; no
journal is written and the drainer has nothing to do.
"""

from __future__ import annotations

import server.gateway
from feedback.settings import Capture as CaptureSettings
from feedback.storage.journal import Journal
from feedback.storage.records import FeedbackRecord, InferenceRecord
from server.capture import Recent
from server.command import main
from server.telemetry.metrics import Metrics


class NoCapture:
    """Stands in the place of `server.capture.Capture`."""

    problem = None
    keeps_content = True

    def __init__(self, _journal: Journal, _metrics: Metrics, _settings: CaptureSettings) -> None:
        pass

    async def inference(self, record: InferenceRecord) -> None:
        pass

    async def feedback(self, record: FeedbackRecord) -> None:
        pass

    def recent(self, _inference_id: str) -> Recent | None:
        return None


if __name__ == "__main__":
    setattr(server.gateway, "Capture", NoCapture)  # noqa: B010  # inherited by the workers, which are forks
    main()
