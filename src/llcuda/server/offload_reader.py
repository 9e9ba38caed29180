"""What one log of llama-server said about where a model is, gathered line by line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["DRAFT", "MAIN", "PROJECTOR", "ROW_SPLIT", "Buffer", "Load", "Reader", "is_gpu"]

MAIN, DRAFT, PROJECTOR = "main", "draft", "projector"
ROW_SPLIT = "CUDA_Split"
"""The buffer of --split-mode row, until 2026: rows of every matrix, on all GPUs."""
_MIB = 1 << 20
# Pinned and mapped memory of the host is named after a GPU too (CUDA_Host, CUDA0_Host, CPU_Mapped): it is none.
_GPU = re.compile(r"CUDA(?:\d*|_Split)|Meta\(.*\)")
_KINDS = {"": "weights", "model": "weights", "LoRA": "weights", "KV": "kv", "RS": "recurrent"}
_PROJECTOR_SOURCES = ("clip", "reserve_compute_meta", "alloc_compute_meta")


def is_gpu(device: str) -> bool:
    """Tell whether a buffer of this name is in a GPU's memory; ``Meta()`` are several that share every tensor."""
    return _GPU.fullmatch(device) is not None


@dataclass(frozen=True, slots=True)
class Buffer:
    """One block of memory, as llama-server logged it."""

    device: str
    """``CUDA0``, ``CPU``, ``CUDA_Host``, ``CPU_Mapped``, ``CPU_REPACK`` …"""
    kind: str
    """``weights``, ``kv``, ``recurrent``, ``compute`` or ``output``."""
    bytes: int
    """Rounded to 0.01 MiB. Of ``CPU_Mapped``: the stretch of the file that is mapped, gaps included."""
    model: str = MAIN
    """``main``, ``draft`` or ``projector``."""

    @property
    def on_gpu(self) -> bool:
        """Whether it is in a GPU's memory; host memory that a GPU can read is not."""
        return is_gpu(self.device)


@dataclass(slots=True)
class Device:
    """A GPU, as llama-server named it."""

    name: str = ""
    free_mib: int | None = None
    total_mib: int | None = None
    used: bool = False


@dataclass(slots=True)
class Load:
    """What was logged while one model was loaded."""

    buffers: list[Buffer] = field(default_factory=list)
    layers: int | None = None
    layers_offloaded: int | None = None
    layer_devices: dict[int, str] = field(default_factory=dict)
    kv_caches: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    """Of each KV cache: its layers, and its bytes by device. Sliding windows have one of their own."""
    file_bytes: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    types: set[str] = field(default_factory=set)
    splits: int | None = None
    flash_attention: bool | None = None
    flash_mismatch: str = ""
    projector_device: str = "CPU"

    def add(self, kind: str, device: str, mib: float, *, model: str) -> None:
        """Add a buffer; a compute or output buffer takes the place of the one that was reserved before."""
        if kind in {"compute", "output"}:
            self.buffers = [buffer for buffer in self.buffers if (buffer.kind, buffer.device) != (kind, device)]
        self.buffers.append(Buffer(device, kind, round(mib * _MIB), model))

    @property
    def holds_weights(self) -> bool:
        """Whether memory was allocated for weights: a rehearsal allocates none."""
        return any(buffer.bytes for buffer in self.buffers if buffer.kind == "weights")


# What 2023's server printed: sums, some of which hold what is on the GPU too.
_OLD_SUMS = {
    "VRAM used": ("CUDA0", "weights"),
    "mem required": ("CPU", "weights"),
    "system memory used": ("CPU", "weights"),
    "VRAM kv self": ("CUDA0", "kv"),
    "kv self size": ("CPU", "kv"),
    "VRAM scratch buffer": ("CUDA0", "compute"),
    "compute buffer total size": ("CPU", "compute"),
}


