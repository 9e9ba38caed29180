"""What docs/gpu.md promises about hardware is what is chosen, and what it quotes is what is said."""

from __future__ import annotations

import re

import pytest

from llcuda.devices import Devices, Gpu, Situation, choose_backend
from tests.places import DOCS
from tests.unit.devices.test_machines import BACKENDS, BARE, ROWS

PAGE = (DOCS / "gpu.md").read_text(encoding="utf-8")
HARDWARE = re.findall(r"^\| ([^|]+) \| (\d+\.\d) \| ([\d.]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
REASONS = re.findall(r"^\| ([A-Zc][^|`]+\.) \| [^|]+ \|$", PAGE.partition("## Why it is not used")[2], re.MULTILINE)
NEWEST = "999.0"


def try_backend(name: str, *, capability: str, driver: str) -> str:
    gpu = Gpu(index=0, name="it", uuid="GPU-0", capability=capability, memory_total_mib=8192)
    found = Devices((gpu,), (), driver, None, "nvml", Situation.OK, "")
    choice = choose_backend(found, [BACKENDS[name]])
    if choice.backend is None:
        return "no"
    return "compiled at the first start" if "the driver compiles" in choice.sentence else "yes"


@pytest.mark.parametrize(("gpu", "capability", "driver", "cuda12", "cuda13"), HARDWARE, ids=lambda cell: cell)
def test_a_row_of_the_hardware_table_is_what_is_chosen(
    gpu: str, capability: str, *, driver: str, cuda12: str, cuda13: str
) -> None:
    assert try_backend("12", capability=capability, driver=NEWEST) == cuda12, gpu
    assert try_backend("13", capability=capability, driver=NEWEST) == cuda13, gpu
    if cuda12 != "no":
        assert try_backend("12", capability=capability, driver=driver) == cuda12
        assert try_backend("12", capability=capability, driver=f"{int(driver.partition('.')[0]) - 1}.999") == "no"


def test_the_table_names_every_capability_of_the_contract() -> None:
    assert {row[1] for row in HARDWARE} >= {"5.0", "6.1", "7.5", "8.0", "8.6", "8.9", "9.0", "12.0"}


@pytest.mark.parametrize("reason", REASONS)
def test_a_quoted_reason_is_one_that_is_given(reason: str) -> None:
    given = {row.sentence.removeprefix("Using the CPU. ") for row in (*ROWS, *BARE)}
    assert reason in given


def test_reasons_are_quoted() -> None:
    assert len(REASONS) >= 10
