"""What a gateway counts and measures, and the one page that Prometheus reads: its own figures and every worker's.

What each request and token notes is counted here, in 0.3 us each. prometheus_client writes the page: its own counters
take 0.8, and its histograms 2.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate
from time import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["CONTENT_TYPE", "Distribution", "GatewayMetrics", "relabel"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class _Tally(Collector):
    """A counter, or one for each combination of its labels' values; to be counted with on the loop alone."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self._about = name, text, labels
        self.counts: dict[tuple[str, ...], float] = {}
        self._began: dict[tuple[str, ...], float] = {}
        if not labels:
            self.add(number=0)

    def add(self, *values: str, number: float = 1) -> None:
        """Count that many for these values of the labels."""
        if values in self.counts:
            self.counts[values] += number
        else:
            self.counts[values], self._began[values] = number, time()

    def collect(self) -> Iterable[Metric]:
        name, text, labels = self._about
        family = CounterMetricFamily(name, text, labels=labels)
        for values, number in self.counts.items():
            family.add_metric(values, number, created=self._began[values])
        yield family


class Distribution:
    """How many values lay under each of some bounds, and their sum."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Note a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def read(self) -> dict[float, int]:
        """Return the number of values up to each bound, the last of which is infinite."""
        return dict(zip((*self._bounds, math.inf), accumulate(self._counts), strict=True))


class _Distributions(Collector):
    """One metric: a distribution, or one for each value of a label."""

    def __init__(self, name: str, text: str, *, bounds: Sequence[float], label: str | None = None) -> None:
        self._about = name, text, [] if label is None else [label]
        self._bounds = bounds
        self._parts: dict[str, Distribution] = {}

    def of(self, value: str = "") -> Distribution:
        """Return that of a label's value, or the only one."""
        part = self._parts.get(value)
        if part is None:
            part = self._parts[value] = Distribution(self._bounds)
        return part

    def collect(self) -> Iterable[Metric]:
        name, text, labels = self._about
        family = HistogramMetricFamily(name, text, labels=labels)
        for value, part in self._parts.items():
            buckets = [("+Inf" if math.isinf(bound) else str(bound), float(n)) for bound, n in part.read().items()]
            family.add_metric([value] if labels else [], buckets=buckets, sum_value=part.sum)
        yield family


class _Gauges(Collector):
    """What is read when somebody asks, and not counted along the way; counters end in ``_total``."""

    def __init__(self) -> None:
        self.sources: list[Callable[[], Iterable[tuple[str, str, Mapping[str, str], float]]]] = []

    def collect(self) -> Iterable[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for source in self.sources:
            for name, text, labels, value in source():
                family = families.get(name)
                if family is None:
                    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                    family = families[name] = kind(name, text, labels=list(labels))
                family.add_metric(list(labels.values()), value)
        return families.values()


class GatewayMetrics:
    """Counters and distributions of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._count("requests", "Requests, by what was answered.", "endpoint", "model", "status")
        self._seconds = self._spread(
            "request_seconds", "Seconds from a request to the end of its answer.", _SECONDS, label="endpoint"
        )
        self.queue_seconds = self._spread("queue_seconds", "Seconds that requests waited for a slot.", _SECONDS).of()
        self.first_token_seconds = self._spread(
            "time_to_first_token_seconds", "Seconds from a request to the first piece of its answer.", _SECONDS
        ).of()
        self.intervals = self._spread(
            "inter_token_seconds", "Seconds between two pieces of a stream.", _TOKEN_SECONDS
        ).of()
        self.prompt_tokens = self._count("prompt_tokens", "Tokens of prompts.")
        self.completion_tokens = self._count("completion_tokens", "Tokens of answers.")
        self.retries = self._count("retries", "Requests that went to a second worker.")
        self.cancelled = self._count("cancelled", "Requests whose client went away.")
        self.slow_readers = self._count("slow_readers", "Clients that were cut because they took nothing.")
        self.rejected = self._count("rejected", "Requests that were sent away, by the reason.", "reason")
        self.ignored_fields = self._count(
            "ignored_fields", "Fields of requests that are not known, and changed nothing.", "endpoint"
        )
        self.repairs = self._count(
            "repairs", "What was counted and belonged to nobody, by what it was: a mistake of the gateway's.", "what"
        )
        for what in ("caller", "connection", "queue", "slot"):
            self.repairs.add(what, number=0)  # so that the page says 0
        self._gauges = _Gauges()
        self.registry.register(self._gauges)
        ProcessCollector(registry=self.registry)

    def _count(self, name: str, text: str, *labels: str) -> _Tally:
        tally = _Tally(f"llcuda_{name}", text, labels)
        self.registry.register(tally)
        return tally

    def _spread(self, name: str, text: str, bounds: Sequence[float], *, label: str | None = None) -> _Distributions:
        spread = _Distributions(f"llcuda_{name}", text, bounds=bounds, label=label)
        self.registry.register(spread)
        return spread

    def add_gauges(self, source: Callable[[], Iterable[tuple[str, str, Mapping[str, str], float]]]) -> None:
        """Ask ``source`` for (name, help, labels, value) whenever the page is read."""
        self._gauges.sources.append(source)

    def count(self, endpoint: str, *, model: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests.add(endpoint, model, str(status))
        self._seconds.of(endpoint).observe(seconds)

    def render(self, workers: Iterable[tuple[Mapping[str, str], str]]) -> bytes:
        """Return the page; ``workers`` are the labels and the page of each llama-server."""
        return generate_latest(self.registry) + relabel(workers)


def relabel(pages: Iterable[tuple[Mapping[str, str], str]]) -> bytes:
    """Return several pages as one, each sample with its page's labels besides its own."""
    families: dict[str, Metric] = {}
    for labels, text in pages:
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.add_sample(sample.name, {**sample.labels, **labels}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Fixed(families.values()))
    return generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families
