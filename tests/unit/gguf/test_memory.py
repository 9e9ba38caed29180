"""The estimate of a model's memory: which layers keep what, and what an unusual header must not do."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from llcuda.cli import main
from llcuda.devices import Devices, Gpu, Situation
from llcuda.errors import ModelFormatError, UsageError
from llcuda.gguf import (
    CACHE_TYPES,
    GGUFInfo,
    MemoryEstimate,
    can_quantise_cache,
    combine_parts,
    estimate_memory,
    parse_gguf,
)
from llcuda.gguf.header import MAX_KEPT_ELEMENTS
from llcuda.gguf.layers import MAX_LAYERS, read_shape
from tests.made_models.gguf_builder import ARRAY, BOOL, F32, I32, STRING, U32, Model, Tensor
from tests.made_models.gguf_mutator import cases
from tests.made_models.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

CELL = 2 * 2 * 128
"""Bytes of K and V for one token in one layer of :func:`model`."""

Pairs = dict[str, object]

SSM: Pairs = {"ssm__conv_kernel": 4, "ssm__inner_size": 512, "ssm__state_size": 16, "ssm__group_count": 1}
STATE = 4 * (3 * (512 + 2 * 16) + 16 * 512)
"""Bytes of one recurrent layer's state for one sequence with ``SSM``."""


def model(architecture: str = "llama", **changed: object) -> GGUFInfo:
    """Return a model of 8 layers with 2 of 4 heads of 64 for K and V; ``changed`` has double underscores for dots."""
    numbers: Pairs = {
        "block_count": 8,
        "context_length": 4096,
        "embedding_length": 256,
        "feed_forward_length": 512,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        **{name.replace("__", "."): value for name, value in changed.items()},
    }
    pairs: list[tuple[str | bytes, int, object]] = [("general.architecture", STRING, architecture)]
    for name, value in numbers.items():
        kind, packed = (ARRAY, (U32, value)) if isinstance(value, list) else (U32, value)
        if isinstance(value, list) and isinstance(value[0], bool):
            packed = (BOOL, value)
        pairs.append((f"{architecture}.{name}", kind, packed))
    tensors = [Tensor("token_embd.weight", (256, 100), 1), Tensor("output.weight", (256, 100), 1)]
    return parse_gguf(Model(pairs=pairs, tensors=tensors).build())


def kv(info: GGUFInfo, **options: object) -> int:
    return estimate_memory(info, **options).kv_bytes  # type: ignore[arg-type]


class TestContext:
    def test_the_models_own_context_is_planned_for(self) -> None:
        estimate = estimate_memory(model())
        assert (estimate.ctx_size, estimate.kv_bytes) == (4096, 8 * 4096 * CELL)

    @pytest.mark.parametrize(("asked", "planned"), [(1, 256), (256, 256), (257, 512), (0, 4096)])
    def test_a_context_is_rounded_up(self, asked: int, planned: int) -> None:
        assert estimate_memory(model(), ctx_size=asked).ctx_size == planned

    @pytest.mark.parametrize(("parallel", "planned"), [(None, 4096), (1, 4096), (4, 4096), (3, 3 * 1536)])
    def test_sequences_share_the_context_in_whole_blocks(self, parallel: int | None, planned: int) -> None:
        assert estimate_memory(model(), n_parallel=parallel).ctx_size == planned

    def test_less_than_no_tokens_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="-1 tokens"):
            estimate_memory(model(), ctx_size=-1)


