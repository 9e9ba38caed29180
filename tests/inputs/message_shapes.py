"""Messages, tools and the like in the shapes of each API, in which anything may be something else (for hypothesis)."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

__all__ = ["SHAPES"]

Shape = st.SearchStrategy[Any]

_word = st.sampled_from([1e9, "", "{", "text", "function", "tool", "é"])
_scalar = st.none() | st.booleans() | st.integers(-2, 3) | _word
_object = st.dictionaries(st.sampled_from(["type", "text", "a"]), _scalar, max_size=2)
_junk = _scalar | st.lists(_scalar, max_size=2) | _object
_text = st.sampled_from(["Hi", "", "What is 2+2?", "<tool_call>", "<|im_end|>", "\ud83d\ude00", "a" * 500])
_name = st.sampled_from(["add", "other", "", "a b", "get_weather"])
_identity = st.sampled_from(["1", "2", "", "call_1"])
_arguments = st.sampled_from(["{}", '{"a": 1}', "{", "", "[1]", "null", "hello"]) | st.just({"a": 1})
_role = st.sampled_from(["user", "user", "assistant", "system", "tool", "developer", "function", "x"])
_url = st.sampled_from(["data:image/png;base64,AAAA", "http://localhost/a.png", "AAAA", "file:///etc/passwd", ""])
_type = st.sampled_from(["object", "string", "integer", "array", ["string", "null"], "null"])


def _or_junk(wanted: Shape) -> Shape:
    return st.integers(0, 11).flatmap(lambda number: wanted if number else _junk)


def _shape(needed: dict[str, Shape], **more: Shape) -> Shape:
    """Return objects with these fields: one may be something else, or missing, now and then."""
    return st.fixed_dictionaries(
        {name: _or_junk(field) for name, field in needed.items()},
        optional={name: _or_junk(field) for name, field in more.items()},
    ).flatmap(lambda made: st.sampled_from([made, made, made, *({**made, name: None} for name in made)]))


def _typed(kind: str, **fields: Shape) -> Shape:
    return _shape({"type": st.just(kind), **fields})


def _some(item: Shape, most: int = 3) -> Shape:
    return st.lists(_or_junk(item), max_size=most)


_schema = st.recursive(
    _shape({"type": _type}, description=_text, enum=_some(_scalar), minimum=st.integers(0, 3)),
    lambda inner: _shape(
        {"type": _type, "properties": st.dictionaries(_name, inner, max_size=2)}, required=_some(_name), items=inner
    ),
    max_leaves=4,
)
_image = _typed("image_url", image_url=_shape({"url": _url}, detail=_text))
_audio = _typed("input_audio", input_audio=_shape({"data": _url, "format": st.just("wav")}))
_part = _typed("text", text=_text) | _typed("refusal", refusal=_text) | _image | _audio
_function = _shape({"name": _name, "arguments": _arguments})
_call = _shape({"type": st.just("function"), "function": _function}, id=_identity)
_message = _shape(
    {"role": _role, "content": _text | _some(_part)},
    name=_name, tool_calls=_some(_call), tool_call_id=_identity, reasoning_content=_text, refusal=_text,
    function_call=_function, audio=_junk, annotations=_junk,
)  # fmt: skip
_flat = _shape({"name": _name}, description=_text, parameters=_schema, strict=st.booleans())
_tool = _typed("function", function=_flat)
_choice = st.sampled_from(["auto", "none", "required"]) | _typed("function", function=_shape({"name": _name}))

_said = _typed("input_text", text=_text) | _typed("output_text", text=_text) | _typed("input_image", image_url=_url)
_item = (
    _shape({"role": _role, "content": _text | _some(_said)}, type=st.just("message"), id=_identity, status=_text)
    | _typed("function_call", call_id=_identity, name=_name, arguments=_arguments)
    | _typed("function_call_output", call_id=_identity, output=_text | _some(_said))
    | _typed("reasoning", summary=_some(_said), content=_some(_typed("reasoning_text", text=_text)))
    | _typed("custom_tool_call", call_id=_identity, name=_name, input=_text)
    | _typed("item_reference", id=_identity)
)
_flat_tool = _flat.flatmap(lambda made: st.sampled_from([{"type": "function", **made}, {"type": "web_search", **made}]))

_block: Shape = st.deferred(
    lambda: (
        _typed("text", text=_text)
        | _typed("image", source=_shape({"type": st.just("base64"), "media_type": st.just("image/png"), "data": _url}))
        | _typed("tool_use", id=_identity, name=_name, input=_junk | st.just({"a": 1}))
        | _typed("tool_result", tool_use_id=_identity, content=_text | _some(_block, 1))
        | _typed("thinking", thinking=_text, signature=_text)
        | _typed("document", source=_junk)
    )
)
_their_tool = _shape({"name": _name, "input_schema": _schema}, description=_text, cache_control=_junk, type=_text)
_their_choice = st.sampled_from([{"type": "auto"}, {"type": "any"}, {"type": "none"}, {"type": "tool", "name": "add"}])

_turn = _shape(
    {"role": _role, "content": _text},
    images=_some(_url), tool_calls=_some(_shape({"function": _function})), tool_name=_name, thinking=_text,
)  # fmt: skip

SHAPES: dict[str, Shape] = {
    "/v1/chat/completions": _shape(
        {"messages": st.lists(_message, min_size=1, max_size=4)},
        tools=_some(_tool), tool_choice=_choice, parallel_tool_calls=st.booleans(), stream=st.booleans(),
    ),
    "/v1/responses": _shape(
        {"input": _text | st.lists(_item, min_size=1, max_size=4)},
        instructions=_text, tools=_some(_flat_tool), tool_choice=_choice, stream=st.booleans(), text=_junk,
    ),
    "/v1/messages": _shape(
        {
            "messages": st.lists(
                _shape({"role": _role, "content": _text | _some(_block)}), min_size=1, max_size=4
            )
        },
        system=_text | _some(_typed("text", text=_text)), tools=_some(_their_tool), tool_choice=_their_choice,
        stream=st.booleans(), thinking=_junk, stop_sequences=_some(_text),
    ),
    "/api/chat": _shape(
        {"messages": st.lists(_turn, min_size=1, max_size=4)},
        tools=_some(_tool), stream=st.booleans(), format=_schema, think=st.booleans() | _text,
    ),
    "/v1/completions": _shape(
        {"prompt": _text | _some(_text | st.integers(0, 9))},
        suffix=_text, echo=st.booleans(), logprobs=st.integers(0, 3), stream=st.booleans(), stop=_text | _some(_text),
        n=st.integers(0, 3),
    ),
}  # fmt: skip
"""Bodies by the address that they are for."""
