"""What the llama-server of this package logs while it loads a model, gathered from its lines.

The format strings are those of the llama.cpp that is pinned: src/llama-model.cpp and llama-context.cpp (buffers,
layers, devices), common/fit.cpp (what was changed to fit the memory), tools/mtmd/clip.cpp (the projector),
ggml-backend-reg.cpp and ggml-cuda.cu (backends that could not be used). Lines of another form say nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["MIB", "Buffer", "LoadLog", "ModelLog", "is_gpu", "read_log", "sum_bytes"]

MIB = 1 << 20
# Pinned and mapped memory of the host is named after a GPU too (CUDA_Host, CUDA0_Host, CPU_Mapped): it is none.
_GPU = re.compile(r"CUDA\d*|Meta\(.*\)")
_KINDS = {"model": "weights", "LoRA": "weights", "RS": "recurrent", "compute": "compute", "output": "output"}
_PROJECTOR_SOURCES = ("reserve_compute_meta", "alloc_compute_meta")

# What a model's file says of itself is logged too, and may look like a line. Only what follows the prefix is one.
_PREFIX = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} [DIWE] (?:\w+ +)?(\w+): *")
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|LoRA|compute|output|DSV4 \S+ state) +buffer size = +(\d+\.\d+) MiB")


def is_gpu(device: str) -> bool:
    """Return whether a buffer of this name is in a GPU's memory; ``Meta()`` are several that share every tensor."""
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
    model: str = "main"
    """``main``, ``draft`` or ``projector``."""

    @property
    def on_gpu(self) -> bool:
        """Whether it is in a GPU's memory; host memory that a GPU can read is not."""
        return is_gpu(self.device)


def sum_bytes(buffers: Iterable[Buffer], *kinds: str, on_gpu: bool) -> int:
    """Return the bytes of all buffers of the ``kinds``, on GPUs or off them."""
    return sum(buffer.bytes for buffer in buffers if buffer.kind in kinds and buffer.on_gpu is on_gpu)


@dataclass(slots=True)
class ModelLog:
    """What was logged while one model was loaded; a field of which no line spoke has its default."""

    model: str
    buffers: list[Buffer] = field(default_factory=list)
    layers: int | None = None
    """The output layer included, as llama-server counts."""
    layers_offloaded: int | None = None
    """What was asked for, which is no proof."""
    file_mib: float = 0.0
    file_gib: float = 0.0
    n_vocab: int | None = None
    n_embd: int | None = None
    n_expert: int | None = None
    n_layer: int | None = None
    n_layer_all: int | None = None
    per_layer: int = 0
    """The width of the embedding that some have for every layer."""
    types: set[str] = field(default_factory=set)
    splits: int | None = None
    """The parts that the graph is cut into, for one token."""
    flash_attention: str = ""
    """``enabled`` or ``disabled``."""
    flash_mismatch: str = ""
    """The device that cannot do it."""
    device: str = "CPU"
    """The projector's."""

    @property
    def file_bytes(self) -> int:
        """The size of the model's file, 0 if it is not known."""
        return round((self.file_mib + self.file_gib * 1024) * MIB)

    @property
    def has_all_layers(self) -> bool:
        """Whether every layer was to be on a GPU."""
        return self.layers is None or self.layers_offloaded == self.layers

    def add(self, kind: str, device: str, mib: str) -> None:
        """Add a buffer; a compute or output buffer takes the place of the one that was reserved before."""
        if kind in {"compute", "output"}:
            self.buffers = [buffer for buffer in self.buffers if (buffer.kind, buffer.device) != (kind, device)]
        self.buffers.append(Buffer(device, kind, round(float(mib) * MIB), self.model))


