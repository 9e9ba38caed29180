"""Which CUDA backend runs on which GPUs: a pure decision, with the sentence that tells it.

A GPU of compute capability X.Y runs machine code ``sm_XZ`` with Z <= Y; ``sm_XYa`` runs on X.Y alone; PTX
``compute_VW`` is compiled by the driver for any X.Y >= V.W, if the driver knows the CUDA that made it. No machine code
runs on a driver below the backend's floor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llcuda.devices.inventory import Devices, Gpu, Situation
from llcuda.errors import DeviceError, DriverTooOldError, NoDeviceError, UnsupportedDeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llcuda.native import Backend

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")
_OLDEST = (5, 0)
"""The compute capability below which no CUDA 12 toolkit makes machine code."""
# The first driver branch for Linux of each CUDA, from the release notes of the toolkits.
_DRIVERS = {
    (12, 0): "525", (12, 1): "530", (12, 2): "535", (12, 3): "545", (12, 4): "550", (12, 5): "555", (12, 6): "560",
    (12, 8): "570", (12, 9): "575", (13, 0): "580", (13, 1): "590",
}  # fmt: skip
_CPU = "Using the CPU."
_USE_CPU = 'use device="cpu"'
_GET_BACKEND = "Install one: llcuda gpu install"


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """What is to be used, and why; without a backend it is the CPU."""

    backend: Backend | None
    gpus: tuple[Gpu, ...]
    """Those to use, in this order."""
    sentence: str
    """For a log line: what is used, and what was left out."""
    remedy: str
    """What would let a GPU be used, empty if nothing is to be done."""
    code: str
    """``ok``, ``cpu-asked``, ``nothing-bundled``, ``no-such-gpu``, ``capability-not-built``, ``driver-too-old``, or the
    value of a :class:`Situation`."""
    capability: str = ""
    built_for: tuple[str, ...] = ()
    driver: str = ""
    required: str = ""
    """The oldest driver that would do."""

    def error(self) -> DeviceError:
        """Return the error for a caller who asked for a GPU and gets none."""
        if self.code == "driver-too-old":
            return DriverTooOldError(self.driver, required=self.required)
        if self.code == "capability-not-built":
            return UnsupportedDeviceError(self.capability, built_for=self.built_for, hint=self.remedy)
        return NoDeviceError(self.sentence.removeprefix(_CPU).strip() or self.sentence, hint=self.remedy)

    def raise_for_device(self) -> None:
        """Raise the DeviceError that says why no GPU is to be used."""
        if self.backend is None:
            raise self.error()


@dataclass(frozen=True, slots=True)
class _Fit:
    """How one backend and one GPU go together."""

    gpu: Gpu
    architecture: str = ""
    """What runs, or would with a newer driver; empty for nothing."""
    required: str = ""
    """The driver that is needed for it, if the one installed is too old."""

    @property
    def runs(self) -> bool:
        return bool(self.architecture) and not self.required

    @property
    def is_compiled(self) -> bool:
        return self.architecture.startswith("sm_")


def visible_devices(choice: BackendChoice) -> str:
    """Return the value of CUDA_VISIBLE_DEVICES for a program that is to use what was chosen: UUIDs, or -1."""
    return ",".join(gpu.uuid or str(gpu.index) for gpu in choice.gpus) if choice.backend else "-1"


def choose_backend(devices: Devices, backends: Sequence[Backend], *, device: str = "auto") -> BackendChoice:
    """Return the backend that runs on the most GPUs, as machine code rather than PTX, and of the newest toolkit.

    ``device`` is ``auto``, ``cuda``, ``cuda:N`` for the GPU at place N of ``devices.gpus``, or ``cpu``. GPUs that the
    backend does not fit are left out, and named. One MIG slice at most is used: CUDA sees no more. Raises UsageError
    for any other device.
    """
    number = parse_device(device)
    if device == "cpu":
        return _cpu("cpu-asked", "Using the CPU, as was asked for.")
    if devices.situation is not Situation.OK:
        return _cpu(devices.situation.value, f"{_CPU} {devices.detail}", remedy=devices.remedy)
    if number is not None and number >= len(devices.gpus):
        return _no_such_gpu(devices, device)
    gpus, unused = _pick(devices.gpus, number)
    if not backends:
        sentence = f"{_CPU} This installation carries no CUDA backend for {_join([gpu.name for gpu in gpus])}."
        return _cpu("nothing-bundled", sentence, remedy=_GET_BACKEND)
    fits = {backend: [_fit(gpu, backend, devices) for gpu in gpus] for backend in backends}
    best = max(backends, key=lambda backend: _rank(backend, fits[backend]))
    if any(fit.runs for fit in fits[best]):
        return _use(best, fits[best], unused)
    return _refuse(devices, fits)


def parse_device(device: str) -> int | None:
    """Return N of ``cuda:N``, None for ``auto``, ``cuda`` and ``cpu``. Raises UsageError for anything else."""
    found = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if not found:
        raise UsageError(f"device={device!r} is unknown", hint="Use auto, cuda, cuda:0, cuda:1 and so on, or cpu.")
    return int(found[1]) if found[1] else None


def _pick(gpus: Sequence[Gpu], number: int | None) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that one program can use, and what to say of the others."""
    if number is not None:
        return (gpus[number],), ""
    whole = tuple(gpu for gpu in gpus if gpu.mig_profile is None)
    slices = len(gpus) - len(whole)
    if whole:
        return whole, f"Left out: {slices} MIG slice{'s' * (slices > 1)}." if slices else ""
    return tuple(gpus[:1]), f"It is the first of {slices} MIG slices: a program can use one." if slices > 1 else ""


