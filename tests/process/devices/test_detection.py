"""Finding GPUs with a stand-in for the driver: an NVML compiled here, and a program in the place of nvidia-smi."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.devices import Gpu, Situation, choose_backend, find_devices, nvml
from llcuda.devices.inventory import Failure, Inventory
from llcuda.devices.machine import Machine
from llcuda.devices.nvidia_smi import read_nvidia_smi, run_nvidia_smi
from llcuda.devices.nvml import read_nvml
from llcuda.errors import NoDeviceError, UsageError
from tests.conftest import FLAGS
from tests.places import DATA
from tests.processes import PATIENCE, is_alive, wait_until
from tests.standins import fake_nvidia_smi
from tests.standins.fake_machine import LIBCUDA, NVML, build_machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEVICES = DATA / "devices"
T4 = "Tesla T4|7.5|15360|-1"
A100 = "NVIDIA A100-SXM4-40GB|8.0|40960"
ROW = "0, Tesla T4, GPU-f4b1, 7.5, 15360, 14910, 535.104.05\n"


def compile_nvml(target: Path, *options: str) -> Path:
    command = ["gcc", *FLAGS, *options, "-shared", "-fPIC", str(DEVICES / "fake_nvml.c"), "-o", str(target)]
    subprocess.run(command, check=True, timeout=60)
    return target


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_nvml(tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache" / "devices.json"
    monkeypatch.setenv("GPU_DETECTION_CACHE", str(path))
    monkeypatch.delenv("GPU_DETECTION_TIMEOUT", raising=False)
    return path


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("llcuda-nv")])


@pytest.fixture
def smi(tmp_path: Path) -> Path:
    program = tmp_path / "root" / "usr" / "bin" / "nvidia-smi"
    fake_nvidia_smi.install(program)
    (tmp_path / "query.csv").write_text(ROW)
    shutil.copy(DEVICES / "t4_header.txt", tmp_path / "header.txt")
    return program


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin", "FAKE_SMI_FOLDER": str(tmp_path), "FAKE_SMI_LOG": str(tmp_path / "smi.log")}


def runs(tmp_path: Path) -> list[str]:
    log = tmp_path / "smi.log"
    return log.read_text().splitlines() if log.exists() else []


def machine_with(tmp_path: Path, environ: dict[str, str], *, library: Path | None = None, **facts: Any) -> Machine:
    libraries = LIBCUDA if library is None else f"{LIBCUDA} {NVML}"
    facts = {"cards": "nvidia/nvidia", "nodes": "nvidia0 nvidiactl", "driver": "550.120", **facts}
    machine = build_machine(tmp_path / "root", libraries=libraries, environ=environ, **facts)
    if library:
        shutil.copy(library, machine.path(NVML))
    return machine


def set_driver(monkeypatch: pytest.MonkeyPatch, *gpus: str, **variables: object) -> None:
    for index, gpu in enumerate(gpus):
        monkeypatch.setenv(f"FAKE_NVML_GPU{index}", gpu)
    for name, value in {"CUDA": 12040, **variables}.items():
        monkeypatch.setenv(f"FAKE_NVML_{name}", str(value))


# this machine, which has no GPU


def test_a_machine_without_a_gpu_is_an_answer_and_loads_nothing() -> None:
    probe = """
import json, sys
from llcuda.devices import choose_backend, find_devices
before = set(sys.modules)
devices = find_devices()
print(json.dumps([devices.situation, choose_backend(devices, ()).sentence, sorted(set(sys.modules) - before)]))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    situation, sentence, loaded = json.loads(done.stdout)
    if Machine().nodes() or Machine().has_driver():
        pytest.skip("this machine has a driver")
    assert situation in {"no-nvidia", "amd", "intel"}
    assert sentence.startswith("Using the CPU. This machine has ")
    assert loaded == []


@pytest.mark.parametrize("value", ["soon", "0", "-3"])
def test_a_timeout_that_is_none_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GPU_DETECTION_TIMEOUT", value)
    with pytest.raises(UsageError, match="GPU_DETECTION_TIMEOUT"):
        find_devices()


