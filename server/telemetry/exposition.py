"""A scrape: the workers' numbers made one, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from math import isnan
from operator import add

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from feedback.registry.snapshot import Snapshot
from server.routing import BASE
from server.telemetry.cells import Reading
from server.telemetry.families import FAMILIES, NONE, Family
from server.telemetry.metrics import name_of

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
Values = dict[tuple[str, ...], list[float]]
"""The numbers of one family by label values."""

_COMBINE: dict[str, Callable[[float, float], float]] = {"sum": add, "max": max, "min": min}


def expose(
    readings: Iterable[Reading], registry: Snapshot | None, found: Mapping[Family, Mapping[str, float]]
) -> bytes:
    """The text. Versions that `registry` does not serve any more are left out; `found` is added as it stands, by the
    value of its family's one label."""
    totals = combine(readings)
    for family, values in found.items():
        totals[family.name] = {(label,): [value] for label, value in values.items()}
    if registry is not None:
        for family in FAMILIES:
            if "version" in family.labels:
                totals[family.name] = _served(family, totals[family.name], registry)
    one_scrape = CollectorRegistry(auto_describe=False)
    one_scrape.register(_Totals(totals))
    return generate_latest(one_scrape)


def combine(readings: Iterable[Reading]) -> dict[str, Values]:
    """One set of numbers out of all workers': counters of the dead count on, gauges are those of the living."""
    totals: dict[str, Values] = {family.name: {} for family in FAMILIES}
    by_name = {family.name: family for family in FAMILIES}
    for reading in readings:
        for key, numbers in reading.values.items():
            name, labels = name_of(key)
            family = by_name.get(name)
            if family is None or (family.kind == "gauge" and (not reading.alive or isnan(numbers[0]))):
                continue
            known = totals[name].get(labels)
            one = _COMBINE[family.over_workers]
            totals[name][labels] = (
                numbers if known is None else [one(a, b) for a, b in zip(known, numbers, strict=True)]
            )
    return totals


def _served(family: Family, values: Values, registry: Snapshot) -> Values:
    model_at, version_at = family.labels.index("model"), family.labels.index("version")

    def is_served(labels: tuple[str, ...]) -> bool:
        model, version = labels[model_at], labels[version_at]
        known = registry.models.get(model)
        return model == NONE or (known is not None and (version == BASE or version in known.versions))

    return {labels: numbers for labels, numbers in values.items() if is_served(labels)}


class _Totals(Collector):
    """The totals as `prometheus_client` writes them."""

    def __init__(self, totals: Mapping[str, Values]) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            yield _metric(family, self._totals[family.name])


def _metric(family: Family, values: Values) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.meaning, labels=family.labels)
        names = [*map(floatToGoString, family.bounds), "+Inf"]
        for labels, numbers in sorted(values.items()):
            buckets = list(zip(names, accumulate(numbers[:-1]), strict=True))
            histogram.add_metric(labels, buckets, numbers[-1])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.meaning, labels=family.labels)
    for labels, numbers in sorted(values.items()):
        metric.add_metric(labels, numbers[0])
    return metric
