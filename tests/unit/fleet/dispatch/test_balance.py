from __future__ import annotations

import random
from typing import Any

import pytest

from llcuda.fleet.dispatch.balance import Prompt, PromptMemory, WorkerView, choose_worker, read_prompt


def view(busy: int = 0, *, slots: int = 4, known: float = 0.0, last_new: float = 0.0) -> WorkerView:
    return WorkerView(slots, busy, known, last_new)


@pytest.mark.parametrize(
    ("views", "chosen"),
    [
        ([], None),
        ([None], None),
        ([view(4)], None),
        ([view(0, slots=0)], None),
        ([view(3)], 0),
        ([None, view(3)], 1),
        # The least busy one, by the share of its slots.
        ([view(2), view(1), view(3)], 1),
        ([view(2, slots=8), view(1, slots=2)], 0),
        # A conversation goes back to where it was, also where others are idle …
        ([view(0), view(3, known=0.9)], 1),
        # … but not to where no slot is free, nor for little.
        ([view(0), view(4, known=0.9)], 0),
        ([view(0), view(2, known=0.4)], 0),
        # Of two that know as much, the less busy.
        ([view(2, known=0.8), view(1, known=0.8)], 1),
        # Among equals, the one whose cache is oldest.
        ([view(last_new=3.0), view(last_new=1.0), view(last_new=2.0)], 1),
        ([view(1, last_new=1.0), view(0, last_new=9.0)], 1),
        # Load before the age of a cache, where what is known outweighs nothing.
        ([view(2, known=0.5, last_new=0.0), view(0, last_new=5.0)], 1),
    ],
)
def test_the_worker_is_chosen_by_load_and_by_what_it_knows(
    views: list[WorkerView | None], chosen: int | None
) -> None:
    assert choose_worker(views) == chosen


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


def common(first: dict[str, Any], second: dict[str, Any]) -> int:
    pairs = zip(read_prompt(first).links, read_prompt(second).links, strict=False)
    return sum(1 for left, right in pairs if left == right)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({"messages": [message("a")]}, {"messages": [message("a")]}, 1),
        ({"messages": [message("a")]}, {"messages": [message("b")]}, 0),
        ({"messages": [message("a")]}, {"messages": [message("a", "system")]}, 0),
        ({"messages": [message("s"), message("a")]}, {"messages": [message("s"), message("b")]}, 1),
        # The same message in another place is another prompt.
        ({"messages": [message("s"), message("a")]}, {"messages": [message("t"), message("a")]}, 0),
        # Tools stand before the first message.
        ({"messages": [message("a")], "tools": [{"x": 1}]}, {"messages": [message("a")]}, 0),
        ({"messages": [message("a")], "tools": [{"x": [1]}]}, {"messages": [message("a")], "tools": [{"x": [1]}]}, 1),
        # How it is sampled changes no prompt.
        ({"messages": [message("a")], "seed": 1}, {"messages": [message("a")], "temperature": 0}, 1),
        ({"prompt": "x" * 700}, {"prompt": "x" * 600 + "y" * 100}, 2),
        ({"prompt": "x" * 256}, {"prompt": "x" * 256 + "y"}, 1),
        ({"prompt": ["a", "b"]}, {"prompt": ["a", "b"]}, 1),
        ({"input": "hello"}, {"input": "hello", "instructions": "be kind"}, 0),
        ({"input": [message("a")]}, {"input": [message("a"), message("b")]}, 1),
        ({"system": "s", "messages": [message("a")]}, {"system": "s", "messages": [message("a")]}, 1),
        ({"system": "s", "messages": [message("a")]}, {"system": "t", "messages": [message("a")]}, 0),
        ({}, {}, 0),
    ],
)
def test_two_prompts_have_the_links_in_common_that_they_begin_with(
    first: dict[str, Any], second: dict[str, Any], shared: int
) -> None:
    assert common(first, second) == common(second, first) == shared


def test_a_chain_is_bounded_whatever_the_prompt() -> None:
    assert len(read_prompt({"prompt": "x" * 10_000_000}).links) == 512
    assert len(read_prompt({"messages": [message(str(number)) for number in range(9999)]}).links) == 512


def test_the_memory_finds_the_longest_beginning_and_forgets_the_oldest() -> None:
    memory = PromptMemory(maximum=4)
    memory.add((1, 2, 3))
    assert [memory.match(chain) for chain in [(1, 2, 3, 9), (1, 2), (1, 8), (7,), ()]] == [3, 2, 1, 0, 0]
    memory.add((5, 6))
    assert memory.match((1,)) == 0
    assert memory.match((5, 6)) == 2
    memory.clear()
    assert memory.match((5, 6)) == 0


def turn(*texts: str, system: str = "be kind") -> dict[str, Any]:
    roles = ["user", "assistant"] * len(texts)
    return {"messages": [message(system, "system"), *(message(*pair) for pair in zip(texts, roles, strict=False))]}


def worth(seen: dict[str, Any], asked: dict[str, Any]) -> float:
    memory, prompt = PromptMemory(), read_prompt(asked)
    memory.add(read_prompt(seen).links)
    return prompt.rate(memory.match(prompt.links))


