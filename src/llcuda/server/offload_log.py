"""What the llama-server of this package logs while it loads a model, gathered from its lines.

The format strings are those of the llama.cpp that is pinned: src/llama-model.cpp and llama-context.cpp (buffers,
layers, devices), common/fit.cpp (what was changed to fit the memory), tools/mtmd/clip.cpp (the projector),
ggml-backend-reg.cpp and ggml-cuda.cu (backends that could not be used). Lines of another form say nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["DRAFT", "MAIN", "PROJECTOR", "Buffer", "LoadLog", "ModelLog", "is_gpu", "read_log"]

MAIN, DRAFT, PROJECTOR = "main", "draft", "projector"
_MIB = 1 << 20
# Pinned and mapped memory of the host is named after a GPU too (CUDA_Host, CUDA0_Host, CPU_Mapped): it is none.
_GPU = re.compile(r"CUDA\d*|Meta\(.*\)")
_KINDS = {"model": "weights", "LoRA": "weights", "RS": "recurrent", "compute": "compute", "output": "output"}
_PROJECTOR_SOURCES = ("reserve_compute_meta", "alloc_compute_meta")

# What a model's file says of itself is logged too, and may look like a line. Only what follows the prefix is one.
_PREFIX = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} [DIWE] (?:\w+ +)?(\w+): *")
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|LoRA|compute|output|DSV4 \S+ state) +buffer size = +(\d+\.\d+) MiB")


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
class SeenGpu:
    """A GPU, as llama-server names it."""

    name: str
    total_mib: int | None = None
    used: bool = False


@dataclass(slots=True)
class ModelLog:
    """What was logged while one model was loaded."""

    buffers: list[Buffer] = field(default_factory=list)
    layers: int | None = None
    """The output layer included, as llama-server counts."""
    layers_offloaded: int | None = None
    """What was asked for, which is no proof."""
    file_bytes: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    types: set[str] = field(default_factory=set)
    splits: int | None = None
    """The parts that the graph is cut into, for one token."""
    flash_attention: bool | None = None
    flash_mismatch: str = ""
    projector_device: str = "CPU"

    def add(self, kind: str, device: str, mib: str, *, model: str) -> None:
        """Add a buffer; a compute or output buffer takes the place of the one that was reserved before."""
        if kind in {"compute", "output"}:
            self.buffers = [buffer for buffer in self.buffers if (buffer.kind, buffer.device) != (kind, device)]
        self.buffers.append(Buffer(device, kind, round(float(mib) * _MIB), model))

    def sum_bytes(self, *kinds: str, on_gpu: bool) -> int:
        """Return the bytes of all buffers of the ``kinds``, on GPUs or off them."""
        return sum(buffer.bytes for buffer in self.buffers if buffer.kind in kinds and buffer.on_gpu is on_gpu)


@dataclass(slots=True)
class LoadLog:
    """What one log says, up to any line of it."""

    models: dict[str, ModelLog] = field(default_factory=dict)
    gpus: dict[str, SeenGpu] = field(default_factory=dict)
    backend_error: str = ""
    """The first reason why a backend is not there."""
    context_reduced: tuple[str, str] | None = None
    fit_failure: str = ""
    is_fitted: bool = False
    """Whether llama-server gave each GPU the layers that fit."""
    pipeline_dropped: bool = False
    current: str = MAIN
    closed: bool = False
    """Whether what follows is not llama-server's own: the chat template, what users send."""

    @property
    def model(self) -> ModelLog:
        """What is known of the model that is being loaded."""
        return self.models.setdefault(self.current, ModelLog())


def read_log(lines: Iterable[str]) -> LoadLog:
    """Return what the ``lines`` say."""
    log = LoadLog()
    for line in lines:
        # Not at its start: the dots that show a load's progress have no line of their own.
        found = _PREFIX.search(line)
        if found:
            _read(log, found[1], line[found.end() :])
    return log


def _read(log: LoadLog, source: str, text: str) -> None:
    if log.closed and source != "load_model":
        return
    buffer = _BUFFER.match(text)
    if buffer:
        _add_buffer(log, source, buffer)
    for pattern, take in _RULES.get(source, ()):
        found = re.match(pattern, text)
        if found:
            take(log, found)


def _add_buffer(log: LoadLog, source: str, found: re.Match[str]) -> None:
    model = PROJECTOR if source in _PROJECTOR_SOURCES else log.current
    kind = _KINDS.get(found[2], "kv")
    log.models.setdefault(model, ModelLog()).add(kind, found[1], found[3], model=model)


def _begin_server(log: LoadLog, _found: re.Match[str]) -> None:
    # llama-server loads again when it wakes from sleep.
    log.closed, log.current = False, MAIN
    log.models.clear()


def _close(log: LoadLog, _found: re.Match[str]) -> None:
    log.closed = True


def _begin_model(log: LoadLog, _found: re.Match[str]) -> None:
    # From --log-verbosity 5 on, llama-server's rehearsals look like loads. They allocate nothing.
    main = log.models.get(MAIN)
    if main and not any(buffer.bytes for buffer in main.buffers if buffer.kind == "weights"):
        log.models.clear()
    log.current = DRAFT if MAIN in log.models else MAIN
    log.models[log.current] = ModelLog()


def _begin_context(log: LoadLog, _found: re.Match[str]) -> None:
    # A second context of the same weights is the draft's: multi-token prediction has no file of its own.
    if any(buffer.kind == "compute" for buffer in log.model.buffers):
        log.current = DRAFT


def _add_type(log: LoadLog, found: re.Match[str]) -> None:
    log.model.types.add(found[1].lower())


