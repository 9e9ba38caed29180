"""Requests that no gateway may pass on: each with its bytes, as they are sent, and what it is to be answered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["CHUNKED", "HOST", "HOSTILE", "KEY", "QUESTION", "WRONG_KEYS", "Hostile", "framed", "post"]

HOST = b"@HOST@"
"""What stands for the address of the gateway that is asked."""
KEY = "sk-user-0123456789abcdef"
CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
_AUTH = f"Authorization: Bearer {KEY}"
_JSON = "Content-Type: application/json"


@dataclass(frozen=True, slots=True)
class Hostile:
    """What is sent, with seconds to wait in between, and the status of the answer; 0 where there may be none."""

    name: str
    sends: tuple[bytes | float, ...]
    status: int


def head(*lines: str, request: str = f"POST {CHAT} HTTP/1.1", host: str = "Host: @HOST@") -> bytes:
    """Return a head with the right host and key, so that it is refused for nothing but what is wrong with it."""
    return "".join(f"{line}\r\n" for line in (request, host, _AUTH, *lines) if line).encode("latin-1") + b"\r\n"


def post(
    body: bytes | dict[str, Any], *lines: str, path: str = CHAT, kind: str = _JSON, host: str = "Host: @HOST@"
) -> bytes:
    """Return a request with a body, which is one that would be answered unless something is added."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(kind, f"Content-Length: {len(data)}", *lines, request=f"POST {path} HTTP/1.1", host=host) + data


def framed(*lines: str, body: bytes = b"") -> bytes:
    """Return a request whose lines say where its body ends."""
    return head(_JSON, *lines) + body


_GOOD = post(QUESTION)
_DATA = json.dumps(QUESTION).encode()
_CHUNK = b"%x\r\n%b\r\n" % (len(_DATA), _DATA)
_CHUNKS = _CHUNK + b"0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
_LENGTH = f"Content-Length: {len(_DATA)}"


def _hosts() -> list[Hostile]:
    names = {
        "of another site": ("evil.example", 421),
        "rebound": ("127.0.0.1.nip.io:8090", 421),
        "a number": ("2130706433", 421),
        "with a user": ("user@localhost", 400),
        "with a path": ("localhost/x", 400),
        "two in one": ("localhost, evil.example", 400),
        "empty": ("", 400),
        "with a dot at its end": ("localhost.", 421),
    }
    rows = [
        Hostile(f"host {name}", (post(QUESTION, host=f"Host: {host}"),), status)
        for name, (host, status) in names.items()
    ]
    return [
        *rows,
        Hostile("no host", (post(QUESTION, host=""),), 400),
        Hostile("two hosts", (post(QUESTION, "Host: evil.example"),), 400),
        Hostile(
            "host by forwarding only", (post(QUESTION, "X-Forwarded-Host: localhost", host="Host: evil.example"),), 421
        ),
        Hostile("host within an absolute target", (post(QUESTION, path="http://127.0.0.1/v1/chat/completions"),), 400),
    ]


def _origins() -> list[Hostile]:
    lines = {
        "another site": "Origin: http://evil.example",
        "null": "Origin: null",
        "another port": "Origin: http://localhost:3000",
        "two": "Origin: http://@HOST@, http://evil.example",
        "https instead": "Origin: https://@HOST@",
        "the same as a user": "Origin: http://@HOST@@evil.example",
        "none, from another site": "Sec-Fetch-Site: cross-site",
        "empty": "Origin:",
    }
    rows = [Hostile(f"origin {name}", (post(QUESTION, line),), 403) for name, line in lines.items()]
    asked = ("Origin: http://evil.example", "Access-Control-Request-Method: POST")
    return [*rows, Hostile("preflight of another site", (head(*asked, request=f"OPTIONS {CHAT} HTTP/1.1"),), 403)]


def _forms() -> list[Hostile]:
    kinds = {
        "a form": "Content-Type: application/x-www-form-urlencoded",
        "a form with files": "Content-Type: multipart/form-data; boundary=x",
        "text": "Content-Type: text/plain",
        "text that mentions JSON": "Content-Type: text/plain; application/json",
        "nothing": "",
        "two types in one": "Content-Type: application/json, text/plain",
        "JSON in UTF-16": "Content-Type: application/json; charset=utf-16",
    }
    return [Hostile(f"sent as {name}", (post(QUESTION, kind=kind),), 415) for name, kind in kinds.items()]


