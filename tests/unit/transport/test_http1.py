"""HTTP/1.1 framing, held against h11."""

from __future__ import annotations

import itertools
from contextlib import suppress

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.errors import ConnectionFailedError, UsageError
from llcuda.transport.http1 import MAX_HEAD_BYTES, MAX_LINE_BYTES, ResponseReader, build_head, build_request

HEAD = b"HTTP/1.1 200 OK\r\n"


def read(data: bytes, *, cuts: list[int] | None = None, close: bool = False) -> tuple[ResponseReader, bytes]:
    """Feed a response, cut at some places, and return the reader and the body."""
    reader = ResponseReader("http://stub")
    places = sorted({cut % (len(data) + 1) for cut in cuts or []} | {0, len(data)})
    body = b"".join(reader.feed(data[a:b]) for a, b in itertools.pairwise(places))
    if close:
        body += reader.feed(b"")
    return reader, body


def read_with_h11(data: bytes, *, close: bool) -> tuple[int, bytes, bool, bool]:
    """Return what h11 makes of it: status, body, whether it is complete, whether the connection can go on."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if close:
        connection.receive_data(b"")
    status, body = 0, b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body, True, connection.their_state is h11.DONE and not close
        elif event in [h11.NEED_DATA, h11.PAUSED] or isinstance(event, h11.ConnectionClosed):
            return status, body, False, False


NAMES = st.sampled_from(["Server", "X-One", "Cache-Control", "ETag"])
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
INTERIM = st.lists(
    st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"]), max_size=2
)


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A well-formed response, and whether the server then closes the connection."""
    status = draw(st.sampled_from([200, 201, 204, 304, 400, 404, 500, 503]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    body = draw(st.binary(max_size=60))
    kind = draw(st.sampled_from(["length", "chunked", "close"]))
    headers = [(name.encode(), value.encode()) for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=3))]
    if draw(st.booleans()):
        headers.append((b"Connection", draw(st.sampled_from([b"close", b"Keep-Alive", b"keep-alive, Close"]))))
    if kind == "length":
        headers.append((draw(st.sampled_from([b"Content-Length", b"content-length"])), b"%d" % len(body)))
        content = body
    elif kind == "chunked" and version == b"1.1":
        headers.append((b"Transfer-Encoding", draw(st.sampled_from([b"chunked", b"Chunked"]))))
        content = draw(chunked(body))
    else:
        kind, content = "close", body
    if status in {204, 304}:
        content = b""
    head = b"".join(b"%s: %s\r\n" % header for header in headers)
    start = b"".join(draw(INTERIM)) if version == b"1.1" else b""
    whole = start + b"HTTP/%s %d Reason\r\n%s\r\n%s" % (version, status, head, content)
    return whole, kind == "close" and status not in {204, 304}


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=5))})
    pieces = [body[a:b] for a, b in itertools.pairwise(cuts) if b > a]
    extension = draw(st.sampled_from([b"", b";a=b", b" "]))
    coded = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    return coded + b"0\r\n" + draw(st.sampled_from([b"", b"X-Trailer: 1\r\n"])) + b"\r\n"


@given(responses(), st.lists(st.integers(0, 500), max_size=8))
def test_a_response_is_read_as_h11_reads_it_however_it_is_cut(response: tuple[bytes, bool], cuts: list[int]) -> None:
    data, close = response
    reader, body = read(data, cuts=cuts)
    if close and not reader.complete:
        body += reader.feed(b"")
    status, expected, complete, reusable = read_with_h11(data, close=close)
    assert (reader.status, body, reader.complete) == (status, expected, complete)
    assert reader.keep_alive == reusable


@given(responses(), st.data())
def test_a_response_that_is_cut_off_is_never_taken_for_a_whole_one(
    response: tuple[bytes, bool], data: st.DataObject
) -> None:
    whole, close = response
    if close:
        return  # such a body ends wherever the connection does
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ConnectionFailedError, match="closed the connection"):
        read(whole[:length], close=True)