@pytest.mark.parametrize(
    ("seen", "asked", "known"),
    [
        (turn("a"), turn("a"), 1.0),
        (turn("a"), turn("a", "answer", "b"), 3 / 4),
        (turn("a", "answer", "b"), turn("a", "answer", "b", "more", "c"), 5 / 6),
        # The answer was generated anew, or a message was edited: it cannot be told from the worker's own.
        (turn("a", "answer", "b"), turn("a", "other", "b"), 3 / 4),
        # A new conversation with the same system prompt.
        (turn("a"), turn("b"), 0.0),
        (turn("a"), turn("a", system="be brief"), 0.0),
        ({"prompt": "x" * 1024}, {"prompt": "x" * 1024 + "y" * 1024}, 5 / 8),
        ({}, {}, 0.0),
    ],
)
def test_a_conversation_that_goes_on_is_worth_what_of_it_is_known(
    seen: dict[str, Any], asked: dict[str, Any], known: float
) -> None:
    assert worth(seen, asked) == known


class Simulation:
    """Workers with a cached conversation for each slot, as llama-server has them without its cache in memory."""

    def __init__(self, workers: int, slots: int) -> None:
        self.slots = slots
        self.cached: list[list[tuple[int, ...]]] = [[] for _ in range(workers)]
        self.memories = [PromptMemory() for _ in range(workers)]
        self.last = [0.0] * workers
        self.busy: list[list[float]] = [[] for _ in range(workers)]
        self.placed = [0] * workers
        self.hits = self.links = 0

    def place(self, worker: int, prompt: Prompt, *, now: float, seconds: float) -> None:
        slots = self.cached[worker]
        best = max(slots, key=lambda slot: shared(slot, prompt.links), default=())
        hit = shared(best, prompt.links)
        self.hits += hit
        self.links += len(prompt.links)
        self.placed[worker] += 1
        if best and (hit > 1 or len(slots) == self.slots):
            slots.remove(best if hit > 1 else slots[0])
        slots.append(prompt.links)
        if not prompt.rate(self.memories[worker].match(prompt.links)):
            self.last[worker] = now
        self.memories[worker].add(prompt.links)
        self.busy[worker].append(now + seconds)

    def views(self, prompt: Prompt, now: float) -> list[WorkerView | None]:
        self.busy = [[end for end in ends if end > now] for ends in self.busy]
        rates = [prompt.rate(memory.match(prompt.links)) for memory in self.memories]
        return [WorkerView(self.slots, len(self.busy[one]), rates[one], self.last[one]) for one in range(len(rates))]


def shared(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    length = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        length += 1
    return length


def conversations(chance: random.Random, count: int) -> list[tuple[float, Prompt]]:
    """Turns of conversations, in time: they begin at random, people think for a while, and every turn is longer."""
    turns = []
    for number in range(count):
        at, texts = chance.uniform(0, 600), [f"{number} begins"]
        for _ in range(chance.choice([1, 2, 4, 8, 8, 12])):
            turns.append((at, read_prompt(turn(*texts, system=f"kind {number % 3}"))))
            texts += [f"answer {len(texts)}", f"{number} goes on {len(texts)}"]
            at += 2.0 + chance.expovariate(1 / 20)
    return sorted(turns, key=lambda one: one[0])


def test_conversations_find_their_cache_where_chance_does_not() -> None:
    chance = random.Random(7)
    turns = conversations(chance, 100)
    chosen, drawn = Simulation(8, 4), Simulation(8, 4)
    for now, prompt in turns:
        index = choose_worker(chosen.views(prompt, now))
        assert index is not None
        chosen.place(index, prompt, now=now, seconds=2.0)
        drawn.place(chance.randrange(8), prompt, now=now, seconds=2.0)
    # A turn adds an answer and a question to what can be known.
    possible = chosen.links - 2 * len(turns)
    assert chosen.hits > 0.9 * possible
    assert chosen.hits > 2 * drawn.hits
    assert max(chosen.placed) < 2 * min(chosen.placed)


def test_no_worker_is_left_idle_while_another_has_a_queue() -> None:
    simulation = Simulation(4, 2)
    prompt = read_prompt(turn("a"))
    for number in range(8):
        index = choose_worker(simulation.views(prompt, 0.0))
        assert index is not None, number
        simulation.place(index, prompt, now=0.0, seconds=10.0)
    assert simulation.placed == [2, 2, 2, 2]


def test_of_a_prompt_with_thousands_of_values_the_first_are_looked_at() -> None:
    looked = 0

    class Counted(list[Any]):
        def __iter__(self) -> Any:
            nonlocal looked
            for item in list.__iter__(self):
                looked += 1
                yield item

    for body in (
        {"prompt": Counted([1] * 500_000)},
        {"tools": Counted([Counted([{}] * 1000)] * 1000), "messages": [{"content": Counted([1] * 500_000)}] * 4000},
    ):
        looked = 0
        assert read_prompt(body) == read_prompt(body)
        assert looked < 2 * 9000
    first, second = ({"prompt": [1] * 100 + [end]} for end in (1, 2))
    assert read_prompt(first) != read_prompt(second)
