"""Which worker a request goes to: a pure decision, and the memory of prompts that it is made with."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Prompt", "PromptMemory", "WorkerView", "choose_worker", "read_prompt"]

_BLOCK_CHARACTERS = 256
_MAX_BLOCKS = 512
# Of a prompt with its tools. So many are looked at within 4 ms, and by those after them no two prompts are told apart.
_MAX_VALUES = 4096
# A conversation of ten turns has some twenty links; llama-server's own cache of prompts holds fewer conversations.
_MAX_LINKS = 8192


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request's prompt, as one hash for each of its beginnings."""

    links: tuple[int, ...] = ()
    resumes: tuple[bool, ...] = ()
    """Of each link, whether its part follows only in a conversation that goes on: an answer, the rest of a text."""

    def rate(self, matched: int) -> float:
        """Return what it is worth that a worker has seen the first ``matched`` links, from 0 to 1.

        A system prompt that the prompt shares with others is worth nothing: every worker has it soon, and to place by
        it would send all new conversations to one worker, and each would push another out of its cache.
        """
        if not matched:
            return 0.0
        if matched == len(self.links):
            return 1.0
        # What follows is the worker's own answer, or begins with it, and is in its cache as well. Without it, a second
        # turn was worth a third: in a trace of conversations 57 of 586 later turns missed their cache, with it 18.
        return (matched + 1) / len(self.links) if self.resumes[matched] else 0.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What is known of a worker when a request is to be placed."""

    slots: int
    busy: int
    known: float = 0.0
    """What the worker has of the prompt: :meth:`Prompt.rate`."""
    last_new: float = 0.0
    """When it last got a prompt that it had nothing of; any clock."""


def choose_worker(views: Sequence[WorkerView | None]) -> int | None:
    """Return the index of the worker for a prompt, None if none has a free slot. One that cannot be used is None.

    A prompt that a worker has in its cache is worth as large a share of that worker's slots: a long conversation goes
    back to where it was unless that worker is full. Among equals the least busy one is taken, then the one that has
    been given nothing new for the longest time, whose cache is worth least.
    """
    best: int | None = None
    best_key: tuple[float, float, float] | None = None
    for index, view in enumerate(views):
        if view is None or view.busy >= view.slots:
            continue
        load = view.busy / view.slots
        key = (load - view.known, load, view.last_new)
        if best_key is None or key < best_key:
            best, best_key = index, key
    return best


class PromptMemory:
    """The prompts that one worker was given, as the hashes of their beginnings; the oldest are forgotten."""

    __slots__ = ("_links", "_maximum")

    def __init__(self, maximum: int = _MAX_LINKS) -> None:
        self._links: OrderedDict[int, None] = OrderedDict()
        self._maximum = maximum

    def match(self, chain: Sequence[int]) -> int:
        """Return how many links of a chain are known, from its beginning."""
        links = self._links
        for length in range(len(chain), 0, -1):
            if chain[length - 1] in links:
                return length
        return 0

    def add(self, chain: Iterable[int]) -> None:
        """Remember a chain."""
        links = self._links
        for link in chain:
            links[link] = None
            links.move_to_end(link)
        while len(links) > self._maximum:
            links.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: the worker was started anew."""
        self._links.clear()


def read_prompt(body: dict[str, Any]) -> Prompt:
    """Return the prompt of a request, with a link after each message, or after each 256 characters of a text.

    Two prompts have a link in common if they begin in the same way, tools and system prompt included. The hashes
    mean something within one process only.
    """
    room = repeat(None, _MAX_VALUES)
    link = hash((_freeze(body.get("tools"), room), _freeze(body.get("system", body.get("instructions")), room)))
    links: list[int] = []
    parts, resumes = _parts(body, room)
    for part in parts:
        link = hash((link, part))
        links.append(link)
    return Prompt(tuple(links), tuple(resumes))


def _parts(body: dict[str, Any], room: Iterator[None]) -> tuple[list[object], list[bool]]:
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, list):
        messages = messages[:_MAX_BLOCKS]
        return [_freeze(message, room) for message in messages], [_is_answer(message) for message in messages]
    text = messages if isinstance(messages, str) else body.get("prompt", body.get("input_prefix"))
    if isinstance(text, str):
        end = min(len(text), _BLOCK_CHARACTERS * _MAX_BLOCKS)
        blocks: list[object] = [text[at : at + _BLOCK_CHARACTERS] for at in range(0, end, _BLOCK_CHARACTERS)]
    else:
        blocks = [] if text is None else [_freeze(text, room)]
    return blocks, [True] * len(blocks)


def _is_answer(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") not in {"user", "system", "developer"}


def _freeze(value: Any, room: Iterator[None]) -> object:
    """Return something with a hash that is the same for equal JSON, of as many values as there is ``room`` for."""
    if isinstance(value, dict):
        return tuple((name, _freeze(inner, room)) for (name, inner), _ in zip(value.items(), room, strict=False))
    if isinstance(value, list):
        return tuple(_freeze(inner, room) for inner, _ in zip(value, room, strict=False))
    return value
