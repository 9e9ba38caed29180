"""The GGUF reader on files that are right, and on every way of being wrong that has a name."""

from __future__ import annotations

import os
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from llcuda.errors import ModelFormatError
from llcuda.gguf import combine_parts, parse_gguf, read_gguf
from llcuda.gguf import cursor as cursor_module
from llcuda.gguf.header import MAX_KEYS, MAX_TENSORS
from tests.made_models.gguf_builder import (
    ARRAY,
    BOOL,
    F32,
    I8,
    STRING,
    U16,
    U32,
    U64,
    Model,
    Tensor,
    pack_pair,
    pack_string,
    small_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def fail(data: bytes) -> ModelFormatError:
    with pytest.raises(ModelFormatError) as caught:
        parse_gguf(data, name="bad.gguf")
    assert caught.value.path == "bad.gguf"
    assert caught.value.offset is not None
    assert 0 <= caught.value.offset <= max(len(data), 4)
    return caught.value


def with_pair(key: str | bytes, kind: int, value: object) -> Model:
    model = small_model()
    model.pairs.append((key, kind, value))
    return model


class TestValidFiles:
    @pytest.mark.parametrize("version", [2, 3])
    def test_everything_is_found_in_a_small_model(self, version: int) -> None:
        data = small_model(version=version).build()
        info = parse_gguf(data)
        assert (info.version, info.architecture, info.name) == (version, "llama", "Small")
        assert (info.layers, info.context_length, info.embedding_length) == (2, 4096, 256)
        assert info.parameters == 256 * 5 + 256
        assert info.quantisation == "Q4_K_M"
        assert info.has_chat_template
        assert info.vocabulary_size == 5
        assert (info.tensor_count, info.tensor_bytes) == (2, 5 * 144 + 1024)
        assert info.file_bytes == len(data)
        assert info.split is None
        assert info.alignment == 32

    def test_scalars_are_kept_and_arrays_are_not(self) -> None:
        metadata = parse_gguf(small_model().build()).metadata
        assert metadata["llama.rope.freq_base"] == 10000.0
        assert metadata["tokenizer.ggml.add_bos_token"] is True
        assert "tokenizer.ggml.tokens" not in metadata

    def test_a_long_string_is_read_and_not_kept(self) -> None:
        model = small_model()
        model.pairs[-1] = ("tokenizer.chat_template", STRING, "x" * 5000)
        info = parse_gguf(model.build())
        assert info.has_chat_template
        assert "tokenizer.chat_template" not in info.metadata

    def test_a_file_on_disk_reads_as_its_bytes_do(self, tmp_path: Path) -> None:
        data = small_model().build()
        path = tmp_path / "small.gguf"
        path.write_bytes(data)
        assert read_gguf(path) == read_gguf(str(path)) == parse_gguf(data)

    def test_a_file_without_file_type_takes_the_commonest_tensor_type(self) -> None:
        model = small_model()
        model.pairs = [pair for pair in model.pairs if pair[0] != "general.file_type"]
        assert parse_gguf(model.build()).quantisation == "Q4_K"

    def test_a_guessed_file_type_is_named_without_the_guess(self) -> None:
        model = small_model()
        model.pairs[2] = ("general.file_type", U32, 1024 | 7)
        assert parse_gguf(model.build()).quantisation == "Q8_0"

    def test_a_file_without_tensors_or_file_type_has_no_known_quantisation(self) -> None:
        model = Model(pairs=[("general.architecture", STRING, "clip")])
        info = parse_gguf(model.build())
        assert (info.quantisation, info.parameters, info.layers) == ("unknown", 0, None)
        assert not info.has_chat_template

    def test_vocabulary_size_comes_from_the_architecture_where_there_are_no_tokens(self) -> None:
        pairs: list[tuple[str | bytes, int, object]] = [
            ("general.architecture", STRING, "llama"),
            ("llama.vocab_size", U32, 77),
        ]
        assert parse_gguf(Model(pairs=pairs).build()).vocabulary_size == 77

    def test_a_number_of_another_type_is_taken_for_absent(self) -> None:
        model = small_model()
        model.pairs[3] = ("llama.block_count", STRING, "two")
        model.pairs[4] = ("llama.context_length", BOOL, True)
        info = parse_gguf(model.build())
        assert (info.layers, info.context_length) == (None, None)

    def test_another_alignment_is_honoured(self) -> None:
        model = with_pair("general.alignment", U32, 64)
        model.alignment = 64
        assert parse_gguf(model.build()).alignment == 64

    def test_the_place_in_a_split_model_is_read(self) -> None:
        model = small_model()
        model.pairs += [("split.no", U16, 1), ("split.count", U16, 3)]
        assert parse_gguf(model.build()).split == (1, 3)

    def test_one_part_of_one_is_no_split(self) -> None:
        model = small_model()
        model.pairs += [("split.no", U16, 0), ("split.count", U16, 1)]
        assert parse_gguf(model.build()).split is None

    def test_parts_add_up_to_the_whole_model(self) -> None:
        info = parse_gguf(small_model().build())
        whole = combine_parts([info, info])
        assert whole.parameters == 2 * info.parameters
        assert whole.file_bytes == 2 * info.file_bytes
        assert (whole.name, whole.layers) == (info.name, info.layers)

    def test_missing_padding_after_the_last_tensor_is_no_error(self) -> None:
        model = small_model()
        model.tensors[-1] = Tensor("output_norm.weight", (3,), 0)
        data = model.build()
        assert parse_gguf(data[: len(data) - 20]).tensor_count == 2

    def test_an_info_can_be_hashed_and_compared(self) -> None:
        data = small_model().build()
        assert hash(parse_gguf(data)) == hash(parse_gguf(data))


class TestBrokenFiles:
    def test_an_empty_file_says_so(self) -> None:
        assert "empty" in fail(b"").reason

    @pytest.mark.parametrize("data", [b"G", b"GGU", b"XXXX" + bytes(40), bytes(44)])
    def test_another_magic_is_refused_at_byte_0(self, data: bytes) -> None:
        assert fail(data).offset == 0

    def test_forty_four_bytes_of_hostile_counts_are_refused_at_the_first(self) -> None:
        data = b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63 - 1) + bytes(20)
        assert fail(data).offset == 16

    def test_a_git_lfs_pointer_is_recognised(self) -> None:
        assert "git lfs pull" in fail(b"version https://git-lfs.github.com/spec/v1\n").hint

    def test_a_web_page_is_recognised(self) -> None:
        assert "web page" in fail(b"<!doctype html><html>").hint

    @pytest.mark.parametrize(
        ("version", "words"), [(0, "not known"), (1, "no longer"), (4, "not known"), (0x03000000, "big-endian")]
    )
    def test_another_version_is_refused_at_byte_4(self, version: int, words: str) -> None:
        error = fail(small_model(version=version).build())
        assert (error.offset, words in error.reason) == (4, True)

    def test_every_truncation_is_an_error(self) -> None:
        data = small_model().build()
        for length in range(len(data)):
            fail(data[:length])

    def test_a_truncated_tensor_says_that_the_file_is_incomplete(self) -> None:
        data = small_model().build()
        error = fail(data[:-1])
        assert "incomplete" in error.reason
        assert error.offset == len(data) - 1

    def test_more_keys_than_fit_are_refused_before_any_is_read(self) -> None:
        model = small_model()
        model.key_count = 2**40
        assert fail(model.build()).offset == 16

    def test_more_tensors_than_fit_are_refused_before_any_is_read(self) -> None:
        model = small_model()
        model.tensor_count = 2**60
        assert fail(model.build()).offset == 8

    def test_more_keys_than_any_model_has_are_refused(self) -> None:
        model = Model(key_count=MAX_KEYS + 1)
        assert "more than" in fail(model.build() + bytes(20 * MAX_KEYS)).reason

    def test_more_tensors_than_any_model_has_are_refused(self) -> None:
        model = Model(tensor_count=MAX_TENSORS + 1)
        assert "more than" in fail(model.build() + bytes(40 * MAX_TENSORS)).reason

    def test_an_empty_key_is_refused(self) -> None:
        assert "empty" in fail(with_pair("", U32, 1).build()).reason

    def test_a_key_that_is_there_twice_is_refused_where_it_comes_again(self) -> None:
        data = with_pair("general.name", STRING, "again").build()
        assert fail(data).offset == data.rindex(pack_string("general.name"))

    def test_a_key_longer_than_the_rest_of_the_file_is_refused(self) -> None:
        data = small_model().build().replace(pack_string("general.name"), struct.pack("<Q", 2**50) + b"general.name")
        assert "bytes are left" in fail(data).reason

    def test_a_key_over_its_limit_is_refused(self) -> None:
        assert "limit is 65535" in fail(with_pair("k" * 65536, U32, 1).build()).reason

    @pytest.mark.parametrize("key", [b"\xff\xfe", b"ab\x80c"])
    def test_a_key_that_is_not_utf8_is_refused_at_the_bad_byte(self, key: bytes) -> None:
        data = with_pair(key, U32, 1).build()
        error = fail(data)
        assert "UTF-8" in error.reason
        assert error.offset is not None
        assert data[error.offset] >= 0x80

    def test_a_value_that_is_not_utf8_is_refused(self) -> None:
        assert "UTF-8" in fail(with_pair("general.note", STRING, b"\xc3(").build()).reason

    def test_a_string_over_a_mebibyte_is_refused(self) -> None:
        assert "limit is 1048576" in fail(with_pair("general.note", STRING, "x" * (2**20 + 1)).build()).reason

    @pytest.mark.parametrize("kind", [13, 99, 2**32 - 1])
    def test_an_unknown_value_type_is_refused_where_it_stands(self, kind: int) -> None:
        data = small_model().build()
        place = data.index(pack_string("general.file_type")) + 8 + len("general.file_type")
        error = fail(data[:place] + struct.pack("<I", kind) + data[place + 4 :])
        assert (error.offset, str(kind) in error.reason) == (place, True)

    @pytest.mark.parametrize("kind", [ARRAY, 13, 2**32 - 1])
    def test_an_array_of_arrays_or_of_an_unknown_type_is_refused(self, kind: int) -> None:
        body = struct.pack("<IQ", kind, 1) + bytes(32)
        assert "cannot hold" in fail(with_pair("some.array", ARRAY, body).build()).reason

    @pytest.mark.parametrize("count", [2**32, 2**61, 2**64 - 1])
    @pytest.mark.parametrize("kind", [I8, U64, STRING])
    def test_an_array_longer_than_the_file_is_refused(self, kind: int, count: int) -> None:
        fail(with_pair("some.array", ARRAY, struct.pack("<IQ", kind, count) + bytes(64)).build())

    def test_a_string_in_an_array_that_is_longer_than_the_file_is_refused(self) -> None:
        body = struct.pack("<IQQ", STRING, 1, 2**64 - 1) + bytes(64)
        assert "some.array" in fail(with_pair("some.array", ARRAY, body).build()).reason

    @pytest.mark.parametrize("value", [0, 3, 48, 2**21, 2**31])
    def test_an_alignment_that_is_no_sensible_power_of_two_is_refused(self, value: int) -> None:
        assert "power of two" in fail(with_pair("general.alignment", U32, value).build()).reason

    @pytest.mark.parametrize(("kind", "value"), [(U64, 32), (STRING, "32"), (F32, 32.0), (BOOL, True)])
    def test_an_alignment_of_another_type_is_refused(self, kind: int, value: object) -> None:
        assert "32-bit" in fail(with_pair("general.alignment", kind, value).build()).reason

    def test_a_file_without_architecture_is_refused(self) -> None:
        assert "missing" in fail(Model(pairs=[("general.name", STRING, "x")]).build()).reason

    def test_an_architecture_that_is_a_number_is_refused(self) -> None:
        assert "not a string" in fail(Model(pairs=[("general.architecture", U32, 1)]).build()).reason

    @pytest.mark.parametrize(
        ("tensor", "words"),
        [
            (Tensor("x" * 64, (1,)), "limit is 63"),
            (Tensor(b"\xff", (1,)), "UTF-8"),
            (Tensor("token_embd.weight", (1,)), "twice"),
            (Tensor("t", (1, 1, 1, 1, 1)), "5 dimensions"),
            (Tensor("t", (2**63,)), "overflow"),
            (Tensor("t", (2**32, 2**32)), "overflow"),
            (Tensor("t", (0, 2**63)), "overflow"),
            (Tensor("t", (255,), 12), "whole number"),
            (Tensor("t", (), 12), "whole number"),
            (Tensor("t", (4,), 0, offset=7), "not at"),
            (Tensor("t", (4,), 0, offset=2**63), "not at"),
        ],
    )
    def test_a_tensor_that_cannot_be_is_refused(self, tensor: Tensor, words: str) -> None:
        model = small_model()
        model.tensors.append(tensor)
        assert words in fail(model.header() + bytes(4096)).reason

    @pytest.mark.parametrize("kind", [4, 31, 43, 2**32 - 1])
    def test_a_tensor_of_an_unknown_type_is_refused(self, kind: int) -> None:
        info = pack_string("t") + struct.pack("<IQIQ", 1, 4, kind, 0)
        data = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + pack_pair("general.architecture", STRING, "llama") + info
        error = fail(data + bytes(64))
        assert error.offset == len(data) - 12

    def test_a_tensor_beyond_the_end_of_the_file_is_refused(self) -> None:
        model = small_model()
        model.tensors.append(Tensor("big", (2**40,)))
        assert "incomplete" in fail(model.header() + bytes(4096)).reason

    def test_what_a_huge_tensor_claims_costs_no_memory(self) -> None:
        model = small_model()
        model.tensors.append(Tensor("big", (2**60,)))
        tracemalloc.start()
        fail(model.header() + bytes(4096))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000


class TestFilesOnDisk:
    def test_a_missing_file_is_the_callers_to_name(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_gguf(tmp_path / "none.gguf")

    @pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo])
    def test_a_folder_or_a_pipe_is_refused_without_waiting(
        self, tmp_path: Path, make: Callable[[Path], object]
    ) -> None:
        path = tmp_path / "strange.gguf"
        make(path)
        with pytest.raises(ModelFormatError, match="regular file"):
            read_gguf(path)

    def test_a_file_that_shrinks_while_it_is_read_is_an_error(self) -> None:
        data = small_model().build()
        cursor = cursor_module.Cursor(lambda offset, _: data[offset : offset + 10], len(data), name="x")
        with pytest.raises(ModelFormatError, match="became shorter"):
            cursor.take(20, "something")

    def test_the_error_says_file_place_and_remedy(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.gguf"
        path.write_bytes(b"GGUF" + struct.pack("<I", 9) + bytes(64))
        with pytest.raises(ModelFormatError) as caught:
            read_gguf(path)
        assert str(caught.value) == f"{path}: GGUF version 9 is not known, only 2 and 3 are at byte 4"
        assert caught.value.hint
