"""What a gateway takes of a request's body, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api import field_costs as costs
from llcuda.gateway.api import field_sampling as sampling
from llcuda.gateway.api import field_tables as tables
from llcuda.gateway.api.answer_schema import asked_schema
from llcuda.gateway.api.field_media import MAX_MESSAGES, MAX_PROMPTS, count_texts
from llcuda.gateway.api.field_schemas import MAX_PATTERNS, MAX_SCHEMA_CHARACTERS
from llcuda.gateway.api.fields import (
    MAX_BODY_DEPTH,
    MAX_QUICK_BYTES,
    check_fields,
    is_quick_to_read,
    leave_out_unknown,
    parse_body,
)
from llcuda.gateway.http.routes import ROUTES, Kind
from llcuda.gateway.observe.gateway_metrics import GatewayMetrics
from llcuda.gateway.relay import model_request
from llcuda.gateway.relay.model_request import ModelRequest
from llcuda.options import OPTIONS

MESSAGES = [{"role": "user", "content": "Hello"}]
IMAGE = "data:image/png;base64,AAAA"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
SMALLEST: dict[str, dict[str, Any]] = {
    "chat": {"messages": MESSAGES},
    "completions": {"prompt": "a"},
    "completion": {"prompt": "a"},
    "infill": {"input_prefix": "a", "input_suffix": "b"},
    "responses": {"input": "a"},
    "messages": {"messages": MESSAGES},
    "ollama_chat": {"model": "demo"},
    "ollama_embed": {"model": "demo", "input": "x"},
    "ollama_embeddings": {"model": "demo", "prompt": "x"},
    "ollama_generate": {"model": "demo"},
    "embeddings": {"input": "a"},
    "embedding": {"content": "a"},
    "rerank": {"query": "a", "documents": ["b"]},
    "tokenize": {"content": "a"},
    "detokenize": {"tokens": [1, 2]},
    "apply_template": {"messages": MESSAGES},
    "chat_tokens": {"messages": MESSAGES},
    "responses_tokens": {"input": "a"},
    "messages_tokens": {"messages": MESSAGES},
}
LLAMA_INDEX_CHAT: dict[str, Any] = {
    "messages": [{"role": "system", "content": "Be brief."}, *MESSAGES], "model": "m", "stream": False,
    "temperature": 0.1, "max_tokens": 256, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "n": 1,
}  # fmt: skip
LANG_CHAIN_CHAT: dict[str, Any] = {
    "messages": MESSAGES, "model": "m", "stream": True, "stream_options": {"include_usage": True}, "stop": ["\nObs"],
    "temperature": 0.7, "max_completion_tokens": 64, "seed": 3, "logprobs": True, "top_logprobs": 2,
    "logit_bias": {"50256": -100}, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False, "user": "u",
}  # fmt: skip
OPENAI_CHAT: dict[str, Any] = {
    "messages": MESSAGES, "model": "m", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "audio": None,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": NUMBER}},
    "reasoning_effort": "low", "verbosity": "low", "prompt_cache_key": "k", "safety_identifier": "s",
    "modalities": ["text"], "prediction": {"type": "content", "content": "a"}, "tool_choice": "auto", "functions": [],
}  # fmt: skip
LLAMA_SERVER: dict[str, Any] = {
    "n_predict": -1, "top_k": 40, "min_p": 0.05, "typical_p": 1.0, "repeat_penalty": 1.1, "repeat_last_n": 64,
    "dynatemp_range": 0, "dynatemp_exponent": 1, "xtc_probability": 0, "xtc_threshold": 0.1, "dry_multiplier": 0.8,
    "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": 64, "dry_sequence_breakers": ["\n"],
    "mirostat": 2, "mirostat_tau": 5, "mirostat_eta": 0.1, "samplers": ["top_k", "temperature"], "n_keep": -1,
    "grammar": 'root ::= "a"', "ignore_eos": False, "cache_prompt": True, "n_probs": 3, "min_keep": 1,
    "t_max_predict_ms": 100, "adaptive_target": -1, "adaptive_decay": 0.9, "post_sampling_probs": True,
    "logit_bias": [[15043, 1.5], ["Hello", False]], "timings_per_token": True, "return_progress": True,
}  # fmt: skip
ANTHROPIC: dict[str, Any] = {
    "model": "m", "max_tokens": 10, "system": [{"type": "text", "text": "a"}], "stop_sequences": ["x"],
    "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": "u"}, "top_k": 3,
    "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "tool", "name": "f"},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "httAAAA"}},
                {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x"}]},
            ],
        },
    ],
}  # fmt: skip
OPENAI_RESPONSE: dict[str, Any] = {
    "input": [{"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}], "instructions": "Be brief.",
    "model": "m", "store": False, "text": {"format": {"type": "json_schema", "name": "n", "schema": NUMBER}},
    "reasoning": {"effort": "low"}, "include": [], "truncation": "auto", "max_output_tokens": 9, "temperature": 1,
    "tools": [{"type": "function", "name": "f", "parameters": {}}], "tool_choice": {"type": "function", "name": "f"},
}  # fmt: skip
TAKEN: list[tuple[str, dict[str, Any]]] = [
    *SMALLEST.items(),
    ("chat", LLAMA_INDEX_CHAT),
    ("chat", LANG_CHAIN_CHAT),
    ("chat", OPENAI_CHAT),
    ("chat", {**SMALLEST["chat"], **LLAMA_SERVER}),
    ("completion", {**SMALLEST["completion"], **LLAMA_SERVER, "return_tokens": True}),
    ("completions", {"prompt": ["a", [1, 2]], "echo": False, "best_of": 1, "suffix": None, "logprobs": 5, "n": 2}),
    ("completion", {"prompt": [1, "a", 2]}),
    ("completion", {"prompt": {"prompt_string": "a", "multimodal_data": ["AAAA"]}}),
    ("infill", {**SMALLEST["infill"], "input_extra": [{"text": "a", "filename": "b"}], "prompt": "c"}),
    ("messages", ANTHROPIC),
    ("responses", OPENAI_RESPONSE),
    ("embeddings", {"input": ["a", "b"], "model": "m", "encoding_format": "base64", "user": "u", "dimensions": None}),
    ("embedding", {"content": [[1, 2], "b"], "embd_normalize": -1}),
    ("rerank", {"query": "a", "texts": ["b"], "return_text": True, "top_n": 1, "model": "m"}),
    ("tokenize", {"content": ["a", 5], "add_special": True, "with_pieces": True}),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}]}),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "UklG"}}]}]}),
    ("chat", {"messages": [{"role": "assistant", "content": None, "tool_calls": []}], "tools": []}),
]


def refuse(endpoint: str, body: dict[str, Any]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        check_fields(endpoint, body)
    assert caught.value.status == 400
    return caught.value


def refuse_chat(**fields: Any) -> RefusedError:
    return refuse("chat", {"messages": MESSAGES, **fields})


@pytest.mark.parametrize(("endpoint", "body"), TAKEN)
def test_what_the_libraries_send_is_taken(endpoint: str, body: dict[str, Any]) -> None:
    check_fields(endpoint, parse_body(json.dumps(body).encode()))


def test_every_endpoint_has_its_fields_and_every_path_an_endpoint() -> None:
    assert {route.endpoint for route in ROUTES.values() if route.kind is not Kind.OWN} == set(tables.FIELDS)


@pytest.mark.parametrize(("endpoint", "body"), SMALLEST.items())
def test_a_field_that_is_not_known_is_named_with_what_may_have_been_meant(endpoint: str, body: dict[str, Any]) -> None:
    error = refuse(endpoint, {**body, "modle": "m"})
    assert (error.code, error.param) == ("unknown_field", "modle")
    assert "model" in error.message or endpoint == "detokenize"


@pytest.mark.parametrize("name", ["moderation_policy", "x", "a new field", "reasoning", "foo\r\nX-Evil: 1"])
def test_a_name_that_nothing_is_like_is_left_out(name: str) -> None:
    fields, ignored = leave_out_unknown("chat", {**SMALLEST["chat"], name: 1})
    assert (fields, ignored) == (SMALLEST["chat"], (name,))


@pytest.mark.parametrize(
    ("name", "meant"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("modle", "model"), ("top_n", "top_"),
     ("responseformat", "response_format"), ("id_slot", "the gateway chooses"), ("lora", "the same for everyone"),
     ("guided_json", "send a schema as response_format"), ("structured_outputs", "response_format"),
     ("guided_grammar", "send it as grammar")],
)  # fmt: skip
def test_a_name_that_is_misspelt_or_reaches_into_the_server_is_refused(name: str, meant: str) -> None:
    with pytest.raises(RefusedError, match=meant) as caught:
        leave_out_unknown("chat", {**SMALLEST["chat"], name: 1})
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unknown_field", name)


def test_what_programs_send_to_every_server_is_left_out_however_many() -> None:
    body = {**dict.fromkeys(tables.ELSEWHERE, 1), "guided_json": None}
    assert leave_out_unknown("completion", {"prompt": "a", **body}) == ({"prompt": "a"}, tuple(body))
    assert not tables.ELSEWHERE & {name for fields in tables.FIELDS.values() for name in fields}


def test_strictly_nothing_is_left_out_and_nor_are_many() -> None:
    with pytest.raises(RefusedError, match="no field 'x'"):
        leave_out_unknown("chat", {**SMALLEST["chat"], "x": 1}, is_strict=True)
    with pytest.raises(RefusedError, match="no field 'x0'"):
        leave_out_unknown("chat", {f"x{number}": 1 for number in range(17)})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": 5, "content": "a"}]}, "messages[0].role"),
        ({"messages": [*MESSAGES, {"role": "user"}]}, "messages[1].content"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "name": 5}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "function", "function": {}}]}]},
         "messages[0].tool_calls[0].function.name"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, {"type": "custom", "custom": {"name": "x"}}]}, "tools[1].type"),
        ({"tools": [{"type": "function", "function": {"name": "f", "description": 5}}]}, "tools[0].description"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]}, "tools[0].parameters"),
    ],
)  # fmt: skip
def test_what_is_wrong_inside_of_a_message_or_tool_is_named_by_its_place(fields: dict[str, Any], param: str) -> None:
    error = refuse_chat(**fields)
    assert (error.code, error.param) == ("invalid_value", param)
    assert param in error.message


def test_a_long_name_is_cut_short_in_the_refusal() -> None:
    error = refuse_chat(**{"x" * 5000: 1})
    assert len(error.message) < 300
    assert len(error.param or "") <= 100


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [(endpoint, name) for endpoint, fields in tables.FIELDS.items() for name in tables.REFUSED if name not in fields],
)
def test_what_reaches_into_the_server_is_refused_everywhere_and_the_reason_given(endpoint: str, name: str) -> None:
    error = refuse(endpoint, {name: None})
    assert (error.code, error.param) == ("unknown_field", name)
    assert tables.REFUSED[name] in error.message


def test_what_the_chat_page_sends_with_every_question_is_taken_in_a_chat_alone() -> None:
    sent = {"backend_sampling": False, "reasoning_control": True, "sse_ping_interval": 1}
    taken = {name for fields in tables.FIELDS.values() for name in tables.REFUSED if name in fields}
    assert taken - {"id_slot"} == set(sent)  # which an editor's plugin sends
    check_fields("chat", {**SMALLEST["chat"], **sent, "return_progress": True, "timings_per_token": True})
    for wrong in ({"backend_sampling": True}, {"reasoning_control": 1}, {"sse_ping_interval": -1}):
        assert refuse_chat(**wrong).code == "invalid_value"
    assert refuse_chat(sse_ping_interval=31).code == "invalid_value"


@pytest.mark.parametrize("endpoint", sorted(tables.FIELDS.keys() - {"embedding"}))
def test_a_field_that_must_be_there_is_asked_for(endpoint: str) -> None:
    name = next(name for name, field in tables.FIELDS[endpoint].items() if field.is_required)
    assert refuse(endpoint, {}).param == name
    assert refuse(endpoint, {name: None}).code == "invalid_value"


NUMBERS = [
    (name, option)
    for name, option in OPTIONS.items()
    if option.kind in {"int", "float"} and name not in {"id_slot", "seed"}
]


@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_the_range_of_an_option_is_the_range_of_the_field(name: str, option: Any) -> None:
    step = 1 if option.kind == "int" else 1e-9
    outside = [None if end is None else end + way for end, way in ((option.low, -step), (option.high, step))]
    for value in [*outside, option.above, "1", True, [1]]:
        if value is not None:
            error = refuse_chat(**{name: value})
            assert (error.code, error.param) == ("invalid_value", name)
            assert name in error.message
    for value in (option.low, option.high):
        if value is not None:
            check_fields("chat", {"messages": MESSAGES, name: value})


def test_the_range_is_in_the_message() -> None:
    assert f"from {-(2**63)} to {2**63 - 1}" in refuse_chat(seed=2**63).message
    assert "above 0, at most 1" in refuse_chat(typical_p=0).message
    assert "from 0" in refuse_chat(temperature=-1).message
    assert "'auto' or" in refuse_chat(reasoning_format="x").message


@pytest.mark.parametrize(
    "fields",
    [
        {"n": sampling.MAX_CHOICES + 1},
        {"n": 0},
        {"n_probs": sampling.MAX_PROBABILITIES + 1},
        {"top_logprobs": tables.MAX_TOP_LOGPROBS + 1},
        {"max_tokens": 2**31},
        {"dry_penalty_last_n": sampling.MAX_LOOK_BACK + 1},
        {"repeat_last_n": sampling.MAX_LOOK_BACK + 1},
        {"max_tokens": 100.5},
        {"temperature": 1e300},
        {"temperature": 10**400},
        {"grammar": "x" * (sampling.MAX_GRAMMAR_CHARACTERS + 1)},
        {"grammar": "root ::= " + "(" * (costs.MAX_GRAMMAR_DEPTH + 1)},
        {"grammar": 'root ::= "\\"" [\\]"] # "\n' + "a (" * (costs.MAX_GRAMMAR_DEPTH + 1)},
        {"stop": ["x"] * (sampling.MAX_STOPS + 1)},
        {"stop": "x" * (sampling.MAX_STOP_CHARACTERS + 1)},
        {"stop": [1]},
        {"tools": [TOOL] * (tables.MAX_TOOLS + 1)},
        {"tools": ["f"]},
        {"tools": [{"type": "function", "function": {"name": " " * 257}}]},
        {"tools": [{"name": 7}]},
        {"tools": [{"type": "function", "function": "f"}]},
        {"tool_choice": "f"},
        {"tool_choice": {"type": "allowed_tools"}},
        {"tool_choice": ["auto"]},
        {"logit_bias": {"1": "x"}},
        {"logit_bias": [[1, 2, 3]]},
        {"logit_bias": [1]},
        {"logit_bias": ["ab"]},
        {"logit_bias": {"1": True}},
        {"logit_bias": {"1": -1e39}},
        {"logit_bias": {str(place): 1 for place in range(sampling.MAX_BIASES + 1)}},
        {"logit_bias": {"x" * (sampling.MAX_BIAS_CHARACTERS + 1): 1}},
        {"samplers": ["x"] * (sampling.MAX_SAMPLERS + 1)},
        {"chat_template_kwargs": {str(place): 1 for place in range(tables.MAX_TEMPLATE_ARGUMENTS + 1)}},
        {"dry_sequence_breakers": []},
        {"messages": []},
        {"messages": MESSAGES * (MAX_MESSAGES + 1)},
        {"messages": ["Hello"]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": ["Hello"]}]},
        {"stream": "true"},
        {"stream": 1},
        {"model": 5},
        {"function_call": {"name": "f"}},
        {"functions": [{"name": "f"}]},
        {"audio": {"voice": "alloy"}},
        {"modalities": ["text", "audio"]},
        {"response_format": "json"},
        {"response_format": {"type": "yaml"}},
        {"continue_final_message": "x"},
    ],
)
def test_a_value_that_is_no_value_or_too_large_is_refused(fields: dict[str, Any]) -> None:
    error = refuse_chat(**fields)
    assert error.code == "invalid_value"
    assert (error.param or "").startswith(next(iter(fields)))
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("completions", {"echo": True}),
        ("completions", {"best_of": 2}),
        ("completions", {"suffix": "x"}),
        ("completion", {"prompt": ["a"] * (MAX_PROMPTS + 1)}),
        ("completion", {"prompt": []}),
        ("completion", {"prompt": 5}),
        ("completion", {"prompt": [1.5]}),
        ("completion", {"prompt": [1, True]}),
        ("completion", {"prompt": [-1]}),
        ("completion", {"prompt": {"content": "a"}}),
        ("infill", {"prompt": ["a"]}),
        ("responses", {"previous_response_id": "r"}),
        ("responses", {"background": True}),
        ("responses", {"text": "x"}),
        ("responses", {"text": {"format": {"type": "yaml"}}}),
        ("responses", {"input": 5}),
        ("messages", {"tool_choice": "auto"}),
        ("messages", {"tool_choice": {"type": "tool"}}),
        ("messages", {"tool_choice": {"type": ["tool"]}}),
        ("completion", {"prompt": {"prompt_string": "a", "multimodal_data": 5}}),
        ("embeddings", {"dimensions": 0}),
        ("embeddings", {"encoding_format": "int8"}),
        ("rerank", {"documents": []}),
        ("rerank", {"top_n": 0}),
        ("rerank", {"return_documents": 1}),
        ("detokenize", {"tokens": ["a"]}),
        ("tokenize", {"content": {"a": 1}}),
        ("tokenize", {"content": {"prompt_string": "a"}}),
        ("tokenize", {"content": "a" * (tables.MAX_TOKENIZED_CHARACTERS + 1)}),
        ("tokenize", {"content": [1, "a" * (tables.MAX_TOKENIZED_CHARACTERS + 1)]}),
    ],
)
def test_what_an_endpoint_would_not_do_is_refused(endpoint: str, fields: dict[str, Any]) -> None:
    assert refuse(endpoint, {**SMALLEST[endpoint], **fields}).code == "invalid_value"


def test_brackets_that_are_not_nested_in_a_grammar_are_not_counted() -> None:
    pieces = ['("a" | b)', '"((("', "[((]", '"\\"(("', "[\\](]", "# ((\n", '("(")']
    for piece in pieces:
        check_fields("chat", {"messages": MESSAGES, "grammar": f"root ::= {piece * 1000}"})


# Media

PLACES = ["http://a/b.png", "https://a/b.png", "HTTP://a", "file:///etc/passwd", "ftp://a", "httpAAAA", 5, ["data:x"]]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_fetched_for_a_request(place: Any) -> None:
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": place}},
        {"type": "image_url", "image_url": place},
        {"type": "input_audio", "input_audio": {"data": place}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "url": place}},
        {"type": "input_video", "input_video": {"url": place}},
        {"type": "video_url", "video_url": {"url": place}},
        {"type": "image", "source": {"type": "url", "url": place}},
        {"type": "image", "source": {"type": "base64", "data": place}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": place}}]},
    ]
    for part in parts:
        for endpoint in ("chat", "messages", "apply_template", "chat_tokens", "messages_tokens"):
            error = refuse(endpoint, {"messages": [{"role": "tool", "content": [part]}]})
            assert error.code == "invalid_value"
            assert "data: URL" in error.message
        refuse("embedding", {"input": {"content": [part]}})
        refuse("embeddings", {"input": ["a", {"content": [part]}]})
    image = {"type": "input_image", "image_url": place}
    refuse("responses", {"input": [{"role": "user", "content": [image]}]})
    refuse("responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": [image]}]})
    refuse("completion", {"prompt": {"prompt_string": "a", "multimodal_data": [place]}})


@given(st.lists(st.one_of(st.integers(0, 9), st.text(max_size=2), st.lists(st.integers(0, 9), min_size=1)), min_size=1))
def test_texts_are_counted_by_llama_servers_rule(prompt: list[Any]) -> None:
    prompts = 1 if any(isinstance(item, int) for item in prompt) else len(prompt)
    assert count_texts({"prompt": prompt}) == prompts
    assert count_texts({"prompt": prompt, "n_cmpl": 2, "n": 1}) == 2 * prompts


# Schemas


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        True,
        {"type": "objekt"},
        {"$dynamicRef": "#a"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "http://a/b"},
        {"properties": {"a": {"minimum": "x"}}},
        {"pattern": "("},
        {"pattern": "^a{1" + "0" * 5000 + "}$"},
        {"$ref": "#/allOf/" + "0" * 5000, "allOf": [{}]},
        {"$ref": "#/" + "x" * 50_000},
        {"type": ["object", "object"]},
        {"minLength": ["x"] * 10_000},
        {"pattern": r"^(a)\1$"},
        {"patternProperties": {"(?<=a)b": {}}},
        {"anyOf": [{"properties": {"pattern": {"pattern": "^(a{99}){99}$"}}}]},
        {"enum": ["x" * MAX_SCHEMA_CHARACTERS]},
        {"anyOf": [{"pattern": f"^{place}$"} for place in range(MAX_PATTERNS + 1)]},
    ],
)
def test_a_schema_that_no_answer_can_be_held_to_is_refused(document: Any) -> None:
    error = refuse_chat(response_format={"type": "json_schema", "json_schema": {"schema": document}})
    assert (error.code, error.param) == ("invalid_schema", "response_format.json_schema.schema")
    assert len(error.message) < 600
    error = refuse("responses", {"input": "a", "text": {"format": {"type": "json_schema", "schema": document}}})
    assert error.code == "invalid_schema"
    if document is not None:
        assert refuse("completion", {"prompt": "a", "json_schema": document}).code == "invalid_schema"
        assert refuse_chat(response_format={"type": "json_object", "schema": document}).code == "invalid_schema"


def test_a_schema_that_refers_to_one_twice_at_each_level_is_checked_in_no_time() -> None:
    document = {"$ref": "#/$defs/0", "$defs": {"40": {"type": "integer"}}}
    for place in range(40):
        reference = {"$ref": f"#/$defs/{place + 1}"}
        document["$defs"][str(place)] = {"allOf": [reference, reference]}  # type: ignore[index]
    check_fields("completion", {"prompt": "a", "json_schema": document})


def test_a_property_may_be_called_pattern() -> None:
    check_fields("completion", {"prompt": "a", "json_schema": {"properties": {"pattern": {"type": "string"}}}})


@pytest.mark.parametrize("grammar", ["", 'root ::= "a"'])
def test_a_schema_beside_a_grammar_would_be_left_out_of_account(grammar: Any) -> None:
    assert refuse("completion", {"prompt": "a", "json_schema": {}, "grammar": grammar}).param == "json_schema"


@pytest.mark.parametrize(
    ("endpoint", "fields", "document"),
    [
        ("chat", {}, None),
        ("chat", {"response_format": {"type": "text"}}, None),
        ("chat", {"response_format": {"type": "text"}, "json_schema": NUMBER}, NUMBER),
        ("chat", {"response_format": {"type": "json_object"}}, {"type": "object"}),
        ("chat", {"response_format": {"type": "json_object"}, "json_schema": NUMBER}, NUMBER),
        ("chat", {"response_format": {"type": "json_object", "schema": NUMBER}}, NUMBER),
        ("chat", {"response_format": {"type": "json_schema", "json_schema": {"schema": NUMBER}}}, NUMBER),
        ("chat", {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, {"type": "object"}),
        ("completion", {"json_schema": NUMBER}, NUMBER),
        ("completions", {"json_schema": {}}, {"type": "object"}),
        ("infill", {}, None),
        ("responses", {"text": {"format": {"type": "json_schema", "schema": NUMBER}}}, NUMBER),
        ("responses", {"text": {"format": {"type": "json_object"}}}, {"type": "object"}),
        ("responses", {"text": {"verbosity": "low"}}, None),
        ("messages", {}, None),
    ],
)
def test_the_schema_is_the_one_that_llama_server_takes(
    endpoint: str, fields: dict[str, Any], document: dict[str, Any] | None
) -> None:
    assert asked_schema(endpoint, fields) == document


# Bodies


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'"a"', b"null", b"{", b"{}x", b"\xef\xbb\xbf{}", b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}',
        b'{"a":1,"a":2}', b'{"b":[{"a":1,"a":1}]}', b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}', b"{'a':1}",
        b'{"a":"\\ud800"}', b'{"a\\uDFFF":1}', b'{"a":"\\ud800\\u0041"}', b'{"a":01}', b'{"a":"\n"}',
        b'{"a":' + b"1" * 10_000 + b"}", b'{"\\u0061":1,"a":2}', '{"a":1}'.encode("utf-16"),
        b'{"a":' * 100_000, b'{"a":' + b"[" * 100_000, b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
    ],
)  # fmt: skip
def test_what_is_not_one_object_of_plain_json_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_body(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert len(caught.value.message) < 300


def test_depth_is_counted_not_brackets() -> None:
    deepest = b'{"a":' + b"[" * (MAX_BODY_DEPTH - 1) + b"]" * (MAX_BODY_DEPTH - 1) + b"}"
    assert parse_body(deepest)
    assert parse_body(json.dumps({"a": [{"b": "[{"}] * 500}).encode())


def name_values(count: int) -> dict[str, int]:
    return {f"n{place}": place for place in range(count)}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"metadata": name_values(50_000)}, "metadata has 50000 names, and may have 1024"),
        (name_values(1025), "the body has 1025 names, and may have 1024"),
        ({"messages": [{"content": [{"a": name_values(1025)}]}]}, "messages.0.content.0.a has 1025 names"),
        ({"metadata": {"x" * 90: {"y": name_values(1025)}}}, " has 1025 names, and may have 1024"),
        ({"metadata": [name_values(1000)] * 70}, "more than 65536 names in all"),
        ({"metadata": [name_values(10)] * 6600}, "more than 65536 names in all"),
        ({"metadata": [[]] * 500_000}, "more than 65536 objects and lists"),
        ({"metadata": [[]] * 70_000}, "more than 65536 objects and lists"),
        ({"metadata": [""] * 600_000}, "more than 524288 values"),
        ({"prompt": [1] * 600_000}, "more than 524288 values"),
        ({"seed": 0, "x": [{"a": [[0]]}] * 30_000}, "more than 65536 objects and lists"),
    ],
)
def test_names_and_values_have_a_bound_in_one_object_and_in_all(fields: dict[str, Any], said: str) -> None:
    for separators in ((",", ":"), (", ", ": ")):
        with pytest.raises(RefusedError) as caught:
            parse_body(json.dumps(fields, separators=separators).encode())
        assert caught.value.status == 400
        assert said in caught.value.message
        assert len(caught.value.message) < 300


def test_what_stands_in_a_text_counts_for_nothing() -> None:
    for text in ("1,2;[3]:{4}\n" * 100_000, '{"a": [1, 2, "b\\"]}' * 60_000, "\\" * 600_000 + '"' * 9 + ",:" * 300_000):
        assert parse_body(json.dumps({"prompt": text}).encode())["prompt"] == text


def test_what_real_clients_send_at_most_is_read() -> None:
    assert parse_body(json.dumps({"input": [[7] * 250] * 2000}).encode())
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse_body(json.dumps({"messages": [{"role": "user", "content": parts}] * MAX_MESSAGES}).encode())


def test_a_number_of_thousands_of_digits_is_refused_in_words() -> None:
    with pytest.raises(RefusedError, match=r"a number has too many digits$"):
        parse_body(b'{"seed":' + b"1" * 5000 + b"}")


@pytest.mark.parametrize(
    ("body", "is_quick"),
    [
        ({"messages": MESSAGES, "temperature": 1}, True),
        ({"prompt": "x" * 17_000}, False),
        ({"json_schema": {}}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"tools": []}, False),
        ({"grammar": ""}, False),
        ({"prompt": "é"}, False),  # as json.dumps writes it: a name could be written so as well
    ],
)
def test_what_may_take_long_is_not_read_on_the_loop(body: dict[str, Any], *, is_quick: bool) -> None:
    assert is_quick_to_read(json.dumps(body).encode()) is is_quick


def make_dense(rng: random.Random) -> dict[str, Any]:
    """Return fields of as much as there can be in a body that is read on the loop."""
    fill: Any = rng.choice([[], {}, "", 0, None, True, [0], {"": 0}, 1e9, ["", [], {}], {"a": {}}, [[[[]]]]])
    names = [*sorted(tables.FIELDS["chat"]), "x", "y" * 60, "temperature_"]
    value: Any = [fill] * rng.randint(1, MAX_QUICK_BYTES // (2 + len(json.dumps(fill))))
    shape = rng.random()
    if shape < 0.3:
        value = name_values(rng.randint(1, 1400))
    elif shape < 0.5:
        value = [{"role": "user", "content": value[: len(value) // 2]}]
    return {"messages": MESSAGES, rng.choice(names): value}


def test_what_is_read_on_the_loop_is_read_in_a_bounded_number_of_calls() -> None:
    rng = random.Random(3)
    most, calls = 0, 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event.endswith("call")

    for _ in range(300):
        fields = make_dense(rng)
        body = json.dumps(fields, separators=(",", ":")).encode()[:MAX_QUICK_BYTES]
        calls = 0
        sys.setprofile(note)
        try:
            with suppress(RefusedError):
                check_fields("chat", parse_body(body))
        finally:
            sys.setprofile(None)
        most = max(most, calls)
    # At most three for each byte, of 0.1 us.
    assert most < 3 * MAX_QUICK_BYTES


@pytest.mark.parametrize("value", [[1] * 10_000, {"a": 1}, [[[[[[[]]]]]]], 10**4000, "x" * 10_000, [["x" * 10_000]]])
def test_a_refused_value_is_shown_in_part(value: Any) -> None:
    error = refuse_chat(temperature=value)
    assert len(error.message) < 200


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_body(b'{"a":"\\ud83e\\udd99 \\\\ud800"}') == {"a": "🦙 \\ud800"}


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False),
              st.text()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.text(), JSON))
def test_whatever_is_plain_json_is_read_as_it_is(fields: dict[str, Any]) -> None:
    assert parse_body(json.dumps(fields).encode()) == fields
    assert parse_body(json.dumps(fields, ensure_ascii=False, indent=1).encode()) == fields


@given(st.binary())
def test_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(RefusedError):
        assert isinstance(parse_body(data), dict)


# Values that get past the first look, and so reach what is inside of them.
WORDS = ["type", "function", "name", "content", "json_schema", "schema", "format", "image_url", "url", "prompt_string"]
VALUES = ["function", "json_schema", "json_object", "tool", "text", "auto", "multimodal_data", "output", "source"]
LIKELY = st.recursive(
    st.sampled_from([None, 1, "a", *WORDS, *VALUES]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS + VALUES), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(tables.FIELDS)), st.data(), JSON | LIKELY)
def test_a_value_is_taken_or_refused(endpoint: str, data: st.DataObject, value: Any) -> None:
    name = data.draw(st.sampled_from(sorted(tables.FIELDS[endpoint])))
    with suppress(RefusedError):
        check_fields(endpoint, {**SMALLEST[endpoint], name: value})


# Where a body is read


class Body:
    """What a request's body is read from."""

    caller = None
    path = "/v1/chat/completions"

    def __init__(self, body: bytes) -> None:
        self.body, self.body_bytes = body, len(body)

    def drop_body(self) -> None:
        self.body = b""


