"""What becomes of a worker's answer: passed on as it comes, put together to a whole, or passed on whole."""

from __future__ import annotations

import re
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.gateway.refusals import RefusedError

if TYPE_CHECKING:
    from llcuda.gateway.exchange import Exchange
    from llcuda.gateway.metrics import StreamMeter
    from llcuda.gateway.whole import WholeAnswer

__all__ = ["PlainAnswer", "StreamedAnswer", "WholeReception", "read_usage"]

_OK = 200
_MAX_PLAIN_BYTES = 64 << 20
_TAIL_BYTES = 8192
_LAST_PIECES = 4

# How each kind of stream says that it is complete; one that ends without was cut off.
_ENDS = {
    "chat": b"[DONE]",
    "completions": b"[DONE]",
    "completion": b'"stop":true',
    "infill": b'"stop":true',
    "responses": b'"response.completed"',
    "messages": b'"message_stop"',
}
_PROMPT_TOKENS = re.compile(rb'"(?:prompt_tokens|input_tokens|tokens_evaluated)":(\d+)')
_COMPLETION_TOKENS = re.compile(rb'"(?:completion_tokens|output_tokens|tokens_predicted)":(\d+)')


def read_usage(data: bytes) -> tuple[int, int]:
    """Return the tokens of prompt and answer that the end of an answer names, 0 where it names none."""
    prompt, completion = _PROMPT_TOKENS.findall(data), _COMPLETION_TOKENS.findall(data)
    return int(prompt[-1]) if prompt else 0, int(completion[-1]) if completion else 0


class PlainAnswer:
    """An answer that comes whole, an error among them."""

    def __init__(self) -> None:
        """Wait for it."""
        self.status = 0
        self.content_type = "application/json"
        self.is_stream = False
        """Whether the worker streams: an error it answers whole."""
        self._pieces: list[bytes] = []
        self._bytes = 0

    @property
    def body(self) -> bytes:
        """What has come."""
        return b"".join(self._pieces)

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        """Take status and headers."""
        self.status = status
        self.content_type = headers.get("content-type", self.content_type)
        self.is_stream = status == _OK and self.content_type.startswith("text/event-stream")

    def on_body(self, data: bytes, *, is_last: bool) -> None:  # noqa: ARG002 - those that stream want to know
        """Take a piece."""
        self._bytes += len(data)
        if self._bytes > _MAX_PLAIN_BYTES:
            raise RefusedError(502, f"the answer is larger than {_MAX_PLAIN_BYTES} bytes", code="answer_too_large")
        self._pieces.append(data)



class StreamedAnswer(PlainAnswer):
    """A stream that goes to the client chunk by chunk, as bytes."""

    def __init__(
        self, exchange: Exchange, endpoint: str, meter: StreamMeter, *, has_several_prompts: bool = False
    ) -> None:
        """Write to ``exchange``, and tell ``meter`` when."""
        super().__init__()
        self._exchange = exchange
        self._end = _ENDS[endpoint]
        self._meter = meter
        self._has_several_prompts = has_several_prompts
        # An end comes in up to three pieces: why it stopped, what it took, and that it is done.
        self._last: deque[bytes] = deque(maxlen=_LAST_PIECES)

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        """Pass on a stream's head; keep that of an error, which another worker may spare the client."""
        super().on_head(status, headers)
        if self.is_stream:
            self._exchange.start_stream(status, self.content_type)

    def on_body(self, data: bytes, *, is_last: bool) -> None:
        """Pass it on, the end together with the last piece: each write is a call of the kernel, 14 us."""
        if not self.is_stream:
            super().on_body(data, is_last=is_last)
            return
        if self._has_several_prompts:
            # With each prompt but the first llama-server sends null, which clients do not expect where objects come.
            data = data.replace(b"data: null\n\n", b"")
        if not data and not is_last:
            return
        if data:
            self._meter.note()
            self._last.append(data)
        self._exchange.write(data, is_last=is_last and self.is_complete)

    @property
    def is_complete(self) -> bool:
        """Whether the stream came to the end that its kind has, or to an error of its own."""
        tail = self._join_last()
        return self._end in tail or b'"error"' in tail

    @property
    def first_at(self) -> float:
        """When the first piece came, of the monotonic clock; 0 before."""
        return self._meter.first_at

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens of prompt and answer, as far as the end of the stream names them."""
        return read_usage(self._join_last())

    def _join_last(self) -> bytes:
        return b"".join(self._last)[-_TAIL_BYTES:]


class WholeReception(PlainAnswer):
    """A stream that is put together to the answer that llama-server gives without one."""

    def __init__(self, whole: WholeAnswer) -> None:
        """Give the pieces to ``whole``."""
        super().__init__()
        self.whole = whole
        self.first_at = 0.0

    def on_body(self, data: bytes, *, is_last: bool) -> None:
        """Take a piece."""
        if not self.is_stream:
            super().on_body(data, is_last=is_last)
            return
        if not self.first_at:
            self.first_at = monotonic()
        self.whole.feed(data)
