"""The slots of tests/standins/stub_engine.py: who has one, who waits, and the clock that gives the tokens out."""

from __future__ import annotations

import asyncio
import math
import os
import time
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from tests.standins import stub_answers
from tests.standins.stub_answers import build_stream, build_whole, error, plain
from tests.standins.stub_faults import Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.standins.stub_answers import Asked

__all__ = ["Engine", "Run"]

_SIMILAR = 0.1
_HTTP_OK = 200


class Client(Protocol):
    """Who is answered."""

    def write(self, data: bytes) -> None: ...

    def finish(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Slot:
    """One of ``--parallel``: what it is doing, and the text that its cache holds."""

    __slots__ = ("cached", "last", "number", "run", "text")

    def __init__(self, number: int) -> None:
        self.number = number
        self.run: Run | None = None
        self.text = ""
        self.cached = 0
        self.last: Run | None = None

    def match(self, prompt: str) -> int:
        """Return how many characters of the prompt the cache begins with."""
        if not self.text or self.text.startswith(prompt):
            return len(prompt) if self.text else 0
        shorter = min(len(self.text), len(prompt))
        lengths = range(1, shorter + 1)
        return bisect_left(lengths, 1, key=lambda length: self.text[:length] != prompt[:length])


class Engine:
    """The slots, who waits for them, and what is counted."""

    def __init__(self, parallel: int, *, model: str, key: str, embeds: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.slots = [Slot(number) for number in range(parallel)]
        self._free = dict.fromkeys(self.slots)  # the one unused for longest first
        self.waiting: deque[Run] = deque()
        self._serving = False
        self.model = model
        self.key = key
        self.embeds = embeds
        self.posts = 0  # all that came, also what it has no address for
        self.requests = self.busy = self.highest = self.hits = 0
        self.prompt_tokens = self.cached_tokens = self.answer_tokens = 0
        self.cancelled: deque[tuple[Any, float]] = deque(maxlen=10000)
        self.faults = Faults()

    def submit(self, run: Run) -> None:
        self.requests += 1
        if self.busy < len(self.slots):
            self._launch(run)
        else:
            self.waiting.append(run)

    def release(self, slot: Slot, text: str) -> None:
        """Free a slot, with what it has read and written in its cache."""
        slot.run, slot.text = None, text
        self._free[slot] = None
        self.busy -= 1
        if not self._serving:
            self._serving = True  # an answer that takes no time comes back here: not deeper and deeper
            while self.waiting and self.busy < len(self.slots):
                self._launch(self.waiting.popleft())
            self._serving = False

    def _launch(self, run: Run) -> None:
        prompt = run.asked.prompt
        slot, known = self._choose(prompt)
        slot.cached = cached = run.asked.count_cached(known)
        slot.run = slot.last = run
        del self._free[slot]
        self.busy += 1
        self.highest = max(self.highest, self.busy)
        self.hits += cached > 0
        self.cached_tokens += cached
        self.prompt_tokens += run.asked.prompt_tokens - cached
        run.start(slot)

    def _choose(self, prompt: str) -> tuple[Slot, int]:
        """Choose as llama-server does: the slot whose cache has most of the prompt, or the one unused for longest."""
        newest = next(reversed(self._free))
        if newest.text.startswith(prompt):
            return newest, len(prompt)  # none can have more, and there may be a thousand
        known, best = max(((slot.match(prompt), slot) for slot in self._free), key=lambda found: found[0])
        if known > _SIMILAR * len(prompt):
            return best, known
        oldest = next(iter(self._free))
        return oldest, oldest.match(prompt)

    def answer(self, path: str) -> bytes | None:
        """Answer what needs no slot."""
        if path in {"/health", "/v1/health"}:
            return plain(200, {"status": "ok"})
        if path == "/props":
            return stub_answers.props(len(self.slots), model=self.model)
        if path == "/slots":
            return plain(200, [self._describe(slot) for slot in self.slots])
        if path == "/v1/models":
            return plain(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})
        return self._metrics() if path == "/metrics" else None

    def report(self) -> dict[str, Any]:
        return {
            "posts": self.posts, "requests": self.requests, "busy": self.busy, "waiting": len(self.waiting),
            "highest": self.highest, "cache_hits": self.hits, "cached_tokens": self.cached_tokens,
            "prompt_tokens": self.prompt_tokens, "answer_tokens": self.answer_tokens,
            "cancelled": list(self.cancelled),
            "fault": self.faults.name, "met": self.faults.met,
        }  # fmt: skip

    @staticmethod
    def _describe(slot: Slot) -> dict[str, Any]:
        last = slot.last
        return stub_answers.describe_slot(
            slot.number,
            last.asked if last else None,
            cached=slot.cached,
            sent=last.count_sent() if last else 0,
            busy=slot.run is not None,
        )

    def _metrics(self) -> bytes:
        figures = {
            ("prompt_tokens_total", "counter"): self.prompt_tokens,
            ("prompt_tokens_cached_total", "counter"): self.cached_tokens,
            ("tokens_predicted_total", "counter"): self.answer_tokens,
            ("requests_processing", "gauge"): self.busy,
            ("requests_deferred", "gauge"): len(self.waiting),
        }
        text = "".join(
            f"# HELP llamacpp:{name} {name}\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
            for (name, kind), value in figures.items()
        )
        more = "Process-Start-Time-Unix: 1\r\n"
        return plain(200, text, content_type="text/plain; version=0.0.4", more=more)


class Run:
    """One request in its slot, or waiting for one."""

    __slots__ = ("_at", "_client", "_engine", "_is_whole", "_stream", "_timer", "asked", "sent", "slot")

    def __init__(self, engine: Engine, client: Client, asked: Asked) -> None:
        self._engine = engine
        self._client = client
        self._timer: asyncio.TimerHandle | None = None
        self._stream: stub_answers.Stream | None = None
        self._at = 0.0
        self._is_whole = False
        self.asked = asked
        self.slot: Slot | None = None
        self.sent = 0

    def start(self, slot: Slot) -> None:
        self.slot = slot
        if self.asked.first:
            self._at = self._engine.loop.time() + self.asked.first
            self._timer = self._engine.loop.call_at(self._at, self._begin)
        else:
            self._begin()

    def count_sent(self) -> int:
        """Return how many tokens there are; those of a whole answer come by the clock alone."""
        if not self._is_whole:
            return self.sent
        left = max(0.0, self._at - self._engine.loop.time())
        return self.asked.tokens - (math.ceil(left / self.asked.gap) if left else 0)

    def cancel(self) -> None:
        """Give the slot back, or the place among those who wait."""
        if self._timer is not None:
            self._timer.cancel()
        if self.slot is None:
            self._engine.waiting.remove(self)
        else:
            self._engine.release(self.slot, self.asked.prompt + self.asked.text * self.count_sent())
        self._engine.cancelled.append((self.asked.tag, time.monotonic()))

    def _begin(self) -> None:
        asked = self.asked
        if asked.status != _HTTP_OK:
            self._finish(error(asked.status, "told to", "server_error"))
        elif asked.stream and asked.endpoint != "embeddings":
            self._begin_stream()
        else:
            self._is_whole = True
            self._wait(asked.gap * (asked.tokens - 1), self._end_whole)

    def _begin_stream(self) -> None:
        asked = self.asked
        self._stream = stream = build_stream(asked, self.slot.cached if self.slot else 0)
        begins = asked.tokens or asked.ending in {"end", "cut"}
        if asked.gap and asked.tokens > 1:
            self._client.write(stream.start + self._stamp(stream.tokens[0]))
            self.sent = 1
            self._wait(asked.gap, self._go_on)
        else:
            self.sent = asked.tokens
            self._end_stream(stream.start + b"".join(stream.tokens) if begins else b"")

    def _go_on(self) -> None:
        assert self._stream is not None
        token = self._stamp(self._stream.tokens[self.sent])
        self.sent += 1
        if self.sent == self.asked.tokens:
            self._end_stream(token)
        else:
            self._client.write(token)
            self._wait(self.asked.gap, self._go_on)

    def _stamp(self, token: bytes) -> bytes:
        if not self.asked.stamp:
            return token
        return token.replace(stub_answers.STAMP.encode(), b"@%019d" % time.monotonic_ns(), 1)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if seconds <= 0:
            then()
            return
        # From when it was due, not from when it came: the clock of a busy machine must not lose time.
        self._at = (self._at or self._engine.loop.time()) + seconds
        self._timer = self._engine.loop.call_at(self._at, then)

    def _end_stream(self, before: bytes) -> None:
        assert self._stream is not None
        ending = self.asked.ending
        if ending == "end":
            self._finish(before + self._stream.end)
            return
        self._client.write(before)
        self._fail()
        if ending == "cut":
            self._finish(stub_answers.LAST_CHUNK)

    def _end_whole(self) -> None:
        self.sent = self.asked.tokens
        whole = build_whole(self.asked, self.slot.cached if self.slot else 0)
        if self.asked.ending == "end":
            self._finish(whole)
            return
        self._fail()
        if self.asked.ending == "cut":
            self._finish(whole[: -len(whole) // 4])
            self._client.close()

    def _fail(self) -> None:
        if self.asked.ending == "die":
            os.abort()

    def _finish(self, data: bytes) -> None:
        # The next one gets the slot only when this answer is written.
        self._client.finish(data)
        assert self.slot is not None
        self._engine.answer_tokens += self.sent
        self._engine.release(self.slot, self.asked.prompt + self.asked.answer)
