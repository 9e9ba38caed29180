"""Both clients against a server that answers what it is told to, also what no server should."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.client import AsyncInferenceClient, InferenceClient
from llcuda.errors import (
    ConnectionFailedError,
    RequestTimeoutError,
    ResponseError,
    SchemaMismatchError,
    UsageError,
)
from tests.places import DATA
from tests.process.client.twins import CLIENTS
from tests.processes import wait_until
from tests.standins.stub_server import (
    CLOSE,
    DEADLINE,
    END,
    RESET,
    STREAM_HEAD,
    WAIT,
    StubServer,
    answer,
    chat,
    chat_events,
    chunk,
    completion,
    delta,
    event,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEALTHY = answer({"status": "ok"})


@pytest.fixture(params=sorted(CLIENTS))
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Make clients of a stub, of both kinds in turn, and close them at the end."""
    made: list[Any] = []

    def make(stub: StubServer, **options: Any) -> Any:
        options.setdefault("timeout", 3600)
        client = CLIENTS[request.param](url=stub.url, **options)
        made.append(client)
        return client

    yield make
    for client in made:
        with client:
            pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# What is asked and what comes back


def test_a_prompt_is_answered_with_text_and_timings(connect: Callable[..., Any]) -> None:
    with StubServer(chat("4", " of course")) as stub:
        result = connect(stub).infer("2+2?", max_tokens=5, system="Be sure.")
        assert (result.text, result.tokens, result.prompt_tokens, result.finish_reason) == ("4 of course", 2, 7, "stop")
        assert stub.payload()["messages"] == [
            {"role": "system", "content": "Be sure."},
            {"role": "user", "content": "2+2?"},
        ]


def test_a_raw_prompt_and_a_completion_use_the_other_endpoint(connect: Callable[..., Any]) -> None:
    with StubServer(completion("a", "b")) as stub:
        client = connect(stub)
        assert client.infer("x", raw=True).text == "ab"
        assert client.complete([1, 2]).tokens == 2
        assert list(client.stream_complete("x")) == ["a", "b"]
        assert client.infill("a", "b", prompt="c").text == "ab"
        assert [request.split()[1] for request in stub.requests] == [b"/completion"] * 3 + [b"/infill"]


def test_a_conversation_is_answered_and_streamed(connect: Callable[..., Any]) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    with StubServer(chat("Hello", "!")) as stub:
        client = connect(stub)
        first = client.chat(messages)
        assert first.text == "Hello!"
        assert list(client.stream_chat([*messages, first.message])) == ["Hello", "!"]
        assert stub.payload()["messages"][1] == {"role": "assistant", "content": "Hello!"}


def test_the_key_goes_with_every_request(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY) as stub:
        client = connect(stub, api_key="secret")
        client.health()
        assert client.api_key == "secret"
        assert b"Authorization: Bearer secret\r\n" in stub.requests[0]


def test_a_base_path_comes_before_every_target(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY) as stub:
        stub.url += "/llm/v1"
        client = connect(stub)
        client.health()
        assert stub.requests[0].startswith(b"GET /llm/health HTTP/1.1\r\n")
        assert client.url == f"http://127.0.0.1:{stub.port}/llm"


