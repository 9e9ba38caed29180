"""What to do without, step by step, when a model runs out of memory, from the least loss to the most.

llama-server fits the layers and the context into the memory by itself if nobody set them. These steps are for what
still fails. What was asked for is left alone, but for the layers, the last thing to give before the GPU itself. A draft
model is the first: it changes no answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llcuda.engine.draft import DRAFT_OPTIONS
from llcuda.engine.placement import SPLIT_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WITHOUT_DRAFT = "the draft model is left out"

_CACHES = ("cache_type_k", "cache_type_v")
_LEAST_BATCH = 128
"""Tokens computed at once; llama-server's own 512 take about four times the compute buffer."""
_LEAST_CONTEXT = 4096
"""Tokens; what llama-server's own fitting goes down to, too."""
_SMALL_CACHE = "q8_0"
"""34 bytes for 32 numbers; f16 takes 64."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One step down: the options that it adds to those before it, and the sentence that tells it."""

    sentence: str
    options: dict[str, Any] = field(default_factory=dict)
    on_cpu: bool = False
    """The step from the GPU to the CPU, whose memory is another: what was done without before is taken back."""


def list_rungs(
    options: Mapping[str, Any],
    *,
    layers: int | None,
    context: int | None,
    on_gpu: bool,
    may_use_cpu: bool,
    may_quantise: bool = True,
    may_drop_draft: bool = False,
) -> tuple[Rung, ...]:
    """Return the steps for a load with these ``options`` (llama-server's, as given, None if not given).

    ``layers`` and ``context`` (tokens) are the model's, None if its header does not say; ``may_use_cpu`` allows the
    last step from a GPU, ``may_quantise`` that of the KV cache, ``may_drop_draft`` that of a draft model.
    """
    asked = {name for name, value in options.items() if value is not None}
    cache = _shrink_cache(options, asked) if may_quantise else ()
    draft = (Rung(WITHOUT_DRAFT, dict.fromkeys(DRAFT_OPTIONS)),) if may_drop_draft else ()
    less = (*draft, *_shrink_batch(asked), *cache, *_shrink_context(asked, context))
    if not on_gpu:
        return less
    on_cpu = Rung("the model is on the CPU", dict.fromkeys(("gpu_layers", *SPLIT_OPTIONS)), on_cpu=True)
    return (*less, *_take_layers_off(options, layers), *((on_cpu, *less) if may_use_cpu else ()))


def _shrink_batch(asked: set[str]) -> Iterator[Rung]:
    if not asked & {"ubatch_size", "batch_size"}:
        sentence = f"prompts are computed {_LEAST_BATCH} tokens at once instead of 512"
        yield Rung(sentence, {"ubatch_size": _LEAST_BATCH})


def _shrink_cache(options: Mapping[str, Any], asked: set[str]) -> Iterator[Rung]:
    # llama.cpp quantises the cache of the values only with FlashAttention.
    if asked.isdisjoint(_CACHES) and options.get("flash_attn") not in {False, "off"}:
        yield Rung(f"the KV cache is {_SMALL_CACHE} instead of f16", dict.fromkeys(_CACHES, _SMALL_CACHE))


def _shrink_context(asked: set[str], context: int | None) -> Iterator[Rung]:
    if "ctx_size" not in asked and (context is None or context > _LEAST_CONTEXT):
        sentence = f"the context has {_LEAST_CONTEXT} tokens instead of {context or 'all that the model has'}"
        yield Rung(sentence, {"ctx_size": _LEAST_CONTEXT})


def _take_layers_off(options: Mapping[str, Any], layers: int | None) -> Iterator[Rung]:
    """Halve what is on the GPU, twice."""
    if layers is None:
        return
    whole = layers + 1  # the output layer counts
    wanted = options.get("gpu_layers")
    on_gpu = min(wanted, whole) if isinstance(wanted, int) and wanted >= 0 else whole
    for part in (on_gpu // 2, on_gpu // 4):
        if part:
            yield Rung(f"{part} of {whole} layers are on the GPU", {"gpu_layers": part})
