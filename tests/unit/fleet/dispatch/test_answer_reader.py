"""A worker's answers as llhttp reads them, held against h11 and against what the clients' own reader refuses."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.fleet.dispatch.upstream import AnswerReader, UpstreamFailedError
from tests.unit.transport.test_http1 import HEAD, NOT_HTTP, read_with_h11, responses

ENDLESS = b"x" * (64 << 10)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def read(data: bytes, *, cuts: list[int] | None = None, close: bool = False) -> tuple[AnswerReader, bytes]:
    reader = AnswerReader()
    places = sorted({cut % (len(data) + 1) for cut in cuts or []} | {0, len(data)})
    body = b"".join(reader.feed(data[a:b]) for a, b in itertools.pairwise(places))
    if close and not reader.complete:
        reader.close()
    return reader, body


@given(responses(), st.lists(st.integers(0, 500), max_size=8))
def test_an_answer_is_read_as_h11_reads_it_however_it_is_cut(response: tuple[bytes, bool], cuts: list[int]) -> None:
    data, close = response
    try:
        reader, body = read(data, cuts=cuts, close=close)
    except UpstreamFailedError as error:
        assert "chunk size" in str(error)  # noqa: PT017 - it does not take a blank there
        return
    status, expected, complete, reusable = read_with_h11(data, close=close)
    assert (reader.status, body, reader.complete, reader.keep_alive) == (status, expected, complete, reusable)


@given(responses(), st.data())
def test_an_answer_that_is_cut_off_is_never_taken_for_a_whole_one(
    response: tuple[bytes, bool], data: st.DataObject
) -> None:
    whole, close = response
    if not close:
        with pytest.raises(UpstreamFailedError):
            read(whole[: data.draw(st.integers(0, len(whole) - 1))], close=True)


@given(responses(), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_answer_is_read_or_refused(response: tuple[bytes, bool], changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(response[0])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with suppress(UpstreamFailedError):
        read(bytes(damaged), close=True)


@pytest.mark.parametrize("data", NOT_HTTP)
def test_what_is_not_http_is_refused_before_the_connection_ends(data: bytes) -> None:
    with pytest.raises(UpstreamFailedError):
        read(data)


@pytest.mark.parametrize("start", [b"A: ", CHUNKED + b"1;", CHUNKED + b"0\r\nA: "])
def test_framing_without_an_end_is_refused_instead_of_filling_the_memory(start: bytes) -> None:
    with pytest.raises(UpstreamFailedError, match="longer than"):
        read(HEAD + start + ENDLESS)


@pytest.mark.parametrize("more", [b"x", HEAD, HEAD + b"Content-Length: 1\r\n\r\nx"])
@pytest.mark.parametrize("whole", [b"Content-Length: 2\r\n\r\nhi", CHUNKED + b"2\r\nhi\r\n0\r\n\r\n"])
def test_bytes_after_the_end_are_not_its_body_and_end_the_connection(whole: bytes, more: bytes) -> None:
    reader, body = read(HEAD + whole + more)
    assert (body, reader.complete, reader.keep_alive) == (b"hi", True, False)
