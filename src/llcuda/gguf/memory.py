"""How much memory a model will need, from its header alone: before a byte of it is loaded.

The computation of a batch needs a "compute buffer" beside weights and caches. llama.cpp lays the tensors of its graph
into it, each living from the node that makes it to the last that reads it (``ggml-alloc.c``). Its size is the most that
is alive at once. The tensors are those of ``llama-graph.cpp`` (``build_inp_embd``, ``build_qkv``, ``build_attn_mha``,
``build_ffn``, ``build_moe_ffn``) for the batch that ``llama_context::sched_reserve`` reserves: ``n_ubatch`` tokens, one
output for each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.gguf.layers import read_number, read_numbers, read_shape
from llcuda.gguf.tensor_types import TENSOR_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from llcuda.gguf.header import GGUFInfo
    from llcuda.gguf.layers import Shape

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
"""What llama-server takes for ``--cache-type-k`` and ``-v``."""

_PADDING = 256
"""Cells: llama_context pads the context, and the cache of sliding layers, to a multiple of so many."""
_STATE_BYTES = 4
_F32, _F16 = 4, 2
_FREE_ROWS = 2
_ONE_INPUT = {"cogvlm", "deepseek4", "dflash", "eagle3", "gemma4-assistant", "graniteswitch"}
"""The architectures whose batch has either tokens or images: the others keep room for a mixture."""
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
    """The compute buffer, if all is computed in one place, and the logits."""
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
class _Load:
    """What is computed at once, and what is kept: the cells of the KV cache of one layer, all sequences together."""

    tokens: int
    """Of one step of the computation."""
    sequences: int
    cells: int
    sliding_cells: int
    visible: dict[bool, int]
    """Cells that one token may look at, in sliding layers and in others; 0 if there are none."""
    flash_attention: bool
    types: tuple[str, str]
    """Of K and V."""

    @property
    def outputs(self) -> int:
        """The tokens of a step whose logits are wanted: one for each sequence."""
        return min(self.sequences, self.tokens)


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

    ``ctx_size`` is the training context if it is None or 0. ``n_parallel=None`` is llama-server's own choice: four
    sequences that share one cache. The types are those of ``CACHE_TYPES``. Speculation, and the indexer caches of
    DeepSeek V3.2, V4 and their kind, are not counted. Raises UsageError for another type, or less than no tokens.
    """
    _check(ctx_size, (cache_type_k, cache_type_v))
    shape = read_shape(info)
    asked = ctx_size or info.context_length or _PADDING
    load = _plan_load(
        shape,
        asked,
        n_parallel,
        tokens=min(n_ubatch, n_batch, asked),
        swa_full=swa_full,
        flash_attention=flash_attention,
        types=(cache_type_k, cache_type_v),
    )
    computed_on_gpu = _measure_compute(info, shape, load)
    logits = load.sequences * (info.vocabulary_size or 0) * _F32
    kv_bytes = _measure_kv(shape, load)
    projector_bytes = _measure_projector(mmproj) if mmproj else 0
    return MemoryEstimate(
        weights_bytes=info.tensor_bytes,
        kv_bytes=kv_bytes,
        compute_bytes=computed_on_gpu + _measure_embedding(shape, load) + logits,
        projector_bytes=projector_bytes,
        gpu_bytes=info.tensor_bytes - _measure_host_weights(info) + kv_bytes + computed_on_gpu + projector_bytes,
        ctx_size=load.cells,
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


def _plan_load(shape: Shape, asked: int, n_parallel: int | None, *, tokens: int, swa_full: bool, **kept: Any) -> _Load:
    """Count the cells as llama_context and llama_kv_cache_iswa do."""
    sequences = _AUTOMATIC_PARALLEL if n_parallel is None else max(n_parallel, 1)
    streams = 1 if n_parallel is None else sequences
    each = _pad(_pad(asked) // streams)
    window = shape.window * (sequences if n_parallel is None else 1) + tokens
    sliding = each if swa_full else _pad(min(each, window))
    kinds = {layer.sliding for layer in shape.layers if layer.cached}
    visible = {True: sliding if True in kinds else 0, False: each if False in kinds else 0}
    return _Load(tokens, sequences, each * streams, sliding * streams, visible, **kept)


def _measure_kv(shape: Shape, load: _Load) -> int:
    """Return the bytes of all caches and states. Without flash attention V is padded to that of the widest layer."""
    if not shape.has_memory:
        return 0
    widest = 0 if load.flash_attention else max((layer.value for layer in shape.layers), default=0)
    total = 0
    for layer in shape.layers:
        total += layer.state * _STATE_BYTES * load.sequences
        if layer.cached:
            count = load.sliding_cells if layer.sliding else load.cells
            value = max(layer.value, widest) if layer.value else 0
            total += count * (_row_bytes(layer.key, load.types[0]) + _row_bytes(value, load.types[1]))
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


def _measure_embedding(shape: Shape, load: _Load) -> int:
    """Return the bytes of the rows that come in, which stay with the host if one GPU has every layer."""
    return shape.width * _F32 * load.tokens


def _measure_compute(info: GGUFInfo, shape: Shape, load: _Load) -> int:
    """Return the size in bytes of the compute buffer, without the rows that come in.

    At its start lie the embedding of the batch and what it is chosen from: the rows that came in, a mixture, and the
    mixture's copy. Of these only one is read again, so that ``_FREE_ROWS`` are free for tensors that are no wider.
    """
    row = _measure_embedding(shape, load)
    masks = sum(load.visible.values()) * load.tokens * (_F16 if load.flash_attention else _F32)
    extra = 2 * read_number(info, "embedding_length_per_layer_input") * len(shape.layers) * _F32 * load.tokens
    free = 0 if info.architecture in _ONE_INPUT else _FREE_ROWS
    start = row * (2 + free if free else 1)
    beyond = max((_measure_layer(info, shape, load, index=i, free=free) for i in range(len(shape.layers))), default=0)
    output = ((info.vocabulary_size or 0) + shape.width) * _F32 * load.outputs
    return masks + extra + max(start + beyond, output)


def _measure_layer(info: GGUFInfo, shape: Shape, load: _Load, *, index: int, free: int) -> int:
    """Return the bytes that a layer needs beyond the start of the buffer, at most."""
    layer = shape.layers[index]
    moments = [_list_recurrent(info, shape)] if layer.state else list(_list_attention(info, shape, load, index=index))
    mixing = max(_count_beyond(moment, [shape.width] * free) for moment in moments) * _F32 * load.tokens
    # Behind the last layer's attention only the outputs go on.
    tokens = load.outputs if index == len(shape.layers) - 1 else load.tokens
    feed_forward = _list_feed_forward(info, shape, index=index)
    return max(mixing, *(_count_beyond(moment, [shape.width] * free) * _F32 * tokens for moment in feed_forward))


def _count_beyond(sizes: Iterable[int], rooms: Iterable[int]) -> int:
    """Return the elements that find no place in the ``rooms`` that are free."""
    left, beyond = list(rooms), 0
    for size in sizes:
        place = next((place for place, room in enumerate(left) if size <= room), None)
        if place is None:
            beyond += size
        else:
            left[place] -= size
    return beyond


def _list_attention(info: GGUFInfo, shape: Shape, load: _Load, *, index: int) -> Iterator[list[int]]:
    """Yield what lives together, beside the layer's input: in elements for a token."""
    layer = shape.layers[index]
    asked = layer.heads * layer.head_value
    query = _width_of(info, index, "attn_q") or _width_of(info, index, "attn_q_b") or asked
    if f"blk.{index}.attn_qkv.weight" in info.tensors:  # turning Q and K out of one tensor copies them
        yield [query + layer.key + layer.value, query, layer.key]
    yield [shape.width, query, layer.value, layer.key]
    if not layer.value:  # latent: the query as it was, as it looks for compressed keys, and with its position
        yield [query, asked, layer.heads * layer.key]
    if "q" in "".join(load.types):  # queries and keys are rotated first, which makes copies
        yield [query, asked, layer.value, layer.key]
    cells = load.visible[layer.sliding]
    yield [query, asked] if load.flash_attention else [query, layer.heads * cells, asked]


def _list_recurrent(info: GGUFInfo, shape: Shape) -> list[int]:
    """Return about what lives together in a Mamba block: its doubled input twice, and the inputs of the state."""
    inner = read_number(info, "ssm.inner_size", 2 * shape.width)
    return [shape.width, 2 * inner, inner, inner]


def _list_feed_forward(info: GGUFInfo, shape: Shape, *, index: int) -> list[list[int]]:
    """Return what lives together: gate, up and their product, of each expert in use."""
    hidden = _width_of(info, index, "ffn_up_exps") or _width_of(info, index, "ffn_gate_up_exps") // 2
    if hidden:
        each = read_numbers(info, "expert_used_count")
        used = each[index] if index < len(each) else read_number(info, "expert_used_count")
        shared = [shape.width] if _width_of(info, index, "ffn_up_shexp") else []
        made, down = hidden * used, shape.width * used
        return [[*shared, made, made, made], [*shared, made, down], [*shared, down, shape.width]]
    hidden = _width_of(info, index, "ffn_up")
    if f"blk.{index}.ffn_gate.weight" in info.tensors:
        return [[shape.width, hidden, hidden], [hidden, hidden, hidden]]
    narrow = info.tensors.get(f"blk.{index}.ffn_down.weight")
    fused = narrow is not None and hidden == 2 * narrow.shape[0]
    return [[shape.width, hidden], [hidden, hidden // 2 if fused else shape.width]]


def _width_of(info: GGUFInfo, index: int, name: str) -> int:
    """Return how many elements a layer's matrix makes for a token; 0 if there is none."""
    tensor = info.tensors.get(f"blk.{index}.{name}.weight")
    return tensor.shape[1] if tensor is not None and len(tensor.shape) > 1 else 0


def _measure_projector(info: GGUFInfo) -> int:
    """Return the bytes of a vision projector: its weights, and the computation of one image of its own size.

    A projector that takes images of any size (no ``clip.vision.image_size``) needs more for a larger one.
    """
    width, side = read_number(info, "vision.embedding_length"), read_number(info, "vision.image_size")
    patches = (side // (read_number(info, "vision.patch_size") or 1)) ** 2
    row, hidden = patches * width, patches * read_number(info, "vision.feed_forward_length")
    # The picture lies first, three colours to a point; once it is cut into patches, its room is free.
    picture = 3 * side * side
    attention = [row] * 6  # the residual and its norm, Q, K, V, and K and V again with half the bits
    beyond = max(_count_beyond(moment, [picture]) for moment in (attention, [row, row, hidden]))
    return info.tensor_bytes + _F32 * (picture + beyond)
