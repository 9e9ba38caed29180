"""A model of what a gateway counts, and a machine that compares the two after each of thousands of steps.

The gateway is a real one, with its connections, its queue and its links to workers; the model knows of each request
only what a client and a worker see. The short version is a test; the long one is ``python -m benchmarks.invariants``.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llcuda.fleet.states import State
from tests.standins.looped_gateway import (
    KEYS,
    Client,
    LoopedGateway,
    LoopedServer,
    Request,
    StillLoop,
    as_looped,
    build_request,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from llcuda.fleet.dispatch.worker import Worker

PATH = "/v1/chat/completions"
_USUAL_ANSWER = 256
_LONGEST_DEATH = 5.0
_STEPS = 50
"""Of one gateway's life."""

_MANY = 4
_SOME_KEY = st.sampled_from(sorted(KEYS))
_SOME_KEYS = st.sampled_from([["low"], ["high", "low"], 3 * ["low"], ["low", "low", "high", "high", "low"]])
_OFTEN = st.sampled_from([True, True, True, False])
_SELDOM = st.sampled_from([False, False, False, False, True])


@dataclass(eq=False)
class Asked:
    """A request that has not ended, as the model knows it."""

    tag: str
    client: Client
    key: str
    order: tuple[int, int]
    tokens: int
    is_stream: bool
    is_suspect: bool
    place: LoopedServer | None = None
    """The llama-server that has it."""
    excluded: LoopedServer | None = None
    """The one that has failed at it."""
    judged: tuple[LoopedServer, float] | None = None
    """The llama-server of which it is to be seen whether it has died of this request, and until when."""

    @property
    def waits(self) -> bool:
        """Whether it is in the queue."""
        return self.place is None and self.judged is None


def _is_any_under_way(machine: Any) -> bool:
    return any(one.place for one in machine.asked)