# NVML


def test_nvml_tells_all_about_a_gpu(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, T4, "NVIDIA GB10|12.1|0|-1", DRIVER="580.95.05", CUDA=13000)
    assert read_nvml(library, timeout=PATIENCE) == Inventory(
        gpus=(
            Gpu(0, "Tesla T4", "GPU-0", "7.5", 15360, 15260),
            Gpu(1, "NVIDIA GB10", "GPU-1", "12.1", 0, None),
        ),
        driver="580.95.05",
        cuda="13.0",
    )


def test_nvml_is_closed_again(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, T4, LOG=tmp_path / "log")
    read_nvml(library, timeout=PATIENCE)
    assert (tmp_path / "log").read_text().split() == ["init", "shutdown"]


def test_nvml_lists_slices_in_the_place_of_their_gpu(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, f"{A100}|2", f"{A100}|-1")
    found = read_nvml(library, timeout=PATIENCE)
    assert isinstance(found, Inventory)
    assert found.gpus == (
        Gpu(0, "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-0-1", "8.0", 4864, 4764, "1g.5gb"),
        Gpu(0, "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-0-2", "8.0", 4864, 4764, "1g.5gb"),
        Gpu(1, "NVIDIA A100-SXM4-40GB", "GPU-1", "8.0", 40960, 40860),
    )


def test_an_nvml_of_2018_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = compile_nvml(tmp_path / "libnvidia-ml.so.1", "-DOLD")
    set_driver(monkeypatch, T4, DRIVER="396.54")
    found = read_nvml(old, timeout=PATIENCE)
    assert isinstance(found, Inventory)
    assert (len(found.gpus), found.driver, found.cuda) == (1, "396.54", None)


@pytest.mark.parametrize(
    ("code", "situation"),
    [
        (4, Situation.PERMISSION),
        (9, Situation.NO_DRIVER),
        (12, Situation.UNKNOWN),
        (15, Situation.GPU_LOST),
        (17, Situation.WSL_NO_GPU),
        (18, Situation.DRIVER_MISMATCH),
        (999, Situation.UNKNOWN),
    ],
)
def test_an_error_of_nvml_is_a_situation(
    code: int, situation: Situation, *, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, T4, INIT=code)
    failure = read_nvml(library, timeout=PATIENCE)
    assert isinstance(failure, Failure)
    assert failure.situation is situation
    assert failure.text.startswith(f"NVML error {code}: ")


def test_one_lost_gpu_leaves_the_others(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, "!15", T4)
    found = read_nvml(library, timeout=PATIENCE)
    assert isinstance(found, Inventory)
    assert [gpu.index for gpu in found.gpus] == [1]
    assert found.lost == ("GPU 0 does not answer (NVML error 15: GPU is lost).",)


@pytest.mark.parametrize(("code", "situation"), [(15, Situation.GPU_LOST), (4, Situation.PERMISSION)])
def test_when_no_gpu_answers_the_first_error_counts(
    code: int, situation: Situation, *, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, f"!{code}", "!15")
    failure = read_nvml(library, timeout=PATIENCE)
    assert isinstance(failure, Failure)
    assert (failure.situation, failure.driver) == (situation, "550.120")


def test_a_file_that_is_no_library_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("\x7fELF\x02")
    failure = read_nvml(tmp_path / "libnvidia-ml.so.1", timeout=PATIENCE)
    assert isinstance(failure, Failure)
    assert "cannot be used" in failure.text


def test_another_library_of_that_name_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "empty.c").write_text("int nothing_of_nvml;\n")
    target = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", str(tmp_path / "empty.c"), "-o", str(target)], check=True)
    failure = read_nvml(target, timeout=PATIENCE)
    assert isinstance(failure, Failure)
    assert "nvmlInit_v2" in failure.text


