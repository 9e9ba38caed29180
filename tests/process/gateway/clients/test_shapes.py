"""What programs send that know several servers: bodies that one of these answered with a 500, or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway import GatewayConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.process.gateway.clients.gateways import ANSWER, MESSAGES, PARAMETERS, QUESTION

if TYPE_CHECKING:
    from collections.abc import Iterator

USER: dict[str, Any] = MESSAGES[0]
SHORT = {"temperature": 0, "max_tokens": 12}
# As Gemma's: user and model take turns, and it knows no third.
STRICT = """\
{%- if messages[0]['role'] == 'system' -%}{%- set turns = messages[1:] -%}[{{ messages[0]['content'] }}]
{%- else -%}{%- set turns = messages -%}{%- endif -%}
{%- for turn in turns -%}
{%- if turn['role'] == 'system' -%}{{ raise_exception('System message must be at the beginning.') }}{%- endif -%}
{%- if turn['role'] == 'tool' -%}{{ raise_exception('there is no role tool') }}{%- endif -%}
{%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}<{{ turn['role'] }}>{{ turn['content'] }}
{%- endfor -%}<model>"""


def said(role: str, content: Any = "a", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def tool(parameters: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "add", "parameters": parameters, **more}}


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    template = tmp_path_factory.mktemp("templates") / "strict.jinja"
    template.write_text(STRICT, encoding="utf-8")
    models = (
        ModelConfig("demo", "demo", slots=2),
        ModelConfig("strict", "demo", slots=1, server_options={"chat_template_file": str(template)}),
        ModelConfig("vectors", "demo", slots=1, server_options={"embeddings": True}),
    )
    with (
        Gateway(GatewayConfig(models=models, port=0)) as running,
        httpx.Client(base_url=running.url, trust_env=False, timeout=60) as client,
    ):
        yield client


class TestTurns:
    @pytest.mark.parametrize(
        ("turns", "prompt"),
        [
            ([said("user"), said("user", "b")], "<user>a\nb<model>"),
            ([said("system", "s"), said("user"), said("user", [{"type": "text", "text": "b"}])],
             "[s]<user>a\nb<model>"),
            ([said("user"), said("assistant", "b"), said("system", "c"), said("user", "d")],
             "<user>a<assistant>b<user>c\nd<model>"),
            ([said("user"), said("assistant", "b"), said("assistant", "c"), said("user", "d")],
             "<user>a<assistant>b\nc<user>d<model>"),
            ([said("user"), said("assistant", None), said("assistant", "c"), said("user", "d")],
             "<user>a<assistant>c<user>d<model>"),
        ],
    )  # fmt: skip
    def test_those_of_one_role_are_one_if_the_template_wants_it(
        self, asker: httpx.Client, turns: list[Any], prompt: str
    ) -> None:
        assert asker.post("/apply-template", json={"model": "strict", "messages": turns}).json() == {"prompt": prompt}

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/chat/completions", {"messages": [USER, USER]}),
            ("/v1/chat/completions", {"messages": [USER, USER], "stream": True}),
            ("/v1/messages", {"messages": [USER, USER]}),
            ("/v1/responses", {"input": [USER, USER], "max_output_tokens": 12}),
            ("/api/chat", {"messages": [USER, USER], "stream": False, "options": {"num_predict": 12}}),
            ("/v1/chat/completions/input_tokens", {"messages": [USER, USER]}),
        ],
    )
    def test_every_api_takes_them(self, asker: httpx.Client, path: str, body: dict[str, Any]) -> None:
        own = {} if "responses" in path or path.startswith("/api") else SHORT
        answer = asker.post(path, json={"model": "strict", **own, **body})
        assert answer.status_code == 200, answer.text
        assert not body.get("stream") or answer.text.endswith("data: [DONE]\n\n")

    def test_others_are_left_as_they_are(self, asker: httpx.Client) -> None:
        prompt = asker.post("/apply-template", json={"model": "demo", "messages": [USER, USER]}).json()["prompt"]
        assert prompt.count("<|im_start|>user") == 2

    def test_two_of_the_models_at_the_end_are_gone_on_with(self, asker: httpx.Client) -> None:
        body = {"model": "demo", **SHORT, "messages": [USER, said("assistant", "2 +"), said("assistant", "")]}
        answer = asker.post("/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == ANSWER

    def test_a_template_that_refuses_them_says_why(self, asker: httpx.Client) -> None:
        body = {"model": "strict", **SHORT, "messages": [USER, said("tool", tool_call_id="x")]}
        error = asker.post("/v1/chat/completions", json=body)
        assert (error.status_code, error.json()["error"]["param"]) == (400, "messages")
        assert error.json()["error"]["message"].endswith("does not take these messages: there is no role tool")


CALL: dict[str, Any] = {"id": None, "type": "function", "function": {"name": "add", "arguments": "{}"}}
CHATS: list[Any] = [
    {"tools": [tool({"type": "object"})]},
    {"tools": [tool({})]},
    {"tools": [tool(None)]},
    {"tools": [{"type": "function", "function": {"name": "add"}}]},
    {"tools": [tool({"type": "object", "properties": {}}, description=None)]},
    {"tools": [tool({"type": "object", "properties": {"any": {"description": "Of any type."}}})]},
    {"tools": [tool({"type": "object", "properties": {"a": {"anyOf": [{"type": "number"}]}}})]},
    {"tools": [tool({"type": "object", "properties": {"a": {"type": ["string", "null"]}}})]},
    {"tools": [tool({"type": "object", "properties": {"a": {"type": "string", "pattern": "[a-z]+-\\d{3}"}}})]},
    {"messages": [USER, USER], "tools": [], "stop": [], "max_tokens": -1},
    {"messages": [said("user", [{"text": QUESTION, "type": "text"}])]},
    {"messages": [{**USER, "name": "Adam"}, {**USER, "name": "Sam"}]},
    {"messages": [said("user", "")]},
    {"messages": [said("developer"), USER]},
    {"messages": [said("assistant")]},
    {"messages": [USER, said("assistant", "")]},
    {"messages": [USER, said("assistant", "", reasoning_content="b"), USER]},
    {"messages": [USER, said("tool", "4", tool_call_id="x")]},
    {"messages": [USER, said("assistant", "2 +")], "chat_template_kwargs": {"enable_thinking": True}},
    {"keep_alive": "5m", "num_ctx": 4096, "repetition_penalty": 1.1, "skip_special_tokens": True},
    {"stop": "", "n": 1, "logit_bias": {}, "user": "x", "stream_options": None, "response_format": {"type": "text"}},
    {"messages": [USER, said("assistant", None, tool_calls=[CALL]), said("tool", "4", tool_call_id=None)]},
    {"messages": [USER, said("assistant", None, tool_calls=[CALL]), said("tool", None), said("assistant", None), USER]},
    {"messages": [USER, said("assistant", "a", reasoning_content="b", tool_calls=[CALL]), said("tool", "4")]},
    {"tools": [tool({"type": "object", "properties": {"a": {"not": {}}, "b": {"type": "string"}}})]},
    {"tools": [tool({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {
        "a": {"type": "object", "additionalProperties": {}}}, "additionalProperties": {}})]},
    {"tools": [tool({"type": "object", "properties": {"a": {"type": "string", "maxLength": 10_000}, "b": {
        "type": "array", "items": {"type": "string", "maxLength": 2000}, "maxItems": 100}}})]},
    {"max_completion_tokens": None, "tools": [tool(PARAMETERS)], "tool_choice": None},
]


@pytest.mark.parametrize("fields", CHATS)
def test_a_chat_is_answered(asker: httpx.Client, fields: dict[str, Any]) -> None:
    answer = asker.post("/v1/chat/completions", json={"model": "demo", "messages": MESSAGES, **SHORT, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] in {"stop", "length", "tool_calls"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 8, "messages": [USER, said("assistant", []), USER]}),
        ("/v1/messages", {"max_tokens": 8, "messages": [said("user", [{"type": "text", "text": ""}])]}),
        ("/v1/messages", {"max_tokens": 8, "messages": [USER, said("assistant", [
            {"type": "thinking", "thinking": "b", "signature": "x"}, {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "4"}]), USER]}),
        ("/v1/api/chat", {"messages": MESSAGES, "format": "", "keep_alive": -1, "stream": False, "tools": []}),
        ("/api/generate", {"prompt": "def f(", "suffix": "return 1", "stream": False, "options": {"num_predict": 4}}),
        ("/chat/completions", {"messages": MESSAGES, **SHORT}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "prompt": "", "n_predict": 4, "samplers": ["top_k"]}),
        ("/v1/completion", {"prompt": "Hi", "n_predict": 4, "stream": True}),
        ("/v1/responses", {"input": [said("user", "a"), {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "b"}]}, said("assistant", [{"type": "input_text", "text": "c"}]), USER]}),
        ("/v1/responses", {"input": QUESTION, "tools": [{"type": "web_search"}, {"type": "local_shell"}, {
            "type": "namespace", "name": "mcp", "tools": []}, {"type": "custom", "name": "apply_patch"}]}),
        ("/v1/embeddings", {"model": "vectors", "input": "Hi", "encoding_format": None}),
    ],
)  # fmt: skip
def test_other_addresses_are_answered(asker: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = asker.post(path, json={"model": "demo", **body})
    assert answer.status_code == 200, answer.text


# All that a front end for stories has to set, at every server in one form.
SAMPLERS: dict[str, Any] = {
    "max_new_tokens": 4, "max_tokens": 4, "n_predict": 4, "num_predict": 4, "num_ctx": 2048, "temperature": 0.7,
    "top_p": 1, "typical_p": 1, "typical": 1, "min_p": 0.05, "top_k": 0, "top_a": 0, "tfs": 1, "skew": 0,
    "repetition_penalty": 1, "rep_pen": 1, "rep_pen_range": 0, "rep_pen_slope": 1, "repetition_penalty_range": 0,
    "repeat_penalty": 1, "repeat_last_n": 0, "frequency_penalty": 0, "presence_penalty": 0, "min_tokens": 0,
    "min_keep": 0, "add_bos_token": True, "smoothing_factor": 0, "smoothing_curve": 1, "dry_allowed_length": 2,
    "dry_multiplier": 0, "dry_base": 1.75, "dry_sequence_breakers": ["\n", ":"], "dry_penalty_last_n": 0,
    "max_tokens_second": 0, "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "temperature"],
    "stopping_strings": ["\nUser:"], "stop": ["\nUser:"], "truncation_length": 2048, "ban_eos_token": False,
    "skip_special_tokens": True, "include_reasoning": True, "mirostat_mode": 0, "mirostat": 0, "mirostat_tau": 5,
    "mirostat_eta": 0.1, "custom_token_bans": "", "banned_strings": [], "api_type": "llamacpp",
    "api_server": "http://127.0.0.1:8080", "xtc_threshold": 0.1, "xtc_probability": 0, "nsigma": 0, "top_n_sigma": 0,
    "adaptive_target": -0.01, "adaptive_decay": 0.9, "n": 1, "guidance_scale": 1, "negative_prompt": "",
    "ignore_eos": False, "logit_bias": [], "grammar": "", "cache_prompt": True, "stream": True,
}  # fmt: skip


def test_all_samplers_of_all_servers_at_once(asker: httpx.Client) -> None:
    answer = asker.post("/completion", json={"model": "demo", "prompt": "Hi", **SAMPLERS})
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.text.splitlines()[-2].removeprefix("data: "))["stop"] is True
    assert {"top_a", "typical", "rep_pen"} < set(answer.headers["x-llcuda-ignored"].split(", "))


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("/v1/chat/completions", {"guided_json": PARAMETERS}, "response_format"),
        ("/v1/chat/completions", {"guided_choice": ["a", "b"]}, "with an enum"),
        ("/v1/chat/completions", {"structured_outputs": {"regex": "a"}}, "response_format"),
        ("/v1/chat/completions", {"message": MESSAGES}, "did you mean messages"),
        ("/v1/chat/completions", {"tools": [tool({"type": "object", "properties": {"a": "object"}})]}, "tools[0]"),
        ("/v1/chat/completions", {"messages": [said("user", "word " * 6000)], "stream": True}, "context size of 1024"),
        ("/v1/messages", {"messages": [said("user", "word " * 6000)], "stream": True}, "context size of 1024"),
        ("/v1/chat/completions", {"messages": [said("user", [{"type": "input_audio", "input_audio": {
            "data": "AAAA", "format": "mp3"}}])]}, "takes no audio"),
        ("/v1/embeddings", {"model": "vectors", "input": ["a", ""]}, "cannot be empty"),
        ("/v1/embeddings", {"model": "vectors", "input": [15339, 1917]}, "send the text"),
        ("/v1/chat/completions", {"input": QUESTION, "tools": [{"type": "function", "name": "f"}]}, "/v1/responses"),
        ("/v1/chat/completions", {"messages": [USER, said("tool", {"sum": 4})]}, "messages[1].content must be"),
        ("/v1/chat/completions", {"messages": [said("user", [{"type": "text", "text": {"value": "a"}}])]}, "[0].text"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_with_the_remedy(
    asker: httpx.Client, *, path: str, fields: dict[str, Any], says: str
) -> None:
    own = {} if path == "/v1/embeddings" else {"messages": MESSAGES, **SHORT}
    error = asker.post(path, json={"model": "demo", **own, **fields})
    assert (error.status_code, says in error.json()["error"]["message"]) == (400, True), error.text


def test_a_schema_without_openais_wrapper_is_held(asker: httpx.Client) -> None:
    wanted = {"type": "json_schema", "schema": {**PARAMETERS, "properties": {"a": {"const": 1}, "b": {"const": 2}}}}
    body = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 64, "response_format": wanted}
    answer = asker.post("/v1/chat/completions", json=body)
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"a": 1, "b": 2}


def test_names_beyond_ascii_are_held_though_they_are_alike_without_it(asker: httpx.Client) -> None:
    names = ["Aktivitäten", "Gegenstände", "a b", "a-b", "a_b", "日本", "中文"]
    schema = {"type": "object", "properties": {name: {"const": 1} for name in names}, "required": names}
    wanted = {"type": "json_schema", "json_schema": {"name": "k", "schema": {**schema, "additionalProperties": False}}}
    body = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 400, "response_format": wanted}
    answer = asker.post("/v1/chat/completions", json=body)
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == dict.fromkeys(names, 1)


def test_text_comes_in_pieces_though_there_are_tools(asker: httpx.Client) -> None:
    body = {"model": "demo", "messages": MESSAGES, **SHORT, "tools": [tool(PARAMETERS)], "tool_choice": "none"}
    with asker.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    assert sum(bool(event["choices"][0]["delta"].get("content")) for event in events) > 3


def test_the_pieces_of_a_call_have_an_index_and_a_reason(asker: httpx.Client) -> None:
    body = {"model": "demo", "messages": MESSAGES, "max_tokens": 60, "tools": [tool(PARAMETERS)]}
    answer = asker.post("/v1/chat/completions", json={**body, "tool_choice": "required", "stream": True})
    choices = [json.loads(line[6:])["choices"][0] for line in answer.text.splitlines() if line.startswith("data: {")]
    pieces = [piece for choice in choices for piece in choice["delta"].get("tool_calls", ())]
    assert {piece["index"] for piece in pieces} == {0}
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["tool_calls"]


def test_javas_client_that_would_rather_have_http2_gets_its_answer(asker: httpx.Client) -> None:
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAAB"}
    data = json.dumps({"model": "demo", "messages": MESSAGES, **SHORT}).encode()
    headers = {"Content-Type": "application/json", **upgrade}
    answer = asker.post("/v1/chat/completions", content=iter([data[:9], data[9:]]), headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