class GatewayMachine(RuleBasedStateMachine):
    """Clients come and go, workers answer, break off, die, come back and are replaced."""

    steps = 0
    """Of all machines."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = StillLoop()
        self.folder = tempfile.TemporaryDirectory()
        self.asked: list[Asked] = []
        self.numbers = 0
        self.site: LoopedGateway

    @initialize(slots=st.sampled_from([(1,), (2,), (1, 1), (2, 1), (2, 2)]))
    def begin(self, slots: tuple[int, ...]) -> None:
        async def start() -> None:
            self.site = LoopedGateway(Path(self.folder.name), slots=slots)
            await self.site.start()

        self.run(start())

    def run(self, action: Coroutine[Any, Any, None]) -> None:
        """Do something, let everything happen that follows of it, and see who has gone where."""
        self.loop.run_until_complete(action)
        self.loop.run_until_complete(turns())
        GatewayMachine.steps += 1
        self._follow()

    def _follow(self) -> None:
        places = {request.tag: server for server in self.site.servers for request in server.requests}
        self.asked = [one for one in self.asked if one.client.is_open]
        came = [one for one in self.asked if one.place is None and one.tag in places]
        for one in self.asked:
            one.place = places.get(one.tag)
            if one.judged and (one.place or self.loop.time() >= one.judged[1]):
                one.judged = None
        waiting = [one for one in self.asked if one.waits and not one.is_suspect and not one.excluded]
        for one in came:
            if not one.is_suspect and not one.excluded:
                assert all(one.order < other.order for other in waiting), "whoever was first did not go first"

    # Clients.

    async def _ask(self, key: str, *, is_stream: bool, is_suspect: bool) -> Asked:
        self.numbers += 1
        tag = f"r{self.numbers}"
        wishes = json.dumps({"tokens": 1, "tag": tag})
        fields = {"messages": [{"role": "user", "content": wishes}], "stream": is_stream}
        body = json.dumps(fields).encode()
        if is_suspect:
            self.site.model.suspects.suspect(hash((PATH, body)))
        request = build_request(PATH, fields, key=key, headers=f"X-Request-Id: {tag}\r\n")
        client = await self.site.connect(request)
        order = (-KEYS[key].priority, self.numbers)
        one = Asked(tag, client, key, order, len(body) // 4 + _USUAL_ANSWER, is_stream, is_suspect)
        self.asked.append(one)
        return one

    @rule(keys=_SOME_KEYS, is_stream=st.booleans(), is_suspect=_SELDOM, all_live=_OFTEN)
    def ask(self, keys: list[str], *, is_stream: bool, is_suspect: bool, all_live: bool) -> None:
        if all_live:
            self._revive([server for server in self.site.servers if server.state is not State.READY])
        for key in keys:
            admission, most = self.site.model.admission, KEYS[key].max_in_flight
            full = admission.waiting == admission.max_queued or self.site.under_way[key] == most
            none = not any(worker.is_expected for worker in self.site.model.workers)
            asked: list[Asked] = []

            async def do(key: str = key, asked: list[Asked] = asked) -> None:
                asked.append(await self._ask(key, is_stream=is_stream, is_suspect=is_suspect))

            self.run(do())
            if not asked[0].client.is_open:
                assert {429: full, 503: none}.get(asked[0].client.status), asked[0].client.data

    @rule(key=_SOME_KEY, is_stream=st.booleans(), number=st.integers(0, 12))
    def ask_and_leave(self, key: str, *, is_stream: bool, number: int) -> None:
        async def do() -> None:
            one = await self._ask(key, is_stream=is_stream, is_suspect=False)
            await turns(number)
            one.client.transport.abort()

        self.run(do())

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), is_late=st.booleans())
    def leave_in_the_same_turn(self, data: st.DataObject, *, is_late: bool) -> None:
        leaving = data.draw(st.lists(st.sampled_from(self.asked), min_size=1, max_size=3, unique=True))

        async def do() -> None:
            connections = [self.site.find_connection(one.tag) for one in leaving]
            for connection in connections:
                assert connection is not None
                if is_late:
                    connection.give_up()
                else:
                    connection.abort()

        self.run(do())
        for one in leaving:
            assert not one.client.is_open
            assert one.client.status in ({200, 504} if is_late else {0, 200})

    # Workers.

    def _find(self, one: Asked) -> Request:
        assert one.place is not None
        return next(request for request in one.place.requests if request.tag == one.tag)

    def _fail(self, one: Asked, *, has_died: bool, is_error: bool = False) -> None:
        """Note that an answer is none: the request goes elsewhere, by itself if it may be what ended the worker."""
        assert one.place is not None
        if one.is_suspect and not has_died and not is_error:
            one.judged = (one.place, self.loop.time() + _LONGEST_DEATH)
        one.is_suspect = one.is_suspect or not is_error
        one.excluded, one.place = one.place, None

    def _draw(self, data: st.DataObject) -> tuple[Asked, Request]:
        one = data.draw(st.sampled_from([one for one in self.asked if one.place]))
        return one, self._find(one)

    @precondition(_is_any_under_way)
    @rule(data=st.data())
    def say_a_token(self, data: st.DataObject) -> None:
        _, request = self._draw(data)

        async def do() -> None:
            if not request.sent:
                request.say()

        self.run(do())

    @precondition(_is_any_under_way)
    @rule(data=st.data())
    def end_an_answer(self, data: st.DataObject) -> None:
        one, request = self._draw(data)

        async def do() -> None:
            request.end()

        self.run(do())
        assert (one.client.is_open, one.client.status, one.client.is_broken) == (False, 200, False)

    @precondition(_is_any_under_way)
    @rule(data=st.data())
    def answer_with_an_error(self, data: st.DataObject) -> None:
        one, request = self._draw(data)
        if request.sent:
            return
        self._fail(one, has_died=False, is_error=True)

        async def do() -> None:
            request.fail()

        self.run(do())

    @precondition(_is_any_under_way)
    @rule(data=st.data())
    def break_off(self, data: st.DataObject) -> None:
        one, request = self._draw(data)
        if request.sent or request.is_first:  # else it is sent once more
            self._fail(one, has_died=False)

        async def do() -> None:
            request.break_off()

        self.run(do())

    @rule(data=st.data(), number=st.integers(0, 4), state=st.sampled_from([State.WAITING, State.WAITING, State.FAILED]))
    def die(self, data: st.DataObject, number: int, state: State) -> None:
        """End a worker, which is noticed some turns after its connections have broken off."""
        worker = data.draw(st.sampled_from(self.site.model.workers))
        for one in self.asked:
            if one.place is worker.server:
                self._fail(one, has_died=True)
            elif one.judged and one.judged[0] is worker.server:
                one.judged = None

        async def do() -> None:
            as_looped(worker.server).cut()
            await turns(number)
            as_looped(worker.server).end(state)
            worker.note_state()
            self.site.model.admission.dispatch()

        self.run(do())

    @precondition(lambda self: any(server.state is not State.READY for server in self.site.servers))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        dead = [server for server in self.site.servers if server.state is not State.READY]
        self._revive(data.draw(st.lists(st.sampled_from(dead), min_size=1, unique=True)))

    def _revive(self, servers: list[LoopedServer]) -> None:
        async def do() -> None:
            for server in servers:
                await server.start()
                self._find_worker(server).note_state()

        if servers:
            self.run(do())

    @rule(data=st.data())
    def rest(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.site.model.workers))

        async def do() -> None:
            worker.note_failure()

        self.run(do())

    @rule(data=st.data())
    def reload(self, data: st.DataObject) -> None:
        """Replace a worker, as the fleet does, without waiting for what it is asked."""
        old = as_looped(data.draw(st.sampled_from(self.site.model.workers)).server)
        self.numbers += 1
        new = LoopedServer(f"demo/{self.numbers}", Path(self.folder.name) / f"s{self.numbers}", slots=old.slots)
        for one in self.asked:
            if one.place is old:
                self._fail(one, has_died=False)

        async def do() -> None:
            await new.start()
            self.site.servers = [new if server is old else server for server in self.site.servers]
            self.site.fleet.follow(self.site.servers)
            old.end(State.STOPPED)

        self.run(do())

    @rule(seconds=st.sampled_from([0.6, 0.6, 0.6, 5.5, 5.5, 11.0, 11.0, 700.0]))
    def let_time_pass(self, seconds: float) -> None:
        async def do() -> None:
            self.loop.advance(seconds)
            await turns()
            self.site.service.check_times()

        self.run(do())

    @precondition(lambda self: len(self.asked) > _MANY)
    @rule()
    def drain(self) -> None:
        """Let the gateway be stopped, which ends all requests, and begin anew."""
        service, asked = self.site.service, self.asked

        async def do() -> None:
            service.draining = True
            for connection in tuple(service.connections):
                connection.close()
            await turns()
            for connection in tuple(service.connections):
                connection.give_up()
            await turns()
            service.draining = False

        self.run(do())
        assert self.asked == []
        assert all(one.client.status in {200, 503} for one in asked)

    # What always holds.

    def _find_worker(self, server: LoopedServer) -> Worker:
        return self.site.fleet.find_worker(server)

    @invariant()
    def counts_are_what_is_under_way(self) -> None:
        site, admission = self.site, self.site.model.admission
        for server in site.servers:
            worker = self._find_worker(server)
            here = Counter(one.tag for one in self.asked if one.place is server)
            assert here == Counter(request.tag for request in server.requests)
            assert len(here) == worker.busy <= worker.slots
            assert len({slot.owner for slot in worker.taken}) == worker.busy
            upstream = worker._upstream
            links = (len(upstream._busy), len(upstream._idle)) if upstream else (0, 0)
            assert links[0] == worker.busy
            assert sum(links) == len(server.links)
        waiting = [one for one in self.asked if one.waits]
        assert admission.waiting == len(waiting) <= admission.max_queued
        assert admission.waiting_tokens == sum(one.tokens for one in waiting)
        assert site.under_way == Counter(one.key for one in self.asked)
        assert len(site.service.connections) == len(self.asked)
        assert [worker.server for worker in site.model.workers] == site.servers

    @invariant()
    def nothing_is_left(self) -> None:
        service = self.site.service
        assert len(asyncio.all_tasks(self.loop)) == len(self.asked)
        service.check_counts()
        samples = [one for metric in service.metrics.repairs.collect() for one in metric.samples]
        counted = [one for one in samples if one.name.endswith("_total")]
        assert counted
        assert not any(one.value for one in counted)
        assert self.loop.reports == []

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        workers, admission = self.site.model.workers, self.site.model.admission
        waiting = [one for one in self.asked if one.waits]
        suspects = [one for one in waiting if one.is_suspect]
        if waiting:
            assert any(worker.is_expected for worker in workers)
        alone = [one for one in self.asked if one.place and one.is_suspect]
        assert len(alone) <= 1
        for one in alone:
            assert [other for other in self.asked if other.place is one.place] == [one]
        held = admission._reserved
        assert held is None or (suspects and not alone)
        for one in waiting:
            is_only = sum(worker.is_expected for worker in workers) == 1
            usable = [worker for worker in workers if worker.server is not one.excluded or is_only]
            if not one.is_suspect:
                free = [worker for worker in usable if worker.is_free and worker is not held]
                assert free == [], "it waits beside a free slot"
        if suspects and not alone:
            first = admission._suspects[0].job  # it waits for another worker than has failed at it
            idle = [one for one in workers if one.is_usable and not one.busy and one is not first.excluded]
            assert idle == [], "a suspect waits beside a worker that it could have to itself"

    def teardown(self) -> None:
        async def end() -> None:
            for one in self.asked:
                one.client.transport.abort()
            await turns()
            assert self.site.describe_rest() == {}
            await self.site.close()

        try:
            if hasattr(self, "site"):
                self.loop.run_until_complete(end())
            assert self.loop.reports == []
        finally:
            self.loop.finish()
            self.folder.cleanup()


def run_machine(steps: int, *, derandomize: bool) -> int:
    """Take about so many steps, each run of the machine of at most 50, and return how many there were.

    Those that are always the same are not made fewer where they show a difference, which takes minutes.
    """
    before = GatewayMachine.steps
    chosen = settings(
        max_examples=max(1, steps // _STEPS), stateful_step_count=_STEPS, derandomize=derandomize, deadline=None,
        database=None, suppress_health_check=list(HealthCheck), print_blob=not derandomize,
        phases=[Phase.generate] if derandomize else [Phase.generate, Phase.shrink],
    )  # fmt: skip
    run_state_machine_as_test(GatewayMachine, settings=chosen)
    return GatewayMachine.steps - before


def test_counts_stay_right_through_a_thousand_steps() -> None:
    assert run_machine(1000, derandomize=True) > 500