def test_an_nvml_that_hangs_is_left_behind_and_not_asked_again_before_it_returns(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, T4, SLEEP_MS=700, LOG=tmp_path / "log")
    for timeout in (0.1, 5):
        failure = read_nvml(library, timeout=timeout)
        assert isinstance(failure, Failure)
        assert failure.situation is Situation.TIMEOUT
    assert (tmp_path / "log").read_text().split() == ["init"]
    wait_until(lambda: not any(thread.is_alive() for thread in nvml._stuck))
    assert isinstance(read_nvml(library, timeout=PATIENCE), Inventory)


def test_an_nvml_that_hangs_does_not_keep_the_program_alive(library: Path) -> None:
    probe = f"""
from pathlib import Path
from llcuda.devices.nvml import read_nvml
print(read_nvml(Path({str(library)!r}), timeout=0.1).situation.value)
"""
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env={**os.environ, "FAKE_NVML_SLEEP_MS": "600000"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "timeout\n")


# nvidia-smi


def test_nvidia_smi_tells_all_about_a_gpu(smi: Path, environ: dict[str, str], tmp_path: Path) -> None:
    found = read_nvidia_smi(smi, timeout=PATIENCE, environ=environ)
    assert found == Inventory((Gpu(0, "Tesla T4", "GPU-f4b1", "7.5", 15360, 14910),), "535.104.05", "12.2")
    assert [line.partition("=")[0] for line in runs(tmp_path)] == ["--query-gpu", ""]


