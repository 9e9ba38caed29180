"""How workers share GPUs, cores and context."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.errors import NoDeviceError, UsageError
from llcuda.fleet.processes import machine_shares
from llcuda.fleet.processes.machine_shares import choose_options, choose_places, keep_to_core, order_cores, turn
from llcuda.gateway import ModelConfig
from tests.standins.fake_t4 import BACKEND, T4, devices

if TYPE_CHECKING:
    from llcuda.engine.placement import Placement

SECOND = dataclasses.replace(T4, index=1, uuid="GPU-second")


def model(**settings: Any) -> ModelConfig:
    return ModelConfig("one", "demo", **settings)


@pytest.mark.parametrize(
    ("workers", "gpus", "expected"),
    [
        (1, 0, [None]),
        (1, 1, [None]),
        (1, 4, [None]),
        (3, 0, [None, None, None]),
        (3, 1, [0, 0, 0]),
        (2, 2, [0, 1]),
        (5, 2, [0, 1, 0, 1, 0]),
        (2, 8, [0, 1]),
    ],
)
def test_several_workers_take_the_gpus_in_turn(workers: int, gpus: int, expected: list[int | None]) -> None:
    assert [place.gpu for place in choose_places(model(workers=workers), gpus=gpus, cores=range(4))] == expected


@pytest.mark.parametrize(
    ("workers", "cores", "expected"), [(1, 8, None), (2, 8, 4), (3, 8, 2), (8, 8, 1), (9, 8, 1), (2, 1, 1), (2, 3, 1)]
)
def test_the_cores_are_shared_out_evenly(workers: int, cores: int, expected: int | None) -> None:
    assert {place.threads for place in choose_places(model(workers=workers), gpus=0, cores=range(cores))} == {expected}


@pytest.mark.parametrize(
    ("workers", "cores", "expected"),
    [(1, (5,), [None]), (2, (4, 6), [4, 6]), (2, (4, 6, 5, 7), [4, 6]), (3, (4, 6), [None] * 3)],
)
def test_each_worker_has_a_core_where_there_is_one_for_each(
    workers: int, cores: tuple[int, ...], expected: list[int | None]
) -> None:
    assert [place.core for place in choose_places(model(workers=workers), gpus=0, cores=cores)] == expected


@pytest.mark.parametrize(
    ("siblings", "expected"),
    [
        ({0: (0, 1), 1: (0, 1), 2: (2, 3), 3: (2, 3)}, (0, 2, 1, 3)),
        ({0: (0, 2), 1: (1, 3), 2: (0, 2), 3: (1, 3)}, (0, 1, 2, 3)),
        ({7: (7,), 3: (3,)}, (3, 7)),
        ({3: (2, 3)}, (3,)),
    ],
)
def test_physical_cores_come_first(siblings: dict[int, tuple[int, ...]], expected: tuple[int, ...]) -> None:
    assert order_cores(siblings) == expected


@pytest.mark.parametrize(("number", "expected"), [(0, (0, 2, 1)), (1, (2, 1, 0)), (3, (0, 2, 1)), (8, (1, 0, 2))])
def test_the_next_model_begins_at_the_next_core(number: int, expected: tuple[int, ...]) -> None:
    assert turn((0, 2, 1), number) == expected


@pytest.mark.parametrize(
    ("options", "core", "expected"),
    [
        ({"threads": 1}, 3, {"threads": 1, "cpu_range": "3-3", "cpu_strict": 1}),
        ({"threads": 1}, None, {"threads": 1}),
        ({"threads": 2}, 3, {"threads": 2}),
        ({"threads": None}, 3, {"threads": None}),
        ({"threads": 1, "cpu_mask": "f"}, 3, {"threads": 1, "cpu_mask": "f"}),
        ({"threads": 1, "numa": "isolate"}, 3, {"threads": 1, "numa": "isolate"}),
    ],
)
def test_one_thread_is_kept_to_its_core(options: dict[str, Any], core: int | None, expected: dict[str, Any]) -> None:
    assert keep_to_core(options, core) == expected


@pytest.mark.parametrize("settings", [{"workers": 0}, {"workers": -1}, {"slots": 0}])
def test_a_number_that_is_none_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="below 1"):
        choose_places(model(**settings), gpus=0, cores=range(4))


def test_the_context_of_all_slots_is_asked_for() -> None:
    options = choose_options(model(ctx_size=1000, slots=3, gpu_layers=7, threads=5, server_options={"seed": 1}))
    assert options == {
        "alias": "one", "seed": 1, "gpu_layers": 7, "ctx_size": 3000, "n_parallel": 3, "kv_unified": False,
        "threads": 5,
    }  # fmt: skip
    assert choose_options(model())["ctx_size"] is None


@pytest.mark.parametrize(
    "name", ["ctx_size", "parallel", "n_parallel", "threads", "gpu_layers", "kv_unified", "kv_unified_per_slot"]
)
def test_a_server_option_does_not_contradict_a_setting(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        choose_options(model(server_options={name: 1}))
    choose_options(model(server_options={name: None}))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.engine.placement.find_devices", lambda: devices(T4, SECOND))
    monkeypatch.setattr("llcuda.engine.placement.find_backends", lambda: (BACKEND,))
    monkeypatch.setattr("llcuda.fleet.processes.machine_shares.require_whole_binaries", lambda: None)


def placements(config: ModelConfig) -> list[Placement]:
    return [load.placement for load in machine_shares.prepare_loads(config)]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"workers": 1}, ["GPU-t4,GPU-second"]),
        ({"workers": 3}, ["GPU-t4", "GPU-second", "GPU-t4"]),
        ({"workers": 2, "device": "cuda"}, ["GPU-t4", "GPU-second"]),
        ({"workers": 2, "device": "cuda:1"}, ["GPU-second", "GPU-second"]),
    ],
)
def test_each_worker_sees_its_gpu_alone(settings: dict[str, Any], expected: list[str]) -> None:
    found = placements(model(**settings))
    assert [one.visible_devices for one in found] == expected
    assert all(one.backend == BACKEND for one in found)


@pytest.mark.usefixtures("two_gpus")
def test_the_report_will_say_which_gpu_it_is_and_what_was_asked_for() -> None:
    first, second = placements(model(workers=2))
    assert (first.asked, first.required) == ("auto", False)
    assert "GPU 1 of 2" in first.choice.sentence
    assert "GPU 2 of 2" in second.choice.sentence


@pytest.mark.usefixtures("two_gpus")
def test_the_cpu_is_the_cpu_where_there_are_gpus() -> None:
    assert [one.backend for one in placements(model(workers=2, device="cpu"))] == [None, None]


def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.engine.placement.find_devices", devices)
    monkeypatch.setattr("llcuda.fleet.processes.machine_shares.require_whole_binaries", lambda: None)
    assert [one.backend for one in placements(model(workers=2))] == [None, None]
    with pytest.raises(NoDeviceError):
        placements(model(workers=2, device="cuda"))


@pytest.mark.parametrize(
    ("others", "options", "expected"), [(0, {}, 1000), (2, {}, 500), (2, {"cache_ram": 7}, 7)]
)
def test_all_workers_share_the_memory_for_old_prompts(
    monkeypatch: pytest.MonkeyPatch, *, others: int, options: dict[str, int], expected: int
) -> None:
    monkeypatch.setattr("llcuda.fleet.processes.machine_shares.require_whole_binaries", lambda: None)
    monkeypatch.setattr("llcuda.server.free_memory.read_free_memory", lambda: 8000)
    config = model(workers=2, device="cpu", server_options=options)
    found = machine_shares.prepare_loads(config, machine_shares.Share(workers_of_others=others))
    assert [load.options["cache_ram"] for load in found] == [expected] * 2


@pytest.mark.parametrize(("threads", "expected"), [(None, 1), (3, 3)])
def test_a_small_model_has_one_thread_unless_it_is_told_another_number(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, expected: int
) -> None:
    monkeypatch.setattr("llcuda.fleet.processes.machine_shares.require_whole_binaries", lambda: None)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    config = model(workers=2, device="cpu", threads=threads)
    assert [load.options["threads"] for load in machine_shares.prepare_loads(config)] == [expected] * 2


def test_a_larger_model_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.fleet.processes.machine_shares.require_whole_binaries", lambda: None)
    monkeypatch.setattr("llcuda.engine.load._ONE_THREAD_PARAMETERS", 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert [load.options["threads"] for load in machine_shares.prepare_loads(model(workers=3, device="cpu"))] == [5] * 3