class Reader:
    """Takes the lines of one log, in their order."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.devices: dict[str, Device] = {}
        self.backend_error = ""
        self.loads: dict[str, Load] = {}
        self.context_reduced: tuple[int, int] | None = None
        self.fit_failure = ""
        self.fitted_layers: dict[str, tuple[int, int]] = {}
        """Of each device: the layers that fitting gave it, and how many of them it gave in part."""
        self.pipeline_dropped = False
        self.members: list[str] = []
        """The GPUs behind ``Meta()``."""
        self.old_sums: dict[tuple[str, str], float] = {}
        self.current = MAIN
        self.closed = False
        """Whether what follows is not llama-server's own: the chat template, what users send."""

    @property
    def load(self) -> Load:
        """What is known of the model that is being loaded."""
        return self.loads.setdefault(self.current, Load())

    def begin_server(self, _found: re.Match[str]) -> None:
        """Forget earlier loads: llama-server loads again when it wakes from sleep."""
        self.closed = False
        self.loads.clear()
        self.current = MAIN

    def close(self, _found: re.Match[str]) -> None:
        """Stop, until llama-server loads a model again."""
        self.closed = True

    def begin_model(self, _found: re.Match[str]) -> None:
        """Begin with the main model, go on with the draft model.

        With --log-verbosity 5 llama-server's rehearsals, which measure a model before it is loaded, look like loads.
        """
        if MAIN in self.loads and not self.loads[MAIN].holds_weights:
            self.loads.clear()
        self.current = DRAFT if MAIN in self.loads else MAIN
        self.loads[self.current] = Load()
        self.old_sums.clear()

    def begin_context(self, _found: re.Match[str]) -> None:
        """Take a second context of the same weights for the draft: multi-token prediction has no file of its own."""
        if any(buffer.kind == "compute" for buffer in self.load.buffers):
            self.current = DRAFT

    def add_buffer(self, found: re.Match[str]) -> None:
        """Take ``CUDA0 model buffer size = 1.00 MiB``."""
        word = found["kind"] or ""
        kind = "kv" if word.startswith("DSV4") else _KINDS.get(word, word)
        if found["source"].startswith(_PROJECTOR_SOURCES):
            load = self.loads.setdefault(PROJECTOR, Load())
            load.add(kind, found["device"], float(found["mib"]), model=PROJECTOR)
        elif word or "load_tensors" in found["source"]:
            self.load.add(kind, found["device"], float(found["mib"]), model=self.current)

    def add_offloaded(self, found: re.Match[str]) -> None:
        """Take ``offloaded 20/33 layers to GPU``, which is an intention and no proof."""
        self.load.layers_offloaded, self.load.layers = int(found[1]), int(found[2])

    def add_layer(self, found: re.Match[str]) -> None:
        """Take ``layer 3 assigned to device CUDA0``."""
        self.load.layer_devices[int(found[1])] = found[2]

    def add_used_device(self, found: re.Match[str]) -> None:
        """Take ``using device CUDA0 (NVIDIA …) (0000:01:00.0) - 8000 MiB free``."""
        device = self.devices.setdefault(found["device"], Device())
        if not device.used:
            device.name, device.free_mib, device.used = found["name"], int(found["free"]), True

    def add_seen_device(self, found: re.Match[str]) -> None:
        """Take a line of ``device_info``, before anything is loaded."""
        if is_gpu(found["device"]):
            total, free = int(found["total"]), int(found["free"])
            self.devices[found["device"]] = Device(found["name"], free, total)

    def add_member(self, found: re.Match[str]) -> None:
        """Take one of the GPUs that share every tensor."""
        self.members.append(found[1])

    def add_old_device(self, found: re.Match[str]) -> None:
        """Take ``Device 0: NVIDIA …, compute capability 8.6``."""
        total = int(found["total"]) if found["total"] else None
        self.devices.setdefault(f"CUDA{found['index']}", Device(found["name"], None, total))

    def add_number(self, found: re.Match[str]) -> None:
        """Take a count from what is printed about the model."""
        self.load.numbers[found["key"]] = int(found["value"])

    def add_type(self, found: re.Match[str]) -> None:
        """Take a line of the table of tensor types."""
        self.load.types.add(found[1].lower())

    def add_file_size(self, found: re.Match[str]) -> None:
        """Take the size of all weights."""
        unit = {"MiB": _MIB, "GiB": _MIB << 10, "MB": _MIB, "GB": _MIB << 10}[found[2]]
        self.load.file_bytes = round(float(found[1]) * unit)

    def add_kv_size(self, found: re.Match[str]) -> None:
        """Take the number of layers in the KV cache whose buffers came just before."""
        counted = sum(len(held) for _, held in self.load.kv_caches)
        buffers = [buffer for buffer in self.load.buffers if buffer.kind == "kv"][counted:]
        if buffers:
            self.load.kv_caches.append((int(found[1]), {buffer.device: buffer.bytes for buffer in buffers}))

    def add_splits(self, found: re.Match[str]) -> None:
        """Take the parts that the graph is cut into, for one token where that is another number."""
        if not found["source"].startswith(_PROJECTOR_SOURCES):
            self.load.splits = int(found["one"] or found["many"])

    def add_flash(self, found: re.Match[str]) -> None:
        """Take whether flash attention is on."""
        self.load.flash_attention = found[1] in {"enabled", "1"}

    def add_flash_mismatch(self, found: re.Match[str]) -> None:
        """Take the device that cannot do flash attention."""
        self.load.flash_mismatch = found[1]

    def add_projector(self, found: re.Match[str]) -> None:
        """Take the projector's device; it is loaded twice, once to measure it."""
        self.loads[PROJECTOR] = Load(projector_device=found[1])

    def add_projector_size(self, found: re.Match[str]) -> None:
        """Take the size of the projector's weights."""
        load = self.loads.setdefault(PROJECTOR, Load())
        load.add("weights", load.projector_device, float(found[1]), model=PROJECTOR)

    def add_context_reduced(self, found: re.Match[str]) -> None:
        """Take what fitting made of the context."""
        self.context_reduced = (int(found[1]), int(found[2]))

    def add_fitted_layers(self, found: re.Match[str]) -> None:
        """Take what fitting gave to one device; the last such line holds."""
        self.fitted_layers[found["device"]] = (int(found["layers"]), int(found["part"] or 0))

    def add_fit_failure(self, found: re.Match[str]) -> None:
        """Take why the model was not fitted."""
        self.fit_failure = found[1].removesuffix(", abort")

    def add_pipeline_dropped(self, _found: re.Match[str]) -> None:
        """Take that several GPUs will wait for each other."""
        self.pipeline_dropped = True

    def add_backend_error(self, words: str, library: str) -> None:
        """Take the first reason why a backend is not there."""
        name = library.rpartition("/")[2]
        if not self.backend_error and not name.startswith("libggml-cpu"):
            self.backend_error = f"{name} {words}"

    def add_cuda_error(self, found: re.Match[str]) -> None:
        """Take why CUDA does not run."""
        self.backend_error = self.backend_error or f"CUDA could not be initialised: {found[1].strip()}"

    def add_old_sum(self, found: re.Match[str]) -> None:
        """Take one of 2023's sums: what is not in the GPU's memory is in the host's."""
        device, kind = _OLD_SUMS[found["sum"]]
        self.old_sums[device, kind] = float(found["mib"])
        on_gpu, total = (self.old_sums.get((name, kind), 0.0) for name in ("CUDA0", "CPU"))
        on_cpu = total if kind == "weights" else max(0.0, total - on_gpu)
        others = [buffer for buffer in self.load.buffers if buffer.kind != kind]
        self.load.buffers = others
        for name, mib in (("CUDA0", on_gpu), ("CPU", on_cpu)):
            if mib:
                self.load.add(kind, name, mib, model=self.current)
