"""What is done without when memory runs out, in which order, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from llcuda.engine.ladder import WITHOUT_DRAFT, list_rungs
from llcuda.engine.placement import SPLIT_OPTIONS, wait_for_memory

BATCH, CACHE, CONTEXT = {"ubatch_size": 128}, {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}, {"ctx_size": 4096}
HALF, QUARTER, CPU = {"gpu_layers": 16}, {"gpu_layers": 8}, dict.fromkeys(("gpu_layers", *SPLIT_OPTIONS))


def rungs(*, on_gpu: bool = True, may_use_cpu: bool = True, **options: Any) -> list[dict[str, Any]]:
    found = list_rungs(options, layers=32, context=131072, on_gpu=on_gpu, may_use_cpu=may_use_cpu)
    return [rung.options for rung in found]


def test_the_steps_go_from_the_least_loss_to_the_most_and_begin_again_on_the_cpu() -> None:
    assert rungs() == [BATCH, CACHE, CONTEXT, HALF, QUARTER, CPU, BATCH, CACHE, CONTEXT]


def test_where_the_gpu_is_required_the_cpu_is_no_step() -> None:
    assert rungs(may_use_cpu=False) == [BATCH, CACHE, CONTEXT, HALF, QUARTER]


def test_on_the_cpu_there_are_no_layers_to_take_off() -> None:
    assert rungs(on_gpu=False) == [BATCH, CACHE, CONTEXT]


def test_a_draft_model_is_the_first_thing_to_go_on_either_side() -> None:
    steps = list_rungs({}, layers=32, context=131072, on_gpu=True, may_use_cpu=True, may_drop_draft=True)
    assert [number for number, rung in enumerate(steps) if rung.sentence == WITHOUT_DRAFT] == [0, 7]
    assert steps[6].on_cpu


@pytest.mark.parametrize(
    ("asked", "missing"),
    [
        ({"ubatch_size": 256}, BATCH),
        ({"batch_size": 256}, BATCH),
        ({"cache_type_k": "f32"}, CACHE),
        ({"cache_type_v": "q4_0"}, CACHE),
        ({"flash_attn": False}, CACHE),
        ({"flash_attn": "off"}, CACHE),
        ({"ctx_size": 65536}, CONTEXT),
    ],
)
def test_what_was_asked_for_is_left_alone(asked: dict[str, Any], missing: dict[str, Any]) -> None:
    assert missing not in rungs(on_gpu=False, **asked)
    assert len(rungs(on_gpu=False, **asked)) == 2


def test_an_option_of_none_was_not_asked_for() -> None:
    assert rungs(on_gpu=False, ctx_size=None, ubatch_size=None) == [BATCH, CACHE, CONTEXT]


@pytest.mark.parametrize(
    ("gpu_layers", "taken"),
    [(None, [16, 8]), (-1, [16, 8]), (99, [16, 8]), (12, [6, 3]), (3, [1]), (2, [1]), (1, []), (0, [])],
)
def test_layers_are_halved_from_those_asked_for(gpu_layers: int | None, taken: list[int]) -> None:
    steps = rungs(may_use_cpu=False, gpu_layers=gpu_layers)
    assert [options["gpu_layers"] for options in steps if "gpu_layers" in options] == taken


def test_a_short_context_is_not_made_longer() -> None:
    found = list_rungs({}, layers=4, context=1024, on_gpu=False, may_use_cpu=True)
    assert [rung.options for rung in found] == [BATCH, CACHE]


def test_a_cache_that_cannot_be_quantised_is_left_as_it_is() -> None:
    found = list_rungs({}, layers=4, context=8192, on_gpu=True, may_use_cpu=True, may_quantise=False)
    assert CACHE not in [rung.options for rung in found]


def test_a_model_that_does_not_say_its_layers_keeps_them() -> None:
    found = list_rungs({}, layers=None, context=None, on_gpu=True, may_use_cpu=False)
    assert [rung.options for rung in found] == [BATCH, CACHE, CONTEXT]


def test_every_step_has_a_sentence_of_its_own() -> None:
    found = list_rungs({}, layers=32, context=131072, on_gpu=True, may_use_cpu=False)
    assert len({rung.sentence for rung in found}) == len(found)
    assert found[2].sentence == "the context has 4096 tokens instead of 131072"


def test_memory_is_waited_for_until_it_stays_the_same() -> None:
    free = iter([(100,), (300,), (900,), (900,), (901,)])
    wait_for_memory(lambda: next(free))
    assert next(free) == (901,)


def test_memory_that_never_settles_is_not_waited_for_longer_than_that() -> None:
    amounts = iter(range(10_000))
    wait_for_memory(lambda: (next(amounts),), timeout=0.2)
    assert next(amounts) < 20


@pytest.mark.parametrize("unknown", [(), (None,), (5, None)])
def test_memory_that_is_not_known_is_not_waited_for(unknown: tuple[int | None, ...]) -> None:
    answers = iter([unknown, (1,)])
    wait_for_memory(lambda: next(answers))
    assert next(answers) == (1,)
