"""What a gateway counts and measures, and the one page that Prometheus reads: its own figures and every worker's."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from llcuda.gateway.observe.histograms import Distributions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["CONTENT_TYPE", "GatewayMetrics", "StreamMeter", "relabel"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


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


class StreamMeter:
    """One stream: the time to its first piece, and from each to the next."""

    __slots__ = ("_add", "_last", "began", "first_at")

    def __init__(self, add: Callable[[float], None], began: float) -> None:
        """Measure from ``began``, of the monotonic clock."""
        self._add = add
        self.began = began
        self.first_at = 0.0
        self._last = 0.0

    def note(self) -> None:
        """Note that a piece has come."""
        now = monotonic()
        if self._last:
            self._add(now - self._last)
        else:
            self.first_at = now
        self._last = now


class GatewayMetrics:
    """Counters and distributions of one gateway."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "llcuda_requests", "Requests, by what was answered.", ("endpoint", "model", "status"),
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Distributions(
            "llcuda_request_seconds", "Seconds from a request to the end of its answer.", bounds=_SECONDS,
            label="endpoint",
        )  # fmt: skip
        queue = Distributions("llcuda_queue_seconds", "Seconds that requests waited for a slot.", bounds=_SECONDS)
        first = Distributions(
            "llcuda_time_to_first_token_seconds", "Seconds from a request to the first piece of its answer.",
            bounds=_SECONDS,
        )  # fmt: skip
        intervals = Distributions(
            "llcuda_inter_token_seconds", "Seconds between two pieces of a stream.", bounds=_TOKEN_SECONDS
        )
        self.queue_seconds, self.first_token_seconds, self._intervals = queue.of(), first.of(), intervals.of()
        for collector in (self._seconds, queue, first, intervals):
            self.registry.register(collector)
        self.prompt_tokens = Counter("llcuda_prompt_tokens", "Tokens of prompts.", registry=self.registry)
        self.completion_tokens = Counter("llcuda_completion_tokens", "Tokens of answers.", registry=self.registry)
        self.retries = Counter("llcuda_retries", "Requests that went to a second worker.", registry=self.registry)
        self.cancelled = Counter("llcuda_cancelled", "Requests whose client went away.", registry=self.registry)
        self.slow_readers = Counter(
            "llcuda_slow_readers", "Clients that were cut because they took nothing.", registry=self.registry
        )
        self.rejected = Counter(
            "llcuda_rejected", "Requests that were sent away, by the reason.", ("reason",), registry=self.registry
        )
        self.ignored_fields = Counter(
            "llcuda_ignored_fields", "Fields of requests that are not known, and changed nothing.", ("endpoint",),
            registry=self.registry,
        )  # fmt: skip
        self.repairs = Counter(
            "llcuda_repairs", "What was counted and belonged to nobody, by what it was: a mistake of the gateway's.",
            ("what",), registry=self.registry,
        )  # fmt: skip
        for what in ("caller", "connection", "queue", "slot"):
            self.repairs.labels(what)  # so that the page says 0
        self._gauges = _Gauges()
        self.registry.register(self._gauges)
        ProcessCollector(registry=self.registry)
        self._counters: dict[tuple[str, str, int], Counter] = {}

    def add_gauges(self, source: Callable[[], Iterable[tuple[str, str, Mapping[str, str], float]]]) -> None:
        """Ask ``source`` for (name, help, labels, value) whenever the page is read."""
        self._gauges.sources.append(source)

    def count(self, endpoint: str, *, model: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        key = (endpoint, model, status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(endpoint, model, str(status))
        counter.inc()
        self._seconds.of(endpoint).observe(seconds)

    def meter(self, began: float) -> StreamMeter:
        """Return what measures one stream."""
        return StreamMeter(self._intervals.observe, began)

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
