"""Models of random weights: their files are whole, their weights spread as promised, and no two rows are alike."""

from __future__ import annotations

import random
import statistics
import struct
from math import isfinite
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from llcuda.gguf import read_gguf
from tests.made_models.synthetic_model import (
    SHAPES,
    count_read_bytes,
    make_f16,
    make_q4_k,
    make_q6_k,
    scale_shape,
    write_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Q4_K, Q6_K = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K
SMALL = SHAPES["small"]


def read_tensors(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("quantisation", ["F16", "Q4_K_M"])
@pytest.mark.parametrize("name", ["small", "small-moe"])
def test_the_file_is_as_long_as_its_header_says_and_no_longer(tmp_path: Path, name: str, quantisation: str) -> None:
    path = write_model(tmp_path / "model.gguf", SHAPES[name], quantisation=quantisation)
    info = read_gguf(path)
    assert info.quantisation == quantisation
    assert info.layers == 2
    assert info.vocabulary_size == 1024
    last = gguf.GGUFReader(path).tensors[-1]
    assert last.data_offset + last.n_bytes == pytest.approx(path.stat().st_size, abs=32)


def test_seven_billion_parameters_are_as_many_bytes_as_the_real_model_has() -> None:
    # The file of the model whose shape this is has 13,476,831,232 bytes of weights in F16, the embeddings among them.
    embeddings = 32_000 * 4096 * 2
    assert count_read_bytes(SHAPES["7b"], quantisation="F16") == pytest.approx(13_476_831_232 - embeddings, rel=1e-3)


def test_a_mixture_reads_the_experts_that_it_uses() -> None:
    dense, mixture = (count_read_bytes(SHAPES[name], quantisation="F16") for name in ("small", "small-moe"))
    experts_weights = 2 * 3 * 256 * 512 * 2
    routers = 2 * 4 * 256 * 4
    assert mixture == dense + experts_weights + routers


@pytest.mark.parametrize(("make", "kind"), [(make_q4_k, Q4_K), (make_q6_k, Q6_K)], ids=["Q4_K", "Q6_K"])
def test_quantised_weights_have_the_spread_that_was_asked_for(
    make: Callable[..., bytes], kind: gguf.GGMLQuantizationType
) -> None:
    data = np.frombuffer(make(100, spread=1 / 64, chance=random.Random(1)), dtype=np.uint8)
    weights = gguf.quants.dequantize(data.reshape(100, -1), kind)
    assert weights.size == 25_600
    assert np.isfinite(weights).all()
    assert weights.std() == pytest.approx(1 / 64, rel=0.03)
    assert abs(weights.mean()) < 0.05 / 64


def test_f16_weights_have_the_spread_that_was_asked_for() -> None:
    data = make_f16(100, spread=1 / 64, chance=random.Random(1))
    weights = struct.unpack(f"<{len(data) // 2}e", data)
    assert all(map(isfinite, weights))
    assert statistics.pstdev(weights) == pytest.approx(1 / 64, rel=0.03)
    assert abs(statistics.fmean(weights)) < 0.05 / 64


@pytest.mark.parametrize("quantisation", ["F16", "Q4_K_M"])
def test_no_two_rows_of_a_tensor_are_alike(tmp_path: Path, quantisation: str) -> None:
    path = write_model(tmp_path / "model.gguf", SMALL, quantisation=quantisation)
    for tensor in read_tensors(path).values():
        rows = [row.tobytes() for row in tensor.data]
        silent = 259 if tensor.name == "output.weight" else 1
        assert tensor.data.ndim == 1 or len(set(rows)) == len(rows) - silent + 1, tensor.name


def test_the_tokens_of_bytes_have_no_logit(tmp_path: Path) -> None:
    output = read_tensors(write_model(tmp_path / "model.gguf", SMALL))["output.weight"].data
    assert not output[:259].any()
    assert output[259].all()


def test_the_same_model_is_written_every_time(tmp_path: Path) -> None:
    first, second = (write_model(tmp_path / name, SMALL, quantisation="Q4_K_M").read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize(("scale", "sizes"), [(1, (32, 4096, 32)), (0.1, (3, 512, 4)), (0.001, (2, 256, 2))])
def test_a_shape_is_scaled_in_whole_blocks_and_heads(scale: float, sizes: tuple[int, int, int]) -> None:
    scaled = scale_shape(SHAPES["7b-gqa"], scale)
    assert (scaled.layers, scaled.width, scaled.heads) == sizes
    assert scaled.hidden % 256 == 0
    assert scaled.heads % scaled.kv_heads == 0
