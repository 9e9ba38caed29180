"""What each of vendor/patches mends in the llama-server that was built: without its patch a test fails."""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.server import ServerManager
from tests.inputs.grammar_texts import Grammar
from tests.processes import PATIENCE, killed_at_the_end, read_peak, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOTS = 4
TOKENS = 64
ASKED = [{"role": "user", "content": "What is 2+2?"}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SUMS = [(a, b) for a in range(11, 41, 3) for b in (12, 25)]


@pytest.fixture
def manager(  # noqa: PLR0917 - pytest passes fixtures by name
    binaries: Path, guard: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServerManager]:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(binaries / "llama-server"))
    monkeypatch.setattr("llcuda.server.manager.find_guard", lambda: guard)
    with ServerManager() as running:
        running.start_server(demo_model, ctx_size=4096, n_parallel=SLOTS, kv_unified=False)
        yield running


def open_request(manager: ServerManager, method: str, path: str, **body: Any) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", manager.port, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {manager.api_key}", "Content-Type": "application/json"}
    connection.request(method, path, body=json.dumps(body) if body else None, headers=headers)
    return connection


def post(manager: ServerManager, path: str, **body: Any) -> tuple[int, Any]:
    connection = open_request(manager, "POST", path, **body)
    try:
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def count_sleeps(pid: int | None, task: int) -> int:
    """Return how often a thread has given up its core of its own will."""
    status = Path(f"/proc/{pid}/task/{task}/status").read_text(encoding="ascii")
    (line,) = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
    return int(line)


def add(manager: ServerManager, a: int, b: int) -> str:
    messages = [{"role": "user", "content": f"What is {a}+{b}?"}]
    status, answer = post(manager, "/v1/chat/completions", messages=messages, temperature=0, max_tokens=40)
    assert status == 200, answer
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "fields",
    [
        {"json_schema": {"type": "integer"}},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": "required",
        },
    ],
    ids=["schema", "tools"],
)
def test_the_end_of_an_answer_within_a_message_does_not_end_the_server(
    manager: ServerManager, fields: dict[str, Any]
) -> None:
    pid = manager.server_pid
    messages = [{"role": "assistant", "content": "<|im_end|>"}]
    status, answer = post(manager, "/v1/chat/completions", messages=messages, **fields)
    assert (status, manager.server_pid) == (400, pid)
    assert "the grammar is not complete: <|im_end|>" in answer["error"]["message"]
    assert "41" in add(manager, 11, 30)


@pytest.mark.parametrize("fields", [{"prompt": ["a", "b"], "n": 2}, {"prompt": "a", "n": SLOTS}], ids=["2x2", "1x4"])
def test_choices_that_end_with_their_first_token_do_not_change_another_answer(
    manager: ServerManager, fields: dict[str, Any]
) -> None:
    wrong = []
    for turn, (a, b) in enumerate(SUMS):
        first = add(manager, a, b)
        # The first answer's state goes to the cache; which slot is free the longest is another one each time.
        for number in range(1 + turn % (SLOTS - 1)):
            assert post(manager, "/v1/completions", prompt=f"{number} was {a} years ago", max_tokens=1)[0] == 200
        assert post(manager, "/v1/completions", max_tokens=1, **fields)[0] == 200
        if (second := add(manager, a, b)) != first:
            wrong.append((first, second))
    assert wrong == []


@pytest.mark.parametrize("prompt", ["", ["a", ""]])
def test_every_choice_of_an_empty_prompt_is_answered(manager: ServerManager, prompt: str | list[str]) -> None:
    status, answer = post(manager, "/v1/completions", prompt=prompt, n=2, max_tokens=1)
    assert (status, len(answer["choices"])) == (200, 2 if prompt == "" else 4)


def test_a_grammar_that_can_go_on_in_very_many_ways_is_answered(manager: ServerManager) -> None:
    grammar = "root ::= " + '"a"? ' * 2000 + '"b"'
    status, answer = post(manager, "/completion", prompt="Say:", grammar=grammar, n_predict=4, temperature=0)
    assert status == 200
    assert set(answer["content"]) <= {"a", "b"}


