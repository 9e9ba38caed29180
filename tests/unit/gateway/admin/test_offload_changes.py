"""What may be asked for as the place where a model runs, and what a configuration amounts to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway import ModelConfig
from llcuda.gateway.admin.offload_changes import Choice, describe_choice, parse_choice


def encode(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("fields", "device", "gpu_layers"),
    [
        ({"offload": "full"}, "cuda:1", None),
        ({"offload": "mixed", "gpu_layers": 7}, "cuda:1", 7),
        ({"offload": "cpu"}, "cpu", None),
        ({"offload": "cpu", "gpu_layers": None}, "cpu", None),
        ({"offload": "auto"}, "auto", None),
    ],
)
def test_a_choice_is_a_device_and_a_number_of_layers(
    fields: dict[str, Any], device: str, gpu_layers: int | None
) -> None:
    before = ModelConfig("m", "demo", workers=3, device="auto", gpu_layers=2)
    after = parse_choice(encode(model="m", **fields)).apply(before, gpu="cuda:1")
    assert after == ModelConfig("m", "demo", workers=3, device=device, gpu_layers=gpu_layers)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'{"model":"m","model":"n","offload":"cpu"}', "invalid_json", None),
        (encode(model="m", offload="cpu", threads=2), "unknown_field", "threads"),
        (encode(offload="cpu"), "invalid_value", "model"),
        (encode(model=7, offload="cpu"), "invalid_value", "model"),
        (encode(model="m"), "invalid_value", "offload"),
        (encode(model="m", offload="half"), "invalid_value", "offload"),
        (encode(model="m", offload=["cpu"]), "invalid_value", "offload"),
        (encode(model="m", offload="cpu", gpu_layers=3), "invalid_value", "gpu_layers"),
        (encode(model="m", offload="full", gpu_layers=0), "invalid_value", "gpu_layers"),
        (encode(model="m", offload="mixed"), "invalid_value", "gpu_layers"),
        (encode(model="m", offload="mixed", gpu_layers=0), "invalid_value", "gpu_layers"),
        (encode(model="m", offload="mixed", gpu_layers=-1), "invalid_value", "gpu_layers"),
        (encode(model="m", offload="mixed", gpu_layers=4097), "invalid_value", "gpu_layers"),
        (encode(model="m", offload="mixed", gpu_layers=2.0), "invalid_value", "gpu_layers"),
        (encode(model="m", offload="mixed", gpu_layers=True), "invalid_value", "gpu_layers"),
        (encode(model="m", offload="mixed", gpu_layers="2"), "invalid_value", "gpu_layers"),
    ],
)
def test_what_is_no_choice_is_a_400_that_says_where(body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_choice(body)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


@pytest.mark.parametrize(
    ("options", "choice", "gpu_layers"),
    [
        ({}, "auto", None),
        ({"device": "cpu"}, "cpu", None),
        ({"gpu_layers": 0}, "cpu", None),
        ({"gpu_layers": 3}, "mixed", 3),
        ({"device": "cuda:1", "gpu_layers": 3}, "mixed", 3),
        ({"device": "cuda"}, "full", None),
        ({"device": "cuda:1"}, "full", None),
    ],
)
def test_what_a_configuration_amounts_to(options: dict[str, Any], choice: str, gpu_layers: int | None) -> None:
    assert describe_choice(ModelConfig("m", "demo", **options)) == {"choice": choice, "gpu_layers": gpu_layers}


@pytest.mark.parametrize("choice", [Choice("m", "full"), Choice("m", "mixed", 5), Choice("m", "cpu")])
def test_a_choice_that_was_applied_is_the_one_that_holds(choice: Choice) -> None:
    held = describe_choice(choice.apply(ModelConfig("m", "demo"), gpu="cuda"))
    assert held == {"choice": choice.offload, "gpu_layers": choice.gpu_layers}
