"""What is asked, and how whole answers are read, without a server."""

from __future__ import annotations

import inspect
import json
from array import array
from base64 import b64encode
from typing import Any

import pytest

from llcuda.client import AsyncInferenceClient, AsyncTextStream, InferenceClient, TextStream, requests
from llcuda.client.base_client import choose_concurrency, choose_timeout
from llcuda.errors import ResponseError, UsageError
from llcuda.options import ChatOptions, InferOptions, SamplingOptions


def payload(asked: Any) -> Any:
    return json.loads(asked.body)


def ask(prompt: Any = "Hi", *, system: str | None = None, raw: bool = False, schema: Any = None, **options: Any) -> Any:
    return requests.infer(prompt, system=system, raw=raw, schema=schema, options=options)


def chat(messages: Any, *, tools: Any = None, tool_choice: Any = None, schema: Any = None, **options: Any) -> Any:
    return requests.chat(messages, tools=tools, tool_choice=tool_choice, schema=schema, options=options)


def test_a_prompt_goes_through_the_chat_template() -> None:
    asked = ask(system="Be brief.", max_tokens=5)
    assert asked.target == "/v1/chat/completions"
    assert payload(asked) == {
        "max_tokens": 5,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_raw_prompt_is_continued_as_it_stands() -> None:
    asked = ask(raw=True, max_tokens=5, stop_sequences=["."])
    assert asked.target == "/completion"
    assert payload(asked) == {"prompt": "Hi", "n_predict": 5, "stop": ["."], "stream": True}


def test_a_schema_is_sent_the_way_each_endpoint_takes_it() -> None:
    document = {"type": "array", "items": {"type": "integer"}}
    wrapped = {"name": "answer", "strict": True, "schema": document}
    assert payload(ask(schema=list[int]))["response_format"] == {"type": "json_schema", "json_schema": wrapped}
    assert payload(ask(raw=True, schema=document))["json_schema"] == document


def test_tools_and_their_choice_are_passed_on() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    sent = payload(chat([{"role": "user", "content": "x"}], tools=[tool], tool_choice="required"))
    assert (sent["tools"], sent["tool_choice"]) == ([tool], "required")


def test_the_arguments_of_strict_tools_are_kept_to_hold_calls_to() -> None:
    function = {"name": "f", "parameters": {"required": ["a"]}, "strict": True}
    tools = [{"function": function}, {"function": {**function, "name": "g", "strict": False}}]
    assert chat([{"role": "user", "content": "x"}], tools=tools).strict == {"f": {"required": ["a"]}}


def test_probabilities_are_asked_for_the_way_each_endpoint_takes_it() -> None:
    sent = payload(ask(n_probs=2))
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 2)
    assert payload(ask(raw=True, n_probs=2))["n_probs"] == 2


