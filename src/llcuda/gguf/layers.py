"""What each layer of a model keeps for a token and for a sequence, by llama.cpp's own rules.

The rules are those of llama.cpp b11434: ``llama_model_base::load_hparams``, the ``load_arch_hparams`` of every
architecture in src/models, ``llama-hparams.cpp`` for the sizes of recurrent states, and ``llama_model::create_memory``
for which layer has what. All sizes are numbers of elements, not bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llcuda.gguf.header import GGUFInfo

MAX_LAYERS = 512
"""llama.cpp refuses a model of more: none of its layers are looked at."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's attention, and its recurrent state if it has one."""

    heads: int
    key: int
    """Elements of K for a token: the KV heads times the length of a key."""
    value: int
    """Of V; 0 with multi-head latent attention, which keeps K alone."""
    head_key: int
    """The length of one head's key."""
    head_value: int
    """The length of one head's value."""
    cached: bool
    """Whether it has a KV cache of its own: layers that share another's have none, nor have recurrent ones."""
    sliding: bool
    """Whether it sees a window of the last tokens only."""
    state: int
    """Elements that it keeps for a sequence; 0 for attention."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's layers and what they have in common."""

    layers: tuple[Layer, ...]
    width: int
    window: int
    """Tokens that a sliding layer sees; 0 if there is none."""
    has_memory: bool
    """Whether there is a cache at all: text encoders have none."""


class _Window(NamedTuple):
    """How an architecture's sliding layers are arranged if its file does not say."""

    period: int = 0
    """One layer of so many sees everything; 0 if the file must tell."""
    dense_first: bool = False
    """Whether it is the first of them, and not the last."""
    tokens: int = 0
    """The window if the file names none."""
    fixed: bool = False
    """Whether ``tokens`` wins over what the file names."""


_WINDOWS = {
    "afmoe": _Window(4), "cohere2": _Window(4), "cohere2moe": _Window(4, dense_first=True), "dots3note": _Window(),
    "exaone-moe": _Window(4, tokens=128), "exaone4": _Window(4, tokens=4096), "gemma2": _Window(2, tokens=4096),
    "gemma3": _Window(6), "gemma3n": _Window(5), "gemma4": _Window(), "gpt-oss": _Window(2), "granite_swa": _Window(),
    "laguna": _Window(4, dense_first=True), "llama4": _Window(4, tokens=8192, fixed=True), "maple": _Window(),
    "mellum": _Window(4), "mimo2": _Window(), "muse-glimmer": _Window(4), "olmo2": _Window(4), "plamo3": _Window(8),
    "smallthinker": _Window(4, dense_first=True, tokens=4096), "spark2_5": _Window(), "step35": _Window(),
}  # fmt: skip
"""The architectures with sliding layers; elsewhere llama.cpp does not look at the window that a file names."""

