"""Large vocabularies: the fast walk over strings finds what the slow one finds, in the memory promised."""

from __future__ import annotations

import struct
import tracemalloc
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llcuda.errors import ModelFormatError
from llcuda.gguf import cursor as cursor_module
from llcuda.gguf import parse_gguf, read_gguf
from llcuda.gguf.cursor import BLOCK, PATTERN_WORTH, Cursor
from llcuda.gguf.header import MAX_STRINGS
from tests.made_models.gguf_builder import ARRAY, GEMMA_TOKENS, array_body, large_model, pack_string, small_model

if TYPE_CHECKING:
    from pathlib import Path


def open_cursor(data: bytes) -> Cursor:
    return Cursor(lambda offset, count: data[offset : offset + count], len(data), name="x")


def pack_strings(lengths: list[int], *, fill: bytes = b"\0") -> bytes:
    return b"".join(struct.pack("<Q", length) + fill * length for length in lengths)


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("gguf") / "large.gguf"
    path.write_bytes(large_model().build())
    return path


def test_the_largest_vocabulary_is_read_whole(large_file: Path) -> None:
    info = read_gguf(large_file)
    assert (info.vocabulary_size, info.tensor_count, info.layers) == (GEMMA_TOKENS, 700, 2)


def test_the_largest_vocabulary_takes_little_memory(large_file: Path) -> None:
    tracemalloc.start()
    read_gguf(large_file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


@given(
    st.lists(st.integers(0, 70), min_size=1, max_size=300),
    st.sampled_from([b"\0", b"\1", b"\n", b"\xff"]),
    st.integers(0, 40),
)
@settings(max_examples=20, deadline=None)
def test_the_fast_walk_ends_where_the_strings_end(some: list[int], fill: bytes, tail: int) -> None:
    lengths = [5] * PATTERN_WORTH + some
    data = pack_strings(lengths, fill=fill)
    cursor = open_cursor(data + pack_string("next key") * tail)
    cursor.skip_strings(len(lengths), "strings")
    assert cursor.offset == len(data)


@pytest.mark.parametrize("chunk", [64, 1000, 4096])
def test_the_walk_crosses_the_buffers_end(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(cursor_module, "CHUNK_BYTES", chunk)
    chance = Random(chunk)
    lengths = [chance.choice((0, 1, 5, 20, 63, 64, 300, 5000)) for _ in range(PATTERN_WORTH + 77)]
    cursor = open_cursor(pack_strings(lengths) + b"tail")
    cursor.skip_strings(len(lengths), "strings")
    assert cursor.take(4, "the tail") == b"tail"


@pytest.mark.parametrize("where", [0, BLOCK - 1, BLOCK, PATTERN_WORTH - 1])
def test_a_length_too_large_is_refused_wherever_it_stands(where: int) -> None:
    good = [5] * PATTERN_WORTH
    data = bytearray(pack_strings(good, fill=b"x"))
    data[where * 13 + 6] = 1
    with pytest.raises(ModelFormatError, match="strings"):
        open_cursor(bytes(data)).skip_strings(PATTERN_WORTH, "strings")


def test_fewer_strings_than_promised_are_refused() -> None:
    data = pack_strings([9] * PATTERN_WORTH, fill=b"x")
    with pytest.raises(ModelFormatError):
        open_cursor(data).skip_strings(PATTERN_WORTH + 1, "strings")


def test_more_strings_than_any_vocabulary_has_are_refused_before_they_are_walked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    walked: list[int] = []
    walk = Cursor.skip_strings

    def note(cursor: Cursor, count: int, what: str) -> None:
        walked.append(count)
        walk(cursor, count, what)

    monkeypatch.setattr(Cursor, "skip_strings", note)
    body = array_body(MAX_STRINGS + 1, bytes(8 * (MAX_STRINGS + 1)))
    model = small_model()
    model.pairs.append(("some.array", ARRAY, body))
    data = model.build()
    with pytest.raises(ModelFormatError, match="more than"):
        parse_gguf(data)
    assert sum(walked) <= MAX_STRINGS
