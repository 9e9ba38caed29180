"""What the computation of one batch needs beside weights and caches: the "compute buffer" of llama-server.

llama.cpp lays the tensors of its graph into one buffer, each living from the node that makes it to the last that reads
it (``ggml-alloc.c``). Its size is that of the fullest moment. The tensors, and which of them live together, are those
of ``llama-graph.cpp`` (``build_inp_embd``, ``build_qkv``, ``build_attn_mha``, ``build_ffn``, ``build_moe_ffn``) for the
batch that ``llama_context::sched_reserve`` reserves: ``n_ubatch`` tokens, one output for each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llcuda.gguf.layers import read_number, read_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from llcuda.gguf.header import GGUFInfo
    from llcuda.gguf.layers import Shape

__all__ = ["Batch", "measure_compute", "measure_embedding", "measure_projector"]

_F32, _F16 = 4, 2
_FREE_ROWS = 2
_ONE_INPUT = {"cogvlm", "deepseek4", "dflash", "eagle3", "gemma4-assistant", "graniteswitch"}
"""The architectures whose batch has either tokens or images: the others keep room for a mixture."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of the computation sees."""

    tokens: int
    outputs: int
    """Tokens of it whose logits are wanted: one for each sequence."""
    cells: int
    """Cells of the KV cache that a token may look at."""
    sliding_cells: int
    """The same in sliding layers; 0 if there are none."""
    flash_attention: bool
    rotated: bool
    """Whether the KV cache is quantised: then queries and keys are rotated first, which makes copies."""


def measure_embedding(shape: Shape, batch: Batch) -> int:
    """Return the bytes of the rows that come in, which stay with the host if one GPU has every layer."""
    return shape.width * _F32 * batch.tokens


def measure_compute(info: GGUFInfo, shape: Shape, batch: Batch) -> int:
    """Return the size in bytes of the compute buffer, without the rows that come in.

    At its start lie the embedding of the batch and what it is chosen from: the rows that came in, a mixture, and the
    mixture's copy. Of these only one is read again, so that ``_FREE_ROWS`` are free for tensors that are no wider.
    """
    row = measure_embedding(shape, batch)
    masks = (batch.cells + batch.sliding_cells) * batch.tokens * (_F16 if batch.flash_attention else _F32)
    extra = 2 * read_number(info, "embedding_length_per_layer_input") * len(shape.layers) * _F32 * batch.tokens
    free = 0 if info.architecture in _ONE_INPUT else _FREE_ROWS
    start = row * (2 + free if free else 1)
    beyond = max((_measure_layer(info, shape, batch, index=i, free=free) for i in range(len(shape.layers))), default=0)
    output = ((info.vocabulary_size or 0) + shape.width) * _F32 * batch.outputs
    return masks + extra + max(start + beyond, output)


def _measure_layer(info: GGUFInfo, shape: Shape, batch: Batch, *, index: int, free: int) -> int:
    """Return the bytes that a layer needs beyond the start of the buffer, at its fullest moment."""
    layer = shape.layers[index]
    moments = [_list_recurrent(info, shape)] if layer.state else list(_list_attention(info, shape, batch, index=index))
    mixing = max(_count_beyond(moment, [shape.width] * free) for moment in moments) * _F32 * batch.tokens
    # Behind the last layer's attention only the outputs go on.
    tokens = batch.outputs if index == len(shape.layers) - 1 else batch.tokens
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


def _list_attention(info: GGUFInfo, shape: Shape, batch: Batch, *, index: int) -> Iterator[list[int]]:
    """Yield what lives together, beside the layer's input: in elements for a token."""
    layer = shape.layers[index]
    asked = layer.heads * layer.head_value
    query = _width_of(info, index, "attn_q") or _width_of(info, index, "attn_q_b") or asked
    if f"blk.{index}.attn_qkv.weight" in info.tensors:  # turning Q and K out of one tensor copies them
        yield [query + layer.key + layer.value, query, layer.key]
    yield [shape.width, query, layer.value, layer.key]
    if not layer.value:  # latent: the query as it was, as it looks for compressed keys, and with its position
        yield [query, asked, layer.heads * layer.key]
    if batch.rotated:
        yield [query, asked, layer.value, layer.key]
    cells = batch.sliding_cells if layer.sliding else batch.cells
    yield [query, asked] if batch.flash_attention else [query, layer.heads * cells, asked]


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


def measure_projector(info: GGUFInfo) -> int:
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
