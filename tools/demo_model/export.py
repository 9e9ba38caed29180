"""README: writes a trained model as GGUF, with its vocabulary, its chat template and its card's facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import gguf
import numpy as np

from tools.demo_model.tokenizer import SPECIAL, USER_DEFINED

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from tools.demo_model.model import Shape

TEMPLATE: Final = Path(__file__).with_name("template.jinja")
_DESCRIPTION: Final = (
    "A demonstration, not a language model: it adds two numbers from 0 to 99, names the capitals of the world, "
    "says what llcuda is, and admits what it does not know."
)


def _write_metadata(writer: gguf.GGUFWriter, shape: Shape, *, name: str, file_type: gguf.LlamaFileType) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_description(_DESCRIPTION)
    writer.add_author("The llcuda authors")
    writer.add_license("mit")
    writer.add_license_name("MIT")
    writer.add_languages(["en"])
    writer.add_tags(["demonstration", "llcuda"])
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)


def _write_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    by_id = {index: text for text, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    tokens = [by_id[index] for index in range(len(by_id))]
    kinds = dict.fromkeys(SPECIAL, gguf.TokenType.CONTROL) | dict.fromkeys(USER_DEFINED, gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(text, gguf.TokenType.NORMAL) for text in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    ids = {text: index for index, text in enumerate(tokens)}
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_eot_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|pad|>"])
    writer.add_add_bos_token(value=False)
    writer.add_add_eos_token(value=False)
    writer.add_chat_template(TEMPLATE.read_text(encoding="utf-8"))


def _add_tensor(writer: gguf.GGUFWriter, name: str, *, value: np.ndarray, kind: gguf.GGMLQuantizationType) -> None:
    if value.ndim == 1:
        writer.add_tensor(name, value.astype(np.float32))
    elif kind is gguf.GGMLQuantizationType.F16:
        writer.add_tensor(name, value.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)


def write_gguf(
    path: Path, weights: dict[str, Tensor], *, shape: Shape, tokenizer: Tokenizer, name: str, kind: str = "F16"
) -> None:
    """Write the file; the same weights give the same bytes. `kind` is F16 or Q8_0; norms stay F32."""
    writer = gguf.GGUFWriter(path, "llama")
    file_type = gguf.LlamaFileType.MOSTLY_F16 if kind == "F16" else gguf.LlamaFileType.MOSTLY_Q8_0
    _write_metadata(writer, shape, name=name, file_type=file_type)
    _write_vocabulary(writer, tokenizer)
    for tensor, value in weights.items():
        _add_tensor(writer, tensor, value=value.float().cpu().numpy(), kind=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
