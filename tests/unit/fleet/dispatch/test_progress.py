"""Whose prompts have been read, as far as llama-server's slots tell."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from llcuda.fleet.dispatch import progress
from llcuda.fleet.dispatch.progress import Progress
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
