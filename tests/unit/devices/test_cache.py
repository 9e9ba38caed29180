"""The cache of a slow detection: what it is kept for, what drops it, and that its faults never matter."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.devices import Devices, Gpu, Situation, cache
from llcuda.native import installed_dir
from tests.standins.fake_machine import LIBCUDA, NVML, build_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.devices.machine import Machine

BOOT = "/proc/sys/kernel/random/boot_id"
GPU = Gpu(0, "Tesla T4", "GPU-1", "7.5", 15360, 15000)
HIDDEN = replace(GPU, index=1, uuid="MIG-2", mig_profile="1g.5gb")
FOUND = Devices((GPU,), (HIDDEN,), "550.120", "12.4", "nvidia-smi", Situation.OK, "1 NVIDIA GPU can be used.")
KEY = {"driver": "550.120", "nodes": ["nvidia0"]}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return build_machine(
        tmp_path / "root",
        cards="nvidia/nvidia intel/i915",
        nodes="nvidia0 nvidiactl",
        driver="550.120",
        libraries=f"{NVML} {LIBCUDA}",
        files={BOOT: "one\n"},
        environ={},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "llcuda" / "devices.json"


def test_what_was_kept_comes_back_without_the_free_memory(path: Path) -> None:
    cache.write_cache(path, KEY, devices=FOUND)
    kept = cache.read_cache(path, KEY)
    assert kept == replace(
        FOUND,
        gpus=(replace(GPU, memory_free_mib=None),),
        hidden=(replace(HIDDEN, memory_free_mib=None),),
        source="cache",
    )


def test_the_file_is_private_and_alone(path: Path) -> None:
    cache.write_cache(path, KEY, devices=FOUND)
    cache.write_cache(path, KEY, devices=FOUND)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def change_environ(name: str) -> Callable[[Machine], None]:
    def change(machine: Machine) -> None:
        machine.environ = {name: "0"}

    return change


def change_file(name: str, text: str) -> Callable[[Machine], None]:
    def change(machine: Machine) -> None:
        machine.path(name).parent.mkdir(parents=True, exist_ok=True)
        machine.path(name).write_text(text)

    return change


CHANGES: dict[str, Callable[[Machine], None]] = {
    "driver": change_file("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Kernel Module  580.95.05  Fri\n"),
    "boot": change_file(BOOT, "two\n"),
    "CUDA_VISIBLE_DEVICES": change_environ("CUDA_VISIBLE_DEVICES"),
    "NVIDIA_VISIBLE_DEVICES": change_environ("NVIDIA_VISIBLE_DEVICES"),
    "CUDA_DEVICE_ORDER": change_environ("CUDA_DEVICE_ORDER"),
    "another node": change_file("/dev/nvidia1", ""),
    "WSL2's node": change_file("/dev/dxg", ""),
    "a node less": lambda machine: machine.path("/dev/nvidia0").unlink(),
    "a slice": change_file("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", ""),
    "a card's driver": lambda machine: machine.path("/sys/bus/pci/devices/0000:00:00.0/driver").unlink(),
    "a library": change_file(LIBCUDA, "\x7fELF\x02 of another version"),
    "a library less": lambda machine: machine.path(NVML).unlink(),
}


def test_the_key_stays_the_same_while_nothing_changes(machine: Machine) -> None:
    assert cache.make_key(machine) == cache.make_key(machine)
    assert json.loads(json.dumps(cache.make_key(machine))) == cache.make_key(machine)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_machine_drops_what_was_kept(name: str, machine: Machine, path: Path) -> None:
    cache.write_cache(path, cache.make_key(machine), devices=FOUND)
    assert cache.read_cache(path, cache.make_key(machine))
    CHANGES[name](machine)
    assert cache.read_cache(path, cache.make_key(machine)) is None


def test_a_change_of_the_backends_drops_what_was_kept(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "binaries_dir", lambda: tmp_path)
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    keys = [cache.make_key(machine)["backends"]]
    for text in ("{}", '{"toolkit": "12.9.86"}'):
        (tmp_path / "cuda12").mkdir(exist_ok=True)
        (tmp_path / "cuda12" / "BUILD.json").write_text(text)
        keys.append(cache.make_key(machine)["backends"])
    installed_dir().mkdir(parents=True)
    for text in ("{}", '{"schema": 1}'):
        (installed_dir() / "active.json").write_text(text)
        keys.append(cache.make_key(machine)["backends"])
    assert keys[0] == []
    assert all(keys[at] != keys[at + 1] for at in range(4))


@pytest.mark.parametrize("situation", Situation)
def test_only_what_lasts_is_kept(situation: Situation, path: Path) -> None:
    cache.write_cache(path, KEY, devices=replace(FOUND, situation=situation))
    lasting = {Situation.OK, Situation.HIDDEN, Situation.MIG_EMPTY, Situation.TIMEOUT}
    assert path.exists() == (situation in lasting)


def test_a_driver_that_did_not_answer_is_asked_again_after_five_minutes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(cache, "_uptime", lambda: now)
    cache.write_cache(path, KEY, devices=replace(FOUND, situation=Situation.TIMEOUT))
    now = 1299.0
    assert cache.read_cache(path, KEY)
    now = 1301.0
    assert cache.read_cache(path, KEY) is None


def edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **changes}))


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:100])


def link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FAULTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "cut off": cut,
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "not an object": lambda path: path.write_text("[]"),
    "nested too deeply": lambda path: path.write_text("[" * 100_000),
    "of another schema": lambda path: edit(path, schema=2),
    "without devices": lambda path: edit(path, devices={}),
    "with devices of another shape": lambda path: edit(path, devices={"gpus": 3, "hidden": []}),
    "with an unknown situation": lambda path: edit(path, devices={"gpus": [], "hidden": [], "situation": "fine"}),
    "with a time that is none": lambda path: edit(path, uptime="now"),
    "a link": link,
    "a folder": become_a_folder,
    "a pipe": become_a_pipe,
    "open to others": lambda path: path.chmod(0o666),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_trusted_is_not_read(fault: str, path: Path) -> None:
    cache.write_cache(path, KEY, devices=FOUND)
    assert cache.read_cache(path, KEY)
    FAULTS[fault](path)
    assert cache.read_cache(path, KEY) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_file_of_somebody_else_is_not_read(path: Path) -> None:
    cache.write_cache(path, KEY, devices=FOUND)
    os.chown(path, 65534, 65534)
    assert cache.read_cache(path, KEY) is None


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache.write_cache(tmp_path / "file" / "devices.json", KEY, devices=FOUND)
    (tmp_path / "folder" / "devices.json").mkdir(parents=True)
    cache.write_cache(tmp_path / "folder" / "devices.json", KEY, devices=FOUND)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["devices.json"]


@pytest.mark.parametrize("value", ["", "0", "off", " OFF "])
def test_the_cache_can_be_switched_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_DETECTION_CACHE", value)
    assert cache.cache_path() is None


def test_the_cache_is_where_the_user_says_or_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_DETECTION_CACHE", "/chosen/file.json")
    assert cache.cache_path() == Path("/chosen/file.json")
    monkeypatch.delenv("GPU_DETECTION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache.cache_path() == Path("/caches/llcuda/devices.json")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache.cache_path() == Path("/home/somebody/.cache/llcuda/devices.json")


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPU_DETECTION_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache.cache_path() is None
    monkeypatch.setenv("GPU_DETECTION_CACHE", "~nobody-of-this-name/devices.json")
    assert cache.cache_path() is None


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")