_RECURRENT = {"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"}
_HYBRID_BY_HEADS = {
    *("bailingmoe3", "granitehybrid", "jamba", "kimi-k3", "kimi-linear", "lfm2", "lfm2moe", "plamo2"),
    *("nemotron_h", "nemotron_h_moe"),
}
_HYBRID_BY_PERIOD = {"qwen3next", "qwen35", "qwen35moe", "qwen4exp"}
_NO_MEMORY = {
    *("bert", "clef", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe"),
    *("modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "wavtokenizer-dec"),
}
_FULL_ATTENTION_PERIOD = 4
_GEMMA3N_CACHED_LAYERS = 20
_EXAONE4_SLIDING_LAYERS = 64


def read_number(info: GGUFInfo, key: str, default: int = 0) -> int:
    """Return the number of a ``key`` without its architecture, or the ``default``."""
    value = info.metadata.get(f"{info.architecture}.{key}")
    return max(int(value), 0) if isinstance(value, int) else default


def read_numbers(info: GGUFInfo, key: str) -> tuple[int, ...]:
    """Return the array of a ``key`` without its architecture; empty if there is none."""
    array = info.arrays.get(f"{info.architecture}.{key}", ())
    return tuple(max(int(value), 0) if isinstance(value, int) else 0 for value in array)


def read_shape(info: GGUFInfo) -> Shape:
    """Return the layers of the model that a header describes."""
    window = _read_window(info)
    sliding = _find_sliding(info) if window else (False,) * _count_layers(info)
    layers = tuple(_read_layers(info, sliding))
    has_memory = info.architecture not in _NO_MEMORY
    return Shape(layers, _read_width(info), window if any(sliding) else 0, has_memory)


def _count_layers(info: GGUFInfo) -> int:
    return info.layers if info.layers and 0 < info.layers <= MAX_LAYERS else 0


def _count_own_layers(info: GGUFInfo) -> int:
    """Return how many layers there are without those that predict further tokens, which come last."""
    count = _count_layers(info)
    own = count - read_number(info, "nextn_predict_layers")
    return own if own > 0 else count


def _read_width(info: GGUFInfo) -> int:
    return max(info.embedding_length or 0, 0)


def _read_each(info: GGUFInfo, key: str, default: int = 0) -> tuple[int, ...]:
    """Return a number for each layer; a file has one for all, or an array."""
    count = _count_layers(info)
    array = read_numbers(info, key)
    if len(array) >= count > 0:
        return array[:count]
    return (read_number(info, key, default),) * count


def _read_window(info: GGUFInfo) -> int:
    rule = _WINDOWS.get(info.architecture)
    stated = read_number(info, "attention.sliding_window", -1)
    if info.architecture == "lfm2":
        return max(stated, 0)
    if rule is None or stated == 0 or (info.architecture == "exaone4" and info.layers != _EXAONE4_SLIDING_LAYERS):
        return 0
    if info.architecture == "smallthinker":
        return rule.tokens if stated > 0 else 0
    return rule.tokens if rule.fixed or stated < 0 else stated


def _find_sliding(info: GGUFInfo) -> tuple[bool, ...]:
    """Tell of each layer whether it slides: ``load_swa_pattern`` and ``set_swa_pattern``."""
    count = _count_layers(info)
    array = read_numbers(info, "attention.sliding_window_pattern")
    if len(array) >= count > 0:
        return tuple(bool(value) for value in array[:count])
    rule = _WINDOWS.get(info.architecture, _Window())  # lfm2: every layer that has a cache
    period = read_number(info, "attention.sliding_window_pattern", rule.period)
    own = _count_own_layers(info)
    dense = 0 if rule.dense_first else period - 1
    return tuple(layer < own and (period == 0 or layer % period != dense) for layer in range(count))


def _read_layers(info: GGUFInfo, sliding: tuple[bool, ...]) -> list[Layer]:
    heads = _read_each(info, "attention.head_count")
    kv_heads = _read_each(info, "attention.head_count_kv", -1)
    feed_forward = _read_each(info, "feed_forward_length")
    recurrent = _find_recurrent(info, kv_heads, feed_forward)
    state = _count_state(info, heads)
    cached = _find_cached(info, recurrent, feed_forward)
    latent = read_number(info, "attention.key_length_mla") > 0
    layers = []
    for index, count in enumerate(heads):
        key, value = _read_head(info, heads[0], sliding=sliding[index])
        kv = count if kv_heads[index] < 0 else kv_heads[index]
        layers.append(
            Layer(
                heads=count,
                key=key * kv,
                value=0 if latent else value * kv,
                head_key=key,
                head_value=value,
                cached=cached[index],
                sliding=sliding[index],
                state=state if recurrent[index] else 0,
            )
        )
    return layers


def _read_head(info: GGUFInfo, heads: int, *, sliding: bool) -> tuple[int, int]:
    """Return the lengths of a key and of a value of one head."""
    usual = _read_width(info) // heads if heads else 0
    lengths = []
    for name in ("key", "value"):
        length = read_number(info, f"attention.{name}_length", usual) if heads else 0
        lengths.append(read_number(info, f"attention.{name}_length_swa", length) if sliding else length)
    return lengths[0], lengths[1]


def _find_recurrent(info: GGUFInfo, kv_heads: tuple[int, ...], feed_forward: tuple[int, ...]) -> list[bool]:
    if info.architecture in _RECURRENT or info.architecture == "falcon-h1":
        return [True] * len(kv_heads)
    if info.architecture in _HYBRID_BY_PERIOD:
        period = read_number(info, "full_attention_interval", _FULL_ATTENTION_PERIOD) or 1
        marks = read_numbers(info, "attention.recurrent_layers")
        if len(marks) < len(kv_heads):
            marks = tuple((layer + 1) % period for layer in range(len(kv_heads)))
        return [layer < _count_own_layers(info) and bool(marks[layer]) for layer in range(len(kv_heads))]
    if info.architecture in _HYBRID_BY_HEADS:
        nemotron = info.architecture.startswith("nemotron")
        pairs = zip(kv_heads, feed_forward, strict=True)
        return [kv == 0 and not (nemotron and hidden) for kv, hidden in pairs]
    return [False] * len(kv_heads)


def _find_cached(info: GGUFInfo, recurrent: list[bool], feed_forward: tuple[int, ...]) -> list[bool]:
    """Tell of each layer whether it has a KV cache: ``has_kv`` and the filters of ``create_memory``."""
    count = len(recurrent)
    last = _count_own_layers(info)
    if info.architecture == "gemma3n":
        last = min(last, _GEMMA3N_CACHED_LAYERS)
    elif info.architecture == "gemma4":
        last = count - read_number(info, "attention.shared_kv_layers")
    if info.architecture == "falcon-h1":
        return [True] * count
    nemotron = info.architecture.startswith("nemotron_h")
    return [layer < last and not recurrent[layer] and not (nemotron and feed_forward[layer]) for layer in range(count)]


def _count_state(info: GGUFInfo, heads: tuple[int, ...]) -> int:
    """Return the elements of one layer's recurrent state: ``n_embd_r`` + ``n_embd_s`` of llama-hparams.cpp."""
    width, first = _read_width(info), heads[0] if heads else 0
    kernel = max(read_number(info, "ssm.conv_kernel") - 1, 0)
    if rwkv := read_number(info, "wkv.head_size"):
        return width * (read_number(info, "token_shift_count", 2) + rwkv)
    if short := read_number(info, "shortconv.l_cache"):
        return width * (short - 1)
    if kda := read_number(info, "kda.head_dim"):
        return first * kda * (3 * (kernel or 3) + kda)
    inner, state = read_number(info, "ssm.inner_size"), read_number(info, "ssm.state_size")
    return kernel * (inner + 2 * read_number(info, "ssm.group_count") * state) + inner * state
