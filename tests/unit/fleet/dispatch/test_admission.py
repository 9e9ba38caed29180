from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.fleet.dispatch.admission import Admission, DrainRate
from llcuda.fleet.dispatch.balance import read_prompt
from llcuda.fleet.dispatch.worker import Job, Slot, Worker
from llcuda.fleet.refusals import RefusedError
from llcuda.fleet.states import State, WatchedServer
from llcuda.gateway.http.access import Caller
from llcuda.gateway.relay.service import Callers
from llcuda.transport.address import unix_address

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class FakeServer(WatchedServer):
    was_killed = False

    def __init__(self, name: str = "w0", slots: int = 1) -> None:
        address = unix_address("/nonesuch.sock")
        super().__init__(name, address, slots=slots, api_key="key", hang_timeout=10.0, on_change=lambda _: None)
        self.state = State.READY


class Queue:
    """An admission in front of workers whose servers are named by their slots."""

    def __init__(self, *slots: int, max_queued: int = 4, max_queued_tokens: int = 1000) -> None:
        self.workers: list[Worker] = []
        self.admission = Admission(
            lambda: self.workers, max_queued=max_queued, max_queued_tokens=max_queued_tokens
        )
        self.workers += [
            Worker(FakeServer(f"w{number}", count), on_free=self.admission.dispatch)
            for number, count in enumerate(slots)
        ]

    def server(self, index: int = 0) -> Any:
        return self.workers[index].server

    def ask(self, **options: Any) -> asyncio.Task[Slot]:
        return asyncio.ensure_future(self.admission.acquire(Job(**options)))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def refusal_of(task: asyncio.Task[Slot]) -> RefusedError:
    error = task.exception()
    assert isinstance(error, RefusedError)
    return error


def test_slots_are_given_at_once_and_then_first_come_first_served() -> None:
    async def scenario() -> None:
        queue = Queue(2)
        holders = [await queue.admission.acquire(Job()) for _ in range(2)]
        assert queue.workers[0].busy == 2
        waiting = [queue.ask() for _ in range(3)]
        await turn()
        assert queue.admission.waiting == 3
        for number in range(3):
            (holders[number] if number < 2 else waiting[0].result()).release()
            await turn()
            assert [task.done() for task in waiting] == [at <= number for at in range(3)]
        assert queue.admission.waiting == 0
        assert queue.workers[0].busy == 2

    run(scenario)


def test_it_is_open_while_a_slot_is_free_and_nobody_waits() -> None:
    async def test() -> None:
        queue = Queue(1)
        seen = [queue.admission.is_open]
        slot = await queue.ask()
        seen.append(queue.admission.is_open)
        waiting = queue.ask()
        await turn()
        slot.release()
        seen.append(queue.admission.is_open)
        (await waiting).release()
        assert [*seen, queue.admission.is_open] == [True, False, False, True]

    run(test)


def test_a_higher_priority_goes_first_and_within_one_the_order_holds() -> None:
    async def scenario() -> None:
        queue = Queue(1, max_queued=10)
        slot = await queue.admission.acquire(Job())
        order: list[str] = []

        async def ask(name: str, priority: int) -> None:
            taken = await queue.admission.acquire(Job(priority=priority))
            order.append(name)
            taken.release()

        tasks = [asyncio.ensure_future(ask(name, priority)) for name, priority in
                 [("a", 0), ("b", 0), ("c", 5), ("d", -1), ("e", 5)]]  # fmt: skip
        await turn()
        slot.release()
        await asyncio.gather(*tasks)
        assert order == ["c", "e", "a", "b", "d"]

    run(scenario)


def test_beyond_the_bound_the_answer_is_429_with_the_time_that_the_queue_takes() -> None:
    async def scenario() -> None:
        queue = Queue(1, max_queued=2)
        (await queue.admission.acquire(Job())).release()
        queue.admission.rate.record(7.0)
        await queue.admission.acquire(Job())
        waiting = [queue.ask() for _ in range(2)]
        await turn()
        with pytest.raises(RefusedError) as refused:
            await queue.admission.acquire(Job())
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert 21 <= int(refused.value.headers["Retry-After"]) <= 26
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(scenario)


def test_many_tokens_fill_the_queue_as_many_requests_do() -> None:
    async def scenario() -> None:
        queue = Queue(1, max_queued_tokens=100)
        await queue.admission.acquire(Job(tokens=5000))  # it waits for nobody
        waiting = queue.ask(tokens=90)
        await turn()
        with pytest.raises(RefusedError) as refused:
            await queue.admission.acquire(Job(tokens=11))
        assert refused.value.status == 429
        with pytest.raises(RefusedError) as refused:
            await queue.admission.acquire(Job(tokens=101))
        assert refused.value.status == 413
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert queue.admission.waiting_tokens == 0

    run(scenario)


