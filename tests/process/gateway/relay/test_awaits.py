"""A request is cancelled wherever it can be: at each of its waits, before what it waits for has come and just after."""

from __future__ import annotations

import ast
import asyncio
import gc
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import llcuda
from llcuda.errors import OutOfMemoryError
from llcuda.fleet.dispatch.worker import fetch
from llcuda.fleet.served_model import ServedModel
from llcuda.fleet.states import State
from llcuda.gateway import Limits
from llcuda.gateway.api.fields import MAX_QUICK_BYTES
from llcuda.gateway.grpc.grpc_server import GrpcServer
from llcuda.gateway.grpc.llcuda_pb2 import ChatRequest, Message
from llcuda.transport.address import Address
from tests.processes import PATIENCE
from tests.standins import stub_answers
from tests.standins.looped_gateway import (
    LoopedFleet,
    LoopedGateway,
    LoopedServer,
    Request,
    StillLoop,
    as_looped,
    build_request,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator

CHAT, EMBEDDINGS, COMPLETION = "/v1/chat/completions", "/v1/embeddings", "/completion"
PACKAGE = Path(llcuda.__file__).parent
MODULES = {path.stem: path for path in (
    *(PACKAGE / "fleet/dispatch" / f"{name}.py" for name in ("admission", "suspects", "upstream", "worker")),
    *(PACKAGE / "gateway/relay" / f"{name}.py" for name in ("model_request", "service", "streamed_answer")),
    *(PACKAGE / "gateway/http" / f"{name}.py" for name in ("connection", "exchange")),
    *(PACKAGE / "gateway/grpc" / f"{name}.py" for name in ("grpc_call", "grpc_server")),
    PACKAGE / "fleet/served_model.py",
)}  # fmt: skip
NEVER = {
    ("grpc_server", "listen"): "no request",
    ("grpc_server", "tell_health"): "no request",
    ("grpc_server", "stop"): "no request",
    ("grpc_server", "_batch"): "a batch is requests of their own, each as every other",
    ("grpc_server", "work"): "one of a batch",
    ("grpc_server", "_answer_item"): "one of a batch",
    ("grpc_server", "_embed"): "it waits where _wait does, which is cancelled",
    ("grpc_server", "_list_models"): "no worker is asked",
    ("grpc_server", "_ask"): "it waits where _wait does, which is cancelled",
    ("grpc_server", "_abort"): "it waits where its callers do, which are cancelled",
    ("grpc_server", "intercept_service"): "before the call begins, which holds nothing yet",
    ("grpc_server", "guarded"): "it waits where what it guards does, which is cancelled",
    ("grpc_server", "await task"): "the task is done by then",
    ("model_request", "_pass_on"): "the slot was given back by then, and nothing is held",
    ("model_request", "await self._pass_on(reception)"): "the slot was given back by then, and nothing is held",
    ("served_model", "unload_if_idle"): "no request",
    ("service", "await self._own[route.endpoint](exchange)"): "one of the gateway's own addresses, which hold nothing",
}
"""Functions whose waits need not be cancelled, or single waits, and why."""


def steer(text: str = " token", *, stream: bool = False, **more: Any) -> dict[str, Any]:
    wishes = f'{{"tokens": 1, "text": "{text}"}}'
    return {"messages": [{"role": "user", "content": wishes}], "stream": stream, **more}


class Step:
    """Runs one task, and cancels it at its ``at``-th wait, which it counts from 0; ``how`` says when."""

    def __init__(self, loop: StillLoop, at: int, how: str) -> None:
        self._loop = loop
        self._at, self._how = at, how
        self.is_armed = False
        """Whether the next request that is answered is the task."""
        self.task: asyncio.Task[Any] | None = None
        self.holder: asyncio.Task[Any] | None = None
        """Another one, which is cancelled in the same turn where ``how`` says so."""
        self.holder_is_cancelled = False
        self.waits = 0
        self.lines: set[tuple[str, int]] = set()
        """Where it was cancelled: modules, and their lines."""
        loop.set_task_factory(self._make_task)

    def _make_task(self, loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        if self.is_armed and self.task is None and coroutine.__qualname__ == "GatewayService.handle":
            return self.begin(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    def begin(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run it."""
        if self._how == "before it begins":
            self.task = asyncio.Task(coroutine, loop=self._loop)
            self.task.cancel()
        else:
            self.task = asyncio.Task(self._run(coroutine), loop=self._loop)
        return self.task

    async def _run(self, coroutine: Any) -> Any:
        return await _Stepped(coroutine, self._wait)

    def _wait(self, coroutine: Any, waited: Any) -> None:
        """Be told that the task waits, and in what."""
        self.waits += 1
        at = self.waits - 1
        if at == self._at or (self._how == "again" and at > self._at):
            lines = set(find_lines(coroutine))
            if self._how in {"waiting", "again"}:
                self._cancel(lines)
            elif self._how == "ready" and waited is not None:
                # This is called before the task is, which has been told to wait for it only after.
                waited.add_done_callback(lambda _: self._cancel(lines))
            elif self._how.startswith("after") and self._how[6].isdigit():
                self._count_down(int(self._how[6]), lines)
            elif self.holder is not None and self._how.endswith("the holder"):
                self._loop.call_soon(self._cancel_both, lines)

    def _cancel(self, lines: set[tuple[str, int]]) -> None:
        assert self.task is not None
        if not self.task.done():
            self.task.cancel()
            self.lines |= lines

    def _cancel_both(self, lines: set[tuple[str, int]]) -> None:
        assert self.holder is not None
        if self._how == "after the holder":
            self.holder_is_cancelled = self.holder.cancel()
        self._cancel(lines)
        if self._how == "before the holder":
            self.holder_is_cancelled = self.holder.cancel()

    def _count_down(self, number: int, lines: set[tuple[str, int]]) -> None:
        if number:
            self._loop.call_soon(self._count_down, number - 1, lines)
        else:
            self._cancel(lines)


class _Stepped:
    """A coroutine that tells of each wait, just before it."""

    def __init__(self, coroutine: Any, on_wait: Callable[[Any, Any], None]) -> None:
        self._coroutine = coroutine
        self._on_wait = on_wait

    def __await__(self) -> Generator[Any, Any, Any]:
        step = partial(self._coroutine.send, None)
        while True:
            try:
                waited = step()
            except StopIteration as end:
                return end.value
            self._on_wait(self._coroutine, waited)
            try:
                yield waited
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, None)


def find_lines(waiting: Any) -> Iterator[tuple[str, int]]:
    """Yield where a coroutine waits, and what it waits for, and so on."""
    while waiting is not None:
        inner = None
        for kind in ("cr", "ag", "gi"):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                yield Path(frame.f_code.co_filename).stem, frame.f_lineno
                inner = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            # One step of an asynchronous generator does not say of which.
            inner = next((one for one in gc.get_referents(waiting) if hasattr(one, "ag_frame")), None)
        waiting = inner


class Play:
    """A scenario: what is there before, the request that is cancelled, and what happens around it."""

    def __init__(self, site: LoopedGateway, step: Step) -> None:
        self.site = site
        self.step = step
        self.calls: dict[Any, Any] = {}
        """Those under way over gRPC."""

    def serve_grpc(self) -> GrpcServer:
        """Return what answers calls; nothing listens."""
        server = GrpcServer(self.site.service)
        self.calls = server._tasks
        return server

    async def hold(self) -> None:
        """Let another be answered, and go on with that."""
        self.each(Request.say)
        await self.ask_beside(steer(stream=True), headers="X-Request-Id: holder\r\n")
        found = self.site.find_connection("holder")
        assert found is not None
        self.step.holder = found._task

    def each(self, *answers: Callable[[Request], object]) -> None:
        """Let every request be answered in these ways, one after the other; the last is for all that follow."""
        waiting = list(answers)

        def answer(request: Request) -> None:
            (waiting.pop(0) if len(waiting) > 1 else waiting[0])(request)

        for server in self.site.servers:
            server.on_request = answer

    def dies(self, request: Request) -> None:
        """Let the llama-server end that was asked this, which shows at once."""
        for worker in self.site.model.workers:
            server = as_looped(worker.server)
            if request in server.requests:
                server.end()
                worker.note_state()

    async def revive(self) -> None:
        """Start all that have ended."""
        for worker in self.site.model.workers:
            if worker.server.state is not State.READY:
                await as_looped(worker.server).start()
                worker.note_state()

    async def ask(self, path: str, fields: dict[str, Any], **more: Any) -> None:
        """Send the request that is cancelled."""
        self.step.is_armed = True
        await self.site.connect(build_request(path, fields, **more))
        await turns()

    async def finish(self) -> None:
        """Let everything end that was begun, in whatever way."""
        task = self.step.task
        assert task is not None
        self.each(Request.end)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not (task.done() and not self.site.describe_rest()):
            for request in (one for server in self.site.servers for one in server.requests):
                request.end()
            await turns()
            self.site.loop.advance(0.5)
            time.sleep(0.001)  # noqa: ASYNC251 - the clock stands still, and a thread may be at work
        assert task.done()
        if not task.cancelled():
            task.exception()

    async def is_answered(self) -> None:
        """See that the next request is answered."""
        await self.revive()
        self.site.loop.advance(20.0)
        client = await self.site.connect(build_request(CHAT, steer("fine")))
        await turns()
        assert (client.status, b"fine" in client.data) == (200, True)
        await turns()
        assert self.site.describe_rest() == {}

    async def ask_beside(self, fields: dict[str, Any], **more: Any) -> None:
        """Send another one."""
        await self.site.connect(build_request(CHAT, fields, **more))
        await turns()


Scenario = tuple["tuple[int, ...]", "Callable[[Play], Awaitable[Any]]", "Callable[[Play], Awaitable[None]]"]


async def nothing(_: Play) -> None:
    """Only let it be answered."""


async def a_stream(play: Play) -> None:
    play.each(Request.say)
    await play.ask(CHAT, steer(stream=True))


async def a_whole_answer(play: Play) -> None:
    await play.ask(CHAT, steer())


async def a_whole_answer_with_a_schema(play: Play) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}}
    await play.ask(CHAT, steer("1", response_format=wanted))


async def a_stream_with_a_schema(play: Play) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}}
    await play.ask(CHAT, {**steer("1", response_format=wanted), "stream": True})


async def a_second_answer_with_a_schema(play: Play) -> None:
    play.each(break_off_late, Request.end)
    await a_whole_answer_with_a_schema(play)


async def a_plain_answer_with_a_schema(play: Play) -> None:
    prompt = steer("1")["messages"][0]["content"]
    await play.ask(COMPLETION, {"prompt": prompt, "n_probs": 1, "json_schema": {"type": "integer"}})


async def what_is_computed(play: Play) -> None:
    await play.ask(EMBEDDINGS, {"input": "x"})


async def what_takes_no_slot(play: Play) -> None:
    play.site.servers[0].is_silent = True
    await play.ask("/tokenize", {"content": "x"})


async def a_suspect_that_took_no_slot(play: Play) -> None:
    await play.hold()
    play.site.model.suspects.is_suspect = bool  # type: ignore[method-assign,assignment]
    await play.ask("/tokenize", {"content": "x"})


async def say_it(play: Play) -> None:
    for server in play.site.servers:
        server.is_silent = False
        for link in server.links:
            if link.request is None:
                link.transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"tokens":[]}')


async def one_that_is_answered_while_others_wait(play: Play) -> None:
    play.each(Request.say)
    await play.ask(CHAT, steer(stream=True))
    await play.ask_beside(steer())
    await play.ask_beside(steer(), key="high")


async def one_that_waits(play: Play) -> None:
    await play.hold()
    await play.ask(CHAT, steer())


async def one_that_waits_before_another(play: Play) -> None:
    await play.hold()
    await play.ask(CHAT, steer())
    await play.ask_beside(steer())


async def let_the_holder_end(play: Play) -> None:
    play.each(Request.end)
    for request in play.site.servers[0].requests:
        request.end()


async def fail_for_good(play: Play) -> None:
    play.site.servers[0].end(State.FAILED)
    play.site.model.workers[0].note_state()
    play.site.model.admission.dispatch()
    await turns()
    await play.revive()


async def let_its_time_pass(play: Play) -> None:
    play.site.loop.advance(7.0)


async def let_its_time_pass_by_halves(play: Play) -> None:
    for _ in range(2):
        play.site.loop.advance(3.5)
        await turns()


async def one_with_a_deadline(play: Play) -> None:
    await play.hold()
    await play.ask(CHAT, steer(), headers="X-Request-Timeout: 5\r\n")


async def a_suspect(play: Play) -> None:
    await play.hold()
    play.each(Request.say)
    play.site.model.suspects.is_suspect = bool  # type: ignore[method-assign,assignment]
    await play.ask(CHAT, steer(stream=True))


async def one_whose_worker_breaks_off(play: Play) -> None:
    play.each(Request.break_off, Request.say)
    await play.ask(CHAT, steer(stream=True))


async def a_whole_one_whose_worker_breaks_off(play: Play) -> None:
    play.each(break_off_late, Request.say)
    await play.ask(CHAT, steer())


async def one_whose_workers_both_break_off(play: Play) -> None:
    play.each(Request.break_off)
    await play.ask(CHAT, steer())


async def one_whose_workers_both_fail(play: Play) -> None:
    play.each(Request.fail)
    await play.ask(CHAT, steer())


async def one_whose_turns_have_to_alternate(play: Play) -> None:
    refusal = stub_answers.error(400, "Conversation roles must alternate user/assistant", "invalid_request_error")
    play.each(lambda request: request.answer(refusal), Request.end)
    await play.ask(CHAT, {**steer(), "messages": [*steer()["messages"], *steer()["messages"]]})


async def one_whose_workers_both_die(play: Play) -> None:
    play.each(play.dies)
    await play.ask(CHAT, steer())


async def a_stream_that_breaks_off(play: Play) -> None:
    play.each(break_off_late)
    await play.ask(CHAT, steer(stream=True))


def break_off_late(request: Request) -> None:
    request.say()
    request.break_off()


async def one_on_a_link_that_is_used_again(play: Play) -> None:
    play.each(Request.end)
    await play.ask_beside(steer())
    play.each(Request.say)
    await play.ask(CHAT, steer(stream=True))


async def one_on_a_link_that_is_closed(play: Play) -> None:
    play.each(Request.end)
    await play.ask_beside(steer())
    play.each(Request.break_off, Request.say)
    await play.ask(CHAT, steer(stream=True))


async def one_that_nobody_listens_to(play: Play) -> None:
    play.site.servers[0].cut()
    await play.ask(CHAT, steer())


async def one_that_starts_its_model(play: Play) -> None:
    started = play.site.loop.create_future()
    play.site.loop.call_later(3.0, settle, started)

    async def start() -> None:
        await asyncio.shield(started)

    play.site.fleet.start_on_demand = start
    await play.ask(CHAT, steer())


async def one_that_needs_the_room_of_another_model(play: Play) -> None:
    loop, tries = play.site.loop, count()
    other = ServedModel(replace(play.site.model.config, name="other", on_demand=True), Limits())
    other.fleet = fleet = LoopedFleet(other)
    fleet.follow([LoopedServer("other/0", play.site.folder / "other", slots=1)])
    fleet.unloading, started = loop.create_future(), loop.create_future()
    loop.call_later(3.0, settle, fleet.unloading)
    loop.call_later(6.0, settle, started)

    async def start() -> None:
        if next(tries) == 0:
            raise OutOfMemoryError("there is no room")
        await asyncio.shield(started)

    play.site.fleet.start_on_demand = start
    play.site.model._beside = {"other": other}
    await play.ask(CHAT, steer())


async def one_at_another_machine(play: Play) -> None:
    (before,) = play.site.servers
    server = LoopedServer("demo@far", play.site.folder / "far", slots=1)
    server.address, server.is_remote = Address("http", "127.0.0.1", 0, ""), True
    server.on_request = before.on_request
    await server.start()
    play.site.servers = [server]
    play.site.fleet.follow([server])
    before.end()
    await play.ask(CHAT, steer())


async def a_question_of_the_gateways_own(play: Play) -> Coroutine[Any, Any, object]:
    return fetch(play.site.model.workers[0], "/health")


class Call:
    """What gRPC says of a call, and takes of its answer; what a client does is not looked at here."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", "Bearer " + "k" * 31 + "l"),)

    def time_remaining(self) -> None:
        return None

    async def write(self, message: Any) -> None:
        self.written.append(message)
        await wait_a_turn()

    async def abort(self, *_: object) -> None:
        await wait_a_turn()


async def wait_a_turn() -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(settle, done)
    await done


def settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def make_call(*, before: int = 0) -> Any:
    texts = {"system": "x" * before, "user": '{"tokens": 1}'}
    return ChatRequest(messages=[Message(role=role, content=text) for role, text in texts.items()])


async def a_grpc_stream(play: Play) -> Coroutine[Any, Any, object]:
    play.each(Request.say)
    return play.serve_grpc()._stream(make_call(), Call())


async def a_grpc_answer(play: Play) -> Coroutine[Any, Any, object]:
    return play.serve_grpc()._answer(make_call(), Call())


async def a_long_grpc_stream(play: Play) -> Coroutine[Any, Any, object]:
    play.each(Request.say)
    return play.serve_grpc()._stream(make_call(before=MAX_QUICK_BYTES), Call())


async def a_long_grpc_answer(play: Play) -> Coroutine[Any, Any, object]:
    return play.serve_grpc()._answer(make_call(before=MAX_QUICK_BYTES), Call())


async def a_grpc_stream_that_is_refused(play: Play) -> Coroutine[Any, Any, object]:
    play.each(Request.fail)
    return play.serve_grpc()._stream(make_call(), Call())


async def a_grpc_answer_that_is_refused(play: Play) -> Coroutine[Any, Any, object]:
    play.each(Request.fail)
    return play.serve_grpc()._answer(make_call(), Call())


SCENARIOS: dict[str, Scenario] = {
    begin.__name__: (slots, begin, around)
    for slots, begin, around in (
        ((1,), a_stream, nothing),
        ((1,), a_whole_answer, nothing),
        ((1,), a_whole_answer_with_a_schema, nothing),
        ((1,), a_stream_with_a_schema, nothing),
        ((1,), a_plain_answer_with_a_schema, nothing),
        ((1, 1), a_second_answer_with_a_schema, nothing),
        ((1,), what_is_computed, nothing),
        ((1,), what_takes_no_slot, say_it),
        ((1,), a_suspect_that_took_no_slot, let_the_holder_end),
        ((1,), one_that_is_answered_while_others_wait, nothing),
        ((1,), one_that_waits, let_the_holder_end),
        ((1,), one_that_waits_before_another, let_the_holder_end),
        ((1,), one_with_a_deadline, let_its_time_pass),
        ((2,), a_suspect, let_the_holder_end),
        ((1, 1), one_whose_worker_breaks_off, nothing),
        ((1, 1), a_whole_one_whose_worker_breaks_off, nothing),
        ((1, 1), one_whose_workers_both_break_off, nothing),
        ((1, 1), one_whose_workers_both_fail, nothing),
        ((1, 1), one_whose_workers_both_die, nothing),
        ((1,), one_whose_turns_have_to_alternate, nothing),
        ((1, 1), a_stream_that_breaks_off, nothing),
        ((1,), one_on_a_link_that_is_used_again, nothing),
        ((1,), one_on_a_link_that_is_closed, nothing),
        ((1, 1), one_that_nobody_listens_to, nothing),
        ((1,), one_that_starts_its_model, let_its_time_pass),
        ((1,), one_that_needs_the_room_of_another_model, let_its_time_pass_by_halves),
        ((1,), one_at_another_machine, nothing),
        ((1,), a_question_of_the_gateways_own, nothing),
        ((1,), a_grpc_stream, nothing),
        ((1,), a_grpc_answer, nothing),
        ((1,), a_long_grpc_stream, nothing),
        ((1,), a_long_grpc_answer, nothing),
        ((1,), a_grpc_stream_that_is_refused, nothing),
        ((1,), a_grpc_answer_that_is_refused, nothing),
    )
}
SCENARIOS["one_that_waits_and_is_refused"] = ((1,), one_that_waits, fail_for_good)
_MOST_WAITS = 24
HOWS = ("before it begins", "waiting", "ready", "again", "after 2 turns", "after 6 turns", "before the holder",
        "after the holder")  # fmt: skip


def cancel_once(scenario: Scenario, at: int, how: str) -> Step:
    """Play a scenario, cancelling at one wait, and see that nothing is left of it."""
    slots, begin, around = scenario
    loop = StillLoop()
    step = Step(loop, at, how)

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            site = LoopedGateway(Path(folder), slots=slots)
            await site.start()
            play = Play(site, step)
            play.each(Request.end)
            coroutine = await begin(play)
            if coroutine is not None:
                _ = step.begin(coroutine)
            await turns()
            await around(play)
            await play.finish()
            assert (site.describe_rest(), play.calls) == ({}, {})
            assert step.task is not None
            if step.lines and not step.task.cancelled():
                # The gateway has counted that this client has gone; a cancellation that was lost it has not.
                assert site.service.metrics.cancelled.counts[()] == 1 + step.holder_is_cancelled
                assert coroutine is None
            await play.is_answered()
            await site.close()

    try:
        loop.run_until_complete(run())
        gc.collect()
        assert loop.reports == []
    finally:
        loop.finish()
    return step


@cache
def cancel_everywhere(name: str, how: str) -> frozenset[tuple[str, int]]:
    """Play a scenario once for each of its waits, and return the lines at which it was cancelled."""
    lines: set[tuple[str, int]] = set()
    for at in range(_MOST_WAITS):
        step = cancel_once(SCENARIOS[name], at, how)
        lines |= step.lines
        if step.waits <= at:
            return frozenset(lines)
    pytest.fail(f"{name} waits again and again")


@pytest.fixture(autouse=True, scope="module")
def nothing_older() -> Iterator[None]:
    """Let what is collected after each case be what the case has made."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_who_is_cancelled_leaves_nothing(name: str, how: str) -> None:
    cancel_everywhere(name, how)


def find_awaits(module: str) -> Iterator[tuple[str, str, int, int]]:
    """Yield the function, the words, first and last line of every wait in a module.

    A block that is entered with ``async with`` waits where it begins, and is cancelled with what is within.
    """
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Await | ast.AsyncWith):
                yield function.name, ast.unparse(node), node.lineno, node.end_lineno or 0
            elif isinstance(node, ast.AsyncFor):
                yield function.name, ast.unparse(node), node.lineno, node.lineno


@pytest.mark.parametrize("how", ["waiting", "ready"])
def test_every_wait_of_a_request_was_cancelled(how: str) -> None:
    lines = {line for name in SCENARIOS for line in cancel_everywhere(name, how)}
    missed = [
        f"{module}.py:{first} {function}"
        for module in MODULES
        for function, words, first, last in find_awaits(module)
        if NEVER.keys().isdisjoint({(module, function), (module, words)})
        and not any((module, line) in lines for line in range(first, last + 1))
    ]
    assert not missed, "\n".join(missed)
