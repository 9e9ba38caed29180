"""Counts and percentiles of an engine's requests."""

from __future__ import annotations

import json
import statistics
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.errors import UsageError
from llcuda.metrics import MAX_SAMPLES, RequestMetrics, get_percentile, summarize

FINITE = st.floats(min_value=-1e9, max_value=1e9)


@dataclass
class Measurement:
    latency_ms: float = 10.0
    time_to_first_token_ms: float | None = 2.0
    tokens_per_sec: float = 100.0
    prompt_tokens: int = 5
    tokens_generated: int = 3
    draft_tokens: int = 0
    draft_tokens_accepted: int = 0


@given(st.lists(FINITE, min_size=1, max_size=50), st.floats(min_value=0, max_value=100))
def test_percentiles_are_those_of_numpy(values: list[float], percent: float) -> None:
    expected = float(np.percentile(values, percent))
    assert get_percentile(sorted(values), percent) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(st.lists(FINITE, min_size=2, max_size=50))
def test_percentiles_are_those_of_the_statistics_module(values: list[float]) -> None:
    expected = statistics.quantiles(values, n=100, method="inclusive")
    found = [get_percentile(sorted(values), percent) for percent in range(1, 100)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_there_is_no_percentile_of_nothing() -> None:
    assert get_percentile([], 50) is None


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan")])
def test_a_percentage_outside_of_its_range_is_refused(percent: float) -> None:
    with pytest.raises(UsageError):
        get_percentile([1.0], percent)


def test_a_summary_has_mean_extremes_and_percentiles() -> None:
    assert summarize([4.0, 1.0, 3.0, 2.0]) == {
        "mean": 2.5, "min": 1.0, "max": 4.0, "p50": 2.5, "p95": pytest.approx(3.85), "p99": pytest.approx(3.97),
    }  # fmt: skip


def test_a_summary_of_nothing_claims_nothing() -> None:
    assert set(summarize([]).values()) == {None}


def test_requests_failures_and_tokens_are_counted() -> None:
    metrics = RequestMetrics()
    metrics.record(Measurement())
    metrics.record(Measurement(latency_ms=30.0, time_to_first_token_ms=None, tokens_generated=0))
    metrics.record_failure()
    found = metrics.snapshot()
    assert (found["requests"], found["failures"]) == (3, 1)
    assert (found["prompt_tokens"], found["tokens_generated"]) == (10, 3)
    assert found["latency_ms"]["p50"] == 20.0
    assert found["time_to_first_token_ms"]["max"] == 2.0
    assert found["tokens_per_sec"]["mean"] == 100.0


def test_a_snapshot_can_be_written_as_json_also_before_the_first_request() -> None:
    found = json.loads(json.dumps(RequestMetrics().snapshot()))
    assert found["requests"] == 0
    assert found["latency_ms"] == dict.fromkeys(["mean", "min", "max", "p50", "p95", "p99"])


def test_a_reset_forgets_everything() -> None:
    metrics = RequestMetrics()
    metrics.record(Measurement())
    metrics.record_failure()
    metrics.reset()
    assert metrics.snapshot() == RequestMetrics().snapshot()


def test_only_the_last_samples_are_kept_and_the_counts_go_on() -> None:
    metrics = RequestMetrics()
    for number in range(MAX_SAMPLES + 500):
        metrics.record(Measurement(latency_ms=float(number)))
    found = metrics.snapshot()
    assert found["requests"] == MAX_SAMPLES + 500
    assert (found["latency_ms"]["min"], found["latency_ms"]["max"]) == (500.0, MAX_SAMPLES + 499.0)


def test_nothing_is_lost_when_threads_record_at_once() -> None:
    metrics = RequestMetrics()
    snapshots: list[dict[str, Any]] = []

    def record() -> None:
        for _ in range(500):
            metrics.record(Measurement())
            metrics.record_failure()
        snapshots.append(metrics.snapshot())

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = metrics.snapshot()
    assert (found["requests"], found["failures"], found["tokens_generated"]) == (8000, 4000, 12000)
    assert len(snapshots) == 8