def test_who_goes_away_while_waiting_leaves_nothing() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        slot = await queue.admission.acquire(Job())
        waiting = [queue.ask() for _ in range(3)]
        await turn()
        waiting[0].cancel()
        await turn()
        assert (queue.admission.waiting, len(queue.admission._queue)) == (2, 2)
        slot.release()
        await turn()
        assert waiting[1].done()
        waiting[2].cancel()
        await turn()
        waiting[1].result().release()
        assert (slot.worker.busy, queue.admission.waiting) == (0, 0)

    run(scenario)


def test_a_slot_that_was_given_in_the_moment_its_owner_left_goes_to_the_next() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        slot = await queue.admission.acquire(Job())
        first, second = queue.ask(), queue.ask()
        await turn()
        slot.release()  # the first has the slot now, and does not know it yet
        first.cancel()
        await turn()
        assert first.cancelled()
        assert second.result().worker is slot.worker
        assert slot.worker.busy == 1

    run(scenario)


def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        slot = await queue.admission.acquire(Job())
        late = queue.ask(deadline=asyncio.get_running_loop().time() + 0.05)
        await asyncio.wait([late])
        assert (refusal_of(late).status, refusal_of(late).code) == (504, "deadline")
        slot.release()
        queue.admission.rate.record(30.0)
        await queue.admission.acquire(Job())
        with pytest.raises(RefusedError, match="would pass"):
            await queue.admission.acquire(Job(deadline=asyncio.get_running_loop().time() + 10))

    run(scenario)


def test_without_a_worker_that_can_be_expected_the_answer_is_503_at_once() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        queue.server().state = State.FAILED
        with pytest.raises(RefusedError) as refused:
            await queue.admission.acquire(Job())
        assert refused.value.status == 503
        assert "Retry-After" in refused.value.headers

    run(scenario)


@pytest.mark.parametrize("state", [State.STARTING, State.SILENT, State.WAITING])
def test_a_worker_that_will_answer_again_is_waited_for(state: State) -> None:
    async def scenario() -> None:
        queue = Queue(1)
        queue.server().state = state
        task = queue.ask()
        await turn()
        assert not task.done()
        queue.server().state = State.READY
        queue.workers[0].note_state()
        assert (await task).worker is queue.workers[0]

    run(scenario)


def test_who_waits_for_workers_that_fail_is_told_so() -> None:
    async def scenario() -> None:
        queue = Queue(1, 1)
        for index in (0, 1):
            queue.server(index).state = State.WAITING
        task = queue.ask()
        await turn()
        for index in (0, 1):
            queue.server(index).state = State.FAILED
        queue.admission.dispatch()
        await asyncio.wait([task])
        assert refusal_of(task).status == 503

    run(scenario)


def test_a_worker_that_failed_rests_and_is_used_again() -> None:
    async def scenario() -> None:
        queue = Queue(1, 1)
        queue.workers[0].note_failure()
        assert not queue.workers[0].is_free
        assert (await queue.admission.acquire(Job())).worker is queue.workers[1]
        task = queue.ask()
        await turn()
        assert not task.done()
        assert (await task).worker is queue.workers[0]

    run(scenario)


def test_what_fails_at_the_same_time_is_one_failure() -> None:
    async def scenario() -> None:
        queue = Queue(8)
        queue.workers[0].note_failure()
        rests_until = queue.workers[0]._rests_until
        for _ in range(7):
            queue.workers[0].note_failure()
        assert queue.workers[0].failed == 8
        assert queue.workers[0]._rests_until == rests_until
        assert (await queue.admission.acquire(Job())).worker is queue.workers[0]

    run(scenario)


def test_a_worker_that_was_not_to_blame_is_used_at_once() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        queue.workers[0].note_failure()
        task = queue.ask()
        await turn()
        assert not task.done()
        queue.workers[0].forgive()
        await turn()
        assert task.done()
        assert queue.workers[0].failed == 0

    run(scenario)


def test_a_second_try_goes_to_another_worker_where_there_is_one() -> None:
    async def scenario() -> None:
        queue = Queue(2, 2)
        for _ in range(2):
            job = Job(excluded=queue.workers[0])
            assert (await queue.admission.acquire(job)).worker is queue.workers[1]
        alone = Queue(1)
        slot = await alone.admission.acquire(Job(excluded=alone.workers[0]))
        assert slot.worker is alone.workers[0]

    run(scenario)


def test_a_conversation_goes_back_to_its_worker() -> None:
    async def scenario() -> None:
        queue = Queue(4, 4)
        first = read_prompt({"messages": [{"role": "user", "content": "hello"}]})
        worker = (await queue.admission.acquire(Job(prompt=first))).worker
        other = read_prompt({"messages": [{"role": "user", "content": "bye"}]})
        assert (await queue.admission.acquire(Job(prompt=other))).worker is not worker
        assert (await queue.admission.acquire(Job(prompt=first))).worker is worker

    run(scenario)


def test_the_drain_rate_follows_what_is_measured() -> None:
    rate = DrainRate()
    assert rate.estimate(10, slots=2) == 0.0
    for _ in range(200):
        rate.record(2.0)
    assert rate.estimate(10, slots=4) == pytest.approx(5.0)
    for _ in range(200):
        rate.record(4.0)
    assert rate.estimate(10, slots=4) == pytest.approx(10.0, rel=0.01)


