"""What has been counted so far, taken from the metrics in one pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["Figures", "read_figures"]


@dataclass(slots=True)
class Figures:
    """The counters of a gateway at one moment."""

    requests: Counter[str] = field(default_factory=Counter)
    """Requests to models, by the status that was answered."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Requests of any kind that were sent away, by the reason."""
    totals: Counter[str] = field(default_factory=Counter)
    """``prompt_tokens``, ``completion_tokens``, ``retries`` and ``cancelled``; tokens count when a request ends."""
    pieces: int = 0
    """Pieces of streams after their first: nearly one a token, counted while they come."""
    first_tokens: dict[float, int] = field(default_factory=dict)
    """Requests by the seconds to their first token: how many took at most so long, the last bound infinite."""


def read_figures(registry: CollectorRegistry) -> Figures:
    """Return what the ``registry`` of :class:`llcuda.gateway.observe.gateway_metrics.GatewayMetrics` has now."""
    figures = Figures()
    for family in registry.collect():
        read = _READERS.get(family.name)
        if read is not None:
            read(figures, family)
    return figures


def _read_requests(figures: Figures, family: Metric) -> None:
    for sample in family.samples:
        # What the gateway answers itself names no model: this page's own questions, for one.
        if sample.name.endswith("_total") and sample.labels["model"]:
            figures.requests[sample.labels["status"]] += int(sample.value)


def _read_rejected(figures: Figures, family: Metric) -> None:
    for sample in family.samples:
        if sample.name.endswith("_total"):
            figures.rejected[sample.labels["reason"]] += int(sample.value)


def _read_total(figures: Figures, family: Metric) -> None:
    name = family.name.removeprefix("llcuda_")
    figures.totals[name] += sum(int(sample.value) for sample in family.samples if sample.name.endswith("_total"))


def _read_pieces(figures: Figures, family: Metric) -> None:
    figures.pieces = sum(int(sample.value) for sample in family.samples if sample.name.endswith("_count"))


def _read_first_tokens(figures: Figures, family: Metric) -> None:
    buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    figures.first_tokens = {float(sample.labels["le"]): int(sample.value) for sample in buckets}


_READERS: dict[str, Callable[[Figures, Metric], None]] = {
    "llcuda_requests": _read_requests,
    "llcuda_rejected": _read_rejected,
    "llcuda_inter_token_seconds": _read_pieces,
    "llcuda_time_to_first_token_seconds": _read_first_tokens,
    **dict.fromkeys(
        ("llcuda_prompt_tokens", "llcuda_completion_tokens", "llcuda_retries", "llcuda_cancelled"), _read_total
    ),
}
