"""JSON schemas and grammars out of chance: most can be held to, some cannot, and a few cost whoever compiles them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

__all__ = ["SPECIAL", "choose_grammar", "choose_schema", "choose_text", "choose_value"]

SPECIAL = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
    "<tool_call>", "</tool_call>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>", "<unk>",
    "<start_of_image>", "<unused7>", "<__media__>",
)  # fmt: skip
"""Texts that are one token, and mean something, in the vocabulary of one of the models."""
_TEXTS = (
    "", "", " ", "\n", "a", "What is 2+2?", "What is the capital of France?", "Count to fifty.", "{", "}", "[1,",
    '"', "\\", "\\u0000", "\x01", "\x7f", "é", "e\u0301", "日本語", "\U0001f600", "\u202e\u200f", "\ufeff", "\ufffd",
    "\U0010ffff", "{{ messages }}", "{% for x in y %}", '{"name": "add", "arguments": {"a": 1}}', "<think>", "</think>",
    "%s%n", "null", "0", "-0", "1e308", "assistant\n", "system",
)  # fmt: skip
_NUMBERS = (
    0, 1, -1, 2, 7, 16, 255, 256, 1024, 4096, 65_536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**63 - 1, 2**63,
    2**64, 10**30, 0.0, -0.0, 0.5, 1e-9, 1.5, 1e30, 1e308, -1e308, 5e-324,
)  # fmt: skip
_PATTERNS = (
    "^a$", "^[a-z]+$", "^\\d{3}-\\d{2}$", "^(a|b)*c$", "^.*$", "^[^x]{0,9}$", "^$", "^\\w+\\s$", "^é+$",
    "^\\u0041$", "a", "^(a+)+$",
    "^[]$", "^(?=a)b$", "^a{2,1}$", "^a{0,500}$", "^\\S$", "^[\\d\\-]+$", "^(((((a)))))$",
)  # fmt: skip
_FORMATS = ("date", "time", "date-time", "uuid", "email", "ipv4", "none")
_NAMES = (
    "a", "b", "answer", "capital", "", " ", "é", "a-b", "$ref", "x" * 60, '"', "\\", "type", "-", "a.b", "0",
    *SPECIAL[:2],
)  # fmt: skip


def choose_text(chance: Random, *, pieces: int = 4) -> str:
    """Return a text of special tokens, characters of any script, and what looks like markup."""
    count = chance.randrange(pieces + 1)
    text = "".join(chance.choice(SPECIAL if chance.random() < 0.4 else _TEXTS) for _ in range(count))
    return text * (40 if chance.random() < 0.02 else 1)


def choose_value(chance: Random, *, depth: int = 3) -> Any:
    """Return any JSON."""
    kind = chance.randrange(7 if depth else 5)
    if kind < 2:
        return chance.choice(_NUMBERS)
    if kind == 2:
        return choose_text(chance)
    if kind < 5:
        return chance.choice((None, True, False))
    items = [choose_value(chance, depth=depth - 1) for _ in range(chance.randrange(4))]
    return items if kind == 5 else {chance.choice(_NAMES): item for item in items}


def choose_schema(chance: Random, *, depth: int = 3, is_costly: bool = False) -> Any:
    """Return a schema of any keywords; ``is_costly`` lets some of them be large."""
    if is_costly and chance.random() < 0.02:
        return chance.choice(_COSTLY_SCHEMAS)(chance.choice((50, 400, 3000)))
    root = _choose_schema(chance, depth=depth)
    if type(root) is dict and chance.random() < 0.2:
        root["$defs"] = {name: _choose_schema(chance, depth=2) for name in ("x", "y")}
    return root


def _choose_schema(chance: Random, *, depth: int) -> Any:
    if chance.random() < 0.03:
        return chance.choice((True, False, {}, choose_value(chance)))
    make = chance.choice(_MAKERS if depth else _LEAVES)
    schema = make(chance, depth)
    if chance.random() < 0.05:
        schema[chance.choice(_KEYWORDS)] = choose_value(chance)
    return schema


def _some(chance: Random, **choices: Any) -> dict[str, Any]:
    """Return some of the keywords."""
    return {name: value for name, value in choices.items() if chance.random() < 0.3}


def _number(chance: Random, _depth: int) -> dict[str, Any]:
    bound, kind = chance.choice(_NUMBERS), chance.choice(("integer", "number"))
    bounds = _some(chance, minimum=bound, maximum=chance.choice(_NUMBERS), exclusiveMinimum=bound, multipleOf=3)
    return {"type": kind, **bounds}


def _string(chance: Random, _depth: int) -> dict[str, Any]:
    lengths = _some(chance, minLength=chance.randrange(40), maxLength=chance.choice((0, 1, 5, 100, 5000)))
    kinds = _some(chance, pattern=chance.choice(_PATTERNS), format=chance.choice(_FORMATS))
    return {"type": "string", **lengths, **kinds}


def _values(chance: Random, _depth: int) -> dict[str, Any]:
    if chance.random() < 0.3:
        return {"const": choose_value(chance)}
    return {"enum": [choose_value(chance, depth=1) for _ in range(chance.randrange(1, 9))]}


def _plain(chance: Random, _depth: int) -> dict[str, Any]:
    kinds = ["null", "boolean", "string", "integer", "number", "object", "array"]
    return {"type": chance.choice([*kinds, kinds[: chance.randrange(1, 7)]])}


def _object(chance: Random, depth: int) -> dict[str, Any]:
    names = chance.sample(_NAMES, chance.randrange(6))
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    schema["properties"] = {name: _choose_schema(chance, depth=depth - 1) for name in names}
    more = chance.choice((True, False, {"type": "integer"}))
    schema |= _some(chance, required=names[: chance.randrange(7)], additionalProperties=more, minProperties=1)
    return schema


def _array(chance: Random, depth: int) -> dict[str, Any]:
    items = _choose_schema(chance, depth=depth - 1)
    some = _some(chance, minItems=chance.randrange(6), maxItems=chance.choice((0, 1, 8, 200)), uniqueItems=True)
    some |= _some(chance, prefixItems=[items, {"type": "null"}])
    return {"type": "array", "items": items, **some}


def _branches(chance: Random, depth: int) -> dict[str, Any]:
    parts = [_choose_schema(chance, depth=depth - 1) for _ in range(chance.randrange(1, 5))]
    return {chance.choice(("anyOf", "oneOf", "allOf")): parts}


def _reference(chance: Random, _depth: int) -> dict[str, Any]:
    places = ("#", "#/$defs/x", "#/$defs/y", "#/properties/a", "#/$defs/none", "#/items/0", "#/$defs/" + "9" * 30)
    return {"$ref": chance.choice(places)}


_LEAVES: tuple[Callable[[Random, int], dict[str, Any]], ...] = (_number, _string, _values, _plain, _reference)
_MAKERS = (*_LEAVES, _object, _object, _array, _branches)
_KEYWORDS = (
    "type", "enum", "const", "$ref", "allOf", "anyOf", "oneOf", "not", "properties", "patternProperties", "required",
    "additionalProperties", "minItems", "maxItems", "minLength", "maxLength", "pattern", "minimum", "maximum", "title",
    "$defs", "unknown",
)  # fmt: skip

_COSTLY_SCHEMAS: tuple[Callable[[int], dict[str, Any]], ...] = (
    lambda count: {"enum": [f"value {number}" for number in range(count)]},
    lambda count: {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(count // 2)}},
    lambda count: {"type": "string", "maxLength": count * 100},
    lambda count: {"type": "array", "items": {"type": "integer"}, "minItems": count, "maxItems": 2 * count},
    lambda count: {"anyOf": [{"type": "object", "properties": {f"k{number}": {}}} for number in range(count)]},
    lambda count: {"type": "string", "pattern": f"^(a|b){{0,{count}}}$"},
    lambda count: {"type": "integer", "minimum": 10**count, "maximum": 10 ** (count + 1)},
)


_CHARACTERS = ("[a-z]", "[0-9]", "[^\\n]", "[\\x00-\\xff]", ".", "[a-", '"\\x41"', '"\\u00e9"', "[z-a]")


def choose_grammar(chance: Random, *, is_costly: bool = False) -> str:
    """Return a grammar in llama.cpp's form, which may be wrong, endless, or empty."""
    if is_costly and chance.random() < 0.02:
        return chance.choice(_COSTLY_GRAMMARS)(chance.choice((50, 300, 2000)))
    names = ["root", *chance.sample(("a", "b", "ws", "x-1"), chance.randrange(3))]
    rules = [f"{name} ::= {_choose_rule(chance, names, depth=2)}" for name in names]
    if chance.random() < 0.1:
        rules = rules[1:]
    grammar = "\n".join(rules)
    if chance.random() < 0.1 and grammar:
        place = chance.randrange(len(grammar))
        broken = chance.choice(('"', "(", ")", "{", "::=", "\\", "\n", "|", "", "[^"))
        grammar = grammar[:place] + broken + grammar[place + 1 :]
    return grammar


