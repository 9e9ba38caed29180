"""How much memory a model will need, from its header alone: before a byte of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llcuda.errors import UsageError
from llcuda.gguf.compute import Batch, measure_compute, measure_embedding, measure_projector
from llcuda.gguf.layers import read_shape
from llcuda.gguf.tensor_types import TENSOR_TYPES

if TYPE_CHECKING:
    from llcuda.gguf.header import GGUFInfo
    from llcuda.gguf.layers import Shape

__all__ = ["CACHE_TYPES", "MemoryEstimate", "can_quantise_cache", "estimate_memory"]

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
"""What llama-server takes for ``--cache-type-k`` and ``-v``."""

_PADDING = 256
"""Cells: llama_context pads the context, and the cache of sliding layers, to a multiple of so many."""
_STATE_BYTES = 4
_QUANTISED_BLOCK = 32
"""Elements, in each of the quantised types."""
_DEFAULT_BATCH, _DEFAULT_UBATCH = 2048, 512
_AUTOMATIC_PARALLEL = 4
_ELEMENTS = {stored.name.lower(): (stored.block_elements, stored.block_bytes) for stored in TENSOR_TYPES.values()}


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a model will need, in bytes."""

    weights_bytes: int
    """Every tensor of the file."""
    kv_bytes: int
    """The KV caches and the recurrent states, for all sequences together."""
    compute_bytes: int
    """The compute buffer, where all is computed in one place, and the logits."""
    projector_bytes: int
    """The vision projector: weights and computation."""
    gpu_bytes: int
    """What one GPU needs to have all layers: without the embedding of the input, which stays with the host unless it is
    the output's matrix too, and without the rows that come in. CUDA itself takes some hundred MB more."""
    ctx_size: int
    """Tokens, of all sequences together, as llama-server will round them."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.projector_bytes


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells of the KV cache of one layer, all sequences together."""

    usual: int
    sliding: int
    sequences: int
    streams: int
    """The caches that the sequences have: one each, or one together."""

    def count_visible(self, shape: Shape, *, sliding: bool) -> int:
        """Return the cells that one token may look at, for the mask; 0 if no layer asks."""
        asked = any(layer.cached and layer.sliding is sliding for layer in shape.layers)
        return (self.sliding if sliding else self.usual) // self.streams if asked else 0


def estimate_memory(
    info: GGUFInfo,
    *,
    ctx_size: int | None = None,
    n_parallel: int | None = 1,
    n_batch: int = _DEFAULT_BATCH,
    n_ubatch: int = _DEFAULT_UBATCH,
    cache_type_k: str = "f16",
    cache_type_v: str = "f16",
    flash_attention: bool = True,
    swa_full: bool = False,
    mmproj: GGUFInfo | None = None,
) -> MemoryEstimate:
    """Return what the model will need with llama-server's options of these names.

    ``ctx_size`` is the training context where it is None or 0. ``n_parallel=None`` is llama-server's own choice: four
    sequences that share one cache. The types are those of ``CACHE_TYPES``. Speculation, and the indexer caches of
    DeepSeek V3.2, V4 and their kind, are not counted. Raises UsageError for another type, or less than no tokens.
    """
    _check(ctx_size, (cache_type_k, cache_type_v))
    shape = read_shape(info)
    asked = ctx_size or info.context_length or _PADDING
    n_ubatch = min(n_ubatch, n_batch, asked)
    cells = _count_cells(shape, asked, n_parallel, n_ubatch=n_ubatch, swa_full=swa_full)
    batch = Batch(
        tokens=n_ubatch,
        outputs=min(cells.sequences, n_ubatch),
        cells=cells.count_visible(shape, sliding=False),
        sliding_cells=cells.count_visible(shape, sliding=True),
        flash_attention=flash_attention,
        rotated="q" in cache_type_k + cache_type_v,
    )
    computed_on_gpu = measure_compute(info, shape, batch)
    logits = cells.sequences * (info.vocabulary_size or 0) * 4
    kv_bytes = _measure_kv(shape, cells, types=(cache_type_k, cache_type_v), flash_attention=flash_attention)
    projector_bytes = measure_projector(mmproj) if mmproj else 0
    return MemoryEstimate(
        weights_bytes=info.tensor_bytes,
        kv_bytes=kv_bytes,
        compute_bytes=computed_on_gpu + measure_embedding(shape, batch) + logits,
        projector_bytes=projector_bytes,
        gpu_bytes=info.tensor_bytes - _measure_host_weights(info) + kv_bytes + computed_on_gpu + projector_bytes,
        ctx_size=cells.usual,
    )


def can_quantise_cache(info: GGUFInfo) -> bool:
    """Tell whether llama-server takes a quantised KV cache for this model: ``llama_init_from_model``.

    Heads must have whole blocks, and quantised values need flash attention, which Grok has none of.
    """
    lengths = [length for layer in read_shape(info).layers for length in (layer.head_key, layer.head_value)]
    return info.architecture != "grok" and all(length % _QUANTISED_BLOCK == 0 for length in lengths)


def _check(ctx_size: int | None, types: tuple[str, str]) -> None:
    if ctx_size is not None and ctx_size < 0:
        raise UsageError(f"{ctx_size} tokens are less than none")
    for kind in types:
        if kind not in CACHE_TYPES:
            raise UsageError(f"{kind!r} is no type of the KV cache", hint=f"These are: {', '.join(CACHE_TYPES)}.")


def _count_cells(shape: Shape, asked: int, n_parallel: int | None, *, n_ubatch: int, swa_full: bool) -> _Cells:
    """Return how many cells there are: llama_context and llama_kv_cache_iswa."""
    sequences = _AUTOMATIC_PARALLEL if n_parallel is None else max(n_parallel, 1)
    streams = 1 if n_parallel is None else sequences
    each = _pad(_pad(asked) // streams)
    window = shape.window * (sequences if n_parallel is None else 1) + n_ubatch
    sliding = each if swa_full else _pad(min(each, window))
    return _Cells(each * streams, sliding * streams, sequences, streams)


def _measure_kv(shape: Shape, cells: _Cells, *, types: tuple[str, str], flash_attention: bool) -> int:
    """Return the bytes of all caches and states. Without flash attention V is padded to that of the widest layer."""
    if not shape.has_memory:
        return 0
    widest = 0 if flash_attention else max((layer.value for layer in shape.layers), default=0)
    total = 0
    for layer in shape.layers:
        total += layer.state * _STATE_BYTES * cells.sequences
        if layer.cached:
            count = cells.sliding if layer.sliding else cells.usual
            value = max(layer.value, widest) if layer.value else 0
            total += count * (_row_bytes(layer.key, types[0]) + _row_bytes(value, types[1]))
    return total


def _row_bytes(elements: int, kind: str) -> int:
    block, size = _ELEMENTS[kind]
    return elements // block * size


def _measure_host_weights(info: GGUFInfo) -> int:
    """Return what of the weights no GPU takes: the input's embeddings, but for what is the output's matrix too."""
    names = ["per_layer_token_embd.weight", *(["token_embd.weight"] if "output.weight" in info.tensors else [])]
    return sum(info.tensors[name].bytes for name in names if name in info.tensors)


def _pad(cells: int) -> int:
    return -(-cells // _PADDING) * _PADDING
