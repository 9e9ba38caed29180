"""What the gateway says of its health, and takes back, if what is counted belongs to nobody any more."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from llcuda.fleet.dispatch.worker import Job
from llcuda.gateway import GatewayConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from llcuda.gateway.http.access import Caller
from tests.process.gateway.clients.gateways import MESSAGES
from tests.processes import wait_until
from tests.standins.looped_gateway import LoopedGateway, Request, build_request, run_still, turns
from tests.standins.stub_engine import write_executable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

PATH = "/v1/chat/completions"
FIELDS = {"messages": [{"role": "user", "content": '{"tokens": 1}'}]}


def test_it_is_not_ok_while_requests_wait_and_none_is_given_a_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path / "llama-server")))
    config = GatewayConfig(models=(ModelConfig("demo", "demo", slots=1),), port=0, hang_timeout=3.0)
    with Gateway(config) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        running = gateway._running
        assert running is not None
        model, loop = running.models["demo"], running._loop
        tasks: list[asyncio.Task[Any]] = []

        async def keep() -> None:
            with await model.admission.acquire(Job()):
                await asyncio.Event().wait()

        def begin(coroutine: Callable[[], Any]) -> None:
            loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(coroutine())))

        begin(keep)
        wait_until(lambda: model.workers[0].busy == 1)
        assert client.get("/health").status_code == 200
        begin(lambda: model.admission.acquire(Job()))
        wait_until(lambda: client.get("/health").status_code == 503)
        assert model.workers[0].is_ready
        loop.call_soon_threadsafe(tasks[0].cancel)
        wait_until(lambda: client.get("/health").status_code == 200)
        assert client.post(PATH, json={"messages": MESSAGES}).status_code == 200


def looped(scenario: Callable[[LoopedGateway], Awaitable[None]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            site = LoopedGateway(Path(folder), slots=(1,))
            await site.start()
            await scenario(site)
            await site.close()

    run_still(run)


def read_repairs(site: LoopedGateway) -> dict[str, float]:
    page = site.service.metrics.render([]).decode().splitlines()
    return {
        line.partition('what="')[2].partition('"')[0]: float(line.rpartition(" ")[2])
        for line in page
        if line.startswith("llcuda_repairs_total{")
    }


def test_what_belongs_to_tasks_that_have_ended_is_taken_back_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(site: LoopedGateway) -> None:
        admission, callers = site.model.admission, site.service._callers
        counting = callers.count(Caller("high", max_in_flight=4))

        async def take() -> None:
            counting.__enter__()
            await admission.acquire(Job())

        async def wait() -> None:
            admission._enqueue(Job(tokens=9))

        await asyncio.gather(take(), wait())
        connection = await site.connect(b"")
        await turns()
        (lost,) = site.service.connections
        connection.transport.abort()
        await turns()
        site.service.connections.add(lost)
        assert (site.model.workers[0].busy, admission.waiting, site.under_way) == (1, 1, {"high": 1})
        site.service.check_counts()
        assert site.describe_rest() == {}
        assert read_repairs(site) == {"slot": 1, "queue": 1, "caller": 1, "connection": 1}
        for what in ("slot", "queue", "caller", "connection"):
            assert f"1 of what is counted as {what} belonged to nobody" in caplog.text
        site.service.check_counts()
        assert sum(read_repairs(site).values()) == 4
        site.servers[0].on_request = Request.end
        client = await site.connect(build_request(PATH, FIELDS))
        await turns()
        assert client.status == 200

    looped(scenario)


def test_what_is_under_way_is_not_taken_back() -> None:
    async def scenario(site: LoopedGateway) -> None:
        for _ in range(3):
            await site.connect(build_request(PATH, FIELDS))
        await turns()
        site.service.check_counts()
        assert (site.model.workers[0].busy, site.model.admission.waiting, site.under_way) == (1, 2, {"low": 3})
        assert not any(read_repairs(site).values())

    looped(scenario)
