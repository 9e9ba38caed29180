"""What llama-server really put on a GPU, read from its own log.

The proof is its buffer lines (``CUDA0 model buffer size``), which need ``--log-verbosity 4``. The line ``offloaded
33/33 layers to GPU`` alone proves nothing: it says what was asked for, whether or not there is a GPU, and counts a
layer whose experts stay on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llcuda.server.offload_limits import explain_limits, judge
from llcuda.server.offload_lines import read_lines
from llcuda.server.offload_reader import MAIN, ROW_SPLIT, Buffer, Load, Reader, is_gpu

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Buffer", "Offload", "OffloadGpu", "read_offload"]

_ROUNDING = 0.02  # sizes are logged to 0.01 MiB


@dataclass(frozen=True, slots=True)
class OffloadGpu:
    """One GPU, as llama-server names it."""

    device: str
    """``CUDA0``"""
    name: str
    """``NVIDIA GeForce RTX 3060``; empty where the log does not say."""
    free_mib: int | None
    """What was free before the model was loaded."""
    total_mib: int | None = None
    layers: int | None = None
    """The main model's layers on it; None where the log does not tell for each GPU."""


@dataclass(frozen=True, slots=True)
class Offload:
    """Where a model is."""

    layers: int | None
    """How many there are, the output layer included, as llama-server counts."""
    layers_on_gpu: int | None
    """0 where no GPU has a buffer of the model's weights, whatever else the log says."""
    verdict: str
    """``full``: weights, KV cache and computation are on GPUs, but for the embedding of the input, which llama.cpp
    always keeps on the CPU. ``partial``: some of it. ``cpu``: none. ``unknown``: the log does not say."""
    buffers: tuple[Buffer, ...]
    gpus: tuple[OffloadGpu, ...]
    """Those in use; where none is, those that llama-server saw."""
    flash_attention: bool | None
    limits: tuple[str, ...]
    """What kept the rest off the GPU, each a sentence."""
    backend_error: str
    """Why a backend could not be loaded."""

    def bytes_on(self, device: str, *, kind: str = "", model: str = "") -> int:
        """Return the bytes of all buffers on the ``device``, of one ``kind`` and ``model`` where they are given."""
        return sum(
            buffer.bytes
            for buffer in self.buffers
            if buffer.device == device and kind in {"", buffer.kind} and model in {"", buffer.model}
        )

    def bytes_of(self, kind: str, *, on_gpu: bool | None = None) -> int:
        """Return the bytes of all buffers of one ``kind``: on GPUs, off them, or both."""
        return sum(
            buffer.bytes
            for buffer in self.buffers
            if buffer.kind == kind and (on_gpu is None or on_gpu is buffer.on_gpu)
        )


def read_offload(lines: Iterable[str]) -> Offload:
    """Return what llama-server's log ``lines``, up to any point after it is ready, say about where the model is."""
    reader = read_lines(lines)
    main = reader.loads.get(MAIN, Load())
    verdict = judge(main)
    layers = main.layers if main.layers is not None else _count_layers(main)
    return Offload(
        layers=layers,
        layers_on_gpu=_count_on_gpu(main, verdict),
        verdict=verdict,
        buffers=tuple(buffer for load in reader.loads.values() for buffer in load.buffers),
        gpus=_list_gpus(reader, main, verdict),
        flash_attention=main.flash_attention,
        limits=explain_limits(reader, verdict) if verdict != "unknown" else (),
        backend_error=reader.backend_error,
    )


def _count_layers(main: Load) -> int | None:
    """Count as the line "offloaded" would, which a llama-server without any GPU does not print."""
    repeating = main.numbers.get("n_layer_all", main.numbers.get("n_layer"))
    return None if repeating is None else repeating + 1


def _count_on_gpu(main: Load, verdict: str) -> int | None:
    if verdict in {"cpu", "unknown"}:
        return 0 if verdict == "cpu" else None
    if main.layers_offloaded is None and main.layer_devices:
        return sum(map(is_gpu, main.layer_devices.values()))
    return main.layers_offloaded


def _list_gpus(reader: Reader, main: Load, verdict: str) -> tuple[OffloadGpu, ...]:
    holding = {buffer.device for load in reader.loads.values() for buffer in load.buffers if buffer.on_gpu}
    used = {device for device, facts in reader.devices.items() if facts.used} | holding
    if reader.members or ROW_SPLIT in used:
        used = set(reader.members)
    names = sorted(used or reader.devices, key=lambda name: (len(name), name))
    layers = _layers_by_gpu(reader, main, names) if verdict in {"full", "partial"} else dict.fromkeys(names, 0)
    return tuple(_describe(reader, name, None if verdict == "unknown" else layers.get(name)) for name in names)


def _describe(reader: Reader, device: str, layers: int | None) -> OffloadGpu:
    facts = reader.devices.get(device)
    if facts is None:
        return OffloadGpu(device, "", None, None, layers)
    return OffloadGpu(device, facts.name, facts.free_mib, facts.total_mib, layers)


def _layers_by_gpu(reader: Reader, main: Load, names: list[str]) -> dict[str, int]:
    """Return the layers of each GPU: from the lines that name them, or else from the sizes of their KV caches."""
    if reader.members or any(buffer.device == ROW_SPLIT for buffer in main.buffers):
        return {}  # each has a share of every layer
    if main.layer_devices:
        return {name: list(main.layer_devices.values()).count(name) for name in names}
    if len(names) == 1 and main.layers_offloaded is not None:
        return {names[0]: main.layers_offloaded}
    fitted = {name: reader.fitted_layers[name][0] for name in names if name in reader.fitted_layers}
    if fitted and sum(fitted.values()) == main.layers_offloaded:
        return fitted
    return _layers_by_kv(main, names)


def _layers_by_kv(main: Load, names: list[str]) -> dict[str, int]:
    """Share the layers out by the KV cache, where one size fits all: then every quotient is whole.

    The output layer has no KV cache; it is on the last GPU that has weights.
    """
    held = {name: _sum_on(main, name, "kv") for name in {buffer.device for buffer in main.buffers}}
    shares = dict.fromkeys(names, 0)
    for count, by_device in main.kv_caches or [(main.numbers.get("n_layer", 0), held)]:
        total = sum(by_device.values())
        for name in shares.keys() & by_device.keys():
            share = by_device[name] * count / (total or 1)
            shares[name] += round(share)
            if abs(share - round(share)) > _ROUNDING:
                return {}
    output = (main.layers_offloaded or 0) - sum(shares.values())
    if output not in {0, 1}:
        return {}
    shares[next(name for name in reversed(names) if _sum_on(main, name, "weights"))] += output
    return shares


def _sum_on(main: Load, device: str, kind: str) -> int:
    return sum(buffer.bytes for buffer in main.buffers if buffer.device == device and buffer.kind == kind)