def _smuggling() -> list[Hostile]:
    inner = _GOOD
    lengths = {
        "plus": "+{}",
        "hex": "0x{:x}",
        "minus": "-{}",
        "a blank within": "1 {}",
        "a list": "{0}, {0}",
        "nothing": "",
        "more than 64 bits": "99999999999999999{:03d}",
        "a fraction": "{}.0",
        "an exponent": "{}e0",
        "an underscore": "1_{}",
        "a digit of another script": "\xb2",
    }
    encodings = {
        "gzip, chunked": 501,
        "identity": 501,
        "chunked, identity": 400,
        "xchunked": 501,
        "chunked;q=1": 501,
        '"chunked"': 501,
        "\x0bchunked": 400,
        "chunked, chunked": 400,
    }
    rows = [
        Hostile(f"length with {name}", (framed(f"Content-Length: {form.format(len(_DATA))}", body=_DATA),), 400)
        for name, form in lengths.items()
    ]
    rows += [
        Hostile(f"encoding {name!r}", (framed(f"Transfer-Encoding: {name}", body=_CHUNKS),), status)
        for name, status in encodings.items()
    ]
    return [
        *rows,
        Hostile("CL.TE", (framed("Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + inner),), 400),
        Hostile("TE.CL", (framed(CHUNKED, "Content-Length: 5", body=b"0\r\n\r\n" + inner),), 400),
        Hostile("TE.TE", (framed(CHUNKED, "Transfer-Encoding: x", body=b"0\r\n\r\n" + inner),), 400),
        Hostile("TE twice", (framed(CHUNKED, CHUNKED, body=_CHUNKS),), 400),
        Hostile("CL twice", (framed(_LENGTH, "Content-Length: 1", body=_DATA),), 400),
        Hostile("the same CL twice", (framed(_LENGTH, _LENGTH, body=_DATA),), 400),
        Hostile("blank before the colon", (framed("Transfer-Encoding : chunked", body=_CHUNKS),), 400),
        Hostile("folded header", (framed("Transfer-Encoding:\r\n chunked", body=_CHUNKS),), 400),
        Hostile("NUL in a value", (post(QUESTION, "X: a\0b"),), 400),
        Hostile("NUL in a name", (post(QUESTION, "X\0: a"),), 400),
        Hostile("bare CR in a value", (post(QUESTION, "X: a\rTransfer-Encoding: chunked"),), 400),
        Hostile("header without a name", (post(QUESTION, ": a"),), 400),
        Hostile("header without a colon", (post(QUESTION, "a"),), 400),
        Hostile("bare LF", (_GOOD.replace(b"\r\n", b"\n"),), 400),
        Hostile("one bare LF", (_GOOD.replace(b"\r\n", b"\n", 1),), 400),
        Hostile("chunk extension with LF", (framed(CHUNKED, body=_CHUNK.replace(b"\r\n", b";\n", 1)),), 400),
        Hostile("chunk size in words", (framed(CHUNKED, body=b"xyz\r\n" + _CHUNKS),), 400),
        Hostile("chunk size with a prefix", (framed(CHUNKED, body=b"0x" + _CHUNKS),), 400),
        Hostile("chunk size that is negative", (framed(CHUNKED, body=b"-" + _CHUNKS),), 400),
        Hostile("chunk size past 64 bits", (framed(CHUNKED, body=b"ffffffffffffffffff\r\n" + _DATA),), 400),
        Hostile("chunk longer than it says", (framed(CHUNKED, body=b"1\r\n" + _DATA + b"\r\n0\r\n\r\n"),), 400),
        Hostile("trailer with NUL", (framed(CHUNKED, body=_CHUNK + b"0\r\nX: \0\r\n\r\n"),), 400),
    ]


def _protocols() -> list[Hostile]:
    plain = head("", request=f"GET {CHAT} HTTP/1.1")
    return [
        Hostile("HTTP/0.9", (f"GET {CHAT}\r\n\r\n".encode(),), 505),
        Hostile("HTTP/0.9 with headers", (head(_JSON, _LENGTH, request=f"POST {CHAT}") + _DATA,), 505),
        Hostile("HTTP/2 in name only", (head(_JSON, _LENGTH, request=f"POST {CHAT} HTTP/2.0") + _DATA,), 505),
        Hostile("HTTP/2 preface", (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",), 400),
        Hostile("TLS", (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 500,), 400),
        Hostile("lower-case method", (_GOOD.replace(b"POST", b"post", 1),), 400),
        Hostile("a method of its own", (_GOOD.replace(b"POST", b"GIMME", 1),), 400),
        Hostile("GET where POST is meant", (plain,), 405),
        Hostile("HEAD", (head(request=f"HEAD {CHAT} HTTP/1.1"),), 405),
        Hostile("TRACE", (head(request="TRACE / HTTP/1.1"),), 405),
        Hostile("CONNECT", (head(request="CONNECT 127.0.0.1:22 HTTP/1.1"),), 400),
        Hostile("proxying", (head(request="GET http://169.254.169.254/ HTTP/1.1"),), 400),
        Hostile(
            "upgrade to a web socket",
            (head("Connection: Upgrade", "Upgrade: websocket", request="GET /ws HTTP/1.1"),),
            404,
        ),
        Hostile(
            "h2c on what is not there",
            (head("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", request="GET /x HTTP/1.1"),),
            404,
        ),
        Hostile("expectation of too much", (framed("Content-Length: 999999", "Expect: 100-continue"),), 413),
        Hostile("a good one after a bad one", (framed("Content-Length: +1", body=b"x") + _GOOD,), 400),
        Hostile("a good one after a wrong version", (b"GET /\r\n\r\n" + _GOOD,), 505),
        Hostile("noise", (bytes(range(256)) * 8,), 400),
    ]


def _paths() -> list[Hostile]:
    paths = (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page/../../config.py",
        "/page/%2e%2e%2fconfig.py",
        "/page//other.js",
        "/chat/../../etc/passwd",
        "/chat/%2e%2e/x",
        "/chat/..%5c..%5cx",
        "//etc/passwd",
        "/v1/../slots",
        "/v1/model/",
        "/V1/MODELS",
        "/v1/models;x",
        "/v1/models%00",
        "/slots/0?action=save",
        "/lora-adapters",
        "/metrics/..",
        "/.env",
    )
    rows = [Hostile(f"path {path}", (head(request=f"GET {path} HTTP/1.1"),), 404) for path in paths]
    return [
        *rows,
        Hostile("slot to be saved", (post({"filename": "/tmp/x"}, path="/slots/0?action=save"),), 404),
        Hostile("adapters to be changed", (post(b"[]", path="/lora-adapters"),), 404),
        Hostile("administrator's address", (post({}, path="/api/admin/reload"),), 403),
        Hostile("target of 2000 characters", (head(request=f"GET /{'a' * 2000} HTTP/1.1"),), 414),
        Hostile("target with NUL", (head(request="GET /\0 HTTP/1.1"),), 400),
    ]


def _floods() -> list[Hostile]:
    return [
        Hostile("200 headers", (post(QUESTION, *("X: y",) * 200),), 431),
        Hostile("40,000 names", (head(*(f"X-{number}: y" for number in range(40_000))),), 431),
        Hostile("header of 40 kB", (post(QUESTION, f"X: {'y' * 40_000}"),), 431),
        Hostile("header name of 40 kB", (post(QUESTION, f"{'y' * 40_000}: x"),), 431),
        Hostile("target without end", (b"GET /" + b"a" * 200_000,), 431),
        Hostile("two keys", (post(QUESTION, "X-Api-Key: sk-other"),), 400),
        Hostile("the key's header twice", (post(QUESTION, "Authorization: Bearer sk-other"),), 400),
        Hostile("deadline that is none", (post(QUESTION, "X-Request-Timeout: soon"),), 400),
        Hostile("deadline that is no number", (post(QUESTION, "X-Request-Timeout: nan"),), 400),
    ]


HOSTILE: tuple[Hostile, ...] = (
    *_hosts(),
    *_origins(),
    *_forms(),
    *_smuggling(),
    *_protocols(),
    *_paths(),
    *_floods(),
)

WRONG_KEYS: tuple[str, ...] = (
    "Authorization: Bearer x",
    f"Authorization: Bearer {KEY[:-1]}",
    f"Authorization: Bearer {KEY[:-1]}x",
    f"Authorization: Bearer x{KEY[1:]}",
    f"Authorization: Bearer {KEY}x",
    f"Authorization: Bearer {KEY.upper()}",
    f"Authorization: Bearer {'x' * 1000}",
    f"X-Api-Key: {KEY[:-1]}",
    f"X-Api-Key: {KEY[::-1]}",
)
"""Guesses; which of them is nearest must not be told."""