def test_nvidia_smi_is_asked_for_slices_where_there_are_some(
    smi: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    for name in ("query.csv", "header.txt", "list.txt"):
        shutil.copy(DEVICES / f"mig_{name}", tmp_path / name)
    found = read_nvidia_smi(smi, timeout=PATIENCE, environ=environ)
    assert isinstance(found, Inventory)
    assert [gpu.mig_profile for gpu in found.gpus] == [None, "3g.20gb", "1g.5gb"]
    assert runs(tmp_path)[-1] == "-L"


def test_an_nvidia_smi_that_hangs_is_killed_with_its_children(
    smi: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    failure = read_nvidia_smi(smi, timeout=3.0, environ={**environ, "FAKE_SMI_FAULT": "hang"})
    assert isinstance(failure, Failure)
    assert failure.situation is Situation.TIMEOUT
    children = [int(line.split()[1]) for line in runs(tmp_path) if line.startswith("child ")]
    assert children
    for pid in children:
        wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("says", "status", "situation"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch\n", 18, Situation.DRIVER_MISMATCH),
        ("No devices were found\n", 6, Situation.NO_DEVICES),
        ("complete nonsense\n", 0, Situation.UNKNOWN),
        ("complete nonsense\n", 139, Situation.UNKNOWN),
        (ROW[:40], 0, Situation.UNKNOWN),
        ("0, Tesla T4\n", 0, Situation.UNKNOWN),
    ],
)
def test_an_nvidia_smi_without_an_answer_is_a_failure(
    says: str, status: int, situation: Situation, *, smi: Path, environ: dict[str, str]
) -> None:
    environ |= {"FAKE_SMI_SAYS": says, "FAKE_SMI_STATUS": str(status)}
    failure = read_nvidia_smi(smi, timeout=PATIENCE, environ=environ)
    assert isinstance(failure, Failure)
    assert failure.situation is situation


def test_nvidia_smi_gets_no_secrets(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nenv\n")
    program.chmod(0o755)
    environ = {"PATH": "/usr/bin:/bin", "HF_TOKEN": "secret", "OPENAI_API_KEY": "secret", "CUDA_VISIBLE_DEVICES": "0"}
    output = run_nvidia_smi(program, [], timeout=PATIENCE, environ=environ)
    assert "CUDA_VISIBLE_DEVICES=0" in output.stdout
    assert "secret" not in output.stdout


def test_an_nvidia_smi_that_cannot_be_run_is_a_failure(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    assert run_nvidia_smi(program, [], timeout=PATIENCE, environ={}).returncode == 127
    program.write_text("not a program")
    program.chmod(0o755)
    failure = read_nvidia_smi(program, timeout=PATIENCE, environ={})
    assert isinstance(failure, Failure)
    assert "cannot be run" in failure.text


def test_an_nvidia_smi_on_a_relative_path_is_not_run(tmp_path: Path) -> None:
    program = tmp_path / "opt" / "tools" / "nvidia-smi"
    fake_nvidia_smi.install(program)
    assert Machine(tmp_path, environ={"PATH": ":/none:/opt/tools"}).find_program("nvidia-smi") == program
    assert Machine(tmp_path, environ={"PATH": ":.:opt/tools"}).find_program("nvidia-smi") is None
    program.chmod(0o644)
    assert Machine(tmp_path, environ={"PATH": "/opt/tools"}).find_program("nvidia-smi") is None


# both, and the cache


@pytest.mark.usefixtures("smi")
def test_nvml_is_asked_first_and_nvidia_smi_not_at_all(
    library: Path, environ: dict[str, str], *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, T4)
    devices = find_devices(machine=machine_with(tmp_path, environ, library=library))
    assert (devices.source, devices.situation) == ("nvml", Situation.OK)
    assert (devices.driver, devices.cuda) == ("550.120", "12.4")
    assert devices.gpus[0].memory_free_mib == 15260
    assert runs(tmp_path) == []


def test_a_quick_answer_is_not_kept(
    library: Path, environ: dict[str, str], cache: Path, *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llcuda.devices.detection._SLOW", 60.0)
    set_driver(monkeypatch, T4)
    find_devices(machine=machine_with(tmp_path, environ, library=library))
    assert not cache.exists()


def test_a_slow_answer_is_kept_and_the_driver_not_asked_again(
    library: Path, environ: dict[str, str], *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, T4, SLEEP_MS=300, LOG=tmp_path / "log")
    machine = machine_with(tmp_path, environ, library=library)
    assert find_devices(machine=machine).source == "nvml"
    kept = find_devices(machine=machine)
    assert (kept.source, kept.gpus[0].name, kept.gpus[0].memory_free_mib) == ("cache", "Tesla T4", None)
    assert (tmp_path / "log").read_text().split() == ["init", "shutdown"]
    assert find_devices(machine=machine, refresh=True).source == "nvml"


@pytest.mark.usefixtures("smi")
def test_without_nvml_nvidia_smi_is_asked_once_and_its_answer_kept(environ: dict[str, str], tmp_path: Path) -> None:
    machine = machine_with(tmp_path, environ)
    assert find_devices(machine=machine).source == "nvidia-smi"
    assert len(runs(tmp_path)) == 2
    assert find_devices(machine=machine).source == "cache"
    assert len(runs(tmp_path)) == 2
    machine.path("/dev/nvidia1").write_text("")
    assert find_devices(machine=machine).source == "nvidia-smi"


@pytest.mark.usefixtures("smi")
def test_an_nvml_that_makes_no_sense_is_no_reason_to_give_up(
    library: Path, environ: dict[str, str], *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, T4, INIT=999)
    devices = find_devices(machine=machine_with(tmp_path, environ, library=library))
    assert (devices.source, devices.situation) == ("nvidia-smi", Situation.OK)


@pytest.mark.usefixtures("smi")
def test_a_mismatch_needs_no_second_opinion(
    library: Path, environ: dict[str, str], *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, T4, INIT=18)
    devices = find_devices(machine=machine_with(tmp_path, environ, library=library))
    assert devices.situation is Situation.DRIVER_MISMATCH
    assert runs(tmp_path) == []
    with pytest.raises(NoDeviceError) as caught:
        choose_backend(devices, (), device="cuda").raise_for_device()
    assert caught.value.hint.startswith("Reboot: the driver was updated.")


@pytest.mark.usefixtures("smi")
def test_a_driver_that_hangs_costs_the_time_limit_once(
    library: Path, environ: dict[str, str], *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_DETECTION_TIMEOUT", "0.3")
    set_driver(monkeypatch, T4, SLEEP_MS=1500)
    machine = machine_with(tmp_path, environ, library=library)
    devices = find_devices(machine=machine)
    assert devices.situation is Situation.TIMEOUT
    assert "0.3 seconds" in devices.detail
    assert runs(tmp_path) == []
    assert find_devices(machine=machine).source == "cache"


def test_a_gpu_that_is_hidden_is_still_named(
    library: Path, environ: dict[str, str], *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, T4, T4)
    machine = machine_with(tmp_path, {**environ, "CUDA_VISIBLE_DEVICES": "-1"}, library=library)
    devices = find_devices(machine=machine)
    assert (devices.situation, devices.gpus, len(devices.hidden)) == (Situation.HIDDEN, (), 2)
    machine.environ = {**environ, "CUDA_VISIBLE_DEVICES": "1"}
    devices = find_devices(machine=machine)
    assert [gpu.index for gpu in devices.gpus] == [1]
    assert [gpu.index for gpu in devices.hidden] == [0]


def test_mig_mode_without_slices_says_how_to_make_some(
    library: Path, environ: dict[str, str], *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, f"{A100}|0")
    devices = find_devices(machine=machine_with(tmp_path, environ, library=library))
    assert devices.situation is Situation.MIG_EMPTY
    assert devices.detail == "NVIDIA A100-SXM4-40GB: MIG mode is on and no slice was made."
    assert "nvidia-smi mig -cgi" in devices.remedy


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        ({}, "libnvidia-compute"),
        ({"/.dockerenv": ""}, "NVIDIA_DRIVER_CAPABILITIES"),
        ({"/dev/dxg": ""}, "wsl --update"),
    ],
)
def test_a_driver_without_libcuda_is_named(
    files: dict[str, str], remedy: str, *, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, T4, CUDA=0)
    machine = machine_with(tmp_path, {}, library=library, files=files)
    machine.path(LIBCUDA).unlink()
    devices = find_devices(machine=machine)
    assert (devices.situation, devices.gpus, len(devices.hidden)) == (Situation.NO_LIBCUDA, (), 1)
    assert remedy in devices.remedy


def test_a_library_is_found_as_the_loader_finds_it_and_in_64_bits(tmp_path: Path, library: Path) -> None:
    machine = build_machine(tmp_path / "root", environ={"LD_LIBRARY_PATH": "relative:/opt/driver"})
    places = ["/opt/driver", "/cached", "/usr/lib/wsl/lib"]
    name = "libnvidia-ml.so.1"
    cached = f"glibc-ld.so.cache1.1\0{name}\0/usr/lib/i386/{name}\0{name}\0/cached/{name}\0"
    for folder in [*places, "/etc", "/usr/lib/i386"]:
        machine.path(folder).mkdir(parents=True, exist_ok=True)
    machine.path("/etc/ld.so.cache").write_text(cached)
    machine.path("/usr/lib/i386/libnvidia-ml.so.1").write_text("\x7fELF\x01")
    for folder in places:
        shutil.copy(library, machine.path(folder))
    for folder in places:
        found = machine.find_library("libnvidia-ml.so.1")
        assert found == machine.path(f"{folder}/libnvidia-ml.so.1")
        found.unlink()
    assert machine.find_library("libnvidia-ml.so.1") is None


def test_the_loaders_cache_of_this_machine_is_understood() -> None:
    assert Machine(environ={}).find_library("libc.so.6")


PERMISSION_PROBE = """
import os, sys
sys.path[:0] = sys.argv[2:]
from llcuda.devices.machine import Machine
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(Machine(sys.argv[1]).open_error("/dev/nvidiactl"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root becomes somebody else here")
def test_a_device_node_that_may_not_be_opened_is_told_from_one_that_may(tmp_path: Path) -> None:
    machine = build_machine(tmp_path, nodes="nvidiactl")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    machine.path("/dev/nvidiactl").chmod(0o600)
    command = [sys.executable, "-c", PERMISSION_PROBE, str(tmp_path), *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "13\n"
    assert machine.open_error("/dev/nvidiactl") == 0
