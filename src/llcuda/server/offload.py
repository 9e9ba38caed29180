"""What llama-server really put on a GPU, and what kept the rest off it, judged by its own log.

The proof is its buffer lines (``CUDA0 model buffer size``), which need ``--log-verbosity 4``. The line ``offloaded
33/33 layers to GPU`` alone proves nothing: it says what was asked for, whether or not there is a GPU, and counts a
layer whose experts stay on the CPU.

The lines are those of the llama.cpp that is pinned: src/llama-model.cpp and llama-context.cpp (buffers, layers,
devices), common/fit.cpp (what was changed to fit the memory), tools/mtmd/clip.cpp (the projector), ggml-backend-reg.cpp
and ggml-cuda.cu (backends that could not be used). Lines of another form say nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_MIB, _GIB = 1 << 20, 1 << 30
# Pinned and mapped memory of the host is named after a GPU too (CUDA_Host, CUDA0_Host, CPU_Mapped): it is none.
# ``Meta()`` are several GPUs that share every tensor.
_GPU = re.compile(r"CUDA\d*|Meta\(.*\)")
_KINDS = {"model": "weights", "LoRA": "weights", "RS": "recurrent", "compute": "compute", "output": "output"}


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
        return _GPU.fullmatch(self.device) is not None


def sum_bytes(buffers: Iterable[Buffer], *kinds: str, on_gpu: bool) -> int:
    """Return the bytes of all buffers of the ``kinds``, on GPUs or off them."""
    return sum(buffer.bytes for buffer in buffers if buffer.kind in kinds and buffer.on_gpu is on_gpu)


@dataclass(frozen=True, slots=True)
class Offload:
    """Where a model is."""

    layers: int | None
    """How many there are, the output layer included, as llama-server counts."""
    layers_on_gpu: int | None
    """0 if no GPU has a buffer of the model's weights, whatever else the log says."""
    verdict: str
    """``full``: weights, KV cache and computation are on GPUs, but for the embedding of the input, which llama.cpp
    always keeps on the CPU. ``partial``: some of it. ``cpu``: none. ``unknown``: the log does not say."""
    buffers: tuple[Buffer, ...]
    gpu_names: Mapping[str, str]
    """Of each GPU that llama-server saw: ``CUDA0`` and what it is called."""
    flash_attention: bool | None
    limits: tuple[str, ...]
    """What kept the rest off the GPU, each a sentence; the weightiest comes first."""
    backend_error: str
    """Why a backend could not be loaded."""

    @property
    def why_not(self) -> str:
        """Why nothing is on a GPU."""
        return self.backend_error or "; ".join(self.limits) or "llama-server put nothing there and did not say why"


def read_offload(lines: Iterable[str]) -> Offload:
    """Return what llama-server's log ``lines``, up to any point after it is ready, say about where the model is."""
    log = _LoadLog()
    for line in lines:
        log.read(line)
    main = log.get("main")
    verdict = _judge(main)
    return Offload(
        layers=main.layers,
        layers_on_gpu={"cpu": 0, "unknown": None}.get(verdict, main.number("layers_offloaded")),
        verdict=verdict,
        buffers=tuple(buffer for model in log.models.values() for buffer in model.buffers),
        gpu_names=log.gpu_names,
        flash_attention={"enabled": True, "disabled": False}.get(main.facts.get("flash_attention", "")),
        limits=tuple(_explain(log, main, verdict)),
        backend_error=log.backend_error,
    )


@dataclass(slots=True)
class _ModelLog:
    """What was logged while one model was loaded."""

    name: str
    device: str = "CPU"
    """The projector's."""
    buffers: list[Buffer] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    """What ``_MODEL_FACTS`` found, by the names of its groups."""
    types: set[str] = field(default_factory=set)

    def number(self, fact: str) -> int | None:
        return int(self.facts[fact]) if fact in self.facts else None

    @property
    def layers(self) -> int | None:
        """The output layer included: a llama-server without any GPU does not print that line."""
        repeating = self.number("n_layer_all") or self.number("n_layer")
        return self.number("all_layers") or (None if repeating is None else repeating + 1)

    @property
    def has_all_layers(self) -> bool:
        """Whether every layer was to be on a GPU."""
        return self.facts.get("layers_offloaded") == self.facts.get("all_layers")

    @property
    def file_bytes(self) -> int:
        return round((float(self.facts.get("file_mib", 0)) + float(self.facts.get("file_gib", 0)) * 1024) * _MIB)

    def sum(self, *kinds: str, on_gpu: bool) -> int:
        return sum_bytes(self.buffers, *kinds, on_gpu=on_gpu)

    def add(self, kind: str, device: str, mib: str) -> None:
        """Add a buffer; a compute or output buffer takes the place of the one that was reserved before."""
        if kind in {"compute", "output"}:
            self.buffers = [buffer for buffer in self.buffers if (buffer.kind, buffer.device) != (kind, device)]
        self.buffers.append(Buffer(device, kind, round(float(mib) * _MIB), self.name))


