"""Streams of HTTP requests by a grammar that errs now and then, mutated. The same seed gives the same cases."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CANARY", "SAVED", "cases", "split"]

CANARY = b"GET /canary HTTP/1.1\r\nHost: canary\r\n\r\n"
"""Ends every stream: a reader that has lost the boundaries does not find it where the other does."""

_WRONG = 0.04
"""How often a piece of a request is one that is wrong, or unusual."""

_METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE", b"PUT")
_ODD_METHODS = (b"get", b"CONNECT", b"PRI", b"TRACE", b"GE T", b"", b"G\0T", b"POST\t", b"M-SEARCH", b"XYZZY", b" GET")
_TARGETS = (b"/", b"/v1/models", b"/a?b=c", b"/a?", b"/%2e%2e/x", b"//x", b"/?a?b", b"/a;b", b"/'(x)*")
_ODD_TARGETS = (b"*", b"http://x/y", b"x:80", b"/a b", b"", b"/a\0", b"/\xff", b"/\xc3\xa4", b"/a\tb", b"/a#b", b"/{|}")
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0")
_ODD_VERSIONS = (
    b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.10", b"http/1.1", b"HTTP/1", b"HTTP/01.1", b"", b"HTTP /1.1",
    b"HTTP/1.1 ", b"RTSP/1.0", b"HTTP/3.0", b"ICE/1.0",
)  # fmt: skip
_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"", b" \r\n", b"\0\r\n", b"\x0b\r\n", b"\x85")
_HEADERS = (
    b"Accept: */*", b"X-A: b", b"x-a:c", b"X-Empty:", b"X-Space: \t a b \t ", b"Connection: keep-alive",
    b"User-Agent: \xc3\xa4", b"Authorization: Bearer k", b"X-Comma: a, b", b'X-Quoted: "a\\"b"', b"Trailer: x-t",
    b"Connection: x-y", b"Keep-Alive: 300", b"X-Colon: a:b::c", b"Accept: text/html",
)  # fmt: skip
_ODD_HEADERS = (
    b"Host: second", b"Connection: close", b"Connection: Close, TE", b"Connection: upgrade\r\nUpgrade: h2c",
    b"Expect: 100-continue", b"Expect: 200", b" folded: x", b"\tfolded", b"X Y: z", b"X\t: z", b"X : z", b": z",
    b"novalue", b"X\0: z", b"X: a\0b", b"X: a\rb", b"X: a\nb", b"X\x80: y", b"X: \x7f", b"X: \x01", b"X(: y",
    b"X-\xc3\xa4: y", b"Content-Length: 0", b"Content-Length: 4", b"Content-Length: 1, 1", b"Content-Length: +4",
    b"Content-Length: 0x4", b"Content-Length: 4 4", b"Content-Length: -4", b"Content-Length: 4 ",
    b"Content-Length: 04", b"Content-Length:", b"Content-Length: 4,", b"Content-Length: 99999999999999999999999",
    b"Content-Length: \xb2", b"Content-Length: 4\x0b", b"Content-Length : 4", b"Content_Length: 4",
    b"Content-Length\0: 4", b"Content-Length: 18446744073709551620", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked\x0b", b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding:\tchunked\t", b"Transfer-Encoding: CHUNKED",
    b'Transfer-Encoding: "chunked"', b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding:",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding:\r\n chunked", b"Transfer_Encoding: chunked", b"X: y\r\n\r\n",
    b"X: y\nTransfer-Encoding: chunked", b"Content-Encoding: gzip", b"TE: trailers", b"Proxy-Connection: keep-alive",
    b"X: y\rContent-Length: 4",
)  # fmt: skip
_SIZES = (
    b"0%x", b"%x ", b" %x", b"+%x", b"-%x", b"0x%x", b"%x;", b"%x;a", b'%x;a="b"', b"%x;a=b;c", b"%x\t;a", b"%x;\0",
    b"%x;a\nb", b"%x\n", b"1%x", b"%xg", b"ffffffffffffffff%x", b"00000000000000000000%x", b"%x,", b"%x;a\rb",
    b'%x;a="\r\n"',
)  # fmt: skip
_TRAILERS = (
    b"X-T: u\r\n", b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: late\r\n", b"X : y\r\n",
    b" x\r\n", b"x\r\n",
)  # fmt: skip
_BYTES = (
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"\x80", b"\xff", b"0", b"1", b",", b";", b"\x0b", b"\x7f", b"G",
)  # fmt: skip
_HOST = b"Host: x"
_WORDS = (b"", b"a", b"abcd", b"{}", b"0\r\n\r\n", CANARY, b"x" * 300)

SAVED: tuple[bytes, ...] = (
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: x\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;\n\r\na\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\naXYZ0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naX\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        b"1\r\na\r\n0\r\n\r\n"
    ),
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nhello",
    b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX:\r\n\t\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
"""Streams that were a problem of somebody's parser once."""