def test_no_request_goes_through_a_proxy(connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with StubServer(HEALTHY) as stub:
        assert connect(stub).health() == {"status": "ok"}


def test_a_prompt_of_a_megabyte_arrives_whole(connect: Callable[..., Any]) -> None:
    with StubServer(chat("ok")) as stub:
        connect(stub).infer("é" * 500_000)
        assert stub.payload()["messages"][0]["content"] == "é" * 500_000


def test_an_answer_of_a_megabyte_arrives_whole(connect: Callable[..., Any]) -> None:
    with StubServer(answer({"tokens": list(range(200_000))})) as stub:
        assert connect(stub).tokenize("x")[-1] == 199_999


# Streams


def test_a_piece_arrives_before_the_next_one_is_sent(connect: Callable[..., Any]) -> None:
    with StubServer([STREAM_HEAD, event(delta(content="first")), WAIT]) as stub:
        stream = connect(stub).infer_stream("x")
        assert next(stream) == "first"
        assert stream.text == "first"
        with pytest.raises(UsageError, match="end"):
            _ = stream.result
        stream.close()
        assert stub.left.wait(DEADLINE)


def test_pieces_are_the_same_however_the_stream_is_cut(connect: Callable[..., Any]) -> None:
    whole = b"".join(chat("né", "🎈", " ", "x"))
    with StubServer([whole[index : index + 1] for index in range(len(whole))], [whole]) as stub:
        client = connect(stub)
        assert list(client.infer_stream("x")) == ["né", "🎈", " ", "x"]
        assert list(client.infer_stream("x")) == ["né", "🎈", " ", "x"]


def test_a_character_in_two_chunks_comes_out_whole(connect: Callable[..., Any]) -> None:
    data = b'data: {"choices": [{"finish_reason": "stop", "index": 0, "delta": {"content": "\xf0\x9f\x8e\x88"}}]}\n\n'
    cut = data.index(b"\x9f")
    with StubServer([STREAM_HEAD, chunk(data[:cut]), chunk(data[cut:]), END]) as stub:
        assert connect(stub).infer("x").text == "🎈"


def test_the_result_is_there_at_the_end_and_given_to_who_asked(connect: Callable[..., Any]) -> None:
    given: list[Any] = []
    with StubServer(chat("a", "b")) as stub, connect(stub).infer_stream("x", on_result=given.append) as stream:
        assert "".join(stream) == "ab"
        assert given == [stream.result]
        assert stream.result.tokens == 2
        assert list(stream) == []


@pytest.mark.parametrize("read", [0, 1, 2, 3])
def test_the_rest_of_a_stream_can_be_read_at_once(connect: Callable[..., Any], read: int) -> None:
    with StubServer(chat("a", "b", "c")) as stub:
        client = connect(stub)
        stream = client.infer_stream("x")
        for _ in range(read):
            next(stream)
        assert stream.read_all().text == "abc" == stream.text
        assert stream.read_all() is stream.result
        assert list(stream) == []
        client.infer("x")
        assert stub.connections == 1


def test_a_stream_that_was_closed_has_no_rest(connect: Callable[..., Any]) -> None:
    with StubServer([STREAM_HEAD, event(delta(content="a")), WAIT]) as stub:
        stream = connect(stub).infer_stream("x")
        next(stream)
        stream.close()
        with pytest.raises(UsageError, match="end"):
            stream.read_all()


def test_an_error_after_the_first_token_is_raised_from_the_rest_too(connect: Callable[..., Any]) -> None:
    error = {"error": {"code": 500, "message": "out of cells", "type": "server_error"}}
    broken = [STREAM_HEAD, event(delta(content="a")), event(error), b"0\r\n\r\n"]
    with StubServer(broken) as stub, pytest.raises(ResponseError, match="out of cells"):
        connect(stub).infer("x")


def test_pings_are_no_pieces(connect: Callable[..., Any]) -> None:
    first, *rest = chat_events("a")
    with StubServer([STREAM_HEAD, chunk(b":\n\n"), first, chunk(b":\n\n"), *rest, END]) as stub:
        assert list(connect(stub).infer_stream("x")) == ["a"]


@pytest.mark.parametrize("how", ["close", "with", "drop"])
def test_a_stream_that_is_left_early_is_cancelled(connect: Callable[..., Any], how: str) -> None:
    with StubServer([STREAM_HEAD, event(delta(content="a")), WAIT], HEALTHY) as stub:
        client = connect(stub)
        stream = client.infer_stream("x")
        next(stream)
        if how == "close":
            stream.close()
            assert list(stream) == []
        elif how == "with":
            with stream:
                pass
        del stream
        gc.collect()
        client.health()  # a round of asyncio's loop, in which it closes the socket
        assert stub.left.wait(DEADLINE)
        assert stub.connections == 2


def test_an_error_in_the_middle_of_a_stream_is_raised(connect: Callable[..., Any]) -> None:
    error = {"error": {"code": 500, "message": "out of cells", "type": "server_error"}}
    with StubServer([STREAM_HEAD, event(delta(content="a")), event(error), b"0\r\n\r\n"]) as stub:
        stream = connect(stub).infer_stream("x")
        assert next(stream) == "a"
        with pytest.raises(ResponseError, match="out of cells") as caught:
            next(stream)
        assert caught.value.status == 500


@pytest.mark.parametrize("ending", [[CLOSE], [RESET], [b"0\r\n\r\n"], [chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]])
def test_a_stream_that_ends_before_its_answer_is_an_error(connect: Callable[..., Any], ending: list[Any]) -> None:
    # llama-server ends its streams like this, with or without the last chunk, when it is stopped.
    with StubServer([STREAM_HEAD, *chat_events("a", "b")[:-2], *ending]) as stub:
        client = connect(stub)
        pieces: list[str] = []
        with pytest.raises(ConnectionFailedError) as caught:
            pieces.extend(client.infer_stream("x"))
        assert caught.value.url == stub.url
        with pytest.raises(ConnectionFailedError):
            client.infer("x")


def test_an_answer_that_is_no_stream_is_an_error(connect: Callable[..., Any]) -> None:
    with StubServer(answer({"choices": []})) as stub, pytest.raises(ResponseError, match="choices"):
        connect(stub).infer("x")


def test_an_event_that_is_not_json_is_an_error(connect: Callable[..., Any]) -> None:
    broken = [STREAM_HEAD, chunk(b"data: {oops\n\n"), END]
    with StubServer(broken) as stub, pytest.raises(ResponseError, match="not understood"):
        connect(stub).infer("x")


# Schemas and tools


def test_an_answer_that_holds_to_the_schema_is_a_value(connect: Callable[..., Any]) -> None:
    with StubServer(chat("[1,", " 2]")) as stub:
        assert connect(stub).infer("x", schema=list[int]).value == [1, 2]
        assert stub.payload()["response_format"]["json_schema"]["schema"]["items"] == {"type": "integer"}


@pytest.mark.parametrize(
    ("text", "reason"), [("[1, 2", "stop"), ('["a"]', "stop"), ("[1]", "length"), ("Sure!", "stop")]
)
def test_an_answer_that_does_not_hold_to_the_schema_is_an_error(
    connect: Callable[..., Any], text: str, reason: str
) -> None:
    with StubServer(chat(text, reason=reason)) as stub:
        client = connect(stub)
        with pytest.raises(SchemaMismatchError) as caught:
            client.infer("x", schema=list[int])
        assert caught.value.text == text
        with pytest.raises(SchemaMismatchError):
            list(client.infer_stream("x", schema=list[int]))


def test_a_schema_that_cannot_be_checked_is_refused_before_anything_is_sent(connect: Callable[..., Any]) -> None:
    with StubServer(chat("1")) as stub:
        with pytest.raises(UsageError):
            connect(stub).infer("x", schema={"$dynamicRef": "#a"})
        assert stub.connections == 0


def test_a_call_of_a_tool_comes_back_parsed(connect: Callable[..., Any]) -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a":'}}
    rest = {"index": 0, "function": {"arguments": " 1}"}}
    events = [event(delta(tool_calls=[call])), event(delta(tool_calls=[rest])), event(delta("tool_calls"))]
    with StubServer([STREAM_HEAD, *events, END]) as stub:
        result = connect(stub).chat([{"role": "user", "content": "x"}], tools=[{"type": "function"}])
        assert [(call.name, call.arguments) for call in result.tool_calls] == [("add", {"a": 1})]
        assert stub.payload()["tools"] == [{"type": "function"}]


# Errors of the server


def test_an_http_error_has_the_status_the_message_and_a_hint(connect: Callable[..., Any]) -> None:
    envelope = {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}
    with StubServer(answer(envelope, status=401)) as stub:
        client = connect(stub)
        for ask in (client.props, lambda: client.infer("x"), lambda: list(client.infer_stream("x"))):
            with pytest.raises(ResponseError, match="HTTP 401: Invalid API Key") as caught:
                ask()
            assert "api_key" in caught.value.hint
        assert stub.connections == 1


def test_a_server_that_loads_its_model_is_not_healthy_yet(connect: Callable[..., Any]) -> None:
    loading = answer({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, status=503)
    with StubServer(loading, loading, HEALTHY) as stub:
        client = connect(stub)
        assert client.is_healthy() is False
        with pytest.raises(ResponseError, match="Loading model") as caught:
            client.health()
        assert "loading" in caught.value.hint
        assert client.is_healthy() is True


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b"<html>", b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n"]
)
def test_what_is_not_http_is_an_error_of_the_connection(connect: Callable[..., Any], data: bytes) -> None:
    with StubServer([data, WAIT]) as stub:
        with pytest.raises(ConnectionFailedError) as caught:
            connect(stub).health()
        assert caught.value.url == stub.url


@pytest.mark.parametrize("body", [b"", b"{", b"[]"])
def test_a_whole_answer_that_is_not_understood_is_an_error(connect: Callable[..., Any], body: bytes) -> None:
    with StubServer(answer(body)) as stub, pytest.raises(ResponseError):
        connect(stub).tokenize("x")


@pytest.mark.parametrize("cut", [10, 60, 100])
def test_a_whole_answer_that_is_cut_off_is_an_error(connect: Callable[..., Any], cut: int) -> None:
    begun = answer({"tokens": list(range(50))})[0][:cut]
    with StubServer([begun, CLOSE]) as stub, pytest.raises(ConnectionFailedError, match="in the middle"):
        connect(stub).tokenize("x")


# Connections


def test_one_connection_carries_all_requests(connect: Callable[..., Any]) -> None:
    with StubServer(
        HEALTHY, chat("a"), completion("b"), answer({"tokens": []}), answer({}, status=404), HEALTHY
    ) as stub:
        client = connect(stub)
        client.health()
        client.infer("x")
        list(client.stream_complete("x"))
        client.tokenize("x")
        with pytest.raises(ResponseError):
            client.props()
        client.health()
        assert (len(stub.requests), stub.connections) == (6, 1)


def test_a_connection_that_the_server_says_it_closes_is_not_used_again(connect: Callable[..., Any]) -> None:
    last = answer({"status": "ok"}, headers="Connection: close\r\n")
    with StubServer(HEALTHY, [*last, CLOSE], HEALTHY) as stub:
        client = connect(stub)
        for _ in range(3):
            client.health()
        assert (len(stub.requests), stub.connections) == (3, 2)


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_a_connection_that_the_server_closed_meanwhile_is_replaced(connect: Callable[..., Any], end: object) -> None:
    with StubServer([*HEALTHY, end], HEALTHY) as stub:
        client = connect(stub)
        client.health()
        assert client.health() == {"status": "ok"}
        assert stub.connections == 2


def test_a_request_is_sent_once_more_only_on_a_used_connection(connect: Callable[..., Any]) -> None:
    with StubServer([CLOSE]) as stub:
        with pytest.raises(ConnectionFailedError, match="without an answer"):
            connect(stub).health()
        assert (len(stub.requests), stub.connections) == (1, 1)


def test_a_request_is_not_sent_again_once_an_answer_has_begun(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY, [b"HTTP/1.1 200", CLOSE], HEALTHY) as stub:
        client = connect(stub)
        client.health()
        with pytest.raises(ConnectionFailedError, match="in the middle"):
            client.health()
        assert (len(stub.requests), stub.connections) == (2, 1)


def test_a_second_failure_is_not_repeated_again(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY, [CLOSE], [CLOSE], HEALTHY) as stub:
        client = connect(stub)
        client.health()
        with pytest.raises(ConnectionFailedError):
            client.health()
        assert (len(stub.requests), stub.connections) == (3, 2)


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with StubServer(HEALTHY) as stub:
        client = connect(stub)
        client.health()
        monkeypatch.setattr("llcuda.transport.base_transport.MAX_IDLE_SECONDS", 0.0)
        client.health()
        assert stub.connections == 2


def test_bytes_that_nobody_asked_for_end_the_connection(connect: Callable[..., Any]) -> None:
    with StubServer([HEALTHY[0] + b"HTTP/1.1 200 OK\r\n\r\n"], HEALTHY) as stub:
        client = connect(stub)
        assert client.health() == client.health()
        assert stub.connections == 2


def test_a_client_can_be_used_after_it_was_closed(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY) as stub:
        client = connect(stub)
        client.health()
        client.close()
        client.health()
        assert stub.connections == 2


def test_a_client_that_is_dropped_closes_its_connections() -> None:
    with StubServer([*HEALTHY, WAIT]) as stub:
        InferenceClient(url=stub.url).health()
        gc.collect()
        assert stub.left.wait(DEADLINE)


def test_nobody_listening_is_said_with_the_address(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY) as stub:
        stub.url = f"http://127.0.0.1:{free_port()}"
        client = connect(stub)
        with pytest.raises(ConnectionFailedError, match="Connection refused") as caught:
            client.infer("x")
        assert caught.value.url == stub.url
        assert client.is_healthy() is False


def test_a_host_that_does_not_exist_is_said(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY) as stub:
        stub.url = "http://no-such-host.invalid:1"
        with pytest.raises(ConnectionFailedError, match="not known"):
            connect(stub).health()


def test_localhost_is_found_where_only_one_kind_of_address_listens(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY) as stub:
        stub.url = f"http://localhost:{stub.port}"
        assert connect(stub).is_healthy()


# https

CERTIFICATE = DATA / "localhost.pem"


def serve_tls(connection: socket.socket) -> socket.socket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context.wrap_socket(connection, server_side=True)


def test_https_is_spoken_with_a_server_whose_certificate_is_trusted(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with StubServer(HEALTHY, chat("a", "b"), wrap=serve_tls) as stub:
        stub.url = f"https://localhost:{stub.port}"
        client = connect(stub)
        assert client.is_healthy()
        assert list(client.infer_stream("x")) == ["a", "b"]
        assert stub.connections == 1


def test_https_is_refused_with_a_server_that_nobody_vouches_for(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY, wrap=serve_tls) as stub:
        stub.url = f"https://localhost:{stub.port}"
        with pytest.raises(ConnectionFailedError, match=r"(?i)certificate"):
            connect(stub).health()


# Deadlines


@pytest.mark.parametrize(
    "steps",
    [[WAIT], [b"HTTP/1.1 200 OK\r\n", WAIT], [STREAM_HEAD, WAIT], [STREAM_HEAD, event(delta(content="a")), WAIT]],
    ids=["before the answer", "within its head", "before the first token", "between tokens"],
)
def test_a_deadline_holds_wherever_the_server_stops(connect: Callable[..., Any], steps: list[Any]) -> None:
    with StubServer(steps) as stub:
        client = connect(stub)
        started = time.monotonic()
        with pytest.raises(RequestTimeoutError) as caught:
            client.infer("x", timeout=0.5)
        assert time.monotonic() - started >= 0.5
        assert caught.value.timeout == 0.5
        assert stub.left.wait(DEADLINE), "the connection was not closed"


def test_a_deadline_is_for_the_whole_stream_and_not_for_each_token(connect: Callable[..., Any]) -> None:
    # Something comes all the time, so no single read ever waits for long.
    ticking = [STREAM_HEAD] + [event(delta(content="a"))] * 200_000
    with StubServer(ticking) as stub, pytest.raises(RequestTimeoutError):
        connect(stub).infer("x", timeout=0.3)


def test_a_deadline_holds_while_connecting(connect: Callable[..., Any]) -> None:
    # A listener whose queue is full does not answer a third connection.
    with socket.socket() as listener, StubServer(HEALTHY) as stub:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            stub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with pytest.raises(RequestTimeoutError):
                connect(stub).infer("x", timeout=0.3)
        finally:
            for one in waiting:
                one.close()


def test_a_client_has_a_deadline_for_every_request(connect: Callable[..., Any]) -> None:
    with StubServer([WAIT]) as stub, pytest.raises(RequestTimeoutError):
        connect(stub, timeout=0.2).props()


# Several requests at a time


def test_a_batch_comes_back_in_order_over_as_many_connections_as_there_are_slots(connect: Callable[..., Any]) -> None:
    with StubServer(answer({"total_slots": 3}), chat("same")) as stub:
        results = connect(stub).batch_infer([f"{number}" for number in range(12)])
        assert [result.text for result in results] == ["same"] * 12
        assert stub.requests[0].startswith(b"GET /props")
        assert stub.connections <= 4
        sent = sorted(stub.payload(index)["messages"][0]["content"] for index in range(1, 13))
        assert sent == sorted(f"{number}" for number in range(12))


def test_a_batch_of_nothing_asks_nothing(connect: Callable[..., Any]) -> None:
    with StubServer(HEALTHY) as stub:
        assert connect(stub).batch_infer([]) == []
        assert stub.connections == 0


def test_a_batch_runs_as_many_at_a_time_as_it_is_told_to(connect: Callable[..., Any]) -> None:
    with StubServer(chat("a")) as stub:
        connect(stub).batch_infer(["x"] * 6, max_concurrency=1)
        assert (len(stub.requests), stub.connections) == (6, 1)


@pytest.mark.parametrize("begun", [[], [STREAM_HEAD], [STREAM_HEAD, event(delta(content="a"))]])
def test_the_first_failure_of_a_batch_ends_the_others(connect: Callable[..., Any], begun: list[bytes]) -> None:
    refused = answer({"error": {"code": 400, "message": "no", "type": "x"}}, status=400)
    with StubServer([*begun, WAIT], refused, chat("never")) as stub:
        with pytest.raises(ResponseError, match="no"):
            connect(stub).batch_infer(["a", "b", "c", "d"], max_concurrency=2)
        assert stub.left.wait(DEADLINE)


def test_an_interrupted_batch_ends_at_once() -> None:
    with StubServer([STREAM_HEAD, WAIT]) as stub, InferenceClient(url=stub.url) as client:

        def press_ctrl_c() -> None:
            wait_until(lambda: len(stub.requests) == 2)
            os.kill(os.getpid(), signal.SIGINT)

        interrupt = threading.Thread(target=press_ctrl_c)
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            client.batch_infer(["a", "b", "c"], max_concurrency=2)
        interrupt.join()
        assert stub.left.wait(DEADLINE)
        assert len(stub.requests) == 2


def test_a_request_that_the_server_does_not_read_to_its_end_is_an_error(connect: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, StubServer(HEALTHY) as stub:
        stub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(10)
            connection.close()

        server = threading.Thread(target=refuse)
        server.start()
        with pytest.raises(ConnectionFailedError):
            connect(stub).infer("x" * 20_000_000)
        server.join()


def test_no_more_connections_are_kept_than_are_useful(
    connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llcuda.transport.base_transport.MAX_IDLE_CONNECTIONS", 0)
    with StubServer(HEALTHY) as stub:
        client = connect(stub)
        client.health()
        client.health()
        assert stub.connections == 2


def test_one_client_can_be_used_from_many_threads() -> None:
    with StubServer(chat("a", "b")) as stub, InferenceClient(url=stub.url) as client:
        texts: list[str] = []

        def ask() -> None:
            texts.extend(client.infer("x").text for _ in range(25))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == ["ab"] * 200
        assert stub.connections <= 8


def test_a_stream_can_be_ended_from_another_thread() -> None:
    with StubServer([STREAM_HEAD, event(delta(content="a")), WAIT]) as stub, InferenceClient(url=stub.url) as client:
        stream = client.infer_stream("x")
        next(stream)
        killer = threading.Thread(target=stream.abort)
        killer.start()
        with pytest.raises(ConnectionFailedError):
            next(stream)
        killer.join()
        stream.abort()


def test_a_forked_child_does_not_use_its_parents_connections() -> None:
    with StubServer(HEALTHY) as stub, InferenceClient(url=stub.url) as client:
        client.health()
        child = os.fork()
        if child == 0:
            os._exit(0 if client.is_healthy() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert stub.connections == 2
        client.health()
        assert stub.connections == 2


# What only asyncio has


def test_cancelling_a_task_cuts_its_connection() -> None:
    async def main(stub: StubServer) -> None:
        async with AsyncInferenceClient(url=stub.url) as client:
            task = asyncio.ensure_future(client.infer("x"))
            await asyncio.to_thread(wait_until, lambda: stub.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(stub.left.wait, DEADLINE)

    with StubServer([STREAM_HEAD, event(delta(content="a")), WAIT]) as stub:
        asyncio.run(main(stub))


def test_a_client_of_asyncio_follows_its_owner_from_loop_to_loop() -> None:
    with StubServer(HEALTHY) as stub:
        client = AsyncInferenceClient(url=stub.url)

        async def ask() -> None:
            assert await client.is_healthy()
            assert await client.is_healthy()
            await client.close()

        asyncio.run(ask())
        asyncio.run(ask())
        assert stub.connections == 2


def test_many_streams_run_at_a_time_in_one_thread() -> None:
    async def main(stub: StubServer) -> None:
        async with AsyncInferenceClient(url=stub.url) as client:
            results = await asyncio.gather(*(client.infer("x") for _ in range(60)))
        assert {result.text for result in results} == {"ab"}

    with StubServer(chat("a", "b")) as stub:
        asyncio.run(main(stub))
        assert stub.connections == 60
