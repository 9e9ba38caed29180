"""What is read of a worker's answer, and how a stream is passed on as it comes."""

from __future__ import annotations

import re
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.fleet.dispatch.upstream import PlainAnswer

if TYPE_CHECKING:
    import asyncio

    from llcuda.gateway.dialects.event_writer import EventWriter
    from llcuda.gateway.http.exchange import Exchange
    from llcuda.gateway.observe.gateway_metrics import Distribution

__all__ = ["StreamedAnswer", "find_figures", "read_prompt_seconds", "read_usage"]

_LAST_PIECES = 4
_EDGE_BYTES = 1 << 10

# How each kind of stream says that it is complete; one that ends without was cut off. No text of an answer can look
# like it: there a line end and a quote are escaped.
_ENDS: dict[str, bytes] = {
    "chat": b"\ndata: [DONE]",
    "completions": b"\ndata: [DONE]",
    "completion": b'"stop":true',
    "infill": b'"stop":true',
    "responses": b'"usage":{"input_tokens":',
    "messages": b"\nevent: message_stop",
}
_ERROR, _NAMED_ERROR = b'\ndata: {"error"', b"\nevent: error"
_PROMPT_TOKENS = (b'"prompt_tokens":', b'"input_tokens":', b'"tokens_evaluated":')
_COMPLETION_TOKENS = (b'"completion_tokens":', b'"output_tokens":', b'"tokens_predicted":')
_NUMBER = re.compile(rb"\d{1,18}")
# What a streamed chat ends with that was not asked for its usage.
_TIMINGS = re.compile(rb'"timings":\{"cache_n":(\d{1,18}),"prompt_n":(\d{1,18}),[^}]*?"predicted_n":(\d{1,18})')
_PROMPT_MS = re.compile(rb'"timings":\{[^}]*?"prompt_ms":(\d+(?:\.\d+)?(?:e[-+]?\d+)?)')
_NATIVE, _PROBABILITIES = re.compile(rb'\[?\{"index":\d+,"content":'), b',"completion_probabilities":['


def read_usage(data: bytes) -> tuple[int, int]:
    """Return the tokens of prompt and answer that the end of an answer names, 0 if it names none."""
    prompt, completion = _find_last(_PROMPT_TOKENS, data), _find_last(_COMPLETION_TOKENS, data)
    if not prompt and not completion and (timings := _TIMINGS.findall(data)):
        cached, read, predicted = map(int, timings[-1])
        return cached + read, predicted
    return prompt, completion


def read_prompt_seconds(data: bytes) -> float | None:
    """Return how long a whole answer says that its prompt was read, None if it says nothing."""
    found = _PROMPT_MS.findall(data)
    return float(found[-1]) / 1000 if found else None


def find_figures(body: bytes) -> bytes:
    """Return the parts of a whole answer in which its counts and times stand.

    It ends with them, but embeddings have theirs before the numbers, and llama-server's own completions before the
    probabilities. No text can look like them: there a quote is escaped.
    """
    if len(body) <= 2 * _EDGE_BYTES:
        return body
    ends = body[:_EDGE_BYTES] + body[-_EDGE_BYTES:]
    at = body.find(_PROBABILITIES) if b'"timings":' not in ends and _NATIVE.match(body) else -1
    return ends if at < 0 else body[max(0, at - _EDGE_BYTES) : at]


def _find_last(names: tuple[bytes, ...], data: bytes) -> int:
    """Return the number that was last given to one of the names, of which each API has its own."""
    for name in names:
        at = data.rfind(name)
        if at >= 0 and (number := _NUMBER.match(data, at + len(name))):
            return int(number[0])
    return 0


class _Ends:
    """Counts two marks in what comes piece by piece: that of a text's end, and that of an error."""

    __slots__ = ("_edge", "_end", "_error", "_kept", "ends", "errors")

    def __init__(self, end: bytes, error: bytes) -> None:
        self._end, self._error = end, error
        self._kept = max(len(end), len(error)) - 1
        self._edge = b"\n"  # a stream begins with a line
        self.ends = self.errors = 0

    def feed(self, data: bytes) -> None:
        edge = self._edge
        window = edge + data
        # Of what was seen already, only what could be a mark's beginning is looked at again.
        self.ends += window.count(self._end, max(0, len(edge) - len(self._end) + 1))
        self.errors += window.count(self._error, max(0, len(edge) - len(self._error) + 1))
        self._edge = window[-self._kept :]


class StreamedAnswer(PlainAnswer):
    """A stream that goes to the client chunk by chunk, as bytes."""

    def __init__(
        self,
        exchange: Exchange,
        endpoint: str,
        intervals: Distribution,
        *,
        texts: int = 1,
        is_checked: bool = False,
        events: EventWriter | None = None,
    ) -> None:
        """Write to ``exchange``, and note the ``intervals``; ``texts`` is how many the request asks for.

        Of one that ``is_checked``, everything is kept, and the end is not passed on: see :attr:`kept` and :attr:`end`.
        ``events`` writes them anew for the APIs that have others than llama-server.
        """
        super().__init__()
        self._exchange = exchange
        self._intervals = intervals
        self.first_at = self._last_at = 0.0
        """When the first piece came, of the monotonic clock; 0 before."""
        self._events = events
        self._marks = _Ends(_ENDS[endpoint], _NAMED_ERROR if endpoint == "messages" else _ERROR)
        # llama-server's own streams end with their texts; the others say once that all is done.
        self._ends = texts if endpoint in {"completion", "infill"} else 1
        # Anthropic's streams begin with the tokens of the prompt.
        self._first = b""
        # An end comes in up to three pieces: why it stopped, what it took, and that it is done.
        self._last: deque[bytes] = deque(maxlen=_LAST_PIECES)
        self._is_checked = is_checked
        self.kept: list[bytes] = []
        """What llama-server sent of a stream that is to be checked."""
        self.end = b""
        """What is still to be passed on of it."""

    def on_link(self, transport: asyncio.Transport) -> None:
        """Let the worker wait while the client is slow."""
        self._exchange.follow(transport)

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        """Pass on a stream's head; keep that of an error, which another worker may spare the client."""
        super().on_head(status, headers)
        if self.is_stream:
            self._exchange.start_stream(status, self._events.content_type if self._events else self.content_type)

    def on_body(self, data: bytes, *, is_last: bool) -> None:
        """Pass it on, the end together with the last piece: each write is a call of the kernel, 14 us."""
        if not self.is_stream:
            super().on_body(data, is_last=is_last)
            return
        if not data and not is_last:
            return
        if data:
            now = monotonic()
            if self._last_at:
                self._intervals.observe(now - self._last_at)
            else:
                self.first_at = now
            self._last_at = now
            self._first = self._first or data
            self._last.append(data)
            self._marks.feed(data)
        if self._is_checked:
            self._bound(data)
            self.kept.append(data)
        if self._events is not None:
            data = self._events.feed(data, is_last=is_last)
            if not data and not is_last:
                return
        if self.is_held:
            self.end += data
            return
        self._exchange.write(data, is_last=is_last and self.is_complete)

    @property
    def is_held(self) -> bool:
        """Whether :attr:`end` has come and is to be passed on once the text was checked."""
        return self._is_checked and self._marks.ends >= self._ends

    @property
    def is_complete(self) -> bool:
        """Whether the stream came to the end that its kind has, or to an error of its own."""
        return self._marks.ends >= self._ends or self._marks.errors > 0

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens of prompt and answer, as far as the end of the stream names them."""
        return read_usage(b"".join((self._first, *self._last)))
