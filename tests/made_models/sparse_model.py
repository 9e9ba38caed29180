"""Models in the shape of real ones that take no room on the disk: their weights are a hole in the file, all zeros.

llama-server loads them as it does any other, and what it reserves for them depends on their shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.made_models.gguf_builder import ARRAY, BOOL, F32, I32, STRING, U32, Model, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNKNOWN, _CONTROL, _BYTE, _NORMAL = 2, 3, 6, 1
_F32, _F16 = 0, 1
_NARROW = (".bias", "gate_inp", "ssm_a", "ssm_conv1d")
"""What stays F32 whatever the rest is."""


@dataclass(frozen=True)
class Sparse:
    """What a model is like; ``numbers`` are further keys of its architecture."""

    architecture: str = "llama"
    layers: int = 3
    width: int = 1024
    heads: int = 16
    kv_heads: int = 16
    head: int = 64
    hidden: int = 2816
    vocabulary: int = 8192
    context: int = 4096
    experts: int = 0
    experts_used: int = 0
    kind: int = _F16
    tied: bool = False
    numbers: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, list[int] | list[bool]] = field(default_factory=dict)


def write_sparse_model(path: Path, sparse: Sparse) -> Path:
    """Write the model and return its path."""
    return _write(path, Model(pairs=list(_pairs(sparse)), tensors=list(_tensors(sparse))))


def write_sparse_projector(
    path: Path, *, width: int, layers: int, image: int, patch: int, output: int, kind: str = "idefics3"
) -> Path:
    """Write a vision projector of the SigLIP kind for a model of the width ``output``, and return its path.

    Of the kind ``gemma3`` it needs no tokens of its own in the model's vocabulary.
    """
    hidden, shuffle = 4 * width, 2
    numbers = {
        "image_size": image,
        "patch_size": patch,
        "embedding_length": width,
        "feed_forward_length": hidden,
        "block_count": layers,
        "projection_dim": output,
        "attention.head_count": width // 64,
        "projector.scale_factor": shuffle,
    }
    pairs: list[tuple[str | bytes, int, object]] = [
        ("general.architecture", STRING, "clip"),
        ("clip.has_vision_encoder", 7, True),
        ("clip.use_gelu", 7, True),
        ("clip.projector_type", STRING, kind),
        *((f"clip.vision.{name}", U32, value) for name, value in numbers.items()),
        ("clip.vision.attention.layer_norm_epsilon", F32, 1e-5),
        *((f"clip.vision.image_{name}", ARRAY, (F32, [0.5, 0.5, 0.5])) for name in ("mean", "std")),
    ]
    projections = {
        "idefics3": [Tensor("mm.model.fc.weight", (width * shuffle * shuffle, output), _F16)],
        "gemma3": [
            Tensor("mm.input_projection.weight", (output, width), _F16),
            Tensor("mm.soft_emb_norm.weight", (width,)),
        ],
    }
    tensors = [
        Tensor("v.patch_embd.weight", (patch, patch, 3, width), _F16),
        Tensor("v.patch_embd.bias", (width,)),
        Tensor("v.position_embd.weight", (width, (image // patch) ** 2)),
        *projections[kind],
        *(Tensor(f"v.post_ln.{part}", (width,)) for part in ("weight", "bias")),
    ]
    for layer in range(layers):
        matrices = {f"attn_{part}": (width, width) for part in ("q", "k", "v", "out")}
        for name, shape in {**matrices, "ffn_up": (width, hidden), "ffn_down": (hidden, width)}.items():
            tensors += [Tensor(f"v.blk.{layer}.{name}.weight", shape, _F16)]
            tensors += [Tensor(f"v.blk.{layer}.{name}.bias", shape[1:])]
        tensors += [Tensor(f"v.blk.{layer}.ln{n}.{part}", (width,)) for n in (1, 2) for part in ("weight", "bias")]
    return _write(path, Model(pairs=pairs, tensors=tensors))


def _write(path: Path, model: Model) -> Path:
    header = model.header()
    with path.open("wb") as file:
        file.write(header)
        file.truncate(_pad(len(header), model) + sum(_pad(tensor.size, model) for tensor in model.tensors))
    return path


def _pad(size: int, model: Model) -> int:
    return -(-size // model.alignment) * model.alignment


def _pairs(sparse: Sparse) -> Iterator[tuple[str | bytes, int, object]]:
    name = sparse.architecture
    numbers = {
        "context_length": sparse.context,
        "embedding_length": sparse.width,
        "block_count": sparse.layers,
        "feed_forward_length": sparse.hidden,
        "attention.head_count": sparse.heads,
        "attention.head_count_kv": sparse.kv_heads,
        "attention.key_length": sparse.head,
        "attention.value_length": sparse.head,
        "rope.dimension_count": sparse.head,
        **({"expert_count": sparse.experts, "expert_used_count": sparse.experts_used} if sparse.experts else {}),
        **({"expert_feed_forward_length": sparse.hidden} if sparse.experts else {}),
        **sparse.numbers,
    }
    yield "general.architecture", STRING, name
    for key, value in numbers.items():
        if key not in sparse.arrays:
            yield f"{name}.{key}", U32, value
    for key, values in sparse.arrays.items():
        yield f"{name}.{key}", ARRAY, (BOOL if isinstance(values[0], bool) else U32, values)
    yield f"{name}.attention.layer_norm_rms_epsilon", F32, 1e-5
    words = [f"\u2581w{number}" for number in range(3 + 256, sparse.vocabulary)]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(words)]
    silent = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    yield "tokenizer.ggml.model", STRING, "llama"
    yield "tokenizer.ggml.tokens", ARRAY, (STRING, [*silent, *words])
    yield "tokenizer.ggml.scores", ARRAY, (F32, [0.0] * sparse.vocabulary)
    yield "tokenizer.ggml.token_type", ARRAY, (I32, kinds)


def _tensors(sparse: Sparse) -> Iterator[Tensor]:
    table = (sparse.width, sparse.vocabulary)
    yield Tensor("token_embd.weight", table, sparse.kind)
    yield Tensor("token_embd_norm.weight" if sparse.architecture == "lfm2" else "output_norm.weight", (sparse.width,))
    if sparse.architecture == "gemma4":
        side = sparse.numbers["embedding_length_per_layer_input"]
        yield Tensor("per_layer_token_embd.weight", (side * sparse.layers, sparse.vocabulary), sparse.kind)
        yield Tensor("per_layer_model_proj.weight", (sparse.width, side * sparse.layers), sparse.kind)
        yield from (Tensor("per_layer_proj_norm.weight", (side,)), Tensor("rope_freqs.weight", (sparse.head // 2,)))
    if not sparse.tied:
        yield Tensor("output.weight", table, sparse.kind)
    for layer in range(sparse.layers):
        for name, shape in _list_block(sparse, layer):
            kind = _F32 if len(shape) == 1 or any(word in name for word in _NARROW) else sparse.kind
            yield Tensor(f"blk.{layer}.{name}", shape, kind)


def _list_block(sparse: Sparse, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if sparse.architecture == "mamba":
        return _mamba_block(sparse)
    if sparse.architecture == "deepseek2":
        return _latent_block(sparse)
    if sparse.architecture == "gemma4":
        sliding = sparse.arrays["attention.sliding_window_pattern"][layer]
        return _gemma4_block(sparse, sparse.numbers["attention.key_length_swa"] if sliding else sparse.head)
    if sparse.architecture == "lfm2" and not sparse.arrays["attention.head_count_kv"][layer]:
        return _convolution_block(sparse)
    return _block(sparse)


def _block(sparse: Sparse) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, query, key = sparse.width, sparse.heads * sparse.head, sparse.kv_heads * sparse.head
    yield from (("attn_norm.weight", (width,)), ("attn_output.weight", (query, width)))
    if sparse.architecture == "phi3":
        yield "attn_qkv.weight", (width, query + 2 * key)
    else:
        yield from ((f"attn_{part}.weight", (width, out)) for part, out in (("q", query), ("k", key), ("v", key)))
    if sparse.architecture in {"gemma3", "lfm2", "qwen3moe"}:
        yield from ((f"attn_{part}_norm.weight", (sparse.head,)) for part in "qk")
    if sparse.architecture == "gemma3":
        yield from ((f"post_{part}_norm.weight", (width,)) for part in ("attention", "ffw"))
    if sparse.architecture == "gpt-oss":
        yield from (("post_attention_norm.weight", (width,)), ("attn_sinks.weight", (sparse.heads,)))
        biases = (("q", query), ("k", key), ("v", key), ("output", width))
        yield from ((f"attn_{part}.bias", (out,)) for part, out in biases)
    else:
        yield "ffn_norm.weight", (width,)
    yield from _feed_forward(sparse)


def _feed_forward(sparse: Sparse) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, hidden, experts = sparse.width, sparse.hidden, sparse.experts
    suffix, each = ("_exps", (experts,)) if experts else ("", ())
    if experts:
        yield "ffn_gate_inp.weight", (width, experts)
    if sparse.architecture == "phi3":
        yield "ffn_up.weight", (width, 2 * hidden)
    else:
        yield from ((f"ffn_{part}{suffix}.weight", (width, hidden, *each)) for part in ("gate", "up"))
    yield f"ffn_down{suffix}.weight", (hidden, width, *each)
    if sparse.architecture == "gpt-oss":
        yield "ffn_gate_inp.bias", (experts,)
        yield from ((f"ffn_{part}_exps.bias", (hidden, experts)) for part in ("gate", "up"))
        yield "ffn_down_exps.bias", (width, experts)


def _mamba_block(sparse: Sparse) -> Iterator[tuple[str, tuple[int, ...]]]:
    numbers, width = sparse.numbers, sparse.width
    inner, state, rank = (numbers[f"ssm.{name}"] for name in ("inner_size", "state_size", "time_step_rank"))
    yield from (("attn_norm.weight", (width,)), ("ssm_in.weight", (width, 2 * inner)))
    yield from (("ssm_conv1d.bias", (inner,)), ("ssm_conv1d.weight", (numbers["ssm.conv_kernel"], inner)))
    yield from (("ssm_x.weight", (inner, rank + 2 * state)), ("ssm_dt.weight", (rank, inner)))
    yield from (("ssm_dt.bias", (inner,)), ("ssm_a", (state, inner)), ("ssm_d", (inner,)))
    yield "ssm_out.weight", (inner, width)


def _convolution_block(sparse: Sparse) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = sparse.width
    yield from ((f"{part}_norm.weight", (width,)) for part in ("attn", "ffn"))
    yield "shortconv.conv.weight", (sparse.numbers["shortconv.l_cache"], width)
    yield from (("shortconv.in_proj.weight", (width, 3 * width)), ("shortconv.out_proj.weight", (width, width)))
    yield from _feed_forward(sparse)


def _gemma4_block(sparse: Sparse, head: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, side = sparse.width, sparse.numbers["embedding_length_per_layer_input"]
    query, key = sparse.heads * head, sparse.kv_heads * head
    yield from ((f"attn_{part}.weight", (width, out)) for part, out in (("q", query), ("k", key), ("v", key)))
    yield from ((f"attn_{part}_norm.weight", (head,)) for part in "qk")
    for name in ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "post_norm"):
        yield f"{name}.weight", (width,)
    yield from (("attn_output.weight", (query, width)), ("inp_gate.weight", (width, side)))
    yield "proj.weight", (side, width)
    yield from _feed_forward(sparse)


def _latent_block(sparse: Sparse) -> Iterator[tuple[str, tuple[int, ...]]]:
    numbers, width, heads = sparse.numbers, sparse.width, sparse.heads
    key, value = (numbers[f"attention.{part}_length_mla"] for part in ("key", "value"))
    query_rank, rank, turned = (
        numbers[name] for name in ("attention.q_lora_rank", "attention.kv_lora_rank", "rope.dimension_count")
    )
    yield from ((f"{part}_norm.weight", (width,)) for part in ("attn", "ffn"))
    yield from (("attn_q_a.weight", (width, query_rank)), ("attn_q_a_norm.weight", (query_rank,)))
    yield from (("attn_q_b.weight", (query_rank, heads * key)), ("attn_kv_a_mqa.weight", (width, rank + turned)))
    yield from (("attn_kv_a_norm.weight", (rank,)), ("attn_k_b.weight", (key - turned, rank, heads)))
    yield from (("attn_v_b.weight", (rank, value, heads)), ("attn_output.weight", (heads * value, width)))
    yield from _feed_forward(sparse)
