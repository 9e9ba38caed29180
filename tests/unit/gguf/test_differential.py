"""The reader against the writer of the gguf package, against generated headers, and against mutated ones."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llcuda.errors import ModelFormatError
from llcuda.gguf import parse_gguf, read_gguf
from llcuda.gguf.header import MAX_KEPT_CHARACTERS
from llcuda.gguf.tensor_types import FILE_TYPES, TENSOR_TYPES
from tests.made_models.gguf_builder import (
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Model,
    Tensor,
)
from tests.made_models.gguf_mutator import cases

if TYPE_CHECKING:
    from pathlib import Path

RANGES = {
    U8: (0, 255), I8: (-128, 127), U16: (0, 65535), I16: (-32768, 32767), U32: (0, 2**32 - 1),
    I32: (-(2**31), 2**31 - 1), U64: (0, 2**64 - 1), I64: (-(2**63), 2**63 - 1),
}  # fmt: skip

VALUES = st.one_of(
    *(st.tuples(st.just(kind), st.integers(*limits)) for kind, limits in RANGES.items()),
    st.tuples(st.just(F32), st.floats(width=32, allow_nan=False)),
    st.tuples(st.just(F64), st.floats(allow_nan=False)),
    st.tuples(st.just(BOOL), st.booleans()),
    st.tuples(st.just(STRING), st.text(max_size=MAX_KEPT_CHARACTERS)),
)
KEYS = st.text(min_size=1, max_size=40).filter(lambda key: not key.startswith("general."))
TENSORS = st.lists(
    st.tuples(st.sampled_from(sorted(TENSOR_TYPES)), st.integers(1, 3), st.lists(st.integers(1, 4), max_size=3)),
    max_size=8,
)

FORMS = st.tuples(st.sampled_from([2, 3]), st.sampled_from([1, 8, 32, 64, 4096]))


@given(st.dictionaries(KEYS, VALUES, max_size=20), TENSORS, FORMS)
@settings(max_examples=100, deadline=None)
def test_what_was_written_is_read_again(
    pairs: dict[str, tuple[int, Any]], tensors: list[tuple[int, int, list[int]]], form: tuple[int, int]
) -> None:
    version, alignment = form
    model = Model(version=version, alignment=alignment)
    model.pairs = [("general.architecture", STRING, "llama"), ("general.alignment", U32, alignment)]
    model.pairs += [(key, kind, value) for key, (kind, value) in pairs.items()]
    model.tensors = [
        Tensor(f"t{number}", (blocks * TENSOR_TYPES[kind].block_elements, *rest), kind)
        for number, (kind, blocks, rest) in enumerate(tensors)
    ]
    info = parse_gguf(model.build())
    assert {key: info.metadata[key] for key in pairs} == {key: value for key, (_, value) in pairs.items()}
    assert info.tensor_bytes == sum(tensor.size for tensor in model.tensors)
    assert info.alignment == alignment


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_behind_the_magic_are_read_or_refused(tail: bytes) -> None:
    with pytest.raises(ModelFormatError):
        parse_gguf(b"GGUF\x03\0\0\0" + tail)


def test_twenty_thousand_mutated_headers_are_read_or_refused() -> None:
    outcomes = Counter(outcome(data) for data in cases(20_000, seed=1))
    # Both kinds must come, or the mutations test nothing.
    assert set(outcomes) == {"read", "refused at a place"}
    assert min(outcomes.values()) > 1000


def outcome(data: bytes) -> str:
    try:
        parse_gguf(data)
    except ModelFormatError as error:
        return "refused at a place" if error.offset is not None else "refused"
    return "read"


def test_the_same_seed_makes_the_same_cases() -> None:
    assert list(cases(50, seed=7)) == list(cases(50, seed=7)) != list(cases(50, seed=8))


class TestAgainstTheGgufPackage:
    gguf: Any = pytest.importorskip("gguf")

    @pytest.mark.parametrize("endless", ["Q4_K_M", "Q8_0", "BF16", "MXFP4", "IQ4_XS"])
    def test_file_types_have_the_packages_numbers(self, endless: str) -> None:
        known = {kind.name.removeprefix("MOSTLY_").removesuffix("_MOE"): kind.value for kind in self.gguf.LlamaFileType}
        assert FILE_TYPES[known[endless]] == endless

    def test_every_file_type_is_known(self) -> None:
        names = {
            kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE")
            for kind in self.gguf.LlamaFileType
            if kind.value < 1024
        }
        assert {number: FILE_TYPES.get(number) for number in names} == names

    def test_tensor_types_have_the_packages_sizes(self) -> None:
        # The package has 40 for Q8_1, which no file holds; ggml-common.h has two halves and 32 bytes.
        theirs = {
            kind.value: (kind.name, *self.gguf.GGML_QUANT_SIZES[kind])
            for kind in self.gguf.GGMLQuantizationType
            if kind.name != "Q8_1"
        }
        assert {number: tuple(TENSOR_TYPES[number]) for number in theirs} == theirs

    def test_a_model_that_the_package_writes_is_read_with_the_same_values(self, tmp_path: Path) -> None:
        np = pytest.importorskip("numpy")
        path = tmp_path / "written.gguf"
        writer = self.gguf.GGUFWriter(path, "qwen3")
        writer.add_name("Written elsewhere")
        writer.add_context_length(40960)
        writer.add_embedding_length(64)
        writer.add_block_count(3)
        writer.add_file_type(self.gguf.LlamaFileType.MOSTLY_Q8_0)
        writer.add_token_list([f"token {number}" for number in range(5000)])
        writer.add_token_merges(["a b", "c d"])
        writer.add_chat_template("{% for message in messages %}{% endfor %}")
        writer.add_custom_alignment(128)
        quantised = self.gguf.quants.quantize(
            np.ones((5000, 64), dtype=np.float32), self.gguf.GGMLQuantizationType.Q8_0
        )
        writer.add_tensor("token_embd.weight", quantised, raw_dtype=self.gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("output_norm.weight", np.ones(64, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

        info = read_gguf(path)
        assert (info.architecture, info.name, info.quantisation) == ("qwen3", "Written elsewhere", "Q8_0")
        assert (info.layers, info.context_length, info.embedding_length) == (3, 40960, 64)
        assert (info.vocabulary_size, info.has_chat_template, info.alignment) == (5000, True, 128)
        assert info.parameters == 5000 * 64 + 64
        assert info.tensor_bytes == quantised.nbytes + 64 * 4