def test_a_grammar_that_goes_on_in_ever_more_ways_is_refused_alone(manager: ServerManager) -> None:
    rules = ["root ::= r0", *(f'r{n} ::= r{n + 1}? r{n + 1}? "a"?' for n in range(16)), 'r16 ::= "a"?']
    status, answer = post(manager, "/completion", prompt="Say:", grammar="\n".join(rules), n_predict=4)
    assert (status, "too many ways at once" in answer["error"]["message"]) == (400, True)
    assert "41" in add(manager, 11, 30)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= (([0-9]? | "{"{0,3}){3,}) root{3,} ""',
        'root ::= ( | ("e"{0,3} "b"* "c"{0,3}){3,} (root{3,}) | "e"? [\\x00-\\xff]?) ""',
    ],
)
def test_a_grammar_whose_ways_become_ever_longer_is_refused_while_they_are_short(
    manager: ServerManager, grammar: str
) -> None:
    before = read_peak(manager.server_pid)
    status, answer = post(manager, "/completion", prompt="Say:", grammar=grammar, n_predict=4)
    assert (status, "too many ways at once" in answer["error"]["message"]) == (400, True)
    assert read_peak(manager.server_pid) - before < 128


@pytest.mark.parametrize(
    "grammar",
    [
        r'root ::= "a" [^\x00-\UFFFFFFFF]',
        'root ::= [a-z] (("{"*)+ | "e"+ "" root* | (root root [^x]{3,}) root{0,3} ("" "e"? ""){0,3}){2}',
    ],
    ids=["in no way", "in ever more ways"],
)
def test_a_grammar_that_does_not_go_on_is_a_bad_request(manager: ServerManager, grammar: str) -> None:
    status, answer = post(manager, "/completion", prompt="Say:", grammar=grammar, n_predict=8, temperature=0)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert "41" in add(manager, 11, 30)


def test_a_range_that_cannot_be_is_refused(manager: ServerManager) -> None:
    status, answer = post(manager, "/completion", prompt="Say:", grammar="root ::= [z-a]", n_predict=4)
    assert (status, answer["error"]["message"]) == (400, "Failed to initialize samplers: failed to parse grammar")


def write_values(manager: ServerManager, schema: dict[str, Any]) -> list[Any]:
    """Return values of the grammar that is made of a schema."""
    status, answer = post(manager, "/completion", prompt="Say:", n_predict=1, json_schema=schema)
    assert status == 200
    grammar, chance = Grammar(answer["generation_settings"]["grammar"]), Random(3)
    return [json.loads(grammar.write(chance)) for _ in range(500)]


def test_names_that_a_schema_does_not_list_are_json(manager: ServerManager) -> None:
    listed = ("a", "ab", "é", "]", "^", "-", "*", '"', "\\", "\n", "")
    properties = {name: {"type": "null"} for name in listed}
    values = write_values(manager, {"type": "object", "properties": properties, "additionalProperties": {"const": 1}})
    pairs = {pair for value in values for pair in value.items()}
    assert pairs >= {(name, None) for name in listed}
    assert {value for name, value in pairs if name not in listed} == {1}
    assert {value for name, value in pairs if name in listed} == {None}


def test_numbers_are_finite(manager: ServerManager) -> None:
    values = write_values(manager, {"type": "number"})
    assert any(abs(value) > 10**30 for value in values)
    assert all(math.isfinite(value) for value in values)


def test_a_prompt_of_very_many_special_tokens_is_read(manager: ServerManager) -> None:
    status, answer = post(manager, "/tokenize", content="<|im_start|>a" * 80_000, parse_special=True)
    assert (status, len(answer["tokens"])) == (200, 160_000)


