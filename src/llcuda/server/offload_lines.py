"""llama-server's log lines -> what each of them says about where a model is: the formats of 2023 to this package's.

The format strings are llama.cpp's: src/llama-model.cpp and llama-context.cpp (buffers, layers, devices),
common/fit.cpp (what was changed to fit the memory), tools/mtmd/clip.cpp (the projector), ggml-backend-reg.cpp and
ggml-cuda.cu (backends that could not be used). A line may have any prefix: a time, a container's name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from llcuda.server.offload_reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["read_lines"]


def read_lines(lines: Iterable[str]) -> Reader:
    """Return what the ``lines`` say."""
    reader = Reader()
    for line in lines:
        # What the model's file says about itself is logged too: it must not pose as llama-server's own words.
        if "general.name" not in line and ("- kv " not in line or "_per_layer_input" in line):
            _read(reader, line)
    return reader


def _read(reader: Reader, line: str) -> None:
    for rule in _RULES:
        if rule.needle in line and (rule.take is Reader.begin_server or not reader.closed):
            found = rule.pattern.search(line)
            if found:
                rule.take(reader, found)


class _Rule(NamedTuple):
    needle: str
    """What the line must have for the pattern to be tried."""
    pattern: re.Pattern[str]
    take: Callable[[Reader, re.Match[str]], None]


def _rule(needle: str, pattern: str, take: Callable[[Reader, re.Match[str]], None]) -> _Rule:
    return _Rule(needle, re.compile(pattern), take)


def _backend_rule(pattern: str, words: str) -> _Rule:
    """Return a rule for what is wrong with a backend's library."""

    def take(reader: Reader, found: re.Match[str]) -> None:
        reader.add_backend_error(words.format(found["reason"].strip()), found["library"])

    return _rule("load_backend", rf"load_backend: {pattern}", take)


_RULES = (
    _rule("loading model '", r"load_model: loading model '", Reader.begin_server),
    _rule("initializing", r"load_model: initializing(?: slots)?, n_slots", Reader.close),
    _rule("loaded meta data", r"llama_model_loader: loaded meta data with", Reader.begin_model),
    _rule("llama_context", r"constructing llama_context", Reader.begin_context),
    _rule("n_ctx ", r"llama_new_context_with_model: n_ctx +=", Reader.begin_context),
    _rule(
        "buffer size",
        r"(?P<source>\w+): +(?P<device>\S+) +(?:(?P<kind>model|KV|RS|LoRA|compute|output|DSV4 \S+ state) +)?"
        r"buffer size += +(?P<mib>\d+\.\d+) Mi?B",
        Reader.add_buffer,
    ),
    _rule("offloaded", r"offloaded (\d+)/(\d+) layers", Reader.add_offloaded),
    _rule("assigned to device", r"layer +(\d+) assigned to device ([^\s,]+)", Reader.add_layer),
    _rule(
        "using device",
        r"using device (?P<device>\S+) \((?P<name>.*?)\)"
        r"(?: \((?:unknown id|[0-9a-fA-F]+:[0-9a-fA-F:.]+)\))? - (?P<free>\d+) MiB free",
        Reader.add_used_device,
    ),
    _rule("- device ", r"model_devices: - device \d+: (\S+) \(", Reader.add_member),
    _rule(
        "MiB free)",
        r"- (?P<device>\S+) *: (?P<name>.*) \((?P<total>\d+) MiB, (?P<free>\d+) MiB free\)",
        Reader.add_seen_device,
    ),
    _rule(
        "compute capability",
        r"Device (?P<index>\d+): (?P<name>.+?), compute capability [\d.]+(?:.*VRAM: (?P<total>\d+) MiB)?",
        Reader.add_old_device,
    ),
    _rule(
        "n_",
        r"print_(?:info|meta): (?P<key>n_(?:vocab|embd|expert|layer|layer_all)) += (?P<value>\d+)$",
        Reader.add_number,
    ),
    _rule(
        "_per_layer_input",
        r"- kv +\d+: +[\w.-]+\.embedding_length_(?P<key>per_layer)_input u32 += (?P<value>\d+)$",
        Reader.add_number,
    ),
    _rule("- type", r"llama_model_loader: - type +(\w+): +\d+ tensors", Reader.add_type),
    _rule(" size ", r"print_(?:info|meta): (?:file|model) size +=? +(\d+\.\d+) ([MG]i?B)", Reader.add_file_size),
    _rule("cells", r"size += +\d+\.\d+ MiB \( *\d+ cells, +(\d+) layers", Reader.add_kv_size),
    _rule(
        "splits",
        r"(?P<source>\w+): graph.*?splits = (?P<many>\d+)(?: \(with bs=\d+\), | / )?(?P<one>\d+)?",
        Reader.add_splits,
    ),
    _rule("lash", r"(?:resolve_fused_ops|sched_reserve): Flash Attention (enabled)", Reader.add_flash),
    _rule("lash", r"Flash Attention (?:was auto, set to|not supported, set to) (enabled|disabled)", Reader.add_flash),
    _rule("flash_attn", r"flash_attn += (enabled|disabled|[01])\b", Reader.add_flash),
    _rule(
        "lash",
        r"is assigned to device (\S+) but (?:the )?Flash Attention (?:tensor )?is assigned to",
        Reader.add_flash_mismatch,
    ),
    _rule("CLIP using", r"CLIP using (\S+) backend", Reader.add_projector),
    _rule("model size", r"(?:load_hparams|clip_\w+): model size: +(\d+\.\d+) MiB", Reader.add_projector_size),
    _rule("context size reduced", r"context size reduced from (\d+) to (\d+)", Reader.add_context_reduced),
    _rule(
        "MiB used",
        r"- (?P<device>\S+) .*: +(?P<layers>\d+) layers(?: \( *(?P<part>\d+) overflowing\))?, +\d+ MiB used",
        Reader.add_fitted_layers,
    ),
    _rule(
        "to free device memory: ",
        r"(?:failed to fit params|encountered an error while trying to fit params) to free device memory: (.+)$",
        Reader.add_fit_failure,
    ),
    _rule("pipeline", r"retrying without pipeline parallelism", Reader.add_pipeline_dropped),
    _backend_rule(r"failed to load (?P<library>\S+): (?:\S*/)?(?P<reason>.+)", "could not be loaded: {}"),
    _backend_rule(r"failed to initialize backend from (?P<library>\S+): (?P<reason>.+)", "could not be used: {}"),
    _backend_rule(r"failed to find (?P<reason>\w+) in (?P<library>\S+)", "has no {}"),
    _backend_rule(r"backend (?P<library>\S+) is (?P<reason>not supported on this system)", "is {}"),
    _rule("CUDA", r"failed to initialize CUDA: (.+)", Reader.add_cuda_error),
    _rule("CUDA devices", r"(no CUDA devices) found", Reader.add_cuda_error),
    _rule(
        "B",
        r"(?:load_tensors|new_context_with_model|kv_cache_init): (?P<sum>VRAM used|mem required|system memory used"
        r"|VRAM kv self|kv self size|VRAM scratch buffer|compute buffer total size) *[:=] +(?P<mib>\d+\.\d+) Mi?B",
        Reader.add_old_sum,
    ),
)  # fmt: skip
