"""From what llama-server logged: whether a model is on a GPU in full, and what kept the rest of it off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llcuda.server.offload_reader import DRAFT, MAIN, PROJECTOR, Load, is_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llcuda.server.offload_reader import Reader

__all__ = ["explain_limits", "judge"]

_GIB = 1 << 30
_MIB = 1 << 20


def judge(main: Load) -> str:
    """Return ``cpu``, ``partial``, ``full`` or ``unknown`` for the main model."""
    kinds = {buffer.kind for buffer in main.buffers}
    if not {"weights", "compute"} <= kinds:  # the compute buffers come last: without them the load is not done
        return "unknown"
    if not _sum(main, "weights", on_gpu=True):
        return "cpu"
    whole = _has_all_layers(main) and not weights_left(main) and not _kv_left(main) and not _takes_turns(main)
    return "full" if whole else "partial"


def explain_limits(reader: Reader, verdict: str) -> tuple[str, ...]:
    """Return what kept something off the GPU, each a sentence; the weightiest comes first."""
    main = reader.loads[MAIN]
    sentences = list(_explain_cpu(reader, main) if verdict == "cpu" else _explain_part(reader, main))
    return (*sentences, *_explain_memory(reader), *(_explain_others(reader) if verdict != "cpu" else ()))


def weights_left(main: Load) -> int:
    """Return the bytes of weights off the GPU, 0 where they are no more than the embedding of the input.

    llama.cpp keeps the embedding on the CPU always. It can be as large as its type allows; the file's largest is taken.
    """
    off = _weights_off(main)
    slack = _rounding(main)
    embedding = _embedding_bytes(main)
    allowed = _sum(main, "weights", on_gpu=True) if embedding is None else embedding
    return off if off > allowed + slack else 0


def _weights_off(main: Load) -> int:
    host = [buffer for buffer in main.buffers if buffer.kind == "weights" and not buffer.on_gpu]
    on_host = sum(buffer.bytes for buffer in host)
    if not main.file_bytes:
        return on_host
    # A mapped buffer is the stretch of the file from its first tensor to its last: it says nothing about what it is.
    exact = 0 if any(buffer.device.endswith("_Mapped") for buffer in host) else on_host
    if any(buffer.device.startswith("Meta(") for buffer in main.buffers):
        return exact  # of several GPUs that share every tensor one is counted
    return max(exact, main.file_bytes - _sum(main, "weights", on_gpu=True))


def _rounding(main: Load) -> int:
    """Return what the sum of logged sizes may be off by: a file's size is rounded to 0.01 GiB or 0.01 MiB."""
    return 6 * _MIB if main.file_bytes >= _GIB else _MIB // 16


def _embedding_bytes(main: Load) -> int | None:
    """Return the most that the embedding can take: one row for each token, and those for every layer that some have."""
    numbers = main.numbers
    if "n_vocab" not in numbers or "n_embd" not in numbers:
        return None
    width = numbers["n_embd"] + numbers.get("per_layer", 0) * numbers.get("n_layer", 0)
    return numbers["n_vocab"] * width * max(map(_bits, _embedding_types(main)), default=16) // 8


def _embedding_types(main: Load) -> set[str]:
    """Return the types that an embedding may have: f32 is for norms, unless there is no other."""
    return main.types - {"f32"} or main.types


def _bits(name: str) -> int:
    """Return at least as many bits as a weight of the type takes: q4_K has 4.5, q8_0 8.5, f16 16."""
    found = re.search(r"\d+", name)
    bits = int(found[0]) if found else 16
    return bits if bits in {16, 32} else bits + 1


def _has_all_layers(main: Load) -> bool:
    return main.layers is None or main.layers_offloaded == main.layers


def _kv_left(main: Load) -> bool:
    """Tell whether a KV cache is off the GPU although its layer is on it."""
    return _has_all_layers(main) and _sum(main, "kv", on_gpu=False) + _sum(main, "recurrent", on_gpu=False) > 0


