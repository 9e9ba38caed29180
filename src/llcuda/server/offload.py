"""What llama-server really put on a GPU, and what kept the rest off it, judged by its own log.

The proof is its buffer lines (``CUDA0 model buffer size``), which need ``--log-verbosity 4``. The line ``offloaded
33/33 layers to GPU`` alone proves nothing: it says what was asked for, whether or not there is a GPU, and counts a
layer whose experts stay on the CPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llcuda.server.load_log import MIB, Buffer, LoadLog, ModelLog, is_gpu, read_log, sum_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Buffer", "Offload", "read_offload", "sum_bytes"]

_GIB = MIB << 10


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
    log = read_log(lines)
    main = log.models.get("main", ModelLog("main"))
    verdict = _judge(main)
    return Offload(
        layers=_count_layers(main),
        layers_on_gpu={"cpu": 0, "unknown": None}.get(verdict, main.layers_offloaded),
        verdict=verdict,
        buffers=tuple(buffer for model in log.models.values() for buffer in model.buffers),
        gpu_names=log.gpu_names,
        flash_attention={"enabled": True, "disabled": False}.get(main.flash_attention),
        limits=tuple(_explain(log, main, verdict)),
        backend_error=log.backend_error,
    )


def _count_layers(main: ModelLog) -> int | None:
    """Count as the line "offloaded" would, which a llama-server without any GPU does not print."""
    repeating = main.n_layer_all if main.n_layer_all is not None else main.n_layer
    return main.layers if main.layers is not None or repeating is None else repeating + 1


def _judge(main: ModelLog) -> str:
    # The compute buffers come last: without them the load is not done.
    if not {"weights", "compute"} <= {buffer.kind for buffer in main.buffers}:
        return "unknown"
    if not sum_bytes(main.buffers, "weights", on_gpu=True):
        return "cpu"
    whole = main.has_all_layers and not _weights_left(main) and not _kv_left(main) and not _takes_turns(main)
    return "full" if whole else "partial"


def _kv_left(main: ModelLog) -> bool:
    """Return whether a KV cache is off the GPU although its layer is on it."""
    return main.has_all_layers and sum_bytes(main.buffers, "kv", "recurrent", on_gpu=False) > 0


def _takes_turns(main: ModelLog) -> bool:
    """Return whether the graph is cut into more parts than the CPU's first and one for each GPU.

    One more is allowed for. Each part more is a change between GPU and CPU, for every token.
    """
    gpus = {buffer.device for buffer in main.buffers if buffer.kind == "weights" and buffer.on_gpu}
    return main.splits is not None and main.splits > len(gpus) + 2


def _weights_left(main: ModelLog) -> int:
    """Return the bytes of weights off the GPU, 0 if they are no more than the embedding of the input.

    llama.cpp keeps the embedding on the CPU always. It can be as large as its type allows; the file's largest is taken.
    """
    off, file_bytes = _weights_off(main), main.file_bytes
    embedding = _embedding_bytes(main)
    allowed = sum_bytes(main.buffers, "weights", on_gpu=True) if embedding is None else embedding
    # What the sum of logged sizes may be off by: a file's size is rounded to 0.01 GiB or 0.01 MiB.
    rounding = 6 * MIB if file_bytes >= _GIB else MIB // 16
    return off if off > allowed + rounding else 0


def _weights_off(main: ModelLog) -> int:
    on_host = sum_bytes(main.buffers, "weights", on_gpu=False)
    if not main.file_bytes:
        return on_host
    # A mapped buffer is the stretch of the file from its first tensor to its last: it says nothing about what it is.
    exact = 0 if any(buffer.device.endswith("_Mapped") for buffer in main.buffers) else on_host
    if any(buffer.device.startswith("Meta(") for buffer in main.buffers):
        return exact  # of several GPUs that share every tensor one is counted
    return max(exact, main.file_bytes - sum_bytes(main.buffers, "weights", on_gpu=True))


def _embedding_bytes(main: ModelLog) -> int | None:
    """Return the most that the embedding can take: one row for each token, and those for every layer that some have."""
    if main.n_vocab is None or main.n_embd is None:
        return None
    width = main.n_embd + main.per_layer * (main.n_layer or 0)
    # f32 is for norms, unless there is no other.
    types = main.types - {"f32"} or main.types
    return main.n_vocab * width * max(map(_bits, types), default=16) // 8


def _bits(name: str) -> int:
    """Return at least as many bits as a weight of the type takes: q4_K has 4.5, q8_0 8.5, f16 16."""
    found = re.search(r"\d+", name)
    bits = int(found[0]) if found else 16
    return bits if bits in {16, 32} else bits + 1


def _explain(log: LoadLog, main: ModelLog, verdict: str) -> Iterator[str]:
    if verdict == "unknown":
        return
    yield from _explain_cpu(log, main) if verdict == "cpu" else _explain_part(log, main)
    yield from _explain_memory(log)
    if verdict != "cpu":
        yield from _explain_others(log)


def _explain_cpu(log: LoadLog, main: ModelLog) -> Iterator[str]:
    claim = ""
    if main.layers_offloaded:
        claim = f' Its line "offloaded {main.layers_offloaded}/{main.layers} layers to GPU" is no proof of one.'
    seen = ", ".join(f"{device} ({name})" for device, name in log.gpu_names.items())
    if log.backend_error:
        yield f"No GPU is used: {log.backend_error}.{claim}"
    elif not seen:
        yield f"llama-server found no GPU.{claim}"
    elif not log.used_gpus:
        yield f"llama-server sees {seen} and was told to use none.{claim}"
    elif claim:
        yield f"All weights are on the CPU.{claim}"
    else:
        why = "to fit its memory" if log.fitted else "because gpu_layers is 0"
        yield f"llama-server put no layer on {seen}, {why}."


def _explain_part(log: LoadLog, main: ModelLog) -> Iterator[str]:
    left = _weights_left(main)
    if not main.has_all_layers:
        yield f"{_name_share(main)} on the GPU{': more do not fit its memory' if log.fitted else ''}."
    elif left:
        what = "experts" if main.n_expert else "some of their weights"
        why = ", to fit the GPU's memory" if log.fitted else ""
        yield (
            f"All {main.layers} layers count as offloaded, but {what} are on the CPU{why}: "
            f"{_name_size(left)} of the weights are not on the GPU."
        )
    if _kv_left(main):
        yield "The KV cache is in the computer's memory, and attention is computed on the CPU."
    elif main.has_all_layers and _takes_turns(main) and not left:
        yield f"Some operations run on the CPU: each token passes between GPU and CPU, in {main.splits} parts."
    if main.flash_attention == "disabled" and main.flash_mismatch:
        yield f"Flash attention is off: {main.flash_mismatch} cannot do it for this model."


def _explain_memory(log: LoadLog) -> Iterator[str]:
    if log.context_before:
        yield (
            f"llama-server reduced the context from {log.context_before} to {log.context_after} tokens to fit the "
            "memory."
        )
    if log.fit_failure:
        yield f"llama-server could not fit the model to the memory: {log.fit_failure.removesuffix(', abort')}."
    for device, total_mib in log.gpu_mib.items():
        held = sum(b.bytes for model in log.models.values() for b in model.buffers if b.device == device)
        if held > total_mib * MIB:
            yield (
                f"{device} holds {_name_size(held)} and has {_name_size(total_mib * MIB)}: "
                "the rest is in the computer's memory, through unified memory."
            )
    if log.pipeline_dropped:
        yield "There was no memory for pipeline parallelism: the GPUs work one after another."


def _explain_others(log: LoadLog) -> Iterator[str]:
    draft, projector = log.models.get("draft"), log.models.get("projector")
    if draft and {buffer.on_gpu for buffer in draft.buffers if buffer.kind == "weights"} == {False}:
        yield "The draft model is on the CPU."
    elif draft and not draft.has_all_layers:
        yield f"Of the draft model, {_name_share(draft)} on the GPU."
    if projector and not is_gpu(projector.device):
        yield "The projector, which reads images and sound, is on the CPU."


def _name_share(model: ModelLog) -> str:
    return f"{model.layers_offloaded} of {model.layers} layers {'is' if model.layers_offloaded == 1 else 'are'}"


def _name_size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / MIB:.1f} MiB"
