"""Bodies that no gateway may pass on: too large, too slow, no JSON, or with fields that are not for clients."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.inputs.hostile_requests import CHUNKED, QUESTION, Hostile, framed, post

__all__ = ["HOSTILE_BODIES", "MAX_BODY_BYTES"]

MAX_BODY_BYTES = 128 << 10
"""What the gateway that is asked takes."""

_DATA = json.dumps(QUESTION).encode()
_LENGTH = f"Content-Length: {len(_DATA)}"


def _bodies() -> list[Hostile]:
    texts = {
        "100,000 brackets": b"[" * 100_000,
        "brackets in a field": b'{"messages":' + b"[" * 900 + b"]" * 900 + b"}",
        "a name twice": b'{"messages":[],"messages":[{"role":"user","content":"x"}]}',
        "NaN": b'{"temperature":NaN}',
        "Infinity": b'{"temperature":-Infinity}',
        "a number without end": b'{"temperature":1e999999}',
        "20,000 digits": b'{"seed":' + b"1" * 20_000 + b"}",
        "half a surrogate pair": _DATA.replace(b"Hi", b"\\ud800"),
        "a byte order mark of another coding": b"\xff\xfe" + _DATA,
        "UTF-16": _DATA.decode().encode("utf-16"),
        "no UTF-8": b'{"a":"\xff"}',
        "overlong UTF-8": b'{"a":"\xc0\xaf"}',
        "a comment": b'{/**/"a":1}',
        "a comma too many": b'{"a":1,}',
        "half": _DATA[:-2],
        "two": _DATA + _DATA,
        "nothing": b"",
        "a list": b"[]",
        "a string": b'"x"',
        "null": b"null",
        "NUL": _DATA + b"\0",
        "a control character": b'{"a":"\n"}',
        "single quotes": b"{'a':1}",
    }
    rows = [Hostile(f"body of {name}", (post(text),), 400) for name, text in texts.items()]
    endless = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    return [
        *rows,
        Hostile("body declared too large", (framed(f"Content-Length: {MAX_BODY_BYTES + 1}"),), 413),
        Hostile("body declared without end", (framed("Content-Length: 999999999999"),), 413),
        Hostile("chunks without end", (framed(CHUNKED), *(endless,) * 40), 413),
        Hostile("body that never comes", (framed(_LENGTH), 3.0), 408),
        Hostile("body that comes slowly", (framed(_LENGTH), *(b"{", 0.4) * 8), 408),
        Hostile("head that comes slowly", (b"POST / HTTP/1.1\r\n", *(b"X: y\r\n", 0.4) * 8), 408),
        Hostile("body in gzip", (post(gzip.compress(b"0" * 1_000_000), "Content-Encoding: gzip"),), 415),
        Hostile("body in two encodings", (post(_DATA, "Content-Encoding: identity, br"),), 415),
    ]


def _ask(**fields: Any) -> bytes:
    return post({**QUESTION, **fields})


def _fields() -> list[Hostile]:
    image = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]
    asked: dict[str, dict[str, Any]] = {
        "a parser": {"chat_parser": "x"},
        "adapters": {"lora": [{"id": 0, "scale": 1}]},
        "a slot": {"id_slot": 0},
        "a field of its own": {"temprature": {}},
        "triggers": {"grammar_triggers": [{"type": 2, "value": "(a+)+$"}]},
        "a grammar of brackets": {"grammar": "root ::= " + "(" * 20_000},
        "a grammar too long": {"grammar": "#" * 65_537},
        "an index of 5,000 digits": {"json_schema": {"$ref": "#/allOf/" + "1" * 5000, "allOf": [{}]}},
        "a repetition of 5,000 digits": {"json_schema": {"pattern": "^a{" + "1" * 5000 + "}$"}},
        "a grammar of many ways": {"grammar": "root ::= " + '"a"? ' * 2000},
        "a schema of many ways": {"json_schema": {"enum": list(range(6000))}},
        "names without end": {"metadata": {str(place): 1 for place in range(5000)}},
        "a schema without end": {"json_schema": {"$ref": "#"}},
        "a schema from elsewhere": {"json_schema": {"$ref": "http://x/"}},
        "too many answers": {"n": 10_000},
        "too many tokens": {"max_tokens": 2**31},
        "a seed of too many bits": {"seed": 2**63},
        "a wrapped count": {"repeat_last_n": 2**31 - 1},
        "too many stops": {"stop": ["x"] * 1000},
        "a stop that is none": {"stop": [1]},
        "a picture to be fetched": {"messages": [{"role": "user", "content": image}]},
        "text as a flag": {"stream": "true"},
        "a number as text": {"temperature": "1"},
        "a flag as a number": {"max_tokens": True},
        "no messages": {"messages": []},
        "text as messages": {"messages": "Hi"},
        "a model's path": {"model": ["/etc/passwd"]},
        "inner values": {"verbose": True},
    }
    rows = [Hostile(f"field: {name}", (_ask(**fields),), 400) for name, fields in asked.items()]
    return [*rows, Hostile("field: another model", (_ask(model="/etc/passwd"),), 404)]


HOSTILE_BODIES: tuple[Hostile, ...] = (*_bodies(), *_fields())
