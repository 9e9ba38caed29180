"""Streamed answers, event by event, without a server."""

from __future__ import annotations

import json
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.client.answers import ChatAnswer, CompletionAnswer, GatheredAnswer, parse_json, read_error
from llcuda.errors import LlcudaError, ResponseError, SchemaMismatchError
from llcuda.schema import compile_schema
from tests.standins.stub_server import TIMINGS, USAGE, delta


def gather(kind: type[GatheredAnswer], *payloads: Any, schema: Any = None, strict: Any = None) -> GatheredAnswer:
    answer = kind(started=monotonic(), schema=None if schema is None else compile_schema(schema), strict=strict)
    for payload in payloads:
        answer.add(payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    return answer


def call(index: int, **function: str) -> Any:
    identity = {"id": function.pop("id"), "type": "function"} if "id" in function else {}
    return delta(tool_calls=[{"index": index, **identity, "function": function}])


def test_a_chat_answer_is_put_together() -> None:
    last = {"choices": [], "model": "m", "usage": USAGE, "timings": TIMINGS}
    answer = gather(
        ChatAnswer,
        delta(role="assistant", content=None),
        delta(content="Hi"),
        delta(content=" you"),
        delta("stop"),
        last,
    )
    assert answer.finished
    result = answer.result()
    assert (result.text, str(result), result.finish_reason, result.model) == ("Hi you", "Hi you", "stop", "m")
    assert (result.tokens, result.tokens_generated, result.prompt_tokens, result.cached_tokens) == (2, 2, 7, 3)
    assert (result.tokens_per_sec, result.prompt_ms, result.generation_ms) == (250.0, 1.5, 4.0)
    assert result.time_to_first_token_ms is not None
    assert 0 < result.time_to_first_token_ms <= result.latency_ms
    assert result.message == {"role": "assistant", "content": "Hi you"}


def test_a_completion_is_put_together() -> None:
    last = {"content": "", "stop": True, "stop_type": "limit", "model": "m", "timings": TIMINGS}
    counts = {"tokens_evaluated": 7, "tokens_predicted": 2}
    answer = gather(
        CompletionAnswer, {"content": "a", "stop": False}, {"content": "b", "stop": False}, {**last, **counts}
    )
    result = answer.result()
    assert (result.text, result.finish_reason, result.model) == ("ab", "length", "m")
    assert (result.tokens, result.prompt_tokens, result.cached_tokens) == (2, 7, 3)


def test_a_server_without_timings_is_measured_by_our_clock() -> None:
    result = gather(ChatAnswer, delta(content="a"), delta(content="b"), delta("stop")).result()
    assert result.tokens_generated == 2
    assert result.tokens_per_sec == pytest.approx(2 / result.latency_ms * 1e3)


def test_a_single_token_has_no_speed_of_its_own_so_our_clock_is_used() -> None:
    # llama-server counts the first token to the prompt, and says 0 tokens per second.
    timings = {**TIMINGS, "predicted_n": 1, "predicted_per_second": 0.0}
    result = gather(ChatAnswer, delta(content="a"), {**delta("length"), "timings": timings}).result()
    assert result.tokens_per_sec == pytest.approx(1 / result.latency_ms * 1e3)


def test_an_answer_of_no_tokens_has_no_time_to_the_first() -> None:
    result = gather(ChatAnswer, delta("length")).result()
    assert (result.text, result.time_to_first_token_ms, result.tokens, result.tokens_per_sec) == ("", None, 0, 0.0)


def test_reasoning_is_kept_apart_and_its_first_token_counts() -> None:
    answer = gather(
        ChatAnswer, delta(reasoning_content="hm"), delta(reasoning_content="…"), delta(content="4"), delta("stop")
    )
    result = answer.result()
    assert (result.reasoning, result.text) == ("hm…", "4")
    assert answer.first_token_at is not None


def test_calls_of_tools_are_put_together_and_their_arguments_parsed() -> None:
    answer = gather(
        ChatAnswer,
        call(0, id="c0", name="add", arguments=""),
        call(0, arguments='{"a": 1, '),
        call(0, arguments='"b": 2}'),
        call(1, id="c1", name="now"),
        delta("tool_calls"),
    )
    result = answer.result()
    assert [(one.id, one.name, one.arguments) for one in result.tool_calls] == [
        ("c0", "add", {"a": 1, "b": 2}),
        ("c1", "now", {}),
    ]
    message = result.message
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    assert result.time_to_first_token_ms is not None


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "5", "null"])
def test_arguments_that_are_no_json_object_are_an_error(arguments: str) -> None:
    answer = gather(ChatAnswer, call(0, id="c", name="add", arguments=arguments), delta("tool_calls"))
    with pytest.raises(SchemaMismatchError, match="add") as caught:
        answer.result()
    assert caught.value.text == arguments


