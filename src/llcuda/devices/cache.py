"""A file with the answer of a slow detection, kept as long as the facts that cost nothing to read stay the same.

GPU_DETECTION_CACHE names it; the default is llcuda/devices.json in the XDG cache folder. Whatever is wrong with the
file, detection goes on without it. Free memory is never taken from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda import settings
from llcuda.devices.inventory import Devices, Gpu, Situation
from llcuda.errors import ModelError
from llcuda.native import RECORD, binaries_dir, installed_dir
from llcuda.store import place_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.devices.machine import Machine

_SCHEMA = 1
_LARGEST_FILE = 1 << 20
# A driver that did not answer may answer later: it is asked again after these seconds since the boot.
_TIMEOUT_LIFETIME = 300.0
# Causes outside of what the key has: they are asked for each time.
_KEPT = frozenset({Situation.OK, Situation.HIDDEN, Situation.MIG_EMPTY, Situation.TIMEOUT})


def cache_path() -> Path | None:
    """Return where the cache is, None if there is to be none."""
    value = os.environ.get("GPU_DETECTION_CACHE")
    try:
        if value is None:
            return (settings.get_path("XDG_CACHE_HOME") or Path.home() / ".cache") / "llcuda" / "devices.json"
        return None if value.strip().lower() in {"", "0", "off"} else Path(value).expanduser()
    except RuntimeError:  # this user has no home, as in a container that runs under any number
        return None


def make_key(machine: Machine) -> dict[str, Any]:
    """Return the facts that the answer depends on: driver, boot, device nodes, cards, slices, variables, backends."""
    folder = "/proc/driver/nvidia/capabilities"
    slices = [f"{gpu}/{gi}" for gpu in machine.list_folder(folder) for gi in machine.list_folder(f"{folder}/{gpu}/mig")]
    return {
        "driver": machine.driver_version(),
        "boot": machine.read("/proc/sys/kernel/random/boot_id").strip(),
        "nodes": list(machine.nodes()),
        "cards": [[card.address, card.vendor, card.driver] for card in machine.displays()],
        "slices": slices,
        "libraries": [_identify(machine.find_library(name)) for name in ("libnvidia-ml.so.1", "libcuda.so.1")],
        "variables": {name: machine.environ.get(name) for name in _VARIABLES},
        "backends": [_digest(path) for path in _backend_records() if path.exists()],
    }


def _backend_records() -> Iterator[Path]:
    yield from sorted(binaries_dir().glob("cuda*/BUILD.json"))
    yield installed_dir() / RECORD


_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def read_cache(path: Path, key: dict[str, Any]) -> Devices | None:
    """Return the answer that the file has for this ``key``, None if it has none that can be trusted."""
    try:
        data = json.loads(_read_own_file(path))
        if data["schema"] != _SCHEMA or data["key"] != key:
            return None
        devices = _parse_devices(data["devices"])
        age = _uptime() - float(data["uptime"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    expired = devices.situation is Situation.TIMEOUT and not 0 <= age < _TIMEOUT_LIFETIME
    return None if expired else devices


def write_cache(path: Path, key: dict[str, Any], *, devices: Devices) -> None:
    """Keep the answer, if it is one that lasts; a file that cannot be written is no error."""
    if devices.situation not in _KEPT:
        return
    data = {"schema": _SCHEMA, "uptime": _uptime(), "key": key, "devices": asdict(devices)}
    with contextlib.suppress(ModelError), place_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps(data).encode())


def _read_own_file(path: Path) -> str:
    """Return the text of a plain file that belongs to this user and that no other user may write."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(f"{path} is not a private file of this user")
        return os.read(descriptor, _LARGEST_FILE).decode("utf-8")
    finally:
        os.close(descriptor)


def _parse_devices(data: dict[str, Any]) -> Devices:
    gpus, hidden = (tuple(Gpu(**{**gpu, "memory_free_mib": None}) for gpu in data[name]) for name in ("gpus", "hidden"))
    situation = Situation(data["situation"])
    return replace(Devices(**data), gpus=gpus, hidden=hidden, source="cache", situation=situation)


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _identify(path: Path | None) -> list[Any]:
    if path is None:
        return []
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime]


def _digest(path: Path) -> str:
    return f"{path.parent.name}:{hashlib.sha256(path.read_bytes()).hexdigest()}"
