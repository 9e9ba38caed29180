"""A short measured load from within the gateway: on its own workers, whenever nobody else waits for them."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from llcuda import __version__
from llcuda.errors import LlcudaError
from llcuda.fleet.refusals import RefusedError
from llcuda.fleet.served_model import find_model
from llcuda.gateway.admin.information import describe_model
from llcuda.gateway.admin.measured_request import Sample, measure, summarise
from llcuda.gateway.api.fields import read_known
from llcuda.gateway.http.error_envelopes import to_refusal
from llcuda.gateway.http.event_stream import Feed, fail
from llcuda.gateway.observe.gateway_metrics import GatewayMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from llcuda.fleet.served_model import ServedModel
    from llcuda.gateway.http.exchange import Exchange

__all__ = ["BenchmarkRequest", "SelfBenchmark", "parse_benchmark"]

TIME_LIMIT = 60.0
"""Seconds for everything; each number of requests at a time gets an equal share of what is left."""
_MAX_PROMPTS, _MAX_TOKENS, _MAX_AT_ONCE, _MAX_LEVELS = 200, 1024, 64, 8
_WARM_UP_TOKENS = 8
_REPORT_INTERVAL = 0.2
_CANCEL_INTERVAL = 0.5
_TEXT = (
    "A river begins as water that has nowhere else to go. It falls as rain on high ground, gathers between the stones, "
    "and runs where the land lets it. Smaller streams join it on its way down, each with the soil and the leaves of "
    "another valley. Where the slope ends it grows slow and wide, lays down what it carried, and bends from one side "
    "of the plain to the other. People have built their towns along such bends for as long as there have been towns. "
    "Go on with this text, and tell what happens at the sea."
)


@dataclass(frozen=True, slots=True)
class BenchmarkRequest:
    """What is to be measured."""

    model: str | None
    prompts: int
    """Requests for each number at a time."""
    max_tokens: int
    """Tokens of each answer, which are always all of them."""
    concurrency: tuple[int, ...]
    """How many at a time, one after the other; empty for those of 1, 2 and 4 that the model has slots for."""


def parse_benchmark(body: bytes) -> BenchmarkRequest:
    """Return what a body asks for; an empty one asks for the defaults. Raises RefusedError (400)."""
    fields = read_known(body or b"{}", ("model", "prompts", "max_tokens", "concurrency"))
    model, levels = fields.get("model"), fields.get("concurrency", [])
    if model is not None and not isinstance(model, str):
        raise _refuse("model", "the name of a model")
    if not isinstance(levels, list) or len(levels) > _MAX_LEVELS or len(set(map(str, levels))) != len(levels):
        raise _refuse("concurrency", f"a list of up to {_MAX_LEVELS} different whole numbers")
    return BenchmarkRequest(
        model=model,
        prompts=_check_count("prompts", fields.get("prompts", 8), most=_MAX_PROMPTS),
        max_tokens=_check_count("max_tokens", fields.get("max_tokens", 64), most=_MAX_TOKENS),
        concurrency=tuple(_check_count("concurrency", level, most=_MAX_AT_ONCE) for level in levels),
    )


def _check_count(name: str, value: Any, *, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise _refuse(name, f"a whole number from 1 to {most}")
    return value


def _refuse(name: str, expected: str) -> RefusedError:
    return RefusedError(400, f"{name} is {expected}", code="invalid_value", param=name)


def choose_levels(asked: BenchmarkRequest, slots: int) -> tuple[int, ...]:
    """Return the numbers of requests at a time. Raises RefusedError for more than there are slots.

    More would measure the queue, and take its places from others.
    """
    if asked.concurrency and max(asked.concurrency) > slots:
        raise _refuse("concurrency", f"at most {slots}, the slots of the model")
    return asked.concurrency or tuple(level for level in (1, 2, 4) if level <= slots)


class SelfBenchmark:
    """At most one measurement at a time, which ends when its client goes away."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models
        self._task: asyncio.Task[None] | None = None

    @property
    def table(self) -> dict[str, Callable[[Exchange], Awaitable[None]]]:
        """The endpoint of :mod:`llcuda.gateway.http.routes` that is answered here."""
        return {"benchmark": self._answer}

    async def _answer(self, exchange: Exchange) -> None:
        """Measure, and answer with a stream of what is going on, and the figures at its end. Raises RefusedError."""
        asked = parse_benchmark(exchange.body)
        if self._task is not None and not self._task.done():
            raise RefusedError(409, "a benchmark is under way already", code="benchmark_under_way")
        model = find_model(self._models, asked.model)
        levels = choose_levels(asked, model.slots)
        feed = Feed()
        self._task = task = asyncio.ensure_future(self._run(_Run(model, asked, levels=levels, feed=feed), feed))
        try:
            await feed.send_to(exchange)
        finally:
            task.cancel()

    def begin_stop(self) -> None:
        """End the measurement: the gateway ends."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, run: _Run, feed: Feed) -> None:
        last = fail("the gateway failed at this")
        try:
            result = await run.measure()
            models = [describe_model(model) for model in self._models.values()]
            last = {"step": "done", "result": {**result, "models": models}}
        except RefusedError as error:
            last = fail(f"nothing could be measured: {error.message}")
        except LlcudaError as error:
            getLogger("llcuda.gateway").warning("the benchmark could not measure anything: %s", error)
            last = fail(f"nothing could be measured: {to_refusal(error).message}")
        except asyncio.CancelledError:
            last = fail("the gateway is being stopped")  # or its client has gone, and hears nothing
        finally:
            feed.end(last)


class _Run:
    """One measurement."""

    def __init__(self, model: ServedModel, asked: BenchmarkRequest, *, levels: tuple[int, ...], feed: Feed) -> None:
        self._model = model
        self._asked = asked
        self._levels = levels
        self._feed = feed
        self._metrics = GatewayMetrics()  # its own: the users' figures are not to change by it
        self._end = monotonic() + TIME_LIMIT
        self._number = 0
        self._told = 0.0

    async def measure(self) -> dict[str, Any]:
        """Warm up, measure each level, and return everything. Raises what keeps the first request from an answer."""
        workers = max(1, len(self._model.workers))
        self._tell("warm-up", 0, workers)
        warm_up = [self._ask(_WARM_UP_TOKENS) for _ in range(workers)]
        await _run_together(warm_up, end=self._end)
        results = []
        for number, level in enumerate(self._levels):
            share = (self._end - monotonic()) / (len(self._levels) - number)
            results.append(await self._measure_level(level, monotonic() + share))
        return {
            "model": self._model.name,
            "version": __version__,
            "time": dt.datetime.now(tz=dt.timezone.utc).isoformat(timespec="seconds"),
            "machine": await asyncio.to_thread(_describe_machine),
            "prompts": self._asked.prompts,
            "max_tokens": self._asked.max_tokens,
            "complete": all(one["requests"] + one["errors"] == self._asked.prompts for one in results),
            "results": results,
        }

    async def _measure_level(self, level: int, end: float) -> dict[str, Any]:
        """Keep ``level`` requests under way until all were sent, or the level's time is over."""
        samples: list[Sample] = []
        errors, sent, began = 0, 0, monotonic()
        last = began

        async def keep_asking() -> None:
            nonlocal errors, sent, last
            while sent < self._asked.prompts and monotonic() < end:
                sent += 1
                try:
                    samples.append(await self._ask(self._asked.max_tokens))
                except (RefusedError, LlcudaError):
                    errors += 1
                last = monotonic()
                self._tell("measure", len(samples) + errors, self._asked.prompts, message=f"{level} at a time")

        self._tell("measure", 0, self._asked.prompts, message=f"{level} at a time")
        await _run_together([keep_asking() for _ in range(level)], end=self._end)
        return summarise(samples, concurrency=level, seconds=last - began, errors=errors)

    async def _ask(self, tokens: int) -> Sample:
        self._number += 1
        prompt = f"{self._number}. {_TEXT}"
        fixed = {"ignore_eos": True, "temperature": 0, "cache_prompt": False}
        return await measure(self._model, {"prompt": prompt, "n_predict": tokens, **fixed}, metrics=self._metrics)

    def _tell(self, step: str, done: int, total: int, *, message: str = "") -> None:
        now = monotonic()
        if 0 < done < total and now - self._told < _REPORT_INTERVAL:
            return
        self._told = now
        self._feed.tell({"step": step, "done": done, "total": total, "message": message})


async def _run_together(work: Sequence[Coroutine[Any, Any, object]], *, end: float) -> None:
    """Run all of it at the same time, until it is done or the time has come. Raises the first failure."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, timeout=max(0.0, end - monotonic()), return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        # Before Python 3.12, wait_for() loses a cancellation that comes together with what it waits for.
        while left := [task for task in tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_CANCEL_INTERVAL)
        await asyncio.gather(*tasks, return_exceptions=True)


def _describe_machine() -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else None, "cores": len(os.sched_getaffinity(0))}