@dataclass(slots=True)
class LoadLog:
    """What one log says, up to any line of it."""

    models: dict[str, ModelLog] = field(default_factory=dict)
    """By ``main``, ``draft`` and ``projector``."""
    gpu_names: dict[str, str] = field(default_factory=dict)
    gpu_mib: dict[str, int] = field(default_factory=dict)
    used_gpus: set[str] = field(default_factory=set)
    backend_error: str = ""
    """The first reason why a backend is not there."""
    context_before: str = ""
    context_after: str = ""
    fit_failure: str = ""
    fitted: str = ""
    """Not empty if llama-server gave each GPU the layers that fit."""
    pipeline_dropped: str = ""
    """Not empty if there was no memory for pipeline parallelism."""
    current: str = "main"
    closed: bool = False
    """Whether what follows is not llama-server's own: the chat template, what users send."""

    def get(self, name: str) -> ModelLog:
        """Return what is known of a model."""
        return self.models.setdefault(name, ModelLog(name))


def read_log(lines: Iterable[str]) -> LoadLog:
    """Return what the ``lines`` say."""
    log = LoadLog()
    for line in lines:
        # Not at its start: the dots that show a load's progress have no line of their own.
        found = _PREFIX.search(line)
        if found and (not log.closed or found[1] == "load_model"):
            _read(log, found[1], line[found.end() :])
    return log


def _read(log: LoadLog, source: str, text: str) -> None:
    buffer = _BUFFER.match(text)
    if buffer:
        model = "projector" if source in _PROJECTOR_SOURCES else log.current
        log.get(model).add(_KINDS.get(buffer[2], "kv"), buffer[1], buffer[3])
    for pattern in _MODEL_FIELDS.get(source, ()):
        _set(log.get(log.current), re.match(pattern, text))
    for pattern in _LOG_FIELDS.get(source, ()):
        _set(log, re.match(pattern, text))
    for pattern, take in _EVENTS.get(source, ()):
        found = re.match(pattern, text)
        if found:
            take(log, found)


def _set(target: ModelLog | LoadLog, found: re.Match[str] | None) -> None:
    """Set each field that a group of the pattern is named after."""
    for name, text in (found.groupdict() if found else {}).items():
        setattr(target, name, _NUMBERS.get(name, str)(text))


def _begin_server(log: LoadLog, _found: re.Match[str]) -> None:
    # llama-server loads again when it wakes from sleep.
    log.closed, log.current = False, "main"
    log.models.clear()


def _close(log: LoadLog, _found: re.Match[str]) -> None:
    log.closed = True


def _begin_model(log: LoadLog, _found: re.Match[str]) -> None:
    # From --log-verbosity 5 on, llama-server's rehearsals look like loads. They allocate nothing.
    main = log.models.get("main")
    if main and not any(buffer.bytes for buffer in main.buffers if buffer.kind == "weights"):
        log.models.clear()
    log.current = "draft" if "main" in log.models else "main"
    log.models[log.current] = ModelLog(log.current)


def _begin_context(log: LoadLog, _found: re.Match[str]) -> None:
    # A second context of the same weights is the draft's: multi-token prediction has no file of its own.
    if any(buffer.kind == "compute" for buffer in log.get(log.current).buffers):
        log.current = "draft"


def _begin_projector(log: LoadLog, found: re.Match[str]) -> None:
    # It is loaded twice, once to measure it.
    log.models["projector"] = ModelLog("projector", device=found[1])


def _add_projector_weights(log: LoadLog, found: re.Match[str]) -> None:
    projector = log.get("projector")
    projector.add("weights", projector.device, found[1])


def _add_type(log: LoadLog, found: re.Match[str]) -> None:
    log.get(log.current).types.add(found[1].lower())


def _add_seen_gpu(log: LoadLog, found: re.Match[str]) -> None:
    if is_gpu(found[1]):
        log.gpu_names[found[1]], log.gpu_mib[found[1]] = found[2], int(found[3])


def _add_used_gpu(log: LoadLog, found: re.Match[str]) -> None:
    log.gpu_names.setdefault(found[1], found[2])
    log.used_gpus.add(found[1])


def _add_cuda_error(log: LoadLog, found: re.Match[str]) -> None:
    log.backend_error = log.backend_error or f"CUDA could not be initialised: {found[1].strip()}"