def _fit(gpu: Gpu, backend: Backend, devices: Devices) -> _Fit:
    capability = parse_version(gpu.capability)
    below = _is_older(devices.driver, backend.driver_floor)
    code = _best(backend.architectures, "sm", capability)
    if code:
        return _Fit(gpu, code, backend.driver_floor if below else "")
    ptx = _best(backend.architectures, "compute", capability)
    if not ptx:
        return _Fit(gpu)
    return _Fit(gpu, ptx, _needed_for_ptx(backend, devices) or (backend.driver_floor if below else ""))


def _best(architectures: Sequence[str], kind: str, capability: tuple[int, ...]) -> str:
    """Return the newest architecture of a kind that runs on a GPU of this compute capability."""
    fitting: list[tuple[int, int, str]] = []
    for name in architectures:
        found = _ARCHITECTURE.fullmatch(name)
        if not found or found[1] != kind:
            continue
        version = (int(found[2]), int(found[3]))
        # "a" is for this capability alone, "f" for its family; so is machine code without a letter.
        same_family = found[4] == "f" or (kind == "sm" and not found[4])
        fits = version == capability if found[4] == "a" else version <= capability
        if fits and (not same_family or version[0] == capability[0]):
            fitting.append((*version, name))
    return max(fitting)[2] if fitting else ""


def _needed_for_ptx(backend: Backend, devices: Devices) -> str:
    """Return the driver that compiles this backend's PTX, empty if the one installed does.

    The driver's own version counts too: CUDA's compatibility package, which the child is not given, raises the other.
    """
    toolkit = parse_version(backend.toolkit)[:2]
    first = _DRIVERS.get((toolkit[0], toolkit[1]) if len(toolkit) > 1 else (0, 0), "")
    too_old = bool(first) and _is_older(devices.driver, first)
    if devices.cuda and parse_version(devices.cuda) < toolkit:
        too_old = True
    return (first or f"the first of CUDA {toolkit[0]}.{toolkit[1]}") if too_old else ""


def _is_older(driver: str | None, floor: str) -> bool:
    return bool(driver) and parse_version(driver or "") < parse_version(floor)


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of a version, to be compared part by part."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _rank(backend: Backend, fits: Sequence[_Fit]) -> tuple[int, int, tuple[int, ...]]:
    running = [fit for fit in fits if fit.runs]
    return len(running), sum(fit.is_compiled for fit in running), parse_version(backend.toolkit)