def test_text_of_any_language_is_sent_as_it_is() -> None:
    assert "é🎈" in ask("é🎈").body.decode()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"prompt": 5}, "string"),
        ({"prompt": [{"role": "user"}]}, "list"),
        ({"prompt": "\ud800"}, "JSON"),
        ({"raw": True, "system": "x"}, "raw"),
        ({"chat_template_kwargs": {"a": float("nan")}}, "JSON"),
        ({"chat_template_kwargs": {"a": object()}}, "JSON"),
        ({"schema": bytes}, "schema"),
        ({"max_token": 5}, "max_token"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        ask(**arguments)


@pytest.mark.parametrize("messages", [[], "Hello", None, [5], ["x"], [{"content": "x"}], {"role": "user"}])
def test_messages_of_another_shape_are_refused_with_an_example(messages: Any) -> None:
    with pytest.raises(UsageError) as caught:
        chat(messages)
    assert "role" in caught.value.hint


@pytest.mark.parametrize("prompt", [None, 5, ["a"], {"a": 1}])
def test_a_completion_takes_text_or_tokens(prompt: Any) -> None:
    with pytest.raises(UsageError):
        requests.complete(prompt, schema=None, options={})
    assert payload(requests.complete([1, 2], schema=None, options={}))["prompt"] == [1, 2]


class Recorder:
    """Takes the place of a client, and gives back the call that it would send."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: getattr(InferenceClient, name)(self, *arguments, **options)

    def _call(self, call: requests.Call[Any]) -> requests.Call[Any]:
        return call


calls: Any = Recorder()


def read(call: requests.Call[Any], answer: Any, *, status: int = 200) -> Any:
    return call.read(status, answer if isinstance(answer, bytes) else json.dumps(answer).encode(), headers={})


def test_embeddings_are_lists_of_floats_in_the_order_of_the_texts() -> None:
    call = requests.embed(["a", "b"])
    assert payload(call)["input"] == ["a", "b"]
    rows = [
        {"index": 1, "embedding": [3, 4]},
        {"index": 0, "embedding": b64encode(array("f", [0.5, 2.0]).tobytes()).decode()},
    ]
    assert read(call, {"data": rows}) == [[0.5, 2.0], [3.0, 4.0]]


def test_a_single_text_gives_a_list_with_one_embedding() -> None:
    assert read(requests.embed("a"), {"data": [{"index": 0, "embedding": [1.0]}]}) == [[1.0]]


@pytest.mark.parametrize("texts", [[], [5], ["a", None]])
def test_there_has_to_be_a_text_to_embed(texts: Any) -> None:
    with pytest.raises(UsageError):
        requests.embed(texts)


@pytest.mark.parametrize(
    "rows", [[], [{"index": 0}], [{"index": 1, "embedding": [1]}], [{"index": 0, "embedding": [None]}], "x", 5]
)
def test_embeddings_that_are_missing_or_broken_are_an_error(rows: Any) -> None:
    with pytest.raises(ResponseError, match="not understood"):
        read(requests.embed("a"), {"data": rows})


def test_documents_come_back_with_their_scores_the_best_first() -> None:
    call = requests.rerank("q", ["x", "y", "z"], top_n=2)
    assert payload(call) == {"query": "q", "documents": ["x", "y", "z"], "top_n": 2}
    found = read(call, {"results": [{"index": 0, "relevance_score": -1.5}, {"index": 2, "relevance_score": 3}]})
    assert [(one.index, one.score, one.document) for one in found] == [(2, 3.0, "z"), (0, -1.5, "x")]


def test_counters_are_read_with_their_labels() -> None:
    text = b'# HELP a b\n# TYPE a counter\nllamacpp:prompt_tokens_total 35\npos{position="1"} 0.5\n'
    assert read(calls.metrics(), text) == {"llamacpp:prompt_tokens_total": 35.0, 'pos{position="1"}': 0.5}


def test_slots_are_saved_restored_and_erased() -> None:
    call = calls.save_slot(1, "a.bin")
    assert (call.target, payload(call)) == ("/slots/1?action=save", {"filename": "a.bin"})
    assert payload(calls.erase_slot(0)) == {}


def test_adapters_are_set_by_their_ids() -> None:
    assert payload(requests.set_lora_adapters({0: 0.5})) == [{"id": 0, "scale": 0.5}]


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (calls.tokenize("a"), {"tokens": None}),
        (calls.tokenize("a"), {}),
        (calls.detokenize([1]), []),
        (calls.models(), {"data": 5}),
        (calls.props(), 5),
        (calls.slots(), {"error": 1}),
        (calls.metrics(), b"a b c"),
        (calls.metrics(), b"\xff"),
        (calls.health(), b"OK"),
        (requests.rerank("q", ["x"], top_n=None), {"results": [{"index": 7, "relevance_score": 1}]}),
    ],
)
def test_an_answer_of_another_shape_is_an_error_of_the_response(call: requests.Call[Any], answer: Any) -> None:
    with pytest.raises(ResponseError):
        read(call, answer)


def test_an_http_error_is_raised_with_its_message() -> None:
    with pytest.raises(ResponseError, match="HTTP 501: no embeddings"):
        read(requests.embed("a"), {"error": {"message": "no embeddings", "code": 501}}, status=501)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), True])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(UsageError, match="timeout"):
        choose_timeout(timeout, default=1.0)
    assert choose_timeout(None, default=1.0) == 1.0


def test_as_many_requests_run_at_a_time_as_there_are_slots() -> None:
    assert choose_concurrency(None, slots=4, count=10) == 4
    assert choose_concurrency(None, slots=4, count=2) == 2
    assert choose_concurrency(8, slots=None, count=10) == 8
    assert choose_concurrency(None, slots=0, count=1) == 1
    with pytest.raises(UsageError):
        choose_concurrency(0, slots=None, count=1)


def public_methods(kind: type) -> dict[str, Any]:
    members = {name: member for base in kind.__mro__[-2::-1] for name, member in vars(base).items()}  # but object's
    return {name: member for name, member in members.items() if not name.startswith("_") or name == "__init__"}


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    blocking, waiting = public_methods(InferenceClient), public_methods(AsyncInferenceClient)
    assert set(blocking) == set(waiting)
    for name, method in blocking.items():
        if not isinstance(method, property):
            ours, theirs = inspect.signature(method), inspect.signature(waiting[name])
            assert ours.parameters == theirs.parameters, name
            assert str(ours.return_annotation) == str(theirs.return_annotation).replace("Async", ""), name
            is_stream = str(ours.return_annotation).endswith("TextStream")
            assert inspect.iscoroutinefunction(waiting[name]) == (not is_stream and name != "__init__"), name
        assert getattr(method, "__doc__", None), name


@pytest.mark.parametrize(
    ("options", "method"), [(InferOptions, InferenceClient.infer), (ChatOptions, InferenceClient.chat)]
)
def test_what_is_passed_on_is_typed_as_what_the_client_takes(options: Any, method: Any) -> None:
    named = [name for name, one in inspect.signature(method).parameters.items() if one.kind is one.KEYWORD_ONLY]
    assert set(options.__annotations__) - set(SamplingOptions.__annotations__) == set(named)


def test_both_streams_have_the_same_members() -> None:
    # A stream of asyncio is ended from outside by cancelling its task.
    assert set(public_methods(TextStream)) - {"abort"} == set(public_methods(AsyncTextStream))


def test_the_methods_are_those_that_were_promised() -> None:
    promised = {
        "health", "props", "models", "slots", "metrics", "complete", "chat", "stream_chat", "stream_complete", "infill",
        "embed", "rerank", "tokenize", "detokenize", "apply_template", "lora_adapters", "set_lora_adapters",
        "save_slot", "restore_slot", "erase_slot", "infer", "infer_stream", "batch_infer",
    }  # fmt: skip
    assert promised <= set(public_methods(InferenceClient))