@pytest.mark.parametrize(
    "fields",
    [{"grammar": 'root ::= "a"{5,2}'}, {"json_schema": {"type": "array", "items": {}, "minItems": 5, "maxItems": 2}}],
    ids=["grammar", "schema"],
)
def test_a_repetition_that_cannot_be_is_refused(manager: ServerManager, fields: dict[str, Any]) -> None:
    status, answer = post(manager, "/completion", prompt="Say:", n_predict=4, **fields)
    assert (status, answer["error"]["message"]) == (400, "Failed to initialize samplers: failed to parse grammar")
    assert "41" in add(manager, 11, 30)


def get(manager: ServerManager, path: str) -> str:
    connection = open_request(manager, "GET", path)
    try:
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def list_tasks(manager: ServerManager) -> set[int]:
    return {slot["id_task"] for slot in json.loads(get(manager, "/slots")) if slot["is_processing"]}


def test_a_whole_answer_that_nobody_waits_for_ends_while_another_client_is_answered(manager: ServerManager) -> None:
    body = {"prompt": "Say:", "n_predict": 900, "ignore_eos": True, "temperature": 0}
    streamed = open_request(manager, "POST", "/completion", stream=True, n_probs=100, **body)
    response = streamed.getresponse()
    response.readline()
    first = list_tasks(manager)
    whole = open_request(manager, "POST", "/completion", n_probs=100, **body)
    wait_until(lambda: len(list_tasks(manager)) == 2)
    whole.close()
    wait_until(lambda: len(list_tasks(manager)) < 2)
    assert list_tasks(manager) == first
    response.close()
    streamed.close()


def test_threads_that_wait_for_each_other_give_up_their_core(manager: ServerManager, demo_model: Path) -> None:
    manager.stop_server()
    manager.start_server(demo_model, ctx_size=512, n_parallel=1, threads=2)
    assert post(manager, "/completion", prompt="Say:", n_predict=2)[0] == 200
    tasks = [int(task.name) for task in Path(f"/proc/{manager.server_pid}/task").iterdir()]
    core = min(os.sched_getaffinity(0))
    for task in tasks:
        os.sched_setaffinity(task, {core})
    before = {task: count_sleeps(manager.server_pid, task) for task in tasks}
    assert post(manager, "/completion", prompt="Say:", n_predict=TOKENS, ignore_eos=True)[0] == 200
    sleeps = sorted(count_sleeps(manager.server_pid, task) - before[task] for task in tasks)
    # A token has some fifty barriers: one of the two threads comes first to each, and the other needs the core.
    # Without a barrier that sleeps it is a dozen a token, for what else a server does.
    assert sleeps[-1] > TOKENS * 25


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"content": "x"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x", "name": {}, "tool_calls": [1]}]}),
        ("/v1/chat/completions", {"messages": ASKED, "tools": [{"type": "function", "name": "f"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [PICTURE]}]}),
        ("/apply-template", {"messages": [{"content": "x"}]}),
        ("/detokenize", {"tokens": [1 << 20]}),
    ],
)
def test_what_an_endpoint_cannot_take_is_a_bad_request(
    manager: ServerManager, path: str, fields: dict[str, Any]
) -> None:
    status, answer = post(manager, path, **fields)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_a_message_holds_to_its_schema(manager: ServerManager) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    config = {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
    asked = {"messages": ASKED, "max_tokens": 60, "temperature": 0, "output_config": config}
    status, answer = post(manager, "/v1/messages", **asked)
    assert status == 200
    assert json.loads(answer["content"][0]["text"]).keys() == {"answer"}
    assert post(manager, "/v1/messages", **{**asked, "output_config": {"effort": "low"}})[0] == 200


CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ADD = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}


def read_stream(manager: ServerManager, path: str, **body: Any) -> list[Any]:
    connection = open_request(manager, "POST", path, stream=True, **body)
    try:
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and line != "data: [DONE]"]