class _LoadLog:
    """What one log says, up to any line of it."""

    def __init__(self) -> None:
        self.models: dict[str, _ModelLog] = {}
        self.facts: dict[str, str] = {}
        self.gpu_names: dict[str, str] = {}
        self.gpu_mib: dict[str, int] = {}
        self.used_gpus: set[str] = set()
        self.backend_error = ""
        """The first reason why a backend is not there."""
        self._current = "main"
        self._closed = False
        """Whether what follows is not llama-server's own: the chat template, what users send."""

    def get(self, name: str) -> _ModelLog:
        return self.models.setdefault(name, _ModelLog(name))

    def read(self, line: str) -> None:
        # Not at its start: the dots that show a load's progress have no line of their own.
        begun = _PREFIX.search(line) or (None if self.models else _BACKEND.match(line))
        if not begun or (self._closed and begun[1] != "load_model"):
            return
        source, text = begun[1], line[begun.end() :]
        if buffer := _BUFFER.match(text):
            model = "projector" if source == "reserve_compute_meta" else self._current
            self.get(model).add(_KINDS.get(buffer[2], "kv"), buffer[1], buffer[3])
        for pattern in _MODEL_FACTS.get(source, ()):
            if found := re.match(pattern, text):
                self.get(self._current).facts.update(found.groupdict())
        for event, pattern in _EVENTS.get(source, ()):
            if found := re.match(pattern, text):
                self._note(event, found)

    def _note(self, event: str, found: re.Match[str]) -> None:
        match event:
            case "fact":
                self.facts.update(found.groupdict())
            case "server begins":  # it loads again when it wakes from sleep
                self._closed, self._current = False, "main"
                self.models.clear()
            case "server runs":
                self._closed = True
            case "model begins":
                self._begin_model()
            case "context begins":
                # A second context of the same weights is the draft's: multi-token prediction has no file of its own.
                if any(buffer.kind == "compute" for buffer in self.get(self._current).buffers):
                    self._current = "draft"
            case "projector begins":  # it is loaded twice, once to measure it
                self.models["projector"] = _ModelLog("projector", found[1])
            case "projector's weights":
                self.get("projector").add("weights", self.get("projector").device, found[1])
            case "type of weights":
                self.get(self._current).types.add(found[1].lower())
            case _:
                self._note_device(event, found)

    def _note_device(self, event: str, found: re.Match[str]) -> None:
        match event:
            case "device seen":
                if _GPU.fullmatch(found[1]):
                    self.gpu_names[found[1]], self.gpu_mib[found[1]] = found[2], int(found[3])
            case "device used":
                self.gpu_names.setdefault(found[1], found[2])
                self.used_gpus.add(found[1])
            case "CUDA failed":
                self.backend_error = self.backend_error or f"CUDA could not be initialised: {found[1].strip()}"
            case _:  # a backend is not there, and the event is how the sentence goes on
                name = found["library"].rpartition("/")[2]
                if not self.backend_error and not name.startswith("libggml-cpu"):
                    self.backend_error = f"{name} {event} {found['reason'].strip()}"

    def _begin_model(self) -> None:
        # From --log-verbosity 5 on, llama-server's rehearsals look like loads. They allocate nothing.
        main = self.models.get("main")
        if main and not any(buffer.bytes for buffer in main.buffers if buffer.kind == "weights"):
            self.models.clear()
        self._current = "draft" if "main" in self.models else "main"
        self.models[self._current] = _ModelLog(self._current)