def _add_backend_error(log: LoadLog, found: re.Match[str]) -> None:
    name = found["library"].rpartition("/")[2]
    words = next(words for begun, words in _BACKEND_ERRORS.items() if found[0].startswith(begun))
    if not log.backend_error and not name.startswith("libggml-cpu"):
        log.backend_error = f"{name} {words} {found['reason'].strip()}"


_BACKEND_ERRORS = {
    "failed to load": "could not be loaded:",
    "failed to initialize": "could not be used:",
    "failed to find": "has no",
    "backend": "is",
}
# The function that logs it -> patterns whose groups are named after fields of the model that is being loaded.
_MODEL_FIELDS = {
    "llama_model_loader": (r"- kv +\d+: +[\w.-]+\.embedding_length_per_layer_input u32 += (?P<per_layer>\d+)$",),
    "print_info": (
        *(rf"{name} += (?P<{name}>\d+)$" for name in ("n_vocab", "n_embd", "n_expert", "n_layer", "n_layer_all")),
        r"file size += (?P<file_mib>\d+\.\d+) MiB",
        r"file size += (?P<file_gib>\d+\.\d+) GiB",
    ),
    "load_tensors": (r"offloaded (?P<layers_offloaded>\d+)/(?P<layers>\d+) layers",),
    "llama_context": ("flash_attn += (?P<flash_attention>enabled|disabled)",),
    "resolve_fused_ops": (
        "Flash Attention (?:not supported, set to )?(?P<flash_attention>enabled|disabled)",
        r"layer \d+ is assigned to device (?P<flash_mismatch>\S+) but Flash Attention",
    ),
    "sched_reserve": (r"graph.*?, splits = (?:\d+ / )?(?P<splits>\d+)",),
}
_NUMBERS: dict[str, Callable[[str], float]] = {
    **dict.fromkeys(("n_vocab", "n_embd", "n_expert", "n_layer", "n_layer_all", "per_layer"), int),
    **dict.fromkeys(("layers", "layers_offloaded", "splits"), int),
    **dict.fromkeys(("file_mib", "file_gib"), float),
}
# The same, of fields of the whole log.
_LOG_FIELDS = {
    "sched_reserve": ("(?P<pipeline_dropped>compute buffer allocation failed, retrying without pipeline)",),
    "common_params_fit_impl": (
        r"context size reduced from (?P<context_before>\d+) to (?P<context_after>\d+)",
        r"(?P<fitted>- \S+ .*: +\d+ layers.*, +\d+ MiB used)",
    ),
    "common_fit_params": (
        ("(?:failed to fit params|encountered an error while trying to fit params) to free device memory: "
        "(?P<fit_failure>.+)$"),
    ),
}
_EVENTS: dict[str, tuple[tuple[str, Callable[[LoadLog, re.Match[str]], None]], ...]] = {
    "load_model": (("loading model '", _begin_server), ("initializing, n_slots", _close)),
    "llama_model_loader": (("loaded meta data with", _begin_model), (r"- type +(\w+): +\d+ tensors", _add_type)),
    "llama_context": (("constructing llama_context", _begin_context),),
    "clip_ctx": ((r"CLIP using (\S+) backend", _begin_projector),),
    "load_hparams": ((r"model size: +(\d+\.\d+) MiB", _add_projector_weights),),
    "common_param": ((r"- (\S+) *: (.*) \((\d+) MiB, \d+ MiB free\)", _add_seen_gpu),),
    "llama_prepare_model_devices": ((r"using device (\S+) \((.*)\) \(.*?\) - \d+ MiB free", _add_used_gpu),),
    "ggml_cuda_init": (("failed to initialize CUDA: (.+)", _add_cuda_error),),
    "load_backend": (
        (r"failed to load (?P<library>\S+): (?:\S*/)?(?P<reason>.+)", _add_backend_error),
        (r"failed to initialize backend from (?P<library>\S+): (?P<reason>.+)", _add_backend_error),
        (r"failed to find (?P<reason>\w+) in (?P<library>\S+)", _add_backend_error),
        (r"backend (?P<library>\S+) is (?P<reason>not supported on this system)", _add_backend_error),
    ),
}