def test_the_usage_of_several_choices_is_that_of_all(manager: ServerManager) -> None:
    fields = {"messages": ASKED, "max_tokens": 5, "ignore_eos": True}
    (one, several) = (post(manager, CHAT, **fields, **more)[1]["usage"] for more in ({}, {"n": SLOTS}))
    assert several["completion_tokens"] == SLOTS * one["completion_tokens"]
    assert several["prompt_tokens"] == one["prompt_tokens"]
    assert several["total_tokens"] == several["completion_tokens"] + several["prompt_tokens"]
    prompts = ["One", "Two and three"]
    fields = {"max_tokens": 3, "ignore_eos": True}
    alone = [post(manager, TEXT, prompt=prompt, **fields)[1]["usage"] for prompt in prompts]
    several = post(manager, TEXT, prompt=prompts, n=2, **fields)[1]["usage"]
    assert several["completion_tokens"] == 12
    assert several["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in alone)


def test_a_server_that_is_told_twice_to_end_while_it_computes_does_not_crash(
    binaries: Path, demo_model: Path, tmp_path: Path
) -> None:
    place = tmp_path / "server.sock"
    command = [binaries / "llama-server", "--model", demo_model, "--host", place]
    body = json.dumps({"prompt": "Say:", "n_predict": 4000, "ignore_eos": True, "stream": True, "n_probs": 100})
    head = f"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with ExitStack() as stack:
        silent = subprocess.DEVNULL
        server = stack.enter_context(subprocess.Popen([*map(str, command), "--no-ui"], stdout=silent, stderr=silent))
        stack.enter_context(killed_at_the_end(server.pid))
        wait_until(lambda: is_served(place))
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.connect(str(place))
        connection.sendall((head + body).encode())
        while b'"content"' not in connection.recv(1 << 16):
            pass

        def is_ended() -> bool:
            server.send_signal(signal.SIGTERM)  # again and again: two that come together are one
            return server.poll() is not None

        wait_until(is_ended)
        assert server.returncode in {0, 1}


def is_served(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.connect(str(place))
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    return False


def test_connections_that_come_at_once_do_not_wait_for_each_other(manager: ServerManager) -> None:
    assert manager.server_pid is not None
    with ExitStack() as stack:
        os.kill(manager.server_pid, signal.SIGSTOP)
        try:
            for _ in range(100):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", manager.port)))
                connection.sendall(b"POST /tokenize HTTP/1.1\r\n")  # and no more: its thread waits
        finally:
            os.kill(manager.server_pid, signal.SIGCONT)
        assert json.loads(get(manager, "/health")) == {"status": "ok"}


def test_a_response_that_was_cut_off_is_incomplete(manager: ServerManager) -> None:
    cut = {"input": "Say:", "max_output_tokens": 4, "ignore_eos": True}
    whole = post(manager, RESPONSES, **cut)[1]
    last = read_stream(manager, RESPONSES, **cut)[-1]
    assert last["type"] == "response.incomplete"
    for response in (whole, last["response"]):
        assert (response["status"], response["output"][-1]["status"]) == ("incomplete", "incomplete")
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    ended = {"input": "Say:", "max_output_tokens": 1, "grammar": 'root ::= ""'}
    assert post(manager, RESPONSES, **ended)[1]["status"] == "completed"
    assert read_stream(manager, RESPONSES, **ended)[-1]["type"] == "response.completed"


def test_the_events_of_a_response_are_numbered(manager: ServerManager) -> None:
    tool = {"type": "function", **ADD}
    fields = {"input": "What is 2+2?", "tools": [tool], "tool_choice": "required", "temperature": 0}
    grammar = {"input": "Say:", "grammar": 'root ::= "<think>so</think>yes"', "reasoning_format": "deepseek"}
    for body in (fields, grammar):
        events = read_stream(manager, RESPONSES, **body)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        response = events[0]["response"]
        assert (response["output"], type(response["created_at"]), type(response["model"])) == ([], int, str)
        output = events[-1]["response"]["output"]
        places = {event["item"]["id"]: event["output_index"] for event in events if "item" in event}
        assert [places[item["id"]] for item in output] == list(range(len(output)))
        assert all(event["output_index"] == places[event["item_id"]] for event in events if "item_id" in event)
        assert all(event["content_index"] == 0 for event in events if event["type"].startswith("response.output_text"))


def test_a_stream_of_several_prompts_has_an_object_in_each_event(manager: ServerManager) -> None:
    for path in (TEXT, "/completion"):
        events = read_stream(manager, path, prompt=["a", "b", "c"], n_predict=2)
        assert all(type(event) is dict for event in events)


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_comes_at_once(manager: ServerManager, demo_model: Path, *, stream: bool) -> None:
    asked = {
        "messages": [{"role": "user", "content": "Write a long poem."}], "tool_choice": "required", "max_tokens": 60,
        "tools": [{"type": "function", "function": ADD}], "temperature": 1.5,
    }  # fmt: skip
    for seed in range(8):
        if stream:
            deltas = [event["choices"][0]["delta"] for event in read_stream(manager, CHAT, **asked, seed=seed)]
            assert not any(delta.get("content") for delta in deltas)
            assert any(delta.get("tool_calls") for delta in deltas)
        else:
            (choice,) = post(manager, CHAT, **asked, seed=seed)[1]["choices"]
            assert not choice["message"]["content"]
            assert choice["message"]["tool_calls"][0]["function"]["name"] == "add"
    manager.stop_server()
    manager.start_server(demo_model, ctx_size=512, n_parallel=1, chat_template="chatml")
    status, answer = post(manager, CHAT, **asked)
    assert (status, "template has no calls" in answer["error"]["message"]) == (400, True)


def test_no_token_comes_if_none_is_wanted(manager: ServerManager) -> None:
    for number in (1, 2):
        answer = post(manager, CHAT, messages=ASKED, max_tokens=0, n=number)[1]
        assert answer["usage"]["completion_tokens"] == 0
        said = [(one["message"]["content"], one["finish_reason"]) for one in answer["choices"]]
        assert said == [("", "length")] * number
    answer = post(manager, "/completion", prompt="Say:", n_predict=0, n_probs=2)[1]
    assert (answer["content"], answer["tokens_predicted"], answer["stop_type"]) == ("", 0, "limit")
    assert read_stream(manager, CHAT, messages=ASKED, max_tokens=0)[-1]["choices"][0]["finish_reason"] == "length"
    assert "41" in add(manager, 11, 30)


def test_a_tool_can_be_called_beside_a_schema(manager: ServerManager) -> None:
    numbers = {"type": "object", "properties": {name: {"type": "integer"} for name in "ab"}, "required": ["a", "b"]}
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    asked = {
        "tools": [{"type": "function", "function": {"name": "add", "description": "Add.", "parameters": numbers}}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}, "temperature": 0,
        "max_tokens": 80,
    }  # fmt: skip
    called: dict[str, Any] = {}
    for choice in ("auto", "required"):
        (called,) = post(manager, CHAT, messages=ASKED, tool_choice=choice, **asked)[1]["choices"]
        assert called["finish_reason"] == "tool_calls"
        assert called["message"]["tool_calls"][0]["function"]["name"] == "add"
    told = [*ASKED, called["message"], {"role": "tool", "tool_call_id": "1", "content": "4"}]
    for more in ({}, {"tool_choice": "none"}):
        (one,) = post(manager, CHAT, messages=told, **asked, **more)[1]["choices"]
        if "tool_calls" not in one["message"]:
            assert json.loads(one["message"]["content"]).keys() == {"answer"}
        assert more == {} or one["finish_reason"] == "stop"


def test_a_connection_outlives_a_stream(manager: ServerManager) -> None:
    connection = open_request(manager, "POST", "/v1/chat/completions", messages=ASKED, max_tokens=2, stream=True)
    connection.getresponse().read()
    connection.auto_open = 0  # an error instead of a new connection
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