# What a model's file says of itself is logged too, and may look like a line. Only what follows the prefix is one.
_PREFIX = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} [DIWE] (?:\w+ +)?(\w+): *")
# At its start llama-server writes warnings past its log, which can come between a line and its prefix.
_BACKEND = re.compile(r"(load_backend): *")
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|LoRA|compute|output|DSV4 \S+ state) +buffer size = +(\d+\.\d+) MiB")
# The function that logs it -> patterns, whose groups are named after facts of the model that is being loaded.
_MODEL_FACTS = {
    "llama_model_loader": (r"- kv +\d+: +[\w.-]+\.embedding_length_per_layer_input u32 += (?P<per_layer>\d+)$",),
    "print_info": (
        *(rf"{name} += (?P<{name}>\d+)$" for name in ("n_vocab", "n_embd", "n_expert", "n_layer", "n_layer_all")),
        r"file size += (?P<file_mib>\d+\.\d+) MiB",
        r"file size += (?P<file_gib>\d+\.\d+) GiB",
    ),
    "load_tensors": (r"offloaded (?P<layers_offloaded>\d+)/(?P<all_layers>\d+) layers",),
    "llama_context": ("flash_attn += (?P<flash_attention>enabled|disabled)",),
    "resolve_fused_ops": (
        "Flash Attention (?:not supported, set to )?(?P<flash_attention>enabled|disabled)",
        r"layer \d+ is assigned to device (?P<flash_mismatch>\S+) but Flash Attention",
    ),
    "sched_reserve": (r"graph.*?, splits = (?:\d+ / )?(?P<splits>\d+)",),
}
# The same -> events, with their patterns; a fact is one of the whole log.
_EVENTS = {
    "sched_reserve": (("fact", "(?P<pipeline_dropped>compute buffer allocation failed, retrying without pipeline)"),),
    "common_params_fit_impl": (
        ("fact", r"context size reduced from (?P<context_before>\d+) to (?P<context_after>\d+)"),
        ("fact", r"(?P<fitted>- \S+ .*: +\d+ layers.*, +\d+ MiB used)"),
    ),
    "common_fit_params": (
        ("fact", r"(?:failed|encountered an error while trying) to fit params to.*? memory: (?P<fit_failure>.+)$"),
    ),
    "load_model": (("server begins", "loading model '"), ("server runs", "initializing, n_slots")),
    "llama_model_loader": (
        ("model begins", "loaded meta data with"), ("type of weights", r"- type +(\w+): +\d+ tensors"),
    ),
    "llama_context": (("context begins", "constructing llama_context"),),
    "clip_ctx": (("projector begins", r"CLIP using (\S+) backend"),),
    "load_hparams": (("projector's weights", r"model size: +(\d+\.\d+) MiB"),),
    "common_param": (("device seen", r"- (\S+) *: (.*) \((\d+) MiB, \d+ MiB free\)"),),
    "llama_prepare_model_devices": (("device used", r"using device (\S+) \((.*)\) \(.*?\) - \d+ MiB free"),),
    "ggml_cuda_init": (("CUDA failed", "failed to initialize CUDA: (.+)"),),
    "load_backend": (
        ("could not be loaded:", r"failed to load (?P<library>\S+): (?:\S*/)?(?P<reason>.+)"),
        ("could not be used:", r"failed to initialize backend from (?P<library>\S+): (?P<reason>.+)"),
        ("has no", r"failed to find (?P<reason>\w+) in (?P<library>\S+)"),
        ("is", r"backend (?P<library>\S+) is (?P<reason>not supported on this system)"),
    ),
}  # fmt: skip


def _judge(main: _ModelLog) -> str:
    # The compute buffers come last: without them the load is not done.
    if not {"weights", "compute"} <= {buffer.kind for buffer in main.buffers}:
        return "unknown"
    if not main.sum("weights", on_gpu=True):
        return "cpu"
    whole = main.has_all_layers and not _weights_left(main) and not _kv_left(main) and not _takes_turns(main)
    return "full" if whole else "partial"


def _kv_left(main: _ModelLog) -> bool:
    """Return whether a KV cache is off the GPU although its layer is on it."""
    return main.has_all_layers and main.sum("kv", "recurrent", on_gpu=False) > 0


def _takes_turns(main: _ModelLog) -> bool:
    """Return whether the graph is cut into more parts than the CPU's first, one for each GPU, and one to spare.

    Each part more is a change between GPU and CPU, for every token.
    """
    gpus = {buffer.device for buffer in main.buffers if buffer.kind == "weights" and buffer.on_gpu}
    return (main.number("splits") or 0) > len(gpus) + 2


def _weights_left(main: _ModelLog) -> int:
    """Return the bytes of weights off the GPU, 0 if they are no more than the embedding of the input.

    llama.cpp keeps the embedding on the CPU always. It can be as large as its type allows; the file's largest is taken.
    """
    off, embedding = _weights_off(main), _embedding_bytes(main)
    allowed = main.sum("weights", on_gpu=True) if embedding is None else embedding
    # What the sum of logged sizes may be off by: a file's size is rounded to 0.01 GiB or 0.01 MiB.
    rounding = 6 * _MIB if main.file_bytes >= _GIB else _MIB // 16
    return off if off > allowed + rounding else 0


def _weights_off(main: _ModelLog) -> int:
    on_host = main.sum("weights", on_gpu=False)
    if not main.file_bytes:
        return on_host
    # A mapped buffer is the stretch of the file from its first tensor to its last: it says nothing about what it is.
    exact = 0 if any(buffer.device.endswith("_Mapped") for buffer in main.buffers) else on_host
    if any(buffer.device.startswith("Meta(") for buffer in main.buffers):
        return exact  # of several GPUs that share every tensor one is counted
    return max(exact, main.file_bytes - main.sum("weights", on_gpu=True))