def _takes_turns(main: Load) -> bool:
    """Tell whether the graph is cut into more parts than the CPU's first and one for each GPU.

    One more is allowed for. Each part more is a change between GPU and CPU, for every token.
    """
    gpus = {buffer.device for buffer in main.buffers if buffer.kind == "weights" and buffer.on_gpu}
    return main.splits is not None and main.splits > len(gpus) + 2


def _sum(load: Load, kind: str, *, on_gpu: bool) -> int:
    return sum(buffer.bytes for buffer in load.buffers if buffer.kind == kind and buffer.on_gpu is on_gpu)


def _explain_cpu(reader: Reader, main: Load) -> Iterator[str]:
    claim = ""
    if main.layers_offloaded:
        claim = f' Its line "offloaded {main.layers_offloaded}/{main.layers} layers to GPU" is no proof of one.'
    if reader.backend_error:
        yield f"No GPU is used: {reader.backend_error}.{claim}"
    elif not reader.devices:
        yield f"llama-server found no GPU.{claim}"
    elif all(device.free_mib is not None and not device.used for device in reader.devices.values()):
        yield f"llama-server sees {_name_devices(reader)} and was told to use none.{claim}"
    elif claim:
        yield f"All weights are on the CPU.{claim}"
    else:
        why = "to fit its memory" if reader.fitted_layers else "because gpu_layers is 0"
        yield f"llama-server put no layer on {_name_devices(reader)}, {why}."


def _name_devices(reader: Reader) -> str:
    return ", ".join(f"{device} ({facts.name})" for device, facts in reader.devices.items())


def _explain_part(reader: Reader, main: Load) -> Iterator[str]:
    if not _has_all_layers(main):
        why = ": more do not fit its memory" if reader.fitted_layers else ""
        yield f"{_name_share(main)} on the GPU{why}."
    elif left := weights_left(main):
        what = "experts" if main.numbers.get("n_expert") else "some of their weights"
        why = ", to fit the GPU's memory" if reader.fitted_layers else ""
        yield (
            f"All {main.layers} layers count as offloaded, but {what} are on the CPU{why}: "
            f"{_name_size(left)} of the weights are not on the GPU."
        )
    if _kv_left(main):
        yield "The KV cache is in the computer's memory, and attention is computed on the CPU."
    elif _has_all_layers(main) and _takes_turns(main) and not weights_left(main):
        yield f"Some operations run on the CPU: each token passes between GPU and CPU, in {main.splits} parts."
    if main.flash_attention is False and main.flash_mismatch:
        yield f"Flash attention is off: {main.flash_mismatch} cannot do it for this model."


def _name_share(load: Load) -> str:
    return f"{load.layers_offloaded} of {load.layers} layers {'is' if load.layers_offloaded == 1 else 'are'}"


def _name_size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.1f} MiB"


def _explain_memory(reader: Reader) -> Iterator[str]:
    if reader.context_reduced:
        before, after = reader.context_reduced
        yield f"llama-server reduced the context from {before} to {after} tokens to fit the memory."
    if reader.fit_failure:
        yield f"llama-server could not fit the model to the memory: {reader.fit_failure}."
    for device, facts in reader.devices.items():
        held = sum(b.bytes for load in reader.loads.values() for b in load.buffers if b.device == device)
        if facts.total_mib and held > facts.total_mib * _MIB:
            yield (
                f"{device} holds {_name_size(held)} and has {_name_size(facts.total_mib * _MIB)}: "
                "the rest is in the computer's memory, through unified memory."
            )
    if reader.pipeline_dropped:
        yield "There was no memory for pipeline parallelism: the GPUs work one after another."


def _explain_others(reader: Reader) -> Iterator[str]:
    draft, projector = reader.loads.get(DRAFT), reader.loads.get(PROJECTOR)
    if draft and _sum(draft, "weights", on_gpu=False) and not _sum(draft, "weights", on_gpu=True):
        yield "The draft model is on the CPU."
    elif draft and not _has_all_layers(draft):
        yield f"Of the draft model, {_name_share(draft)} on the GPU."
    if projector and not is_gpu(projector.projector_device):
        yield "The projector, which reads images and sound, is on the CPU."
