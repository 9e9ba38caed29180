"""Whole answers: what llama-server says, byte for byte, and what the gateway notes of it."""

from __future__ import annotations

import http.client
import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.gateway.api.answer_schema import check_answer
from llcuda.gateway.api.fields import parse_body
from llcuda.gateway.http.routes import ROUTES
from tests.places import DATA
from tests.process.gateway.clients.gateways import KEY, gateway
from tests.standins.looped_gateway import LoopedGateway, Request, build_request, run_still, turns
from tests.standins.stub_answers import plain
from tests.watching import ask_connection, ask_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHAT, TEXT, NATIVE = "/v1/chat/completions", "/v1/completions", "/completion"
RESPONSES, ANTHROPIC, INFILL = "/v1/responses", "/v1/messages", "/infill"
STEERED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": '{"tokens": 3}'}]},
    TEXT: {"prompt": '{"tokens": 3}'},
    NATIVE: {"prompt": '{"tokens": 3}'},
}


class Site:
    """A gateway in front of stand-ins that answer what a test says."""

    def __init__(self, gateway: LoopedGateway) -> None:
        self.gateway = gateway
        self.asked: list[Request] = []

    def answer(self, *answers: bytes) -> None:
        """Let each request be answered with the next of these bytes; the connection ends with all but the last."""
        waiting = list(answers)

        def take(request: Request) -> None:
            self.asked.append(request)
            request.answer(waiting.pop(0))
            if waiting:
                request.break_off()

        for server in self.gateway.servers:
            server.on_request = take

    async def ask(self, path: str, fields: dict[str, Any]) -> tuple[int, str, bytes]:
        """Return status, head and body of what the client gets."""
        client = await self.gateway.connect(build_request(path, fields))
        await turns()
        head, _, body = client.data.partition(b"\r\n\r\n")
        return client.status, head.decode(), body


def play(tmp_path: Path, scenario: Callable[[Site], Any], *, slots: tuple[int, ...] = (1,)) -> None:
    async def run() -> None:
        site = LoopedGateway(tmp_path, slots=slots)
        await site.start()
        await scenario(Site(site))
        assert site.describe_rest() == {}
        await site.close()

    run_still(run)


@pytest.mark.parametrize("more", [{}, {"stream": False}, {"stream": None, "stream_options": {"include_usage": True}}])
@pytest.mark.parametrize("path", STEERED)
def test_it_is_asked_for_whole_and_passed_on_byte_for_byte(tmp_path: Path, path: str, more: dict[str, Any]) -> None:
    async def scenario(site: Site) -> None:
        said = '{ "what":  "llama-server said\\u00e9" }'
        site.answer(plain(200, said))
        status, head, body = await site.ask(path, {**STEERED[path], **more})
        assert (status, body) == (200, said.encode())
        assert "Content-Type: application/json; charset=utf-8\r\n" in head
        assert [request.asked.stream for request in site.asked] == [False]

    play(tmp_path, scenario)


def test_one_that_is_cut_off_is_asked_for_once_more(tmp_path: Path) -> None:
    async def scenario(site: Site) -> None:
        whole = plain(200, {"id": 1})
        site.answer(whole[:-1], whole)
        status, _, body = await site.ask(CHAT, STEERED[CHAT])
        assert (status, body) == (200, b'{"id":1}')
        assert [request.asked.stream for request in site.asked] == [False, False]

    play(tmp_path, scenario, slots=(1, 1))


def test_what_it_took_is_counted_and_its_first_token_came_after_the_prompt(tmp_path: Path) -> None:
    async def scenario(site: Site) -> None:
        for server in site.gateway.servers:
            server.on_request = Request.end
        for path, fields in STEERED.items():
            assert (await site.ask(path, fields))[0] == 200
        site.answer(plain(200, {"timings": {"prompt_ms": 1e9}}))
        assert (await site.ask(CHAT, STEERED[CHAT]))[0] == 200
        metrics = site.gateway.service.metrics
        assert "llcuda_completion_tokens_total 9.0\n" in metrics.render([]).decode()
        assert metrics.first_token_seconds.read()[math.inf] == 4
        # It cannot have come after the answer, whatever a worker says.
        assert 0 < metrics.first_token_seconds.sum < 1e6

    play(tmp_path, scenario)


