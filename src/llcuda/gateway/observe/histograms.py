"""Histograms for Prometheus that are noted with each request and token: in 0.3 us, of which the library's take 2."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Distribution", "Distributions"]


class Distribution:
    """How many values lay under each of some bounds, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Have none."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Note a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Return the buckets, each with the number of values up to its bound, and the sum of the values."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True)), self._sum


class Distributions(Collector):
    """One metric: a distribution, or one for each value of a label."""

    def __init__(self, name: str, text: str, *, bounds: Sequence[float], label: str | None = None) -> None:
        """Name it, and say what it is, as it stands on the page."""
        self._name, self._text, self._bounds = name, text, bounds
        self._labels = [] if label is None else [label]
        self._parts: dict[str, Distribution] = {}

    def of(self, value: str = "") -> Distribution:
        """Return that of a label's value, or the only one."""
        part = self._parts.get(value)
        if part is None:
            part = self._parts[value] = Distribution(self._bounds)
        return part

    def collect(self) -> Iterable[Metric]:
        """Give the library what it writes on the page."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for value, part in self._parts.items():
            buckets, total = part.read()
            family.add_metric([value] if self._labels else [], buckets=buckets, sum_value=total)
        yield family