def _embedding_bytes(main: _ModelLog) -> int | None:
    """Return the most that the embedding can take: one row for each token, and those for every layer that some have."""
    rows, width = main.number("n_vocab"), main.number("n_embd")
    if rows is None or width is None:
        return None
    width += (main.number("per_layer") or 0) * (main.number("n_layer") or 0)
    # f32 is for norms, unless there is no other.
    types = main.types - {"f32"} or main.types
    return rows * width * max(map(_count_bits, types), default=16) // 8


def _count_bits(name: str) -> int:
    """Return at least as many bits as a weight of the type takes: q4_K has 4.5, q8_0 8.5, f16 16."""
    found = re.search(r"\d+", name)
    bits = int(found[0]) if found else 16
    return bits if bits in {16, 32} else bits + 1


def _explain(log: _LoadLog, main: _ModelLog, verdict: str) -> Iterator[str]:
    if verdict == "unknown":
        return
    yield from [_explain_cpu(log, main)] if verdict == "cpu" else _explain_part(log, main)
    yield from _explain_memory(log)
    if verdict != "cpu":
        yield from _explain_others(log)


def _explain_cpu(log: _LoadLog, main: _ModelLog) -> str:
    claim = ""
    if main.number("layers_offloaded"):
        share = f"{main.facts['layers_offloaded']}/{main.facts['all_layers']}"
        claim = f' Its line "offloaded {share} layers to GPU" is no proof of one.'
    seen = ", ".join(f"{device} ({name})" for device, name in log.gpu_names.items())
    if log.backend_error:
        return f"No GPU is used: {log.backend_error}.{claim}"
    if not seen:
        return f"llama-server found no GPU.{claim}"
    if not log.used_gpus:
        return f"llama-server sees {seen} and was told to use none.{claim}"
    if claim:
        return f"All weights are on the CPU.{claim}"
    why = "to fit its memory" if "fitted" in log.facts else "because gpu_layers is 0"
    return f"llama-server put no layer on {seen}, {why}."


def _explain_part(log: _LoadLog, main: _ModelLog) -> Iterator[str]:
    left, is_fitted = _weights_left(main), "fitted" in log.facts
    if not main.has_all_layers:
        yield f"{_name_share(main)} on the GPU{': more do not fit its memory' if is_fitted else ''}."
    elif left:
        what = "experts" if main.number("n_expert") else "some of their weights"
        why = ", to fit the GPU's memory" if is_fitted else ""
        yield (
            f"All {main.layers} layers count as offloaded, but {what} are on the CPU{why}: "
            f"{_name_size(left)} of the weights are not on the GPU."
        )
    if _kv_left(main):
        yield "The KV cache is in the computer's memory, and attention is computed on the CPU."
    elif main.has_all_layers and _takes_turns(main) and not left:
        parts = main.facts["splits"]
        yield f"Some operations run on the CPU: each token passes between GPU and CPU, in {parts} parts."
    if main.facts.get("flash_attention") == "disabled" and "flash_mismatch" in main.facts:
        yield f"Flash attention is off: {main.facts['flash_mismatch']} cannot do it for this model."


def _explain_memory(log: _LoadLog) -> Iterator[str]:
    facts = log.facts
    if "context_before" in facts:
        change = f"from {facts['context_before']} to {facts['context_after']} tokens"
        yield f"llama-server reduced the context {change} to fit the memory."
    if "fit_failure" in facts:
        yield f"llama-server could not fit the model to the memory: {facts['fit_failure'].removesuffix(', abort')}."
    for device, total_mib in log.gpu_mib.items():
        held = sum(b.bytes for model in log.models.values() for b in model.buffers if b.device == device)
        if held > total_mib * _MIB:
            yield (
                f"{device} holds {_name_size(held)} and has {_name_size(total_mib * _MIB)}: "
                "the rest is in the computer's memory, through unified memory."
            )
    if "pipeline_dropped" in facts:
        yield "There was no memory for pipeline parallelism: the GPUs work one after another."


def _explain_others(log: _LoadLog) -> Iterator[str]:
    draft, projector = log.models.get("draft"), log.models.get("projector")
    if draft and {buffer.on_gpu for buffer in draft.buffers if buffer.kind == "weights"} == {False}:
        yield "The draft model is on the CPU."
    elif draft and not draft.has_all_layers:
        yield f"Of the draft model, {_name_share(draft)} on the GPU."
    if projector and not _GPU.fullmatch(projector.device):
        yield "The projector, which reads images and sound, is on the CPU."


def _name_share(model: _ModelLog) -> str:
    count = model.number("layers_offloaded")
    return f"{count} of {model.layers} layers {'is' if count == 1 else 'are'}"


def _name_size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.1f} MiB"