@pytest.mark.parametrize(
    ("more", "is_apart"),
    [({}, False), ({"stop": "x" * 900}, False), ({"user": "x" * 17_000}, True), ({"grammar": 'root ::= "a"'}, True)],
)
def test_a_large_body_and_one_with_a_grammar_are_read_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], *, is_apart: bool
) -> None:
    threads = []

    def read(data: bytes) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return parse_body(data)

    monkeypatch.setattr(model_request, "parse_body", read)
    body: Any = Body(json.dumps({**SMALLEST["chat"], **more}).encode())
    request = asyncio.run(ModelRequest.read(body, ROUTES["POST", "/v1/chat/completions"], GatewayMetrics()))
    assert request.fields["messages"] == MESSAGES
    assert [thread is not threading.main_thread() for thread in threads] == [is_apart]


@pytest.mark.parametrize(
    ("endpoint", "name", "value", "reason"),
    [
        ("responses", "conversation", "c", "send its turns as input"),
        ("responses", "prompt", {"id": "p"}, "send its text as instructions"),
        ("messages", "container", "c", "no code is run here"),
        ("messages", "mcp_servers", [{"url": "x"}], "give its functions as tools"),
        ("messages", "thread", "t", "send its messages"),
        ("messages", "output_config", {"format": {"type": "json_object"}}, "json_schema"),
        ("ollama_generate", "context", [1], "/api/chat"),
        ("ollama_generate", "template", "x", "the model's own template"),
    ],
)
def test_what_would_need_what_is_not_here_is_refused_with_the_reason(
    *, endpoint: str, name: str, value: Any, reason: str
) -> None:
    error = refuse(endpoint, {**SMALLEST[endpoint], name: value})
    assert (error.status, error.param) == (400, name)
    assert reason in error.message


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("responses", {"client_metadata": {"a": "b"}, "moderation": {}, "max_tool_calls": 3, "prompt": None}),
        ("messages", {"system": [], "container": None, "cache_control": {"type": "e"}, "context_management": {}}),
        ("messages", {"output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}, "mcp_servers": []}),
        ("infill", {"id_slot": 0, "input_extra": [], "t_max_prompt_ms": 500, "response_fields": ["content"]}),
    ],
)
def test_what_agents_and_editors_send_is_taken(endpoint: str, fields: dict[str, Any]) -> None:
    check_fields(endpoint, {**SMALLEST[endpoint], **fields})
