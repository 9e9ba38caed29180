"""Replicas and fleets with the real llama-server: deaths, hangs, replacement, and what a killed gateway leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.client import AsyncInferenceClient
from llcuda.errors import ModelFormatError, ModelNotFoundError, NoDeviceError, ServerError, ServerExitedError
from llcuda.fleet.dispatch.admission import current_task
from llcuda.fleet.dispatch.worker import Job
from llcuda.fleet.fleet import Fleet
from llcuda.fleet.processes.machine_shares import Share, prepare_loads
from llcuda.fleet.processes.replica import Replica
from llcuda.fleet.processes.socket_folder import SocketFolder, list_parents
from llcuda.fleet.states import State
from llcuda.gateway import ModelConfig
from tests.processes import PATIENCE, children_of, is_gone, killed_at_the_end, policies_of, until, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from llcuda.fleet.states import WatchedServer

DEMO = ModelConfig("demo", "demo", device="cpu", slots=2, ctx_size=512)


@pytest.fixture
def folder() -> Iterator[SocketFolder]:
    made = SocketFolder()
    yield made
    made.remove()
    assert not made.path.exists()


@asynccontextmanager
async def running(
    config: ModelConfig, folder: SocketFolder, **options: Any
) -> AsyncIterator[tuple[Replica, list[str]]]:
    """Give a replica that runs, and the list of its states as they come."""
    states: list[str] = []
    (load, *_) = prepare_loads(config)
    replica = Replica(
        "demo/0", load, socket_path=folder.path / "0.sock", on_change=lambda one: states.append(one.state), **options
    )
    try:
        await replica.start()
        yield replica, states
    finally:
        await replica.stop()
    assert replica.state == "stopped"
    assert not replica.socket_path.exists()


async def answer(replica: WatchedServer) -> str:
    async with AsyncInferenceClient(url=replica.address.url, api_key=replica.api_key) as client:
        return (await client.infer("What is 2+2?", temperature=0)).text


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test, 120)

    asyncio.run(bounded())
    assert not children_of(os.getpid())


def test_it_starts_answers_and_stops(folder: SocketFolder) -> None:
    async def test() -> None:
        async with running(DEMO, folder) as (replica, states):
            assert await answer(replica) == "2 + 2 = 4."
            assert replica.pid
            assert replica.slots == 2
            assert replica.device_report is not None
            assert replica.device_report.device == "cpu"
            pid = replica.pid
        assert is_gone(pid)
        assert states == ["starting", "ready", "stopping", "stopped"]

    run(test())


def test_it_computes_as_a_batch_job_and_does_not_interrupt_the_gateway(folder: SocketFolder) -> None:
    async def test() -> None:
        async with running(DEMO, folder) as (replica, _):
            assert replica.pid
            assert policies_of(replica.pid) == {os.SCHED_BATCH}
            assert os.sched_getscheduler(0) == os.SCHED_OTHER

    run(test())


def test_each_slot_has_the_context_that_was_asked_for(folder: SocketFolder) -> None:
    async def test() -> None:
        async with running(DEMO, folder) as (replica, _):
            info = await asyncio.to_thread(replica._server.get_server_info)
            assert info["total_slots"] == 2
            assert info["default_generation_settings"]["n_ctx"] == 512

    run(test())


def test_a_dead_one_is_started_anew_and_answers(folder: SocketFolder, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with running(DEMO, folder) as (replica, states):
            pid = replica.pid or 0
            os.kill(pid, signal.SIGKILL)
            await until(lambda: replica.state == "waiting")
            assert isinstance(replica.last_error, ServerExitedError)
            await replica.start()  # waits for the start that comes by itself
            assert replica.pid != pid
            assert replica.restarts == 1
            assert await answer(replica) == "2 + 2 = 4."
            assert states == ["starting", "ready", "waiting", "starting", "ready"]

    run(test())
    assert "the worker demo/0 ended: llama-server died of SIGKILL\n  | " in caplog.text
    assert "listening on" in caplog.text  # its last words


def test_a_stopped_process_is_silent_and_comes_back(folder: SocketFolder) -> None:
    async def test() -> None:
        async with running(DEMO, folder, hang_timeout=60) as (replica, states):
            pid = replica.pid or 0
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: replica.state == "silent")
            os.kill(pid, signal.SIGCONT)
            await until(lambda: replica.state == "ready")
            assert replica.pid == pid
            assert replica.restarts == 0
            assert await answer(replica) == "2 + 2 = 4."
            assert states == ["starting", "ready", "silent", "ready"]

    run(test())


def test_one_that_hangs_is_killed_and_started_anew(folder: SocketFolder) -> None:
    async def test() -> None:
        async with running(DEMO, folder, hang_timeout=3) as (replica, states):
            pid = replica.pid or 0
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: replica.state == "waiting")
            assert "no sign of life for 3 s" in str(replica.last_error)
            await replica.start()
            assert is_gone(pid)
            assert await answer(replica) == "2 + 2 = 4."
            assert states == ["starting", "ready", "silent", "waiting", "starting", "ready"]

    run(test())


def test_bytes_that_come_from_it_are_a_sign_of_life(folder: SocketFolder) -> None:
    async def test() -> None:
        async with running(DEMO, folder, hang_timeout=60) as (replica, states):
            os.kill(replica.pid or 0, signal.SIGSTOP)
            for _ in range(40):
                replica.heard_at = time.monotonic()
                await asyncio.sleep(0.05)
            assert states == ["starting", "ready"]
            os.kill(replica.pid or 0, signal.SIGCONT)

    run(test())


def test_a_loop_that_was_blocked_accuses_nobody(folder: SocketFolder) -> None:
    async def test() -> None:
        async with running(DEMO, folder, hang_timeout=1) as (replica, states):
            for _ in range(3):
                await asyncio.sleep(0.3)
                subprocess.run(["sleep", "1.2"], check=True)  # noqa: ASYNC221 - that it blocks is the point
            await asyncio.sleep(0.3)
            assert replica.restarts == 0
            assert states == ["starting", "ready"]

    run(test())


def test_one_that_dies_again_and_again_has_failed_and_can_be_started_again(folder: SocketFolder) -> None:
    async def test() -> None:
        async with running(DEMO, folder) as (replica, states):
            for _ in range(4):
                os.kill(replica.pid or 0, signal.SIGKILL)
                await until(lambda: replica.state != "ready")
                await replica.start()
            os.kill(replica.pid or 0, signal.SIGKILL)
            await until(lambda: replica.state == "failed")
            assert states.count("starting") == 5
            assert isinstance(replica.last_error, ServerExitedError)
            await replica.start()
            assert replica.failed_at is None
            assert await answer(replica) == "2 + 2 = 4."

    run(test())


def test_a_model_that_cannot_be_loaded_fails_once(folder: SocketFolder, tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model.gguf"
    broken.write_bytes(tiny_model.read_bytes())
    config = ModelConfig("broken", str(broken), device="cpu")
    states: list[str] = []

    async def test() -> None:
        (load,) = prepare_loads(config)
        data = broken.read_bytes()
        broken.write_bytes(data[: len(data) // 2])
        replica = Replica("x", load, socket_path=folder.path / "0.sock", on_change=lambda one: states.append(one.state))
        with pytest.raises(ModelFormatError) as caught:
            await replica.start()
        await asyncio.sleep(0.5)
        assert (replica.state, replica.last_error) == ("failed", caught.value)
        assert states == ["starting", "failed"]
        broken.write_bytes(data)
        await replica.start()
        assert replica.state == "ready"
        await replica.stop()

    run(test())


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.06])
def test_a_stop_during_the_start_leaves_nothing(folder: SocketFolder, delay: float) -> None:
    async def test() -> None:
        (load,) = prepare_loads(DEMO)
        replica = Replica("x", load, socket_path=folder.path / "0.sock")
        start = asyncio.ensure_future(replica.start())
        await asyncio.sleep(delay)
        await asyncio.gather(replica.stop(), replica.stop())
        assert replica.state == "stopped"
        outcome = (await asyncio.gather(start, return_exceptions=True))[0]
        assert outcome is None or isinstance(outcome, ServerError)

    run(test())


def test_a_stop_while_it_waits_for_its_next_start_is_a_stop(folder: SocketFolder) -> None:
    async def test() -> None:
        async with running(DEMO, folder) as (replica, states):
            os.kill(replica.pid or 0, signal.SIGKILL)
            await until(lambda: replica.state == "waiting")
            await replica.stop()
            assert states == ["starting", "ready", "waiting", "stopping", "stopped"]

    run(test())


TWO = ModelConfig("demo", "demo", device="cpu", workers=2, slots=2)


def test_a_fleet_is_replaced_without_one_replica_less() -> None:
    ready: list[int] = []

    async def test() -> None:
        fleet = Fleet(TWO, on_change=lambda: ready.append(count()))

        def count() -> int:
            return sum(one.state is State.READY for one in fleet.replicas)

        await fleet.start()
        old = fleet.replicas
        pids = [replica.pid or 0 for replica in old]
        slots = [worker.take(Job(), current_task(), now=0.0) for worker in fleet.workers.values()]
        ready.clear()
        reload = asyncio.ensure_future(fleet.reload())
        for replica, slot in zip(old, slots, strict=True):
            await until(lambda replica=replica: replica.state is State.DRAINING)  # type: ignore[misc]
            assert await answer(replica) == "2 + 2 = 4."
            slot.release()
        await reload
        assert min(ready) == 2
        assert [replica.state for replica in old] == ["stopped", "stopped"]
        assert all(is_gone(pid) for pid in pids)
        assert [await answer(replica) for replica in fleet.replicas] == ["2 + 2 = 4."] * 2
        await fleet.stop()
        assert not fleet.replicas
        assert not fleet.workers

    run(test())


def test_without_room_for_one_more_the_old_one_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.fleet.fleet.read_free_memory", lambda: 1)
    ready: list[int] = []

    async def test() -> None:
        fleet = Fleet(TWO, on_change=lambda: ready.append(sum(one.state == "ready" for one in fleet.replicas)))
        await fleet.start()
        ready.clear()
        await fleet.reload()
        assert min(ready) == 1
        assert [replica.state for replica in fleet.replicas] == ["ready", "ready"]
        await fleet.stop()

    run(test())


def test_a_reload_that_fails_leaves_the_old_ones(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_model.read_bytes())

    async def test() -> None:
        fleet = Fleet(ModelConfig("x", str(path), device="cpu", workers=2))
        await fleet.start()
        old = fleet.replicas
        path.unlink()
        with pytest.raises(ModelNotFoundError):
            await fleet.reload()
        assert fleet.replicas == old
        assert all(replica.state == "ready" for replica in old)
        await fleet.stop()

    run(test())


def test_whoever_asks_at_the_same_time_shares_one_start() -> None:
    starts: set[str] = set()

    async def test() -> None:
        def note() -> None:
            starts.update(replica.name for replica in fleet.replicas)

        fleet = Fleet(TWO, on_change=note)
        impatient = asyncio.ensure_future(fleet.ensure_started())
        others = [asyncio.ensure_future(fleet.ensure_started()) for _ in range(8)]
        await asyncio.sleep(0.01)
        impatient.cancel()
        await asyncio.gather(*others)
        assert fleet.is_ready
        assert sorted(starts) == ["demo/0", "demo/1"]
        await fleet.stop()
        assert not fleet.replicas
        await asyncio.gather(*(fleet.ensure_started() for _ in range(4)), fleet.ensure_started())
        assert len(starts) == 4
        await asyncio.gather(fleet.stop(), fleet.stop())

    run(test())


def test_a_start_on_demand_that_failed_is_not_tried_by_every_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[ModelConfig] = []

    def prepare(config: ModelConfig, _: Share) -> None:
        tries.append(config)
        raise NoDeviceError("none")

    async def test() -> None:
        monkeypatch.setattr("llcuda.fleet.fleet.prepare_loads", prepare)
        fleet = Fleet(DEMO)
        for _ in range(5):
            with pytest.raises(NoDeviceError):
                await fleet.ensure_started()
        assert len(tries) == 1
        assert isinstance(fleet.last_error, NoDeviceError)
        await fleet.stop()

    run(test())


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05])
def test_a_fleet_can_be_stopped_while_it_starts(delay: float) -> None:
    async def test() -> None:
        fleet = Fleet(TWO)
        start = asyncio.ensure_future(fleet.start())
        await asyncio.sleep(delay)
        await fleet.stop()
        outcome = (await asyncio.gather(start, return_exceptions=True))[0]
        assert outcome is None or isinstance(outcome, ServerError)
        assert fleet.replicas == ()

    run(test())


def test_a_drain_that_takes_too_long_is_cut() -> None:
    async def test() -> None:
        fleet = Fleet(DEMO)
        await fleet.start()
        next(iter(fleet.workers.values())).take(Job(), current_task(), now=0.0)
        await fleet.stop(grace=0.05)
        assert fleet.replicas == ()

    run(test())


OWNER = """
import asyncio
from llcuda.gateway import ModelConfig
from llcuda.fleet.fleet import Fleet
async def main():
    fleet = Fleet(ModelConfig("demo", "demo", device="cpu", workers=2))
    await fleet.start()
    print(fleet._folder.path, *(replica.pid for replica in fleet.replicas), flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""


def test_a_killed_gateway_leaves_no_server_and_the_next_one_clears_its_folder() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        path, *pids = owner.stdout.readline().split()
        with killed_at_the_end(*map(int, pids)):
            beside = SocketFolder()
            assert Path(path).exists(), "its owner lives"
            beside.remove()
            owner.kill()
            owner.wait()
            wait_until(lambda: all(is_gone(int(pid)) for pid in pids))
    assert len(list(Path(path).iterdir())) == 2
    following = SocketFolder()
    assert not Path(path).exists()
    following.remove()


def test_an_interrupted_gateway_leaves_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as owner:
        assert owner.stdout
        path, *pids = owner.stdout.readline().split()
        with killed_at_the_end(*map(int, pids)):
            owner.send_signal(signal.SIGINT)
            owner.wait(PATIENCE)
            wait_until(lambda: all(is_gone(int(pid)) for pid in pids))
    assert not Path(path).exists()
    assert Path(path).parent in list_parents()