@pytest.mark.parametrize("body", ["", "nonsense", "[]", "{}", '{"choices": [{}]}', "[" * 100_000])
def test_an_answer_that_cannot_be_held_against_its_schema_is_none(tmp_path: Path, body: str) -> None:
    async def scenario(site: Site) -> None:
        site.answer(plain(200, body))
        wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}}
        client = await site.gateway.connect(build_request(CHAT, {**STEERED[CHAT], "response_format": wanted}))
        while client.is_open:
            await turns()
        assert (client.status, b'"bad_answer"' in client.data) == (502, True)

    play(tmp_path, scenario)


@pytest.mark.parametrize("body", ["", "nonsense", "[]", '{"choices": [1]}', "[" * 100_000])
def test_an_answer_that_cannot_be_written_anew_is_the_workers_fault(tmp_path: Path, body: str) -> None:
    async def scenario(site: Site) -> None:
        site.answer(plain(200, body))
        client = await site.gateway.connect(build_request(TEXT, {**STEERED[TEXT], "logprobs": 1}))
        while client.is_open:
            await turns()
        assert (client.status, b'"bad_answer"' in client.data) == (502, True)

    play(tmp_path, scenario)


def test_what_a_worker_sends_too_much_of_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.fleet.dispatch.upstream._MAX_PLAIN_BYTES", 1000)

    async def scenario(site: Site) -> None:
        site.answer(plain(200, "x" * 1001))
        status, _, body = await site.ask(CHAT, STEERED[CHAT])
        assert (status, b"answer_too_large" in body) == (502, True)

    play(tmp_path, scenario)


# The real llama-server.

USER = {"role": "user", "content": "What is 2+2?"}
MESSAGES = [USER]
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": "Say it.", "parameters": PARAMETERS}}
    for name in ("get_weather", "get_time")
]
FLAT_TOOLS = [{"type": "function", **tool["function"]} for tool in TOOLS]
ANTHROPIC_TOOLS = [{"name": tool["name"], "input_schema": tool["parameters"]} for tool in FLAT_TOOLS]
REQUIRED = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "max_tokens": 60}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": MESSAGES, "stream": False, "user": "u", "metadata": {"a": "b"}}),
    "chat with two choices": (CHAT, {"messages": MESSAGES, "n": 2}),
    "chat with the usage of a stream": (CHAT, {"messages": MESSAGES, "stream_options": {"include_usage": True}}),
    "chat with probabilities": (
        CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1, "grammar": 'root ::= "yes"'},
    ),
    "chat with progress and times": (
        CHAT, {"messages": MESSAGES, "timings_per_token": True, "return_progress": True},
    ),
    "chat with reasoning that is empty": (CHAT, {"messages": MESSAGES, "grammar": 'root ::= "<think></think>"'}),
    "chat that calls tools": (CHAT, {**REQUIRED, "parallel_tool_calls": True, "n": 2}),
    "chat with a message to be continued": (
        CHAT,
        {
            "messages": [USER, {"role": "assistant", "content": "It is"}], "add_generation_prompt": False,
            "continue_final_message": True,
        },
    ),
    "completions of several prompts and choices": (TEXT, {"prompt": ["One", "Two"], "n": 2}),
    "native": (NATIVE, {"prompt": "Once upon a time"}),
    "native of several prompts": (NATIVE, {"prompt": ["One", [1, 2], ["Two", 3]]}),
    "native with probabilities": (NATIVE, {"prompt": "One", "n_probs": 2}),
    "native with what could have been a stop string": (
        NATIVE, {"prompt": "a", "max_tokens": 3, "stop": ["abcdeX"], "grammar": 'root ::= "abcde"'},
    ),
    "native with tokens and an indent": (
        NATIVE, {"prompt": "x", "grammar": 'root ::= "    a\\n    é\\nc d\\n"', "return_tokens": True, "n_indent": 4},
    ),
    "infill": (INFILL, {"input_prefix": "def f(x):\n    return ", "input_suffix": "\n"}),
    "responses": (RESPONSES, {"input": "What is 2+2?", "instructions": "Be brief."}),
    "messages": (ANTHROPIC, {"messages": MESSAGES, "system": "Be brief.", "max_tokens": 16}),
    "messages that call a tool": (
        ANTHROPIC,
        {"messages": MESSAGES, "tools": ANTHROPIC_TOOLS, "tool_choice": {"type": "any"}, "max_tokens": 60},
    ),
}  # fmt: skip
CHANGING = {"created", "created_at", "completed_at", "id", "call_id", "id_slot", "timings"}


