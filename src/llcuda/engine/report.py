"""What is really used, after a model was loaded: made from what was chosen and from llama-server's own buffer lines."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from llcuda.engine.placement import OWN_SERVER
from llcuda.errors import NoDeviceError

if TYPE_CHECKING:
    from llcuda.devices import Gpu
    from llcuda.engine.placement import Placement
    from llcuda.server.offload import Buffer, Offload

_MIB = 1 << 20
_HOST = "CPU"


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceUse:
    """What one device holds of the model."""

    device: str
    """As llama-server names it: ``CUDA0``, ``CPU``."""
    name: str
    """The GPU's name; empty for the CPU."""
    uuid: str
    weights_bytes: int
    kv_bytes: int
    """The cache of keys and values, and the state of recurrent models."""
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """All that the device holds."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceReport:
    """What was asked for, what was found, what is used, and why."""

    asked: str
    """``auto``, ``cuda``, ``cuda:N`` or ``cpu``."""
    device: str
    """``cuda`` if the GPU holds any of the model, else ``cpu``."""
    backend: str | None
    """``cuda12`` or ``cuda13``; None if the CPU alone is used."""
    offload: str
    """``full``, ``partial``, ``cpu``, or ``unknown`` if llama-server's log does not tell."""
    reason: str
    """In one sentence, why it is so."""
    remedy: str
    """What to do for the GPU to be used; empty if nothing is to be done."""
    layers: int | None
    layers_on_gpu: int | None
    flash_attention: bool | None
    devices: tuple[DeviceUse, ...]
    limits: tuple[str, ...]
    """What kept more of it from the GPU, one sentence each."""
    steps: tuple[str, ...] = ()
    """What was done without because memory ran out, one sentence each, in the order in which it was tried."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return it in a few lines for people."""
        lines = [f"asked for {self.asked}, used {self.device}. {self.reason}"]
        if self.layers is not None:
            lines.append(f"{self.layers_on_gpu} of {self.layers} layers on the GPU ({self.offload})")
        lines += [_describe(use) for use in self.devices]
        steps = [f"Out of memory, so {step}." for step in self.steps]
        return "\n".join([*lines, *steps, *self.limits, *([self.remedy] if self.remedy else [])])


def make_report(placement: Placement, offload: Offload, *, steps: tuple[str, ...] = ()) -> DeviceReport:
    """Put together what was chosen, the ``steps`` taken since, and what llama-server's log says of where it all is."""
    choice = placement.choice
    on_gpu = offload.verdict in {"full", "partial"}
    failed = choice.backend is not None and not on_gpu
    return DeviceReport(
        asked=placement.asked,
        device="cuda" if on_gpu else "cpu",
        backend=choice.backend.name if choice.backend and on_gpu else None,
        offload=offload.verdict,
        reason=f"A GPU was chosen, and nothing is on it: {offload.why_not.rstrip('.')}." if failed else choice.sentence,
        remedy="Run `llcuda doctor`: it says what is wrong with the GPU." if failed else choice.remedy,
        layers=offload.layers,
        layers_on_gpu=offload.layers_on_gpu,
        flash_attention=offload.flash_attention,
        devices=_sum_devices(offload, choice.gpus),
        limits=() if choice.backend is None and choice.code != OWN_SERVER else offload.limits,
        steps=steps,
    )


def check_report(report: DeviceReport, *, required: bool, log_tail: tuple[str, ...]) -> None:
    """Raise NoDeviceError if a GPU is required and llama-server's buffers say that it holds nothing."""
    if required and report.device != "cuda":
        error = NoDeviceError(f"The GPU is not used. {report.reason}", hint=report.remedy)
        error.log_tail = log_tail
        raise error


def _sum_devices(offload: Offload, gpus: tuple[Gpu, ...]) -> tuple[DeviceUse, ...]:
    # The child sees the chosen GPUs alone, in their order, so CUDA0 is the first of them.
    chosen = {f"CUDA{number}": gpu for number, gpu in enumerate(gpus)}
    named = {**offload.gpu_names, **{place: gpu.name for place, gpu in chosen.items()}}
    places = dict.fromkeys(_place(buffer) for buffer in offload.buffers)
    return tuple(
        _sum_device(offload, place, name=named.get(place, ""), gpu=chosen.get(place))
        for place in sorted(places, key=lambda place: (place == _HOST, place))
    )


def _sum_device(offload: Offload, place: str, *, name: str, gpu: Gpu | None) -> DeviceUse:
    def total(*kinds: str) -> int:
        return sum(buffer.bytes for buffer in offload.buffers if buffer.kind in kinds and _place(buffer) == place)

    return DeviceUse(
        device=place,
        name=name,
        uuid=gpu.uuid if gpu else "",
        weights_bytes=total("weights"),
        kv_bytes=total("kv", "recurrent"),
        compute_bytes=total("compute", "output"),
    )


def _place(buffer: Buffer) -> str:
    """Return the GPU that the buffer is on, or ``CPU``: mapped, repacked and pinned memory is the machine's own."""
    return buffer.device if buffer.on_gpu else _HOST


def _describe(use: DeviceUse) -> str:
    parts = {"weights": use.weights_bytes, "KV": use.kv_bytes, "compute": use.compute_bytes}
    sizes = ", ".join(f"{name} {count / _MIB:.1f} MiB" for name, count in parts.items())
    return f"{use.device}{f' ({use.name})' if use.name else ''}: {sizes}"
