"""Clients of a soak in a process of their own: they ask, check each answer, leave in the midst, and send bad bodies.

``python -m tests.scenarios.soak_clients JSON`` asks until it reads ``stop`` or its standard input ends; between
``pause`` and ``go`` nobody does, and who is asking leaves. It writes a line for each answer that is not right, and one
every second with what it has counted.

========  ==================================================================================================
kind      what asks
========  ==================================================================================================
http      a connection of its own for each client, over every API
openai    OpenAI's own client
grpc      gRPC's, over one channel
========  ==================================================================================================
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from llcuda.gateway.grpc.llcuda_pb2 import DESCRIPTOR, ChatRequest
from tests.http_asker import HttpAsker
from tests.inputs.hostile_bodies import HOSTILE_BODIES
from tests.inputs.hostile_requests import HOST, KEY
from tests.scenarios.known_answers import choose_long_question, choose_question, choose_sum, count_on, judge, make_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    import openai

    from tests.scenarios.known_answers import Question

_LEAVING, _BAD = 0.25, 0.08
"""Shares of the requests that are left in the midst, and that are refused."""
_HERD_SECONDS = 4.0
"""Between two times at which all clients of a process leave in one turn of its loop."""
_PATIENCE = 120.0
_QUICK = [hostile for hostile in HOSTILE_BODIES if not any(isinstance(part, float) for part in hostile.sends)]


class Clients:
    """Several clients, and what they have counted."""

    def __init__(self, wishes: dict[str, Any]) -> None:
        self._wishes = wishes
        self._chance = random.Random(wishes["seed"])
        self._counts: Counter[str] = Counter()
        self._number = 0
        self._under_way: set[asyncio.Task[str]] = set()
        self._going = asyncio.Event()
        self._going.set()
        self._is_over = False

    def obey(self, word: str) -> None:
        """Do what was read; to be called on the loop."""
        if word == "pause":
            self._going.clear()
            self._leave()
        else:
            self._is_over = word == "stop"
            self._going.set()

    async def run(self) -> None:
        """Ask until it is over, then let each client have its last answer."""
        helpers = [asyncio.ensure_future(self._tell_on()), asyncio.ensure_future(self._leave_together())]
        begin = {"http": self._run_http, "openai": self._run_openai, "grpc": self._run_grpc}[self._wishes["kind"]]
        await begin()
        for helper in helpers:
            helper.cancel()
        self._tell()

    def _tell(self) -> None:
        _say("counts", counts=dict(self._counts))

    async def _tell_on(self) -> None:
        while True:
            self._tell()
            await asyncio.sleep(1)

    async def _leave_together(self) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(0.5, 1.5) * _HERD_SECONDS)
            self._leave()

    def _leave(self) -> None:
        self._counts["left together"] += len(self._under_way)
        for task in self._under_way:
            task.cancel()

    async def _may_ask(self) -> bool:
        await self._going.wait()
        return not self._is_over

    async def _run_http(self) -> None:
        await asyncio.gather(*(self._be_http_client() for _ in range(self._wishes["count"])))

    async def _be_http_client(self) -> None:
        asker = HttpAsker(self._wishes["port"], key=KEY)
        while await self._may_ask():
            if self._chance.random() < _BAD:
                await self._send_bad()
                continue
            question, identity = self._choose(), self._name_next()
            await self._do(question, identity, _ask_http(asker, question, identity))
            if self._chance.random() < 0.1:
                asker.leave(reset=self._chance.random() < 0.5)
        asker.leave()

    async def _run_openai(self) -> None:
        import openai  # noqa: PLC0415 - it takes a second, and the other kinds do without it

        url = f"http://127.0.0.1:{self._wishes['port']}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=_PATIENCE) as client:
            await asyncio.gather(*(self._be_openai_client(client) for _ in range(self._wishes["count"])))

    async def _be_openai_client(self, client: openai.AsyncOpenAI) -> None:
        while await self._may_ask():
            question, identity = self._choose_chat(), self._name_next()
            await self._do(question, identity, _ask_openai(client, question, identity))

    async def _run_grpc(self) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._wishes['grpc_port']}") as channel:
            await asyncio.gather(*(self._be_grpc_client(channel) for _ in range(self._wishes["count"])))

    async def _be_grpc_client(self, channel: Any) -> None:
        while await self._may_ask():
            if self._chance.random() < _BAD:
                await self._do(None, self._name_next(), _ask_grpc_badly(channel))
                continue
            question, identity = self._choose_chat(), self._name_next()
            await self._do(question, identity, _ask_grpc(channel, question, identity))

    async def _do(self, question: Question | None, identity: str, asking: Coroutine[Any, Any, str]) -> None:
        """Ask, perhaps leave in the midst, and note what became of it."""
        leaves = self._chance.random() < _LEAVING
        # Many leave early, some at once, some while the answer comes.
        patience = self._chance.choice((0.0, 0.001, self._chance.expovariate(10), self._chance.uniform(0, 2)))
        task = asyncio.ensure_future(asking)
        self._under_way.add(task)
        await asyncio.wait({task}, timeout=patience if leaves else _PATIENCE)
        self._under_way.discard(task)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, ConnectionError, EOFError, grpc.RpcError):
                await task
            self._note("left" if leaves else f"no answer within {_PATIENCE} s", question, identity, is_fine=leaves)
        elif task.cancelled():
            self._counts["left"] += 1
        else:
            self._note(_read_outcome(task), question, identity)

    def _note(self, outcome: str, question: Question | None, identity: str, *, is_fine: bool = False) -> None:
        self._counts[(outcome or "right").partition(":")[0]] += 1
        if outcome and not is_fine:
            asked = f"{question.path} {json.dumps(question.body)[:300]}" if question else "a bad call"
            _say("anomaly", at=time.time(), id=identity, outcome=outcome, asked=asked)

    async def _send_bad(self) -> None:
        """Send a bad body on a connection of its own: it is to be answered with its own status."""
        hostile = self._chance.choice(HOSTILE_BODIES if self._chance.random() < 0.02 else _QUICK)
        asker = HttpAsker(self._wishes["port"])
        host = f"127.0.0.1:{self._wishes['port']}".encode()
        try:
            reply = await _send_all(asker, hostile.sends, host=host)
            outcome = "refused" if reply.status == hostile.status else f"bad body: {reply.status}, not {hostile.status}"
        except (ConnectionError, EOFError) as error:
            # What was sent beyond the refusal was not read, and the connection was reset.
            outcome = "refused by a reset" if isinstance(error, ConnectionError) else f"bad body: {error!r}"
        except TimeoutError:
            outcome = f"bad body: no answer within {_PATIENCE} s"
        finally:
            asker.leave()
        self._counts[outcome.partition(":")[0]] += 1
        if outcome.startswith("bad body"):
            _say("anomaly", at=time.time(), id="", outcome=outcome, asked=hostile.name)

    def _choose(self) -> Question:
        kind = self._chance.random()
        if self._wishes["models"] > 1 and kind < 0.04:
            return count_on(self._chance, model="large")
        return choose_long_question(self._chance) if kind < 0.2 else choose_question(self._chance)

    def _choose_chat(self) -> Question:
        return choose_long_question(self._chance) if self._chance.random() < 0.3 else choose_sum(self._chance)

    def _name_next(self) -> str:
        self._number += 1
        return f"{self._wishes['name']}-{self._number}"


async def _ask_http(asker: HttpAsker, question: Question, identity: str) -> str:
    return judge(question, await asker.ask(question.path, make_body(question), request_id=identity))


async def _send_all(asker: HttpAsker, parts: tuple[bytes | float, ...], *, host: bytes) -> Any:
    for part in parts:
        if isinstance(part, float):
            await asyncio.sleep(part)
    request = b"".join(part.replace(HOST, host) for part in parts if isinstance(part, bytes))
    return await asker.send(request, seconds=_PATIENCE)


async def _ask_openai(client: openai.AsyncOpenAI, question: Question, identity: str) -> str:
    import openai  # noqa: PLC0415 - as above

    headers = {"X-Request-Id": identity}
    try:
        answer: Any = await client.chat.completions.create(**question.body, extra_headers=headers)
        if question.is_stream:
            async with answer:
                pieces = [choice.delta.content or "" async for chunk in answer for choice in chunk.choices]
            text = "".join(pieces)
        else:
            text = answer.choices[0].message.content
    except openai.APIStatusError as error:
        return f"{error.status_code} {error.code}"
    except openai.APIError as error:
        return f"error event: {error!r}"
    return "" if text == question.answer else f"wrong: {text!r} for {question.answer!r}"


def _find_method(channel: Any, name: str) -> Callable[..., Any]:
    service = DESCRIPTOR.services_by_name["Inference"]
    method = service.methods_by_name[name]
    begin = channel.unary_stream if method.server_streaming else channel.unary_unary
    found: Callable[..., Any] = begin(
        f"/{service.full_name}/{name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return found


async def _ask_grpc(channel: Any, question: Question, identity: str) -> str:
    request = ChatRequest(model="demo", messages=question.body["messages"], sampling={"temperature": 0})
    metadata = (("authorization", f"Bearer {KEY}"), ("x-request-id", identity))
    if question.is_stream:
        text, is_over = "", False
        async for chunk in _find_method(channel, "StreamChat")(request, metadata=metadata):
            text, is_over = text + chunk.text, chunk.HasField("end")
    else:
        answer: Any = await _find_method(channel, "Chat")(request, metadata=metadata)
        text, is_over = answer.text, True
    return "" if is_over and text == question.answer else f"wrong: {text!r} for {question.answer!r}"


async def _ask_grpc_badly(channel: Any) -> str:
    request = ChatRequest(messages=[{"role": "user", "content": "x"}], sampling={"temperature": -1})
    call: Awaitable[Any] = _find_method(channel, "Chat")(request, metadata=(("authorization", f"Bearer {KEY}"),))
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return "" if error.code() is grpc.StatusCode.INVALID_ARGUMENT else f"bad call: {error.code()} {error.details()}"
    return "bad call: it was answered"


def _read_outcome(task: asyncio.Task[str]) -> str:
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, grpc.aio.AioRpcError):
        return f"gRPC {error.code().name}: {error.details()}"
    return f"cut: {error!r}"


def _say(event: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


def _obey(clients: Clients, loop: asyncio.AbstractEventLoop) -> None:
    """Pass on what is read; whoever started this is gone when the input ends."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(clients.obey, line.strip())
    os._exit(0)


async def _main() -> None:
    clients = Clients(json.loads(sys.argv[1]))
    threading.Thread(target=_obey, args=(clients, asyncio.get_running_loop()), daemon=True).start()
    await clients.run()


if __name__ == "__main__":
    asyncio.run(_main())