class Real:
    """A gateway, and the one llama-server behind it."""

    def __init__(self, running: Any) -> None:
        self._port = running.port
        (self._server,) = [worker.server for worker in running._running.models["demo"].workers]

    def ask(self, path: str, fields: dict[str, Any]) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        status, body = ask_connection(connection, path, fields, key=KEY)
        return status, json.loads(body)

    def ask_past_it(self, path: str, fields: dict[str, Any]) -> Any:
        return ask_socket(str(self._server.socket_path), path, fields, key=self._server.api_key)


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    template = DATA / "chat_with_tools.jinja"
    with gateway(workers=1, slots=4, chat_template_file=str(template)) as running:
        yield Real(running)


def settle(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Settle what chance would, and let no answer be longer than it has to be. The cache would make counts differ."""
    settled: dict[str, Any] = {"temperature": 0}
    if path != ANTHROPIC:
        settled |= {"seed": 7, "cache_prompt": False}
        if not fields.keys() & {"max_tokens", "n_predict", "max_output_tokens"}:
            settled["max_output_tokens" if path == RESPONSES else "max_tokens"] = 16
    return {**settled, **fields}


def level(value: Any) -> Any:
    """Return a value without what differs between two answers."""
    if isinstance(value, dict):
        return {key: key in CHANGING or level(item) for key, item in value.items()}
    return [level(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ASKED)
def test_the_gateway_answers_what_llama_server_does(name: str, real: Real) -> None:
    path, fields = ASKED[name]
    body = settle(path, fields)
    real.ask_past_it(path, body)  # Anthropic's API cannot be told to leave the cache alone: now it is the same for both
    theirs = real.ask_past_it(path, body)
    status, answer = real.ask(path, body)
    assert (status == 200) == ("error" not in theirs)
    assert level(answer) == level(theirs)


def test_a_function_that_is_named_is_the_only_one_and_required(real: Real) -> None:
    named = settle(CHAT, {**REQUIRED, "tool_choice": {"type": "function", "function": {"name": "get_time"}}})
    alone = settle(CHAT, {**REQUIRED, "tools": TOOLS[1:]})
    assert level(real.ask(CHAT, named)[1]) == level(real.ask(CHAT, alone)[1])
    # llama-server itself would leave the name out of account.
    assert "get_weather" in str(real.ask_past_it(CHAT, named)["choices"])


@pytest.mark.parametrize("wanted", [{"type": "json_object"}, {"type": "json_schema", "name": "p", "schema": PERSON}])
def test_a_response_holds_to_the_schema_that_its_text_has(wanted: dict[str, Any], real: Real) -> None:
    fields = settle(RESPONSES, {"input": "A person", "text": {"format": wanted}, "max_output_tokens": 100})
    status, answer = real.ask(RESPONSES, fields)
    assert status == 200
    endpoint = ROUTES["POST", RESPONSES].endpoint
    check_answer(endpoint, parse_body(json.dumps(fields).encode()), json.dumps(answer).encode())
    assert answer["output"][0]["content"][0]["text"].startswith("{")