@given(responses(), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_response_is_read_or_refused_with_a_typed_error(
    response: tuple[bytes, bool], changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(response[0])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with suppress(ConnectionFailedError):
        read(bytes(damaged), close=True)


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_a_typed_error(data: bytes) -> None:
    with pytest.raises(ConnectionFailedError):
        read(data, close=True)


NOT_HTTP = [
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x15\x03\x01\x00\x02\x02\x16",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"HTTP/1.1 20\r\n\r\n",
    b"HTTP/1.1 2000\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 000 Nothing\r\n\r\n",
    HEAD + b"no colon\r\n\r\n",
    HEAD + b"Name : x\r\n\r\n",
    HEAD + b": x\r\n\r\n",
    HEAD + b"A: b\r\n folded\r\n\r\n",
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 1, 2\r\n\r\n",
    HEAD + b"Content-Length: 0x10\r\n\r\n",
    HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5_0\r\nhello\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n",
]


@pytest.mark.parametrize("data", NOT_HTTP)
def test_what_is_not_http_is_refused_before_the_connection_ends(data: bytes) -> None:
    with pytest.raises(ConnectionFailedError):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"A: " + b"x" * MAX_HEAD_BYTES,
        HEAD + b"A: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * MAX_LINE_BYTES,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * MAX_LINE_BYTES,
    ],
)
def test_framing_without_an_end_is_refused_instead_of_filling_the_memory(data: bytes) -> None:
    with pytest.raises(ConnectionFailedError, match="longer than"):
        read(data)


def test_bytes_after_the_end_of_a_response_are_not_its_body_and_end_the_connection() -> None:
    reader, body = read(HEAD + b"Content-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n")
    assert (body, reader.complete, reader.keep_alive) == (b"hi", True, False)
    reader, body = read(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nmore")
    assert (body, reader.complete, reader.keep_alive) == (b"hi", True, False)


def test_a_length_beside_chunks_is_ignored_and_ends_the_connection() -> None:
    reader, body = read(HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert (body, reader.complete, reader.keep_alive) == (b"abc", True, False)


def test_headers_can_be_read_by_their_names_in_lower_case() -> None:
    reader, _ = read(HEAD + b"Content-Length: 0\r\nX-A:  one \r\nx-a: two\r\n\r\n")
    assert reader.headers == {"content-length": "0", "x-a": "one, two"}


def test_a_request_is_one_piece_with_its_length_and_its_key() -> None:
    head = build_head("host:1", user_agent="llcuda", api_key="secret")
    request = build_request("POST", "/completion", head=head, body="é".encode())
    lines, _, body = request.partition(b"\r\n\r\n")
    assert lines.split(b"\r\n")[0] == b"POST /completion HTTP/1.1"
    assert {b"Host: host:1", b"Authorization: Bearer secret", b"Content-Length: 2"} <= set(lines.split(b"\r\n"))
    assert body == "é".encode()


def test_a_request_without_a_body_has_no_length() -> None:
    request = build_request("GET", "/health", head=build_head("h", user_agent="x", api_key=None), body=None)
    assert request.endswith(b"\r\n\r\n")
    assert b"Content" not in request
    assert b"Authorization" not in request


@given(st.sampled_from(["GET", "POST"]), st.binary(max_size=50) | st.none())
def test_h11_reads_our_requests(method: str, body: bytes | None) -> None:
    connection = h11.Connection(h11.SERVER)
    head = build_head("127.0.0.1:80", user_agent="llcuda", api_key="k")
    connection.receive_data(build_request(method, "/a?b=c", head=head, body=body))
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    assert request.method == method.encode()
    received = b""
    while isinstance(event := connection.next_event(), h11.Data):
        received += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert received == (body or b"")


@pytest.mark.parametrize("key", ["", "a\r\nX: y", "a\nb", "ключ", "a\x00b"])
def test_a_key_that_would_break_the_head_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="API key"):
        build_head("h", user_agent="x", api_key=key)