def cases(count: int, *, seed: int) -> Iterator[bytes]:
    """Yield so many streams."""
    chance = random.Random(seed)
    for _ in range(count):
        stream = b"".join(_make_request(chance) for _ in range(chance.choice((1, 1, 1, 2, 3))))
        while chance.random() < 0.25:
            stream = _mutate(stream, chance)
        yield stream + CANARY


def split(stream: bytes, chance: random.Random) -> list[bytes]:
    """Cut a stream in up to six places."""
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.randrange(7)))
    return [stream[low:high] for low, high in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def _pick(chance: random.Random, usual: tuple[bytes, ...], odd: tuple[bytes, ...]) -> bytes:
    return chance.choice(odd if chance.random() < _WRONG else usual)


def _end(chance: random.Random) -> bytes:
    return _pick(chance, (b"\r\n",), _ENDS) if chance.random() < 0.2 else b"\r\n"


def _make_request(chance: random.Random) -> bytes:
    """Return a request that is right more often than not."""
    body, framing = _make_body(chance)
    headers = [chance.choice(_HEADERS) for _ in range(chance.randrange(4))]
    headers += [line for line in (_HOST, framing) if line and chance.random() > _WRONG]
    if chance.random() < 0.3:
        headers.append(chance.choice(_ODD_HEADERS))
    chance.shuffle(headers)
    parts = (
        _pick(chance, _METHODS, _ODD_METHODS),
        _pick(chance, _TARGETS, _ODD_TARGETS),
        _pick(chance, _VERSIONS, _ODD_VERSIONS),
    )
    lines = [_pick(chance, (b" ",), (b"  ", b"\t", b"")).join(parts), *headers]
    return b"".join(line + _end(chance) for line in lines) + _end(chance) + body


def _make_body(chance: random.Random) -> tuple[bytes, bytes]:
    """Return a body, and the header that says how long it is."""
    kind = chance.random()
    if kind < 0.35:
        return b"", b""
    if kind < 0.6:
        body = chance.choice(_WORDS)
        error = chance.choice((-1, 1, 2)) if chance.random() < _WRONG else 0
        return body, b"Content-Length: %d" % (len(body) + error)
    return _make_chunks(chance), b"Transfer-Encoding: chunked"


def _make_chunks(chance: random.Random) -> bytes:
    words = [chance.choice(_WORDS[1:]) for _ in range(chance.randrange(4))]
    chunks = [_pick(chance, (b"%x",), _SIZES) % len(word) + _end(chance) + word + _end(chance) for word in words]
    trailers = chance.choice(_TRAILERS) if chance.random() < 0.1 else b""
    last = _pick(chance, (b"0",), (b"00", b"0;x", b"", b"0 ", b"-0"))
    return b"".join(chunks) + last + _end(chance) + trailers + _end(chance)


def _mutate(stream: bytes, chance: random.Random) -> bytes:
    """Put a byte in, take some out, change one, or repeat a part."""
    at = chance.randrange(len(stream) + 1)
    kind = chance.randrange(5)
    if kind == 0:
        return stream[:at] + chance.choice(_BYTES) + stream[at:]
    if kind == 1:
        return stream[:at] + stream[at + chance.randrange(1, 4) :]
    if kind == 2:
        return stream[:at] + chance.choice(_BYTES) + stream[at + 1 :]
    if kind == 3:
        return stream[:at] + bytes([chance.randrange(256)]) + stream[at + 1 :]
    low = chance.randrange(len(stream) + 1)
    return stream[:at] + stream[low : low + chance.randrange(40)] + stream[at:]
