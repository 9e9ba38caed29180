"""Whose prompts have been read, and whether a worker gets on, as far as llama-server's slots and the kernel tell."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from llcuda.fleet.dispatch import progress
from llcuda.fleet.dispatch.progress import Progress, _Moment
from llcuda.fleet.dispatch.upstream import PlainAnswer
from llcuda.fleet.dispatch.worker import Job, Worker
from tests.unit.fleet.dispatch.test_admission import FakeServer

if TYPE_CHECKING:
    from llcuda.fleet.dispatch.worker import Slot


@pytest.mark.parametrize(
    ("texts", "made", "has_left", "are_read"),
    [
        ([1], [3], False, True),
        ([1], [0], False, False),
        ([1], [], False, False),
        ([1, 1], [3], False, False),
        ([1, 1], [3, 0], False, False),
        ([1, 1], [3, 5], False, True),
        ([2, 1], [3, 5], False, False),
        ([2, 1], [3, 5, 1], False, True),
        ([1], [3], True, False),
    ],
)
def test_a_prompt_has_been_read_once_each_answer_has_begun(
    monkeypatch: pytest.MonkeyPatch, texts: list[int], made: list[int], *, has_left: bool, are_read: bool
) -> None:
    async def play() -> list[Slot]:
        worker = Worker(FakeServer(slots=8), on_free=lambda: None)
        owner = asyncio.current_task()
        assert owner is not None
        slots = [worker.take(Job(prompt_tokens=7, texts=count), owner, now=0.0) for count in texts]
        if has_left:
            worker.note_abandoned(1)

        async def fetch(*_: object, **__: object) -> PlainAnswer:
            slots.append(worker.take(Job(prompt_tokens=7, texts=0), owner, now=0.0))
            answer = PlainAnswer()
            answer.on_head(200, {})
            told = [
                {"id": number, "is_processing": True, "id_task": number, "next_token": [{"n_decoded": count}]}
                for number, count in enumerate(made)
            ]
            answer.on_body(json.dumps([*told, {"id": 9, "is_processing": False}]).encode(), is_last=True)
            return answer

        monkeypatch.setattr(progress, "fetch", fetch)
        await Progress(worker)._ask()
        return slots

    *before, meanwhile = asyncio.run(play())
    assert [slot.prompt_tokens for slot in before] == [0 if are_read else 7] * len(texts)
    assert meanwhile.prompt_tokens == 7


class Given(FakeServer):
    reason = ""

    def give_up(self, reason: str) -> None:
        self.reason = reason


def watch(*looks: tuple[_Moment, dict[int, tuple[int, int, int]]]) -> str:
    """Return why a worker is given up that says at these moments how far its slots are; nothing if it is not."""

    async def play() -> str:
        server = Given()
        worker = Worker(server, on_free=lambda: None)
        owner = asyncio.current_task()
        assert owner is not None
        worker.take(Job(), owner, now=0.0)
        one = Progress(worker)
        for moment, steps in looks:
            one._measure = lambda at=moment: at  # type: ignore[method-assign, misc]
            one._compare(steps)
        return server.reason

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("seconds", "computed", "starved", "is_given_up"),
    [
        (12.0, 11.0, 0.0, True),
        (12.0, 9.0, 0.0, False),
        (14.0, 11.0, 4.1, False),  # its first thread spins, and another one has no core
        (30.0, 15.0, 15.0, True),
        (59.0, 50.0, 100.0, False),
        (61.0, 50.0, 100.0, True),
    ],
)
def test_a_worker_that_has_no_core_is_not_stuck(
    seconds: float, computed: float, starved: float, *, is_given_up: bool
) -> None:
    steps = {0: (1, 10, 3)}
    reason = watch((_Moment(100.0, 5.0, 7.0), steps), (_Moment(100.0 + seconds, 5.0 + computed, 7.0 + starved), steps))
    assert reason == (f"a slot has made no token for {seconds:.0f} s" if is_given_up else "")


def test_a_slot_that_waits_for_a_place_in_a_batch_is_not_stuck() -> None:
    looks = [{0: (1, 0, 0), 1: (2, 0, 0)}, {0: (1, 2048, 0), 1: (2, 0, 0)}, {0: (1, 4000, 1), 1: (2, 0, 0)}]
    moments = [_Moment(20.0 * at, 20.0 * at, 0.0) for at in range(5)]
    assert not watch(*zip(moments, looks, strict=False))
    assert watch(*zip(moments, [*looks, looks[-1]], strict=False)) == "a slot has made no token for 20 s"
