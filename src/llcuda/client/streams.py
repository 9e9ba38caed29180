"""A text as it comes: ``BaseStream`` reads it, ``TextStream`` is iterated over; asyncio's is in ``async_client``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llcuda.client.answers import is_stream, read_error
from llcuda.errors import ConnectionFailedError, LlcudaError, UsageError
from llcuda.transport import Deadline
from llcuda.transport.base_transport import run
from llcuda.transport.events import EventDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from llcuda.client.answers import GatheredAnswer
    from llcuda.client.requests import Generation
    from llcuda.client.results import InferResult
    from llcuda.client.sending import Sender
    from llcuda.transport.base_transport import Handle, Response


class BaseStream:
    """The request for a text, and its answer event by event."""

    _response: Response
    _answer: GatheredAnswer | None = None

    def __init__(
        self,
        sender: Sender,
        generation: Generation,
        *,
        timeout: float,
        on_result: Callable[[InferResult], object] | None,
    ) -> None:
        """Prepare a request; made by the client."""
        self._sender = sender
        self._generation = generation
        self._timeout = timeout
        self._on_result = on_result
        self._decoder = EventDecoder()
        self._events: list[bytes] = []
        self._result: InferResult | None = None
        self._closed = False
        self.on_failure: Callable[[LlcudaError], object] | None = None
        """Given the error that ended the stream, before it is raised; it may raise another."""

    @property
    def text(self) -> str:
        """Return what was generated so far."""
        return "" if self._answer is None else "".join(self._answer.pieces)

    @property
    def result(self) -> InferResult:
        """Return the result, raising UsageError before the end and after a stream that was closed early."""
        if self._result is None:
            raise UsageError("the stream has not ended, so there is no result yet")
        return self._result

    @property
    def closed(self) -> bool:
        """Return whether nothing more comes: after the end, or because it was closed."""
        return self._closed

    def __repr__(self) -> str:
        """Return how far it has come, and the end of its text."""
        state = "ended" if self._result else "closed" if self._closed else "open"
        return f"<{type(self).__name__}: {state}, {len(self.text)} characters: {self.text[-40:]!r}>"

    def __del__(self) -> None:
        """Close: nobody waits for the rest any more."""
        if getattr(self, "_answer", None) is not None:
            self._response.close()

    async def _begin(self, on_begin: Callable[[Handle], object] | None = None) -> GatheredAnswer:
        """Send the request, and return what gathers its answer."""
        deadline, generation = Deadline(self._timeout), self._generation
        response = await self._sender.send(
            "POST", generation.target, body=generation.body, deadline=deadline, on_begin=on_begin
        )
        if not is_stream(response.status, response.headers):
            raise read_error(response.status, await response.read_all(), headers=response.headers)
        self._response = response
        self._answer = generation.answer(started=deadline.started)
        return self._answer

    def _take_piece(self) -> str:
        """Return the next piece that has come and is not empty, if there is one."""
        while self._events and self._answer is not None:
            piece = self._answer.add(self._events.pop())
            if piece:
                return piece
        return ""

    async def _next_piece(self) -> str:
        """Return the next piece that is not empty; nothing at the end."""
        while not self._closed:
            answer = self._answer or await self._begin()
            piece = self._take_piece()
            if piece:
                return piece
            data = await self._response.read()
            if not data:
                self._end(answer)
                break
            self._events = self._decoder.feed(data)
            self._events.reverse()
        return ""

    async def _read_all(self) -> InferResult:
        """Return the result.

        After the first token, whose time is noted, nothing is looked at before all of it is there: to wake up, store
        bytes and sleep again takes half the CPU of parsing each token when it comes.
        """
        try:
            if await self._next_piece():
                answer = self._answer or await self._begin()
                rest = await self._response.read_all()
                for event in [*reversed(self._events), *self._decoder.feed(rest)]:
                    answer.add(event)
                self._end(answer)
        except BaseException as error:
            self._fail(error)
            raise
        return self.result

    def _close(self) -> None:
        self._closed = True
        self._events.clear()
        if self._answer is not None:
            self._response.close()

    def _fail(self, error: BaseException) -> None:
        self._close()
        if self.on_failure is not None and isinstance(error, LlcudaError):
            self.on_failure(error)

    def _end(self, answer: GatheredAnswer) -> None:
        if not answer.finished:
            reason = "the server ended the stream before the answer was complete"
            raise ConnectionFailedError(self._sender.transport.url, reason)
        self._close()
        self._result = answer.result()
        if self._on_result is not None:
            self._on_result(self._result)


class TextStream(BaseStream):
    """The pieces of a text, as soon as the server has generated them.

    Iterate over it. Closing it before the end, leaving its ``with`` block or dropping it closes the connection, and the
    server stops generating. After the end, ``result`` is what ``infer`` would have returned.
    """

    def __init__(self, *arguments: Any, on_begin: Callable[[Handle], object] | None, **options: Any) -> None:
        """Send the request, and wait for the head of its answer; made by the client."""
        super().__init__(*arguments, **options)
        run(self._begin(on_begin))

    def __iter__(self) -> Iterator[str]:
        """Return the stream itself."""
        return self

    def __next__(self) -> str:
        """Wait for the next piece.

        Raises ResponseError for an error that the server reports within the stream, ConnectionFailedError if the
        stream is cut, RequestTimeoutError, and at the end SchemaMismatchError.
        """
        try:
            piece = self._take_piece() or run(self._next_piece())
        except BaseException as error:
            self._fail(error)
            raise
        if not piece:
            raise StopIteration
        return piece

    def read_all(self) -> InferResult:
        """Wait for the end and return the result. Raises what iterating raises."""
        return run(self._read_all())

    def close(self) -> None:
        """Stop: the server stops generating too. Does nothing after the end."""
        self._close()

    def abort(self) -> None:
        """Stop from another thread: the one that waits for a piece gets ConnectionFailedError."""
        self._response.abort()

    def __enter__(self) -> Self:
        """Return the stream, to be closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