def _add_number(log: LoadLog, found: re.Match[str]) -> None:
    log.model.numbers[found[1]] = int(found[2])


def _add_file_size(log: LoadLog, found: re.Match[str]) -> None:
    log.model.file_bytes = round(float(found[1]) * (_MIB if found[2] == "M" else _MIB << 10))


def _add_offloaded(log: LoadLog, found: re.Match[str]) -> None:
    log.model.layers_offloaded, log.model.layers = int(found[1]), int(found[2])


def _add_seen_gpu(log: LoadLog, found: re.Match[str]) -> None:
    if is_gpu(found[1]):
        log.gpus[found[1]] = SeenGpu(found[2], int(found[3]))


def _add_used_gpu(log: LoadLog, found: re.Match[str]) -> None:
    log.gpus.setdefault(found[1], SeenGpu(found[2])).used = True


def _add_splits(log: LoadLog, found: re.Match[str]) -> None:
    log.model.splits = int(found[1])


def _add_flash(log: LoadLog, found: re.Match[str]) -> None:
    log.model.flash_attention = found[1] == "enabled"


def _add_flash_mismatch(log: LoadLog, found: re.Match[str]) -> None:
    log.model.flash_mismatch = found[1]


def _add_projector(log: LoadLog, found: re.Match[str]) -> None:
    # It is loaded twice, once to measure it.
    log.models[PROJECTOR] = ModelLog(projector_device=found[1])


def _add_projector_size(log: LoadLog, found: re.Match[str]) -> None:
    projector = log.models.setdefault(PROJECTOR, ModelLog())
    projector.add("weights", projector.projector_device, found[1], model=PROJECTOR)


def _add_context_reduced(log: LoadLog, found: re.Match[str]) -> None:
    log.context_reduced = found[1], found[2]


def _add_fitted(log: LoadLog, _found: re.Match[str]) -> None:
    log.is_fitted = True


def _add_fit_failure(log: LoadLog, found: re.Match[str]) -> None:
    log.fit_failure = found[1].removesuffix(", abort")


def _add_pipeline_dropped(log: LoadLog, _found: re.Match[str]) -> None:
    log.pipeline_dropped = True


def _add_cuda_error(log: LoadLog, found: re.Match[str]) -> None:
    log.backend_error = log.backend_error or f"CUDA could not be initialised: {found[1].strip()}"


def _add_backend_error(words: str, log: LoadLog, found: re.Match[str]) -> None:
    name = found["library"].rpartition("/")[2]
    if not log.backend_error and not name.startswith("libggml-cpu"):
        log.backend_error = f"{name} {words}{found['reason'].strip()}"


_RULES: dict[str, tuple[tuple[str, Callable[[LoadLog, re.Match[str]], None]], ...]] = {
    "load_model": (("loading model '", _begin_server), ("initializing, n_slots", _close)),
    "llama_model_loader": (
        ("loaded meta data with", _begin_model),
        (r"- type +(\w+): +\d+ tensors", _add_type),
        (r"- kv +\d+: +[\w.-]+\.embedding_length_(per_layer)_input u32 += (\d+)$", _add_number),
    ),
    "print_info": (
        (r"(n_(?:vocab|embd|expert|layer|layer_all)) += (\d+)$", _add_number),
        (r"file size += (\d+\.\d+) ([MG])iB", _add_file_size),
    ),
    "common_param": ((r"- (\S+) *: (.*) \((\d+) MiB, \d+ MiB free\)", _add_seen_gpu),),
    "llama_prepare_model_devices": ((r"using device (\S+) \((.*)\) \(.*?\) - \d+ MiB free", _add_used_gpu),),
    "load_tensors": ((r"offloaded (\d+)/(\d+) layers", _add_offloaded),),
    "llama_context": (("constructing llama_context", _begin_context), ("flash_attn += (enabled|disabled)", _add_flash)),
    "sched_reserve": (
        (r"graph.*?, splits = (?:\d+ / )?(\d+)", _add_splits),
        ("compute buffer allocation failed, retrying without pipeline", _add_pipeline_dropped),
    ),
    "resolve_fused_ops": (
        ("Flash Attention (?:not supported, set to )?(enabled|disabled)", _add_flash),
        (r"layer \d+ is assigned to device (\S+) but Flash Attention", _add_flash_mismatch),
    ),
    "clip_ctx": ((r"CLIP using (\S+) backend", _add_projector),),
    "load_hparams": ((r"model size: +(\d+\.\d+) MiB", _add_projector_size),),
    "common_params_fit_impl": (
        (r"context size reduced from (\d+) to (\d+)", _add_context_reduced),
        (r"- \S+ .*: +\d+ layers.*, +\d+ MiB used", _add_fitted),
    ),
    "common_fit_params": (
        (
            "(?:failed to fit params|encountered an error while trying to fit params) to free device memory: (.+)$",
            _add_fit_failure,
        ),
    ),
    "ggml_cuda_init": (("failed to initialize CUDA: (.+)", _add_cuda_error),),
    "load_backend": (
        (
            r"failed to load (?P<library>\S+): (?:\S*/)?(?P<reason>.+)",
            partial(_add_backend_error, "could not be loaded: "),
        ),
        (
            r"failed to initialize backend from (?P<library>\S+): (?P<reason>.+)",
            partial(_add_backend_error, "could not be used: "),
        ),
        (r"failed to find (?P<reason>\w+) in (?P<library>\S+)", partial(_add_backend_error, "has no ")),
        (
            r"backend (?P<library>\S+) is (?P<reason>not supported on this system)",
            partial(_add_backend_error, "is "),
        ),
    ),
}