def _use(backend: Backend, fits: Sequence[_Fit], unused: str) -> BackendChoice:
    used = [fit.gpu for fit in fits if fit.runs]
    through_ptx = [fit for fit in fits if fit.runs and not fit.is_compiled]
    sentences = [f"Using {backend.name} on {_join([_name(gpu) for gpu in used])}."]
    if through_ptx:
        names = _join([fit.gpu.name for fit in through_ptx])
        sentences.append(
            f"It has no machine code for {names}: the driver compiles {through_ptx[0].architecture}, "
            "which takes minutes at the first start."
        )
    left: dict[str, list[str]] = {}
    for fit in fits:
        if not fit.runs:
            why = f"which needs driver {fit.required}" if fit.required else "which it was not built for"
            left.setdefault(why, []).append(_name(fit.gpu))
    sentences += [f"Left out: {_join(named)}, {why}." for why, named in left.items()]
    outdated = [fit.required for fit in fits if fit.required]
    remedy = f"Update the NVIDIA driver to {outdated[0]} or newer to use every GPU." if outdated else ""
    return BackendChoice(backend, tuple(used), " ".join([*sentences, unused]).strip(), remedy, "ok")


def _refuse(devices: Devices, fits: dict[Backend, list[_Fit]]) -> BackendChoice:
    """Return the choice of the CPU with its reason: the oldest driver that would help, or else the capability."""
    waiting = [(fit, backend) for backend, some in fits.items() for fit in some if fit.required]
    if waiting:
        fit, backend = min(waiting, key=lambda pair: parse_version(pair[0].required))
        return _driver_too_old(devices.driver or "", fit, backend)
    gpu = next(iter(fits.values()))[0].gpu
    names = _join([backend.name for backend in fits])
    sentence = f"{_CPU} {names} {'were' if len(fits) > 1 else 'was'} not built for {_name(gpu)}."
    built_for = tuple(dict.fromkeys(name for backend in fits for name in backend.architectures))
    choice = _cpu("capability-not-built", sentence, remedy=_remedy_for_capability(gpu))
    return replace(choice, capability=gpu.capability, built_for=built_for)


def _remedy_for_capability(gpu: Gpu) -> str:
    if parse_version(gpu.capability) < _OLDEST:
        return f"This GPU is too old for CUDA 12, whose oldest compute capability is 5.0: {_USE_CPU}."
    major, minor = parse_version(gpu.capability)[:2]
    return (
        f"Install from source on a machine with a CUDA toolkit that knows compute capability {major}.{minor} "
        f"(`pip install --no-binary llcuda llcuda`), or {_USE_CPU}."
    )


def _driver_too_old(driver: str, fit: _Fit, backend: Backend) -> BackendChoice:
    needed = f"which {backend.name} needs for {fit.gpu.name}"
    sentence = f"{_CPU} The NVIDIA driver {driver} is older than {fit.required}, {needed}."
    remedy = f"Update the NVIDIA driver to {fit.required} or newer, or {_USE_CPU}."
    return replace(_cpu("driver-too-old", sentence, remedy=remedy), driver=driver, required=fit.required)


def _no_such_gpu(devices: Devices, device: str) -> BackendChoice:
    names = ", ".join(f"cuda:{place} is {gpu.name}" for place, gpu in enumerate(devices.gpus))
    return _cpu("no-such-gpu", f"{_CPU} There is no {device} here: {names}.", remedy=f"Choose among these: {names}.")


def _cpu(code: str, sentence: str, *, remedy: str = "") -> BackendChoice:
    return BackendChoice(None, (), sentence, remedy, code)


def _name(gpu: Gpu) -> str:
    return f"{gpu.name} (compute capability {gpu.capability or 'unknown'})"


def _join(names: Sequence[str]) -> str:
    """Return the names as one list, with a count before those that stand in it more than once."""
    counted = [name if names.count(name) == 1 else f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return " and ".join(counted) if len(counted) < 3 else f"{', '.join(counted[:-1])} and {counted[-1]}"  # noqa: PLR2004


