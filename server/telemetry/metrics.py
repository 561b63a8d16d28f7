"""What a worker counts: one object, given to the parts that report to it. Costs a request about a microsecond."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import nan
from pathlib import Path

import msgspec

from feedback.storage.records import InferenceRecord
from server.telemetry import families
from server.telemetry.cells import Cells, Reading, read_all
from server.telemetry.families import FAMILIES, NONE, Family

NOTHING_SAID = nan
"""Stands in a gauge until its worker has written it."""
_GAUGES = {family.name for family in FAMILIES if family.kind == "gauge"}


class Series:
    """One number."""

    __slots__ = ("_cell",)

    def __init__(self, cell: memoryview[float]) -> None:
        self._cell = cell

    def add(self, amount: float = 1.0) -> None:
        self._cell[0] += amount

    def set(self, value: float) -> None:
        self._cell[0] = value


class Distribution:
    """A histogram: a count for each bucket, then the sum of all that was observed."""

    __slots__ = ("_bounds", "_cells")

    def __init__(self, cells: memoryview[float], bounds: Sequence[float]) -> None:
        self._cells = cells
        self._bounds = bounds

    def observe(self, value: float) -> None:
        cells = self._cells
        cells[bisect_left(self._bounds, value)] += 1.0
        cells[-1] += value


class _Version:
    """All numbers of one version."""

    __slots__ = ("completion", "first_token", "prompt", "requests", "seconds")

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        self.requests: dict[tuple[str, int], Series] = {}
        self.seconds = metrics.distribution(families.REQUEST_SECONDS, model, version)
        self.first_token = metrics.distribution(families.FIRST_TOKEN_SECONDS, model, version)
        self.prompt = metrics.series(families.TOKENS, model, version, "prompt")
        self.completion = metrics.series(families.TOKENS, model, version, "completion")


class Metrics:
    """One worker's metrics; for the event loop's thread. Counts in memory until `share`."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._begin(Cells())

    def share(self, directory: Path) -> None:
        """Count from now on where the other workers of this gateway see it."""
        self._directory = directory
        self._begin(Cells.take(directory))

    def close(self) -> None:
        """Leave what was counted to the next worker."""
        self._cells.close()

    # -- reported by the parts

    def inference(self, route: str, record: InferenceRecord, status: int) -> None:
        """An inference has ended; `status` is what it came to for its client."""
        version = self._version(record.model, record.version)
        key = (route, status // 100)
        requests = version.requests.get(key)
        if requests is None:
            requests = self._requests(route, record.model, record.version, status)
            version.requests[key] = requests
        requests.add()
        if status == 200:
            version.seconds.observe(record.latency_ms / 1000)
            if record.first_token_ms is not None:
                version.first_token.observe(record.first_token_ms / 1000)
        if record.prompt_tokens:
            version.prompt.add(record.prompt_tokens)
        if record.completion_tokens:
            version.completion.add(record.completion_tokens)

    def refused(self, route: str, status: int) -> None:
        """A request for a completion was refused before a version was chosen."""
        self._requests(route, NONE, NONE, status).add()

    def rated(self, model: str, version: str, stars: int) -> None:
        """A rating was taken."""
        self.series(families.RATINGS, model, version, str(stars)).add()

    def ejected(self, base: str, replica: str) -> None:
        """A replica was taken out of service."""
        self.series(families.ENGINE_EJECTIONS, base, replica).add()

    # -- numbers by name

    def series(self, family: Family, *labels: str) -> Series:
        """The number of that family with these label values."""
        return Series(self._cells.of(key_of(family, labels), 1))

    def distribution(self, family: Family, *labels: str) -> Distribution:
        """The histogram of that family with these label values."""
        cells = self._cells.of(key_of(family, labels), len(family.bounds) + 2)
        return Distribution(cells, family.bounds)

    def readings(self) -> list[Reading]:
        """What all workers have counted, this one with them."""
        if self._directory is None or not self._cells.shared:
            return [self._cells.read()]
        return read_all(self._directory)

    def _begin(self, cells: Cells) -> None:
        self._cells = cells
        for name in cells.names():
            if name_of(name)[0] in _GAUGES:
                Series(cells.of(name, 1)).set(NOTHING_SAID)  # its last owner's state is over
        self._versions: dict[tuple[str, str], _Version] = {}
        self.under_way = self.series(families.UNDER_WAY)
        self.under_way.set(0)
        self.captures_failed = self.series(families.CAPTURES_FAILED)

    def _version(self, model: str, version: str) -> _Version:
        found = self._versions.get((model, version))
        if found is None:
            found = self._versions[model, version] = _Version(self, model, version)
        return found

    def _requests(self, route: str, model: str, version: str, status: int) -> Series:
        return self.series(families.REQUESTS, route, model, version, f"{status // 100}xx")


def key_of(family: Family, labels: Sequence[str]) -> str:
    """The name under which a family's number with these label values is kept."""
    if len(labels) != len(family.labels):
        raise ValueError(f"{family.name} has the labels {family.labels}, not values {labels}")
    return msgspec.json.encode([family.name, *labels]).decode()


def name_of(key: str) -> tuple[str, tuple[str, ...]]:
    """The family's name and the label values, out of `key_of`."""
    name, *labels = msgspec.json.decode(key, type=list[str])
    return name, tuple(labels)