@pytest.mark.parametrize(("name", "holds"), [("f", False), ("other", True)])
def test_arguments_of_a_strict_tool_hold_to_its_schema(name: str, holds: bool) -> None:  # noqa: FBT001
    strict = {"f": {"required": ["a"]}}
    answer = gather(ChatAnswer, call(0, id="c", name=name, arguments='{"b":1}'), delta("tool_calls"), strict=strict)
    if holds:
        assert answer.result().tool_calls[0].arguments == {"b": 1}
    else:
        with pytest.raises(SchemaMismatchError, match=r"of the call of f: \$: a is missing"):
            answer.result()


def test_an_answer_is_the_value_that_its_schema_describes() -> None:
    answer = gather(
        ChatAnswer, delta(content='{"a"'), delta(content=": [1]}"), delta("stop"), schema=dict[str, list[int]]
    )
    assert answer.result().value == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "reason"), [("12", "length"), ("1", "length"), ("x", "stop"), ("", "stop"), ('"1"', "stop")]
)
def test_an_answer_that_is_cut_off_or_of_another_shape_is_an_error(text: str, reason: str) -> None:
    # 12 may be what is left of 123, so being valid is not enough.
    answer = gather(ChatAnswer, delta(content=text), delta(reason), schema=int)
    with pytest.raises(SchemaMismatchError) as caught:
        answer.result()
    assert caught.value.text == text


def test_a_call_of_a_tool_is_not_held_against_the_schema() -> None:
    answer = gather(ChatAnswer, call(0, id="c", name="f", arguments="{}"), delta("tool_calls"), schema=int)
    assert answer.result().value is None


def test_probabilities_are_kept_where_they_were_asked_for() -> None:
    one = {"token": "a", "logprob": -1.0}
    chat = {
        "choices": [{"finish_reason": "stop", "index": 0, "delta": {"content": "a"}, "logprobs": {"content": [one]}}]
    }
    assert gather(ChatAnswer, chat).result().probabilities == (one,)
    assert gather(
        CompletionAnswer, {"content": "a", "stop": True, "completion_probabilities": [one]}
    ).result().probabilities == (one,)


def test_an_error_within_the_stream_is_raised_with_its_status() -> None:
    error = {"error": {"code": 500, "message": "the KV cache is full", "type": "server_error"}}
    with pytest.raises(ResponseError, match="HTTP 500: the KV cache is full"):
        gather(ChatAnswer, delta(content="a"), error)


@pytest.mark.parametrize(
    "event",
    [
        b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xff", b"{}", b'{"choices": {"a": 1}}', b'{"choices": [{}]}',
        b'{"choices": [1]}', b'{"choices": [{"delta": {"content": 5}, "finish_reason": null}]}',
        b'{"choices": [{"delta": null, "finish_reason": null}]}',
        b'{"choices": [{"delta": {"tool_calls": [5]}, "finish_reason": null}]}',
        b'{"choices": [{"delta": {}, "finish_reason": 5}]}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [ChatAnswer, CompletionAnswer])
def test_an_event_that_is_not_understood_is_an_error_of_the_response(kind: type[GatheredAnswer], event: bytes) -> None:
    with pytest.raises(ResponseError, match="not understood"):
        gather(kind, event)


@pytest.mark.parametrize("timings", [{"predicted_n": "x"}, {"cache_n": None}, {"predicted_ms": []}, {"prompt_n": {}}])
def test_timings_that_are_no_numbers_are_an_error_of_the_response(timings: Any) -> None:
    with pytest.raises(ResponseError, match="not understood"):
        gather(ChatAnswer, {**delta("stop"), "timings": timings}).result()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "finish_reason",
                    "tool_calls",
                    "function",
                    "index",
                    "stop",
                    "timings",
                    "usage",
                    "error",
                    "predicted_n",
                    "prompt_tokens_details",
                    "logprobs",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=4))
def test_any_events_end_in_a_result_or_in_a_typed_error(payloads: list[Any]) -> None:
    for kind in (ChatAnswer, CompletionAnswer):
        with suppress(LlcudaError):
            gather(kind, *payloads).result()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}', "File Not Found"),
        (b'{"error": "no such model"}', "no such model"),
        (b'{"detail": "x"}', '{"detail": "x"}'),
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b"", "no explanation"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 100_000, "["),
    ],
)
def test_an_error_says_what_the_server_said(body: bytes, message: str) -> None:
    error = read_error(404, body)
    assert error.status == 404
    assert str(error).startswith(f"HTTP 404: {message}")
    assert error.hint


@pytest.mark.parametrize(("status", "word"), [(401, "api_key"), (404, "address"), (503, "loading"), (501, "started")])
def test_an_error_says_what_to_try_next(status: int, word: str) -> None:
    assert word in read_error(status, b"").hint


def test_a_prompt_that_is_too_long_is_explained() -> None:
    error = read_error(400, b'{"error": {"code": 400, "message": "m", "type": "exceed_context_size_error"}}')
    assert "ctx_size" in error.hint


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_whole_answer_that_is_not_json_is_an_error_of_the_response(body: bytes) -> None:
    with pytest.raises(ResponseError, match="not JSON"):
        parse_json(body)
