"""A text as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError, LlcudaError, UsageError
from llcuda.transport.events import EventDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from llcuda.client.answers import Answer
    from llcuda.client.results import InferResult
    from llcuda.transport.sync import Exchange

__all__ = ["TextStream"]


class TextStream:
    """The pieces of a text, as soon as the server has generated them.

    Iterate over it. Closing it before the end, leaving its ``with`` block or dropping it closes the connection, and the
    server stops generating. After the end, ``result`` is what ``infer`` would have returned.
    """

    def __init__(
        self, exchange: Exchange, answer: Answer, *, url: str, on_result: Callable[[InferResult], object] | None
    ) -> None:
        """Read an answer whose head has come; made by the client."""
        self._exchange = exchange
        self._answer = answer
        self._url = url
        self._on_result = on_result
        self._decoder = EventDecoder()
        self._events: list[bytes] = []
        self._result: InferResult | None = None
        self.on_failure: Callable[[LlcudaError], object] | None = None
        """Given the error that ended the stream, before it is raised; it may raise another."""

    @property
    def text(self) -> str:
        """Return what was generated so far."""
        return "".join(self._answer.pieces)

    @property
    def result(self) -> InferResult:
        """Return the result, raising UsageError before the end and after a stream that was closed early."""
        if self._result is None:
            raise UsageError("the stream has not come to its end, so there is no result yet")
        return self._result

    @property
    def closed(self) -> bool:
        """Return whether nothing more comes: after the end, or because it was closed."""
        return self._exchange.closed

    def __iter__(self) -> Iterator[str]:
        """Return the stream itself."""
        return self

    def __next__(self) -> str:
        """Wait for the next piece.

        Raises ResponseError for an error that the server reports within the stream, ConnectionFailedError where the
        stream is cut, RequestTimeoutError, and at the end SchemaMismatchError.
        """
        try:
            piece = self._next_piece()
        except BaseException as error:
            self._fail(error)
            raise
        if not piece:
            raise StopIteration
        return piece

    def read_all(self) -> InferResult:
        """Wait for the end and return the result.

        Raises what iterating raises. After the first token, whose time is noted, nothing is looked at before all of it
        is there: to wake up, store bytes and sleep again takes half the CPU of parsing each token when it comes.
        """
        try:
            if next(self, None) is not None:
                rest = self._exchange.read_all()
                for event in [*reversed(self._events), *self._decoder.feed(rest)]:
                    self._answer.add(event)
                self._end()
        except BaseException as error:
            self._fail(error)
            raise
        return self.result

    def close(self) -> None:
        """Stop: the server stops generating too. Does nothing after the end."""
        self._events.clear()
        self._exchange.close()

    def abort(self) -> None:
        """Stop from another thread: the one that waits for a piece gets ConnectionFailedError."""
        self._exchange.abort()

    def __enter__(self) -> Self:
        """Return the stream, to be closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def __del__(self) -> None:
        """Close: nobody waits for the rest any more."""
        if hasattr(self, "_exchange"):
            self._exchange.close()

    def _fail(self, error: BaseException) -> None:
        self.close()
        if self.on_failure is not None and isinstance(error, LlcudaError):
            self.on_failure(error)

    def _next_piece(self) -> str:
        """Return the next piece that is not empty; nothing at the end."""
        answer, exchange = self._answer, self._exchange
        while self._result is None and not exchange.closed:
            while self._events:
                piece = answer.add(self._events.pop())
                if piece:
                    return piece
            data = exchange.read()
            if not data:
                self._end()
                break
            self._events = self._decoder.feed(data)
            self._events.reverse()
        return ""

    def _end(self) -> None:
        if not self._answer.finished:
            raise ConnectionFailedError(self._url, "the server ended the stream before the answer was complete")
        self._exchange.close()
        self._result = self._answer.result()
        if self._on_result is not None:
            self._on_result(self._result)
