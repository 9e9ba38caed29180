"""When a model on demand is idle."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from llcuda.fleet.model_config import ModelConfig
from llcuda.fleet.served_model import ServedModel

if TYPE_CHECKING:
    from llcuda.fleet.dispatch.admission import QueueLimits

IDLE_SECONDS = 0.01


async def is_kept(model: ServedModel) -> bool:
    """Tell whether a model that was let alone for long enough is not unloaded."""
    await asyncio.sleep(2 * IDLE_SECONDS)
    await model.unload_if_idle()
    return bool(model.workers)


def make_model() -> tuple[ServedModel, Any, asyncio.Event]:
    """Return a model, its worker, and what its start waits for."""
    limits = cast("QueueLimits", SimpleNamespace(max_queued=1, max_queued_tokens=1))
    model = ServedModel(ModelConfig("demo", "demo", on_demand=True, idle_timeout=IDLE_SECONDS), limits)
    worker, may_start = SimpleNamespace(busy=0), asyncio.Event()
    workers = cast("dict[object, object]", model.fleet.workers)

    async def start() -> None:
        workers[object()] = worker
        await may_start.wait()

    async def stop() -> None:
        workers.clear()

    model.fleet.ensure_started = start  # type: ignore[method-assign]
    model.fleet.stop = stop  # type: ignore[method-assign, assignment]
    return model, worker, may_start


def test_a_model_is_not_idle_while_a_request_waits_for_its_start() -> None:
    async def run() -> None:
        model, _, may_start = make_model()
        starting = asyncio.create_task(model.ensure_started())
        assert await is_kept(model)
        may_start.set()
        await starting
        assert not await is_kept(model)

    asyncio.run(run())


def test_a_model_has_been_idle_since_its_last_answer_and_not_since_its_last_question() -> None:
    async def run() -> None:
        model, worker, may_start = make_model()
        may_start.set()
        await model.ensure_started()
        worker.busy = 1
        assert await is_kept(model)
        worker.busy = 0
        await model.unload_if_idle()
        assert model.workers
        assert not await is_kept(model)

    asyncio.run(run())
