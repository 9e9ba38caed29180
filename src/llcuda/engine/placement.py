"""Where a model is to run: the device that was asked for -> the backend and the GPUs that llama-server is given."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from llcuda.devices import BackendChoice, Situation, choose_backend, find_devices, parse_device, visible_devices
from llcuda.errors import UsageError
from llcuda.native import binaries_dir, find_backends, find_executable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from llcuda.devices import Gpu
    from llcuda.native import Backend

OWN_SERVER = "own-server"
"""The code of the choice if llama-server is not the bundled one."""

_FIT_TARGET_MIB = 1024
"""llama-server's own ``--fit-target``."""
_FIT_SHARE = 8
"""One eighth: the default of a GPU with 8 GiB."""

SPLIT_OPTIONS = ("split_mode", "tensor_split", "main_gpu")
_SETTLE_TIMEOUT = 2.0
_SETTLE_INTERVAL = 0.05

_ON_CPU = BackendChoice(backend=None, gpus=(), sentence="Using the CPU, as was asked for.", remedy="", code="cpu-asked")


@dataclass(frozen=True, slots=True)
class Placement:
    """What was asked for, and what was chosen before llama-server is started."""

    asked: str
    """``auto``, ``cuda``, ``cuda:N`` or ``cpu``."""
    required: bool
    """Whether it is an error not to use a GPU."""
    choice: BackendChoice

    @property
    def backend(self) -> Backend | None:
        """The CUDA backend that llama-server loads; None for the CPU, and for a llama-server of the user's own."""
        return self.choice.backend

    @property
    def visible_devices(self) -> str | None:
        """The child's CUDA_VISIBLE_DEVICES; None leaves the user's."""
        return None if self.choice.code == OWN_SERVER else visible_devices(self.choice)

    def on_cpu(self) -> Placement:
        """Return the placement on the CPU that is left when the GPU's memory does not suffice."""
        sentence = "Using the CPU. The GPU's memory does not suffice for this model."
        return replace(self, choice=replace(_ON_CPU, sentence=sentence, code="out-of-memory"))

    def on_one(self, number: int) -> Placement:
        """Return the placement on one of the GPUs that were chosen, counted from 0."""
        gpu = self.choice.gpus[number]
        name = self.choice.backend.name if self.choice.backend else "CUDA"
        sentence = f"Using {name} on {gpu.name}, GPU {number + 1} of {len(self.choice.gpus)} that are taken in turn."
        return replace(self, choice=replace(self.choice, gpus=(gpu,), sentence=sentence))


def choose_placement(device: str, *, require_gpu: bool, gpu_layers: int | None = None) -> Placement:
    """Choose the backend and the GPUs for ``device``: ``auto``, ``cuda``, ``cuda:N`` (the N-th visible GPU) or ``cpu``.

    Raises UsageError for another word or a contradiction, and the DeviceError that says why if a GPU is required
    and none can be used.
    """
    required = require_gpu or device.startswith("cuda")
    _check(device, require_gpu=require_gpu, gpu_layers=gpu_layers if required else None)
    choice = _choose(device)
    if required and choice.code != OWN_SERVER:
        choice.raise_for_device()
    return Placement(asked=device, required=required, choice=choice)


