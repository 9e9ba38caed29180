"""What docs/memory.md says of the steps, the split and the errors is what is done and said."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llcuda import devices as package
from llcuda.cli import gpu, main
from llcuda.devices import Devices, Gpu, Situation, choose_backend
from llcuda.engine import placement as placements
from llcuda.engine.ladder import list_rungs
from llcuda.engine.load import _warn, _with_steps
from llcuda.engine.placement import check_split, choose_placement
from llcuda.errors import OutOfMemoryError, UsageError
from llcuda.server.failures import Launch, classify_failure
from tests.places import ROOT
from tests.unit.cli.test_gpu import CUDA12, NONE

if TYPE_CHECKING:
    from llcuda.engine.ladder import Rung

PAGE = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LADDER = re.findall(r"^\| ([^|]+) \| `([^|]+)` \| ([^|]+) \|$", PAGE.partition("## What saves")[0], re.MULTILINE)
OUT_OF_MEMORY = ROOT / "tests" / "data" / "logs" / "cuda" / "written-out-of-memory-while-computing.log"
GPUS = (
    Gpu(0, "NVIDIA GeForce RTX 3090", "GPU-1", "8.6", 24576, 24000),
    Gpu(1, "NVIDIA GeForce RTX 3060", "GPU-2", "8.6", 12288, 8000),
)
FOUND = Devices(GPUS, (), "580.65.06", "13.0", "nvml", Situation.OK, "2 NVIDIA GPUs can be used.")


def climb(**options: Any) -> tuple[Rung, ...]:
    return list_rungs(options, layers=32, context=131072, on_gpu=True, may_use_cpu=True)


def read_options(text: str) -> dict[str, Any]:
    call = ast.parse(f"dict({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}


def out_of_memory() -> OutOfMemoryError:
    error = classify_failure(OUT_OF_MEMORY.read_text().splitlines(), -6, launch=Launch("llama-server", "model.gguf"))
    assert isinstance(error, OutOfMemoryError)
    return error


def test_the_table_has_every_step_in_its_order() -> None:
    steps = climb()
    last = next(place for place, rung in enumerate(steps) if rung.on_cpu)
    assert [row[0] for row in LADDER] == [rung.sentence for rung in steps[: last + 1]]
    assert [rung.sentence for rung in steps[last + 1 :]] == [row[0] for row in LADDER[:3]]


@pytest.mark.parametrize(("sentence", "given", "without"), LADDER, ids=lambda cell: cell[:20])
def test_a_step_is_what_the_table_says_and_is_left_out_where_it_says(sentence: str, given: str, without: str) -> None:
    rung = next(rung for rung in climb() if rung.sentence == sentence)
    assert (rung.options == read_options(given)) != rung.on_cpu
    for options in map(read_options, re.findall("`([^`]+)`", without)):
        placement = options.keys() & {"device", "require_gpu"}
        may_use_cpu = not placement
        left = list_rungs(
            {} if placement else options, layers=32, context=131072, on_gpu=True, may_use_cpu=may_use_cpu
        )
        assert sentence not in {step.sentence for step in left}


def test_the_logged_line_is_the_one_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    _warn(out_of_memory(), f"Trying again: {climb()[0].sentence}")
    assert f"{caplog.records[0].getMessage()}\n" in SHOWN


def test_the_last_error_is_the_one_that_is_raised() -> None:
    error = _with_steps(out_of_memory(), tuple(rung.sentence for rung in climb()[:2]))
    assert f"{error}\n{error.hint}\n" in SHOWN


def test_the_estimate_is_the_one_that_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "find_devices", lambda: NONE)
    assert main(["models", "inspect", "demo", "--ctx-size", "512"]) == 0
    assert SHOWN[0] == f"memory{capsys.readouterr().out.rpartition('memory')[2]}"


def test_the_status_of_two_gpus_is_the_one_that_is_printed() -> None:
    assert "\n".join(gpu._describe(FOUND, [CUDA12], choose_backend(FOUND, [CUDA12]))) + "\n" in SHOWN


def test_the_contradiction_is_the_one_that_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placements, "find_devices", lambda: FOUND)
    monkeypatch.setattr(placements, "find_backends", lambda: (CUDA12,))
    monkeypatch.setattr(placements, "find_executable", lambda _name: Path("/it/llama-server"))
    monkeypatch.setattr(placements, "_is_bundled", lambda _executable: True)
    with pytest.raises(UsageError) as caught:
        check_split(choose_placement("cuda:1", require_gpu=False), {"tensor_split": [3, 1]})
    assert f"{caught.value}\n{caught.value.hint}\n" in SHOWN


def test_every_option_that_saves_memory_is_given_in_a_snippet_that_is_run() -> None:
    table = PAGE.partition("## What saves memory")[2].partition("## ")[0]
    names = re.findall("`([a-z_]+)`", " ".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)))
    snippets = "".join(re.findall(r"^```python\n(.*?)^```$", table, re.MULTILINE | re.DOTALL))
    assert len(names) >= 10
    assert all(f"{name}=" in snippets for name in names)


def test_every_text_that_is_shown_is_compared() -> None:
    assert len(SHOWN) == 5