def test_a_key_has_as_many_requests_under_way_as_it_may() -> None:
    async def scenario() -> None:
        callers = Callers()
        end = asyncio.Event()

        async def ask(name: str) -> None:
            with callers.count(Caller(name, max_in_flight=2)):
                await end.wait()

        under_way = [asyncio.ensure_future(ask(name)) for name in ("ann", "ann", "bob")]
        await turn()
        with pytest.raises(RefusedError) as refused:
            await ask("ann")
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
        under_way[0].cancel()
        await turn()
        another = asyncio.ensure_future(ask("ann"))
        await turn()
        assert not another.done()
        end.set()
        await asyncio.gather(*under_way[1:], another)
        assert not callers._under_way

    run(scenario)


@pytest.mark.parametrize("leaving", [(0, 1), (1, 0), (0, 1, 2), (2, 1, 0)])
def test_whoever_leaves_in_the_same_turn_leaves_nothing(leaving: tuple[int, ...]) -> None:
    async def scenario() -> None:
        queue = Queue(1)

        async def ask() -> None:
            with await queue.admission.acquire(Job()):
                await asyncio.sleep(60)

        tasks = [asyncio.ensure_future(ask()) for _ in range(3)]
        await turn()
        for number in leaving:
            tasks[number].cancel()
        await turn()
        stays = [number for number in range(3) if number not in leaving]
        assert queue.workers[0].busy == len(stays)
        assert queue.admission.waiting == 0
        for number in stays:
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert queue.workers[0].busy == 0

    run(scenario)


def test_who_leaves_while_all_are_sent_away_does_not_keep_the_others() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        queue.server().state = State.WAITING
        tasks = [queue.ask() for _ in range(3)]
        await turn()
        tasks[1].cancel()
        queue.server().state = State.FAILED
        queue.admission.dispatch()
        await asyncio.wait(tasks)
        assert [refusal_of(tasks[number]).status for number in (0, 2)] == [503, 503]
        assert tasks[1].cancelled()
        assert queue.admission.waiting == 0

    run(scenario)


def test_a_suspect_has_a_worker_to_itself_one_after_the_other() -> None:
    async def scenario() -> None:
        queue = Queue(2, 2)
        beside = [await queue.admission.acquire(Job()) for _ in range(3)]
        suspects = [queue.ask(is_suspect=True) for _ in range(2)]
        await turn()
        assert not any(task.done() for task in suspects)
        next(slot for slot in beside if slot.worker.busy == 1).release()
        await turn()
        alone = suspects[0].result()
        assert (alone.worker.busy, suspects[1].done()) == (1, False)
        other = next(worker for worker in queue.workers if worker is not alone.worker)
        waiting = queue.ask()
        await turn()
        assert (other.busy, alone.worker.busy, waiting.done()) == (2, 1, False)
        alone.release()
        await turn()
        assert suspects[1].result().worker is alone.worker
        assert not waiting.done()
        suspects[1].result().release()
        await turn()
        assert waiting.result().worker is alone.worker

    run(scenario)


def test_a_suspect_that_leaves_keeps_nobody_from_the_worker_it_waited_for() -> None:
    async def scenario() -> None:
        queue = Queue(2)
        slot = await queue.admission.acquire(Job())
        suspect, other = queue.ask(is_suspect=True), queue.ask()
        await turn()
        assert not other.done()
        suspect.cancel()
        await turn()
        assert other.result().worker is slot.worker

    run(scenario)


def test_what_belongs_to_a_task_that_has_ended_is_taken_back() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        slot = await queue.ask()  # its task has ended, and nobody gives it back
        waiting = queue.ask()
        await turn()
        assert (queue.workers[0].drop_lost(), queue.admission.drop_lost()) == (1, 0)
        await turn()
        assert waiting.result() is not slot
        assert queue.workers[0].busy == 1

    run(scenario)


def test_who_may_not_go_to_a_worker_keeps_nobody_else_from_it() -> None:
    async def scenario() -> None:
        queue = Queue(1, 1)
        slots = [await queue.admission.acquire(Job()) for _ in range(2)]
        again, other = queue.ask(excluded=slots[0].worker), queue.ask()
        await turn()
        slots[0].release()
        await turn()
        assert not again.done()
        assert other.result().worker is slots[0].worker
        slots[1].release()
        await turn()
        assert again.result().worker is slots[1].worker

    run(scenario)


def test_a_suspect_takes_whichever_worker_has_nothing_to_do_first() -> None:
    async def scenario() -> None:
        queue = Queue(2, 2)
        slots = [await queue.admission.acquire(Job()) for _ in range(3)]
        (fuller,) = [worker for worker in queue.workers if worker.busy == 2]
        suspect = queue.ask(is_suspect=True)  # the other worker is kept for it
        await turn()
        for slot in slots:
            if slot.worker is fuller:
                slot.release()
        await turn()
        assert suspect.result().worker is fuller

    run(scenario)