def _choose_rule(chance: Random, names: list[str], *, depth: int) -> str:
    choices = [
        " ".join(_choose_item(chance, names, depth=depth) for _ in range(chance.randrange(4)))
        for _ in range(chance.choice((1, 1, 2, 3)))
    ]
    return " | ".join(choices)


def _choose_item(chance: Random, names: list[str], *, depth: int) -> str:
    kind = chance.randrange(5 if depth else 3)
    if kind == 0:
        item = chance.choice(_CHARACTERS)
    elif kind == 1:
        item = json.dumps(choose_text(chance, pieces=1)[:20], ensure_ascii=False)
    elif kind == 2:
        item = chance.choice(names)
    else:
        item = f"({_choose_rule(chance, names, depth=depth - 1)})"
    return item + chance.choice(("", "", "", "*", "+", "?", "{2}", "{0,3}", "{,4}", "{3,}", "{5,2}"))


_COSTLY_GRAMMARS: tuple[Callable[[int], str], ...] = (
    lambda count: "root ::= " + '"a"? ' * count,
    lambda count: "root ::= " + " | ".join(f'"{number}"' for number in range(count)),
    lambda count: f'root ::= ("a"? "b"?){{0,{count}}}',
    lambda count: "root ::= " + " ".join(["[a-z]*"] * count),
    lambda count: "root ::= r0\n" + "\n".join(f"r{n} ::= r{n + 1} | r{n + 1} r{n + 1}" for n in range(min(count, 60))),
    lambda count: 'root ::= root "a" | "a"' if count else "",
    lambda count: "root ::= " + "(" * min(count, 60) + '"a"' + ")?" * min(count, 60),
)