def choose_fit_target(gpus: Sequence[Gpu]) -> str | None:
    """Return how many MiB llama-server's own fitting leaves free on each of these GPUs, as its option ``fit_target``.

    None if its own is right or nothing is known. It leaves 1 GiB free on every GPU, for what else the GPU does. That is
    all that a GeForce 940M has, and half of a GTX 1050: next to nothing would ever be put on them.
    """
    margins = [min(_FIT_TARGET_MIB, gpu.memory_total_mib // _FIT_SHARE) or _FIT_TARGET_MIB for gpu in gpus]
    return None if all(margin == _FIT_TARGET_MIB for margin in margins) else ",".join(map(str, margins))


def _check(device: str, *, require_gpu: bool, gpu_layers: int | None) -> None:
    parse_device(device)
    if require_gpu and device == "cpu":
        raise UsageError('device="cpu" and require_gpu=True contradict each other')
    if gpu_layers == 0:
        raise UsageError(
            "gpu_layers=0 keeps the model off the GPU that is asked for", hint='Leave it out, or use device="cpu".'
        )


def _choose(device: str) -> BackendChoice:
    if device == "cpu":
        return _ON_CPU
    executable = find_executable("llama-server")
    if not _is_bundled(executable):
        sentence = f"{executable} is not the bundled llama-server: it chooses its devices itself."
        return replace(_ON_CPU, sentence=sentence, code=OWN_SERVER)
    devices = find_devices()
    # Without a GPU a damaged backend does not matter.
    backends = find_backends() if devices.situation is Situation.OK else ()
    return choose_backend(devices, backends, device=device)


def _is_bundled(executable: Path) -> bool:
    return executable.parent == binaries_dir().absolute()


def check_split(placement: Placement, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the server ``options`` without those about GPUs if ``auto`` came to the CPU.

    Raises UsageError if they contradict the device that was asked for or the number of GPUs that were chosen. For a
    llama-server of the user's own they are its to judge.
    """
    asked = [name for name in SPLIT_OPTIONS if options.get(name) is not None]
    if asked and placement.asked == "cpu":
        raise UsageError(
            f'{asked[0]} shares a model out between GPUs, and device="cpu" uses none',
            hint=f'Leave {" and ".join(asked)} out, or use device="auto".',
        )
    if placement.choice.code == OWN_SERVER:
        return dict(options)
    if placement.backend is None:
        return {**options, **dict.fromkeys(asked)}
    _check_mode(options.get("split_mode"))
    _check_number("tensor_split", _count_shares(options.get("tensor_split")), placement)
    _check_number("main_gpu", _count_up_to(options.get("main_gpu")), placement)
    return dict(options)


def _check_mode(mode: object) -> None:
    # It is in llama-server's help, and ggml-cuda has had no split buffers since 2026: the model would not be loaded.
    if mode == "row":
        raise UsageError(
            'split_mode="row" is no longer there in llama.cpp\'s CUDA backend',
            hint='Use "tensor", which shares every matrix out, or "layer".',
        )


def _check_number(name: str, needed: int, placement: Placement) -> None:
    count = len(placement.choice.gpus)
    if needed > count:
        used = "1 is used" if count == 1 else f"{count} are used"
        all_gpus = 'Use device="cuda" for all of them, or leave it out.'
        fewer = "Leave it out, or name no more GPUs than `llcuda gpu status` shows as used."
        raise UsageError(
            f"{name} is for {needed} GPUs, and {used} with device={placement.asked!r}",
            hint=all_gpus if ":" in placement.asked else fewer,
        )


def _count_shares(shares: object) -> int:
    """Return how many GPUs a ``tensor_split`` is for: ``[3, 1]``, ``(3, 1)``, and ``"3,1"`` or ``"3/1"``."""
    if isinstance(shares, str):
        return len(re.split(r"[,/]+", shares))
    return len(shares) if isinstance(shares, (list, tuple)) else 0


def _count_up_to(number: object) -> int:
    """Return how many GPUs there must be for the one of this number, from 0 on."""
    if not isinstance(number, int):
        return 0
    if number < 0:
        raise UsageError(f"main_gpu={number} is no GPU", hint='Count from 0 on; device="cpu" uses none.')
    return number + 1


def settle(placement: Placement) -> None:
    """Let the driver free what a server that has just ended held, or the next would find less than there is."""
    if placement.choice.gpus:
        wait_for_memory(lambda: _read_free(placement.choice.gpus))


def wait_for_memory(read_free: Callable[[], tuple[int | None, ...]], *, timeout: float = _SETTLE_TIMEOUT) -> None:
    """Return when ``read_free`` (MiB, one for each GPU) says the same twice, at most ``timeout`` seconds later.

    Nothing is waited for if it is not known how much is free.
    """
    deadline = monotonic() + timeout
    before = read_free()
    while None not in before and before and monotonic() < deadline:
        sleep(_SETTLE_INTERVAL)
        now = read_free()
        if now == before:
            return
        before = now


def _read_free(gpus: tuple[Gpu, ...]) -> tuple[int | None, ...]:
    free = {gpu.uuid: gpu.memory_free_mib for gpu in find_devices(refresh=True).gpus}
    return tuple(free.get(gpu.uuid) for gpu in gpus)
