"""Where a model is to run: the device that was asked for -> the backend and the GPUs that llama-server is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llcuda.devices import Choice, Situation, choose_backend, find_devices, parse_device, visible_devices
from llcuda.errors import UsageError
from llcuda.native import binaries_dir, find_backends, find_executable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llcuda.devices import Gpu
    from llcuda.native import Backend

__all__ = ["OWN_SERVER", "Placement", "choose_fit_target", "choose_placement"]

OWN_SERVER = "own-server"
"""The code of the choice where llama-server is not the bundled one."""

_FIT_TARGET_MIB = 1024
"""llama-server's own ``--fit-target``."""
_FIT_SHARE = 8
"""One eighth: the default of a GPU with 8 GiB."""

_ON_CPU = Choice(backend=None, gpus=(), sentence="Using the CPU, as was asked for.", remedy="", code="cpu-asked")


@dataclass(frozen=True, slots=True)
class Placement:
    """What was asked for, and what was chosen before llama-server is started."""

    asked: str
    """``auto``, ``cuda``, ``cuda:N`` or ``cpu``."""
    required: bool
    """Whether it is an error not to use a GPU."""
    choice: Choice

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
        choice = Choice(backend=None, gpus=(), sentence=sentence, remedy="", code="out-of-memory")
        return Placement(asked=self.asked, required=self.required, choice=choice)

    def on_one(self, number: int) -> Placement:
        """Return the placement on one of the GPUs that were chosen, counted from 0."""
        gpu = self.choice.gpus[number]
        name = self.choice.backend.name if self.choice.backend else "CUDA"
        sentence = f"Using {name} on {gpu.name}, GPU {number + 1} of {len(self.choice.gpus)} that are taken in turn."
        return replace(self, choice=replace(self.choice, gpus=(gpu,), sentence=sentence))


def choose_placement(device: str, *, require_gpu: bool, gpu_layers: int | None = None) -> Placement:
    """Choose the backend and the GPUs for ``device``: ``auto``, ``cuda``, ``cuda:N`` (the N-th visible GPU) or ``cpu``.

    Raises UsageError for another word or a contradiction, and the DeviceError that says why where a GPU is required
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


def _choose(device: str) -> Choice:
    if device == "cpu":
        return _ON_CPU
    executable = find_executable("llama-server")
    if not _is_bundled(executable):
        sentence = f"{executable} is not the bundled llama-server: it chooses its devices itself."
        return Choice(backend=None, gpus=(), sentence=sentence, remedy="", code=OWN_SERVER)
    devices = find_devices()
    # Without a GPU a backend that is damaged is in nobody's way.
    backends = find_backends() if devices.situation is Situation.OK else ()
    return choose_backend(devices, backends, device=device)


def _is_bundled(executable: Path) -> bool:
    return executable.parent == binaries_dir().absolute()