class TestCacheTypes:
    @pytest.mark.parametrize(
        ("kind", "bytes_of_32"), [("f32", 128), ("f16", 64), ("bf16", 64), ("q8_0", 34), ("q4_0", 18), ("iq4_nl", 18)]
    )
    def test_each_type_has_its_size(self, kind: str, bytes_of_32: int) -> None:
        assert kv(model(), cache_type_k=kind, cache_type_v=kind) == 8 * 4096 * (2 * 128 // 32) * bytes_of_32

    def test_every_type_is_known(self) -> None:
        assert all(kv(model(), cache_type_k=kind) > 0 for kind in CACHE_TYPES)

    def test_a_type_that_llama_server_does_not_take_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="'q6_k' is no type"):
            estimate_memory(model(), cache_type_v="q6_k")


    @pytest.mark.parametrize(
        ("info", "can"),
        [
            (model(), True),
            (model(attention__key_length=80), False),
            (model(attention__value_length=48), False),
            (model("grok"), False),
            (model("mamba", attention__head_count=0), True),
        ],
    )
    def test_a_cache_is_quantised_in_whole_blocks_and_with_flash_attention(self, *, info: GGUFInfo, can: bool) -> None:
        assert can_quantise_cache(info) is can


class TestLayers:
    def test_heads_that_differ_between_layers_are_counted_one_by_one(self) -> None:
        assert kv(model(attention__head_count_kv=[4, 2, 2, 2, 0, 0, 0, 0])) == (2 + 3) * 4096 * CELL

    def test_without_a_number_of_kv_heads_there_are_as_many_as_heads(self) -> None:
        info = model()
        del info.metadata["llama.attention.head_count_kv"]
        assert kv(info) == 8 * 4096 * 2 * CELL

    def test_without_flash_attention_values_are_as_wide_as_the_widest(self) -> None:
        info = model(attention__head_count_kv=[4, 2, 2, 2, 2, 2, 2, 2])
        assert kv(info, flash_attention=False) == 4096 * (2 * CELL + 7 * (CELL + CELL // 2))

    @pytest.mark.parametrize(
        ("architecture", "sliding"),
        [
            ("llama", "........"),  # Mistral states a window that llama.cpp does not use
            ("phi3", "........"),
            ("gemma2", "s.s.s.s."),
            ("gemma3", "sssss.ss"),
            ("gemma3n", "ssss.sss"),
            ("gpt-oss", "s.s.s.s."),
            ("cohere2", "sss.sss."),
            ("laguna", ".sss.sss"),
            ("exaone4", "........"),
        ],
    )
    def test_the_layers_that_slide_are_those_of_the_architecture(self, architecture: str, sliding: str) -> None:
        layers = read_shape(model(architecture, attention__sliding_window=512)).layers
        assert "".join("s" if layer.sliding else "." for layer in layers) == sliding

    def test_a_file_that_names_its_sliding_layers_is_believed(self) -> None:
        named = [True, False, False, True, True, True, True, True]
        info = model("gemma4", attention__sliding_window=512, attention__sliding_window_pattern=named)
        assert [layer.sliding for layer in read_shape(info).layers] == named

    def test_sliding_layers_keep_their_window_and_a_batch(self) -> None:
        info = model("gemma3", attention__sliding_window=512)
        assert kv(info) == (1 * 4096 + 7 * 1024) * CELL
        assert kv(info, n_parallel=None) == (1 * 4096 + 7 * 2560) * CELL
        assert kv(info, n_parallel=2, ctx_size=2048) == 2 * (1 * 1024 + 7 * 1024) * CELL
        assert kv(info, swa_full=True) == 8 * 4096 * CELL

    def test_sliding_layers_may_have_heads_of_another_length(self) -> None:
        lengths = {"attention__key_length_swa": 32, "attention__value_length_swa": 32}
        info = model("gemma3", attention__sliding_window=512, **lengths)
        assert kv(info) == (1 * 4096 + 7 * 1024 // 2) * CELL

    def test_layers_that_share_a_cache_have_none(self) -> None:
        pattern = [True] * 7 + [False]
        window = {"attention__sliding_window": 512, "attention__sliding_window_pattern": pattern}
        assert kv(model("gemma4", attention__shared_kv_layers=3, **window)) == 5 * 1024 * CELL

    def test_latent_attention_keeps_keys_alone(self) -> None:
        lengths = {"attention__key_length": 576, "attention__value_length": 512, "attention__head_count_kv": 1}
        info = model("deepseek2", attention__key_length_mla=192, attention__value_length_mla=128, **lengths)
        assert kv(info) == kv(info, flash_attention=False) == 8 * 4096 * 576 * 2

    def test_layers_that_predict_further_tokens_have_no_cache(self) -> None:
        assert kv(model("glm4moe", nextn_predict_layers=1)) == 7 * 4096 * CELL
        info = model("exaone-moe", nextn_predict_layers=2, attention__sliding_window=512)
        assert [layer.sliding for layer in read_shape(info).layers][-2:] == [False, False]

    def test_a_text_encoder_has_no_cache(self) -> None:
        assert kv(model("nomic-bert")) == 0


class TestRecurrentLayers:
    def test_a_recurrent_model_keeps_a_state_for_each_sequence(self) -> None:
        info = model("mamba2", attention__head_count=0, **SSM)
        assert kv(info) == kv(info, ctx_size=100_000) == 8 * STATE
        assert kv(info, n_parallel=None) == 4 * 8 * STATE

    def test_every_fourth_layer_of_a_hybrid_has_a_cache(self) -> None:
        assert kv(model("qwen35", **SSM)) == 6 * STATE + 2 * 4096 * CELL

    def test_a_hybrids_layers_without_kv_heads_have_a_state(self) -> None:
        info = model("granitehybrid", attention__head_count_kv=[0, 0, 0, 2, 0, 0, 0, 0], **SSM)
        assert kv(info) == 7 * STATE + 4096 * CELL

    def test_layers_that_only_feed_forward_keep_nothing(self) -> None:
        kinds = {"attention__head_count_kv": [0, 0, 2, 0, 0, 0, 0, 0], "feed_forward_length": [0, 9, 0, 9, 9, 9, 9, 9]}
        assert kv(model("nemotron_h", **kinds, **SSM)) == STATE + 4096 * CELL

    @pytest.mark.parametrize(
        ("architecture", "numbers", "state"),
        [
            ("kimi-linear", {"kda__head_dim": 64}, 4 * 64 * (3 * 3 + 64)),
            ("lfm2", {"shortconv__l_cache": 3}, 256 * 2),
            ("rwkv7", {"wkv__head_size": 64}, 256 * (2 + 64)),
        ],
    )
    def test_each_kind_of_state_has_its_size(self, architecture: str, numbers: Pairs, state: int) -> None:
        assert kv(model(architecture, attention__head_count_kv=0, **numbers)) == 8 * 4 * state

    def test_each_layer_may_have_both(self) -> None:
        assert kv(model("falcon-h1", **SSM)) == 8 * (STATE + 4096 * CELL)


class TestTheSum:
    def test_the_parts_add_up_and_a_gpu_needs_less(self) -> None:
        estimate = estimate_memory(model(), mmproj=model("clip"))
        parts = (estimate.weights_bytes, estimate.kv_bytes, estimate.compute_bytes, estimate.projector_bytes)
        assert estimate.total_bytes == sum(parts)
        assert estimate.weights_bytes == 2 * 256 * 100 * 2
        assert estimate.gpu_bytes < estimate.total_bytes - 256 * 100 * 2

    def test_a_longer_context_and_a_larger_batch_need_more_computation(self) -> None:
        short, long = (estimate_memory(model(), ctx_size=size).compute_bytes for size in (1024, 65536))
        assert long - short == (65536 - 1024) * 512 * 2  # a mask of two bytes
        assert estimate_memory(model(), n_ubatch=64).compute_bytes < short

    def test_the_tensors_of_all_parts_count(self) -> None:
        assert set(combine_parts([model(), parse_gguf(extra_part())]).tensors) == {
            *("token_embd.weight", "output.weight", "blk.0.ffn_up.weight"),
        }


def extra_part() -> bytes:
    tensors = [Tensor("blk.0.ffn_up.weight", (256, 512), 1)]
    return Model(pairs=[("general.architecture", STRING, "llama")], tensors=tensors).build()


class TestInspect:
    GPUS = (
        Gpu(0, "small", "GPU-0", "7.5", 100, memory_free_mib=1),
        Gpu(1, "large", "GPU-1", "7.5", 100, memory_free_mib=64),
        Gpu(2, "unknown", "GPU-2", "7.5", 100),
    )

    @pytest.fixture
    def gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = Devices(self.GPUS, (), None, None, "nvml", Situation.OK, "")
        monkeypatch.setattr("llcuda.devices.find_devices", lambda: found)

    @pytest.mark.usefixtures("gpus")
    def test_the_parts_are_shown_and_whether_each_gpu_has_room(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        file = write_tiny_model(tmp_path / "tiny.gguf")
        assert main(["models", "inspect", str(file), "--ctx-size", "1000", "--parallel", "2"]) == 0
        shown = capsys.readouterr().out
        assert "\nKV cache at 1024 tokens" in shown
        assert re.search(r"^fits GPU 0 \(small\) +no, 1\.0 MB free$", shown, re.MULTILINE)
        assert re.search(r"^fits GPU 1 \(large\) +yes, 67\.1 MB free$", shown, re.MULTILINE)
        assert "unknown" not in shown.split("\nmemory")[1]

    @pytest.mark.usefixtures("gpus")
    def test_the_same_is_there_as_json(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        file = write_tiny_model(tmp_path / "tiny.gguf")
        arguments = ["--ctx-size", "1024", "--cache-type-k", "q8_0", "--cache-type-v", "q4_0", "--json"]
        assert main(["models", "inspect", str(file), *arguments]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["memory"]["kv_bytes"] == 1024 * (34 + 18)
        assert [gpu["fits"] for gpu in facts["memory"]["gpus"]] == [False, True]
        assert not {"tensors", "arrays"} & facts.keys()

    def test_a_cache_type_that_there_is_not_is_a_usage_error(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        file = write_tiny_model(tmp_path / "tiny.gguf")
        assert main(["models", "inspect", str(file), "--cache-type-k", "q6_k"]) == UsageError.exit_code
        assert "q8_0" in capsys.readouterr().err


class TestUnusualHeaders:
    def test_a_header_without_numbers_has_its_weights(self) -> None:
        info = parse_gguf(extra_part())
        assert estimate_memory(info).weights_bytes == 256 * 512 * 2
        assert estimate_memory(info).kv_bytes == 0

    @pytest.mark.parametrize("layers", [MAX_LAYERS + 1, 2**32 - 1])
    def test_more_layers_than_llama_cpp_takes_are_not_counted(self, layers: int) -> None:
        assert kv(model(block_count=layers)) == 0

    def test_numbers_that_are_none_do_no_harm(self) -> None:
        pairs: list[tuple[str | bytes, int, object]] = [
            ("general.architecture", STRING, "gemma3"),
            ("gemma3.block_count", U32, 2),
            ("gemma3.embedding_length", U32, 256),
            ("gemma3.attention.head_count", ARRAY, (F32, [float("nan"), float("inf")])),
            ("gemma3.attention.head_count_kv", ARRAY, (I32, [-1, 2])),
            ("gemma3.attention.sliding_window", U32, 512),
            ("gemma3.attention.sliding_window_pattern", U32, 0),
        ]
        assert isinstance(estimate_memory(parse_gguf(Model(pairs=pairs).build())), MemoryEstimate)

    def test_a_long_array_is_not_kept(self) -> None:
        assert MAX_KEPT_ELEMENTS == 2 * MAX_LAYERS
        short, long = ("llama.short", [1] * MAX_KEPT_ELEMENTS), ("llama.long", [1] * (MAX_KEPT_ELEMENTS + 1))
        pairs: list[tuple[str | bytes, int, object]] = [("general.architecture", STRING, "llama")]
        pairs += [(name, ARRAY, (U32, values)) for name, values in (short, long)]
        assert set(parse_gguf(Model(pairs=pairs).build()).arrays) == {"llama.short"}

    def test_whatever_can_be_read_can_be_estimated(self) -> None:
        estimated = 0
        for data in cases(3000, seed=4):
            try:
                info = parse_gguf(data)
            except ModelFormatError:
                continue
            assert estimate_memory(info, mmproj=info).total_bytes >= 0
            estimated += 1
        assert estimated > 100
