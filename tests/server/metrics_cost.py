"""What the metrics of one request cost, beside what `prometheus_client` would take for the same with several workers.

python -m tests.server.metrics_cost
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from feedback.storage.records import InferenceRecord
from server.telemetry import families
from server.telemetry.metrics import Metrics
from server.telemetry.reports import Reports

ROUTE = "/v1/chat/completions"
Work = Callable[[], None]


def report_of(metrics: Metrics) -> Work:
    """All that a completed stream reports."""
    reports = Reports(metrics, log_requests=False, counted=(ROUTE,))
    inference = InferenceRecord(
        id="x",
        created=0.0,
        model="assistant",
        version="1.2",
        status=200,
        latency_ms=123.4,
        first_token_ms=12.0,
        prompt_tokens=7,
        completion_tokens=20,
    )

    def report() -> None:
        metrics.under_way.add()
        reports.inference(ROUTE, inference, True, None, None)
        metrics.under_way.add(-1)

    return report


def microseconds(work: Work, times: int = 2000, rounds: int = 10) -> float:
    """Of one call, in the best of several rounds: the others were disturbed."""

    def once() -> float:
        started = perf_counter()
        for _ in range(times):
            work()
        return (perf_counter() - started) / times * 1e6

    return min(once() for _ in range(rounds))


def _library(directory: str) -> tuple[Work, Work]:
    """The same updates in `prometheus_client`: with the label lookups in the request, and with all of them before it."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory  # it has to be there before the import
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    registry = CollectorRegistry()
    bounds = families.REQUEST_SECONDS.bounds
    version = ("model", "version")
    requests = Counter("requests", "x", ("route", *version, "status"), registry=registry)
    seconds = Histogram("seconds", "x", version, buckets=bounds, registry=registry)
    first = Histogram("first", "x", version, buckets=bounds, registry=registry)
    tokens = Counter("tokens", "x", (*version, "kind"), registry=registry)
    under_way = Gauge("under_way", "x", registry=registry, multiprocess_mode="livesum")

    def looking_up() -> None:
        under_way.inc()
        requests.labels(ROUTE, "assistant", "1.2", "2xx").inc()
        seconds.labels("assistant", "1.2").observe(0.1234)
        first.labels("assistant", "1.2").observe(0.012)
        tokens.labels("assistant", "1.2", "prompt").inc(7)
        tokens.labels("assistant", "1.2", "completion").inc(20)
        under_way.dec()

    one, two, three = (
        requests.labels(ROUTE, "assistant", "1.2", "2xx"),
        seconds.labels("assistant", "1.2"),
        first.labels("assistant", "1.2"),
    )
    four, five = (tokens.labels("assistant", "1.2", kind) for kind in ("prompt", "completion"))

    def looked_up() -> None:
        under_way.inc()
        one.inc()
        two.observe(0.1234)
        three.observe(0.012)
        four.inc(7)
        five.inc(20)
        under_way.dec()

    return looking_up, looked_up


def main() -> None:
    with TemporaryDirectory() as ours, TemporaryDirectory() as theirs:
        metrics = Metrics()
        metrics.share(Path(ours))
        looking_up, looked_up = _library(theirs)
        print(f"this gateway                        {microseconds(report_of(metrics)):5.1f} µs a request")
        print(f"prometheus_client, labels beforehand{microseconds(looked_up):5.1f} µs")
        print(f"prometheus_client, labels each time {microseconds(looking_up):5.1f} µs")


if __name__ == "__main__":
    main()
