"""Whole answers out of the events of a stream, whatever the pieces are in which they come."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.gateway.endpoints import GENERATING
from llcuda.gateway.fields import parse_body
from llcuda.gateway.refusals import RefusedError
from llcuda.gateway.whole import WholeAnswer, needs_whole, read_error, to_streamed, to_understood
from llcuda.gateway.whole_schema import check_answer

if TYPE_CHECKING:
    from llcuda.gateway.endpoints import Endpoint

USAGE = {"completion_tokens": 2, "prompt_tokens": 3, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}}
TIMINGS = {"predicted_n": 2, "predicted_ms": 1.5}
HEAD = {"created": 7, "id": "chatcmpl-1", "model": "m", "system_fingerprint": "b1", "object": "chat.completion.chunk"}
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def write(*events: Any, done: bool = True) -> bytes:
    blocks = [b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in events]
    return b"".join(blocks) + (b"data: [DONE]\n\n" if done else b"")


def write_named(*events: dict[str, Any]) -> bytes:
    blocks = [f"event: {event.get('type', 'error')}\ndata: {json.dumps(event)}\n\n" for event in events]
    return "".join(blocks).encode()


def chunk(delta: dict[str, Any], *, index: int = 0, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "index": index, "delta": delta, **more}], **HEAD}


def end(index: int = 0, reason: str = "stop", *, usage: dict[str, Any] = USAGE) -> list[dict[str, Any]]:
    return [chunk({}, index=index, reason=reason), {"choices": [], **HEAD, "usage": usage, "timings": TIMINGS}]


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    named = {"name": more.pop("name")} if "name" in more else {}
    return {"tool_calls": [{"index": index, **more, "function": {**named, "arguments": arguments}}]}


def native(text: str, *, index: int = 0, stop: bool = False, **more: Any) -> dict[str, Any]:
    return {"index": index, "content": text, "tokens": [1], "stop": stop, **more}


def native_end(index: int = 0, **more: Any) -> dict[str, Any]:
    settings = {"stream": True, "seed": 1}
    return native(
        "", index=index, stop=True, stop_type="eos", generation_settings=settings, **{"tokens": [], **more}
    )  # fmt: skip


def text_chunk(text: str, *, index: int = 0, reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"text": text, "index": index, "logprobs": more.pop("logprobs", None), "finish_reason": reason}
    return {"choices": [choice], "created": 7, "id": "c", "object": "text_completion", **more}


CHAT_STREAM = write(
    chunk({"role": "assistant", "content": None}),
    chunk({"reasoning_content": "Hm"}),
    chunk({"reasoning_content": "m."}),
    chunk({"content": "né"}),
    chunk({"content": " 漢🦙"}, logprobs={"content": [{"token": "x"}]}),
    chunk(call(0, "", id="c1", type="function", name="f")),
    chunk(call(0, '{"a"')),
    chunk(call(1, "{}", id="c2", type="function", name="g")),
    chunk(call(0, ":1}")),
    *end(reason="tool_calls"),
)
CHAT_CHOICE = {
    "finish_reason": "tool_calls",
    "index": 0,
    "message": {
        "role": "assistant",
        "content": "né 漢🦙",
        "reasoning_content": "Hmm.",
        "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": '{"a":1}'}, "id": "c1"},
            {"type": "function", "function": {"name": "g", "arguments": "{}"}, "id": "c2"},
        ],
    },
    "logprobs": {"content": [{"token": "x"}]},
}
CHAT_ANSWER = {**HEAD, "object": "chat.completion", "choices": [CHAT_CHOICE], "usage": USAGE, "timings": TIMINGS}

TEXT_STREAM = write(
    text_chunk("a"),
    None,
    text_chunk("x", index=1, logprobs={"content": [1]}),
    text_chunk("y", index=1, logprobs={"content": [2]}),
    text_chunk("", index=1, reason="length", usage={"total_tokens": 9}),
    text_chunk("b"),
    text_chunk("", reason="stop", usage=USAGE, timings=TIMINGS),
)
TEXT_ANSWER = {
    **text_chunk(""),
    "choices": [
        {"text": "ab", "index": 0, "logprobs": None, "finish_reason": "stop"},
        {"text": "xy", "index": 1, "logprobs": {"content": [1, 2]}, "finish_reason": "length"},
    ],
    "usage": USAGE,
    "timings": TIMINGS,
}

NATIVE_STREAM = write(
    native("", prompt_progress={"total": 3}),
    native("a", completion_probabilities=[{"id": 1}]),
    native("é", completion_probabilities=[{"id": 2}]),
    native_end(tokens_predicted=2, prompt="p", timings=TIMINGS),
    done=False,
)
NATIVE_ANSWER = {
    **native_end(tokens_predicted=2, prompt="p", timings=TIMINGS),
    "content": "aé",
    "generation_settings": {"stream": False, "seed": 1},
    "completion_probabilities": [{"id": 1}, {"id": 2}],
}

RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "created_at": 7, "status": "completed", "model": "m",
    "output": [{"id": "rs_1", "type": "reasoning"}, {"id": "msg_1", "type": "message", "status": "completed"}],
    "usage": {"input_tokens": 1},
}  # fmt: skip
RESPONSE_STREAM = write_named(
    {"type": "response.created", "response": {"id": "resp_1"}},
    {"type": "response.output_text.delta", "delta": "Hi"},
    {"type": "response.completed", "response": RESPONSE, "timings": TIMINGS},
)
RESPONSE_ANSWER = {
    **RESPONSE,
    "completed_at": 7,
    "output": [{"status": "completed", **item} for item in RESPONSE["output"]],
}


def delta(index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}


def start(index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}}


MESSAGE: dict[str, Any] = {
    "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None,
    "stop_sequence": None, "usage": {"cache_read_input_tokens": 1, "input_tokens": 2, "output_tokens": 0},
}  # fmt: skip
MESSAGE_END: list[dict[str, Any]] = [
    {
        "type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 9},
    },
    {"type": "message_stop"},
]  # fmt: skip
MESSAGE_EVENTS: list[dict[str, Any]] = [
    start(0, "thinking", thinking=""),
    delta(0, "thinking_delta", thinking="Hm"),
    delta(0, "signature_delta", signature=""),
    start(1, "text", text=""),
    delta(1, "text_delta", text="a"),
    delta(1, "text_delta", text="b"),
    start(2, "tool_use", id="t", name="f"),
    delta(2, "input_json_delta", partial_json='{"x":'),
    start(2, "tool_use", id="t", name="f"),
    delta(2, "input_json_delta", partial_json="1}"),
    start(3, "tool_use", id="u", name="g"),
    delta(3, "input_json_delta", partial_json='{"cut'),
    {"type": "content_block_stop", "index": 2},
    *MESSAGE_END,
]
MESSAGE_STREAM = write_named({"type": "message_start", "message": MESSAGE}, *MESSAGE_EVENTS)
MESSAGE_ANSWER = {
    **MESSAGE,
    "stop_reason": "tool_use",
    "content": [
        {"type": "thinking", "thinking": "Hm", "signature": ""},
        {"type": "text", "text": "ab"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "u", "name": "g", "input": {}},
    ],
    "usage": {"cache_read_input_tokens": 1, "input_tokens": 2, "output_tokens": 9},
}
STREAMS: dict[str, tuple[Endpoint, dict[str, Any], bytes, Any]] = {
    "chat": ("chat", {}, CHAT_STREAM, CHAT_ANSWER),
    "completions": ("completions", {"prompt": ["a", "b"]}, TEXT_STREAM, TEXT_ANSWER),
    "completion": ("completion", {"prompt": "p"}, NATIVE_STREAM, NATIVE_ANSWER),
    "infill": ("infill", {}, NATIVE_STREAM, NATIVE_ANSWER),
    "responses": ("responses", {}, RESPONSE_STREAM, RESPONSE_ANSWER),
    "messages": ("messages", {}, MESSAGE_STREAM, MESSAGE_ANSWER),
}


def gather(endpoint: Endpoint, fields: dict[str, Any], *pieces: bytes) -> Any:
    answer = WholeAnswer(endpoint, fields)
    for piece in pieces:
        answer.feed(piece)
    assert answer.finished
    return json.loads(answer.result())


@pytest.mark.parametrize("name", STREAMS)
def test_the_events_of_a_stream_become_the_whole_answer(name: str) -> None:
    endpoint, fields, stream, whole = STREAMS[name]
    assert gather(endpoint, fields, stream) == whole


@given(st.sampled_from(sorted(STREAMS)), st.data())
def test_every_way_to_cut_a_stream_gives_the_same_answer(name: str, data: st.DataObject) -> None:
    endpoint, fields, stream, whole = STREAMS[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[begin:stop] for begin, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert gather(endpoint, fields, *pieces) == whole


@pytest.mark.parametrize("name", STREAMS)
def test_bytes_may_come_one_by_one_and_pings_in_between(name: str) -> None:
    endpoint, fields, stream, whole = STREAMS[name]
    assert gather(endpoint, fields, *(bytes([byte]) for byte in stream)) == whole
    assert gather(endpoint, fields, b":\n\n", stream.replace(b"\n\n", b"\n\n:\n\n")) == whole
    assert gather(endpoint, fields, stream.replace(b"\n", b"\r\n")) == whole


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_ends_early_is_not_finished(name: str) -> None:
    endpoint, fields, stream, _ = STREAMS[name]
    answer = WholeAnswer(endpoint, fields)
    last = stream.removesuffix(b"data: [DONE]\n\n")
    answer.feed(last[:-1])
    assert not answer.finished
    with pytest.raises(RefusedError, match="before it was complete") as caught:
        answer.result()
    assert (caught.value.status, caught.value.code) == (502, "incomplete_answer")
    answer.feed(last[-1:])
    assert answer.finished


def test_the_choices_of_a_chat_may_come_in_any_order() -> None:
    other = {**USAGE, "total_tokens": 99}
    events = [chunk({"content": "b"}, index=1), chunk({"content": "a"}), *end(1, "length", usage=other), *end()]
    answer = gather("chat", {"n": 2}, write(*events))
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a", "b"]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "length"]
    assert answer["usage"] == USAGE


def test_a_chat_waits_for_all_of_its_choices() -> None:
    answer = WholeAnswer("chat", {"n": 2})
    answer.feed(write(*end(0), done=False))
    assert not answer.finished
    answer.feed(write(*end(1)))
    assert answer.finished


def test_several_native_answers_are_a_list_in_the_order_of_the_prompts() -> None:
    events = [native("b", index=1), native_end(1), None, native("a"), native_end(0)]
    answer = gather("completion", {"prompt": ["x", "y"]}, write(*events, done=False))
    assert [one["content"] for one in answer] == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "count"), [({"prompt": [1, 2]}, 1), ({"prompt": ["a", "b"], "n_cmpl": 2, "n": 1}, 4)]
)
def test_choices_are_counted_for_each_prompt(fields: dict[str, Any], count: int) -> None:
    answer = WholeAnswer("completion", fields)
    for index in range(count):
        assert not answer.finished
        answer.feed(write(native("a", index=index), native_end(index), done=False))
    assert answer.finished


def test_a_message_without_a_start_is_answered_with_what_there_is() -> None:
    answer = gather("messages", {}, write_named(*MESSAGE_EVENTS))
    assert answer["content"] == MESSAGE_ANSWER["content"]
    assert answer["usage"] == {"cache_read_input_tokens": 0, "input_tokens": 0, "output_tokens": 9}
    assert set(answer) == set(MESSAGE_ANSWER)


# Errors

ERROR = {"code": 400, "message": "too long", "type": "exceed_context_size_error"}


@pytest.mark.parametrize("endpoint", sorted(GENERATING))
def test_an_error_within_a_stream_has_the_servers_status_and_words(endpoint: Endpoint) -> None:
    error = write_named(ERROR) if endpoint == "messages" else write({"error": ERROR}, done=False)
    answer = WholeAnswer(endpoint, {})
    with pytest.raises(RefusedError, match="too long") as caught:
        answer.feed(error)
    assert (caught.value.status, caught.value.code) == (400, "exceed_context_size_error")
    assert not answer.finished


@pytest.mark.parametrize("data", ["x", None, [], {"error": "x"}, {"error": {"code": "x", "message": 1}}, {"code": 200}])
def test_an_error_of_any_shape_is_a_refusal(data: Any) -> None:
    error = read_error(502, data)
    assert error.status == 502
    assert error.envelope()


@pytest.mark.parametrize("endpoint", sorted(GENERATING))
@pytest.mark.parametrize(
    "event",
    ["{", "5", "[]", "{}", '"a"', '{"choices":5}', '{"choices":[5]}', '{"choices":[{"index":[]}]}', '{"type":5}',
     '{"choices":[{"index":0,"delta":{"content":5},"finish_reason":null}]}', '{"index":0,"content":5,"stop":true}',
     '{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta"}}', "[" * 100_000, '{"a":"\\ud800"}',
     '{"type":"response.completed"}', "\xff"],
)  # fmt: skip
def test_events_that_make_no_sense_never_become_an_answer(endpoint: Endpoint, event: str) -> None:
    answer = WholeAnswer(endpoint, {})
    with pytest.raises(RefusedError) as caught:  # noqa: PT012 - where it is noticed depends on the API
        answer.feed(f"data: {event}\n\n".encode("latin-1"))
        answer.result()
    assert caught.value.status == 502
    assert caught.value.code in {"bad_answer", "incomplete_answer"}


@pytest.mark.parametrize("name", STREAMS)
def test_an_answer_beyond_the_limit_is_refused(name: str) -> None:
    endpoint, fields, stream, _ = STREAMS[name]
    answer = WholeAnswer(endpoint, fields, max_characters=1)
    with pytest.raises(RefusedError, match="more than 1 char") as caught:
        answer.feed(stream)
    assert (caught.value.status, caught.value.code) == (502, "answer_too_long")


def test_an_event_without_an_end_is_refused() -> None:
    answer = WholeAnswer("chat", {})
    with pytest.raises(RefusedError) as caught:
        answer.feed(b"data: " + b"x" * (9 << 20))
    assert caught.value.code == "bad_answer"


# Requests


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"{}", b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (b' {"a":1}\n', b'{"stream":true,"stream_options":{"include_usage":true},"a":1}\n'),
        (b'{"stream":false,"a":1.50}', b'{"stream":true,"a":1.5,"stream_options":{"include_usage":true}}'),
        (b'{"stream":null}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (
            b'{"stream_options":{"include_usage":false,"x":1}}',
            b'{"stream_options":{"include_usage":true,"x":1},"stream":true}',
        ),
    ],
)
def test_a_stream_is_asked_for_in_as_few_changed_bytes_as_it_takes(body: bytes, wanted: bytes) -> None:
    assert to_streamed(body, parse_body(body)) == wanted


@pytest.mark.parametrize("body", [b'{"stream":true}', b' { "stream" : true, "stream_options": null } '])
def test_a_body_that_asks_for_a_stream_stays_as_it_is(body: bytes) -> None:
    assert to_streamed(body, parse_body(body)) == body


@given(st.dictionaries(st.text(), st.one_of(st.none(), st.text(), st.floats(allow_nan=False, allow_infinity=False))))
def test_no_other_field_changes(fields: dict[str, Any]) -> None:
    changed: list[dict[str, Any]] = [{}, {"stream": False}, {"stream_options": {}}]
    for more in changed:
        given = {**fields, **more}
        body = json.dumps(given).encode()
        streamed = parse_body(to_streamed(body, given))
        assert streamed == {**given, "stream": True, "stream_options": {"include_usage": True}}


def test_a_message_to_be_continued_is_asked_for_whole() -> None:
    body = b'{"continue_final_message":true}'
    assert parse_body(to_streamed(body, parse_body(body)))["echo"] is True


TOOLS = [{"type": "function", "function": {"name": name}} for name in "fg"]
FLAT = [{"type": "function", "name": name} for name in "fg"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
            {"tools": TOOLS[1:], "tool_choice": "required"},
        ),
        (
            {"tools": FLAT, "tool_choice": {"type": "function", "name": "g"}},
            {"tools": FLAT[1:], "tool_choice": "required"},
        ),
        (
            {"tools": FLAT, "tool_choice": {"type": "tool", "name": "g"}},
            {"tools": FLAT[1:], "tool_choice": {"type": "tool", "name": "g"}},
        ),
        ({"tools": FLAT, "tool_choice": {"type": "none"}}, {"tools": []}),
        ({"tools": FLAT, "tool_choice": {"type": "any"}}, {"tools": FLAT}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": NUMBER}}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER}}},
        ),
    ],
)
def test_what_llama_server_would_leave_out_of_account_is_said_in_its_words(
    fields: dict[str, Any], wanted: dict[str, Any], *, stream: bool
) -> None:
    given = {**fields, "stream": stream}
    streamed = parse_body(to_streamed(json.dumps(given).encode(), given))
    assert {name: streamed[name] for name in wanted} == wanted
    assert streamed["stream"] is True


def test_a_tool_that_is_not_there_cannot_be_chosen() -> None:
    fields = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "h"}}}
    with pytest.raises(RefusedError, match="no tool has this name") as caught:
        to_streamed(json.dumps(fields).encode(), fields)
    assert caught.value.param == "tool_choice"


def test_what_the_model_said_before_may_be_written_short() -> None:
    said = {"role": "assistant", "content": "4"}
    turns: list[Any] = [{"role": "user", "content": "2+2?"}, said, {**said, "type": "message"}]
    body = json.dumps({"input": turns}).encode()
    asked = parse_body(to_understood(body, {"input": turns}))
    assert asked == {"input": [turns[0], {**said, "type": "message"}, turns[2]]}
    for other in (turns[:1], "x", [1, 2], ["x"]):
        body = json.dumps({"input": other}).encode()
        assert to_understood(body, {"input": other}) == body


@pytest.mark.parametrize(
    ("endpoint", "fields", "is_needed"),
    [
        ("chat", {}, False),
        ("chat", {"logprobs": False}, False),
        ("chat", {"logprobs": True}, True),
        ("completions", {"logprobs": 0}, False),
        ("completion", {"n_probs": 1}, True),
        ("completion", {"return_tokens": True}, True),
        ("infill", {"n_indent": 2}, True),
        ("messages", {}, False),
        ("responses", {}, False),
    ],
)
def test_what_no_stream_has_needs_a_whole_answer(
    endpoint: Endpoint, fields: dict[str, Any], *, is_needed: bool
) -> None:
    assert needs_whole(endpoint, fields) is is_needed


# Schemas

FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"schema": NUMBER}}}
TEXT_FORMAT = {"text": {"format": {"type": "json_schema", "schema": NUMBER}}, "max_output_tokens": 5}


def chat_answer(*texts: str, reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "message": {"content": text, **message}} for text in texts]}


def text_answer(text: str, reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "text": text}]}


def response(text: str, *, tokens: int = 3, kind: str = "message") -> dict[str, Any]:
    output = [{"type": "reasoning"}, {"type": kind, "content": [{"type": "output_text", "text": text}]}]
    return {"output": output, "usage": {"output_tokens": tokens}}


@pytest.mark.parametrize(
    ("endpoint", "fields", "answer"),
    [
        ("chat", FORMAT, chat_answer('{"n":1}', ' {"n":2}')),
        ("chat", FORMAT, chat_answer('{"n":', reason="length")),
        ("chat", FORMAT, chat_answer("", reason="tool_calls", tool_calls=[{}])),
        ("chat", {}, chat_answer("x")),
        ("chat", {"response_format": {"type": "json_object"}}, chat_answer("{}")),
        ("completions", {"json_schema": NUMBER}, text_answer('{"n":1}')),
        ("completions", {"json_schema": NUMBER}, text_answer("{", "length")),
        ("completion", {"json_schema": NUMBER}, {"content": '{"n":1}', "stop_type": "eos"}),
        ("completion", {"json_schema": NUMBER}, [{"content": "{", "stop_type": "limit"}]),
        ("responses", TEXT_FORMAT, response('{"n":1}')),
        ("responses", TEXT_FORMAT, response("{", tokens=5)),
        ("responses", TEXT_FORMAT, response("", kind="function_call")),
        ("messages", {}, {}),
    ],
)
def test_an_answer_that_holds_or_was_cut_off_is_passed_on(
    endpoint: Endpoint, fields: dict[str, Any], answer: Any
) -> None:
    check_answer(endpoint, fields, json.dumps(answer).encode())


@pytest.mark.parametrize(
    ("endpoint", "fields", "answer"),
    [
        ("chat", FORMAT, chat_answer('{"n":1}', '{"n":"x"}')),
        ("chat", FORMAT, chat_answer("Sure!")),
        ("chat", FORMAT, chat_answer('{"n":NaN}')),
        ("chat", FORMAT, chat_answer("")),
        ("chat", {"response_format": {"type": "json_object"}}, chat_answer("[]")),
        ("completions", {"json_schema": NUMBER}, text_answer("{}")),
        ("completion", {"json_schema": {}}, {"content": "5", "stop_type": "eos"}),
        ("infill", {"json_schema": NUMBER}, [{"content": "", "stop_type": "eos"}]),
        ("responses", TEXT_FORMAT, response("{")),
        ("responses", {**TEXT_FORMAT, "max_output_tokens": -1}, response("{")),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_hold_is_an_error_never_an_answer(
    endpoint: Endpoint, fields: dict[str, Any], answer: Any
) -> None:
    with pytest.raises(RefusedError, match="does not hold to the schema") as caught:
        check_answer(endpoint, fields, json.dumps(answer).encode())
    assert (caught.value.status, caught.value.code) == (502, "schema_mismatch")
