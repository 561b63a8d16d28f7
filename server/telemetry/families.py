"""Every metric there is, as one table: what the gateway counts, what a scrape shows and what the README lists.

Label values are bounded: models and versions come from the registry, replicas and bases from the settings, the rest
from the code. What belongs to no version (refused before one was chosen) has `-` in their place.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

NONE = "-"
"""No registered name can be this: names begin with a letter or a digit."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Family(NamedTuple):
    """One metric with all its label values."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    over_workers: Literal["sum", "max", "min"] = "sum"
    """How the workers' numbers become one."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, less the last one, which is infinite."""


_VERSION = ("model", "version")
_REPLICA = ("base", "replica")

REQUESTS = Family(
    "starloop_requests_total",
    "counter",
    ("route", *_VERSION, "status"),
    "Requests for completions that have ended, by class of status; a stream that broke off is 5xx.",
)
REQUEST_SECONDS = Family(
    "starloop_request_seconds", "histogram", _VERSION, "Time that whole answers took.", bounds=_SECONDS
)
FIRST_TOKEN_SECONDS = Family(
    "starloop_first_token_seconds",
    "histogram",
    _VERSION,
    "Time to the first token of answers that were streamed.",
    bounds=_SECONDS,
)
TOKENS = Family(
    "starloop_tokens_total", "counter", (*_VERSION, "kind"), "Tokens: kind is prompt or completion."
)
UNDER_WAY = Family(
    "starloop_requests_under_way",
    "gauge",
    (),
    "Requests for completions under way, but for those of batches.",
)
RATINGS = Family(
    "starloop_ratings_total",
    "counter",
    (*_VERSION, "stars"),
    "Ratings taken; without a version when its inference was not known yet.",
)
CAPTURES_FAILED = Family(
    "starloop_captures_failed_total", "counter", (), "Inferences and feedback that no journal could take."
)
JOURNAL_BACKLOG = Family(
    "starloop_journal_backlog",
    "gauge",
    (),
    "Records in the workers' journals that the database does not hold yet.",
)
DRAIN_LAG = Family(
    "starloop_drain_lag_seconds", "gauge", (), "For how long there has been such a record.", "max"
)
ROWS_SET_ASIDE = Family(
    "starloop_journal_rows_set_aside",
    "gauge",
    ("kind",),
    "Files beside the journals that wait for a person: damaged or refused.",
    "max",
)
SNAPSHOT_AGE = Family(
    "starloop_snapshot_age_seconds", "gauge", (), "Age of the view of keys and routes in use.", "max"
)
ENGINE_HEALTHY = Family(
    "starloop_engine_healthy", "gauge", _REPLICA, "1 while every worker finds the replica well.", "min"
)
ENGINE_OUTSTANDING = Family(
    "starloop_engine_outstanding_requests", "gauge", _REPLICA, "Requests that the replica is working on."
)
ENGINE_EJECTIONS = Family(
    "starloop_engine_ejections_total", "counter", _REPLICA, "Times that a worker took it out of service."
)
WORKERS = Family("starloop_workers", "gauge", (), "Worker processes of the gateway.")
CPU_SECONDS = Family("starloop_cpu_seconds_total", "counter", (), "CPU time of the workers.")
RESIDENT_MEMORY = Family("starloop_resident_memory_bytes", "gauge", (), "Memory of the workers.")

FAMILIES = (
    REQUESTS,
    REQUEST_SECONDS,
    FIRST_TOKEN_SECONDS,
    TOKENS,
    UNDER_WAY,
    RATINGS,
    CAPTURES_FAILED,
    JOURNAL_BACKLOG,
    DRAIN_LAG,
    ROWS_SET_ASIDE,
    SNAPSHOT_AGE,
    ENGINE_HEALTHY,
    ENGINE_OUTSTANDING,
    ENGINE_EJECTIONS,
    WORKERS,
    CPU_SECONDS,
    RESIDENT_MEMORY,
)
