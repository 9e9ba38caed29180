"""A text as it comes, for asyncio: the twin of ``streams``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llcuda.client.answers import is_stream, read_error
from llcuda.errors import ConnectionFailedError, UsageError
from llcuda.transport import Deadline
from llcuda.transport.events import EventDecoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from typing_extensions import Self

    from llcuda.client.aio_sending import AsyncSender
    from llcuda.client.answers import Answer
    from llcuda.client.requests import Generation
    from llcuda.client.results import InferResult
    from llcuda.transport.aio import AsyncExchange

__all__ = ["AsyncTextStream"]


class AsyncTextStream:
    """The pieces of a text, as soon as the server has generated them.

    Iterate over it with ``async for``; the request is sent when that begins. Closing it before the end, leaving its
    ``async with`` block, cancelling the task that waits for it or dropping it closes the connection, and the server
    stops generating. After the end, ``result`` is what ``infer`` would have returned.
    """

    def __init__(
        self,
        sender: AsyncSender,
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
        self._exchange: AsyncExchange | None = None
        self._answer: Answer | None = None
        self._decoder = EventDecoder()
        self._events: list[bytes] = []
        self._result: InferResult | None = None
        self._closed = False

    @property
    def text(self) -> str:
        """Return what was generated so far."""
        return "" if self._answer is None else "".join(self._answer.pieces)

    @property
    def result(self) -> InferResult:
        """Return the result, raising UsageError before the end and after a stream that was closed early."""
        if self._result is None:
            raise UsageError("the stream has not come to its end, so there is no result yet")
        return self._result

    @property
    def closed(self) -> bool:
        """Return whether nothing more comes: after the end, or because it was closed."""
        return self._closed

    def __aiter__(self) -> AsyncIterator[str]:
        """Return the stream itself."""
        return self

    async def __anext__(self) -> str:
        """Wait for the next piece.

        Raises what ``TextStream`` raises, and what ``InferenceClient`` raises for a request that cannot be sent.
        """
        try:
            piece = await self._next_piece()
        except BaseException:
            self._close()
            raise
        if not piece:
            raise StopAsyncIteration
        return piece

    async def read_all(self) -> InferResult:
        """Wait for the end and return the result; see ``TextStream.read_all``."""
        try:
            if await self._next_piece():
                exchange, answer = await self._start()
                rest = await exchange.read_all()
                for event in [*reversed(self._events), *self._decoder.feed(rest)]:
                    answer.add(event)
                self._end(answer)
        except BaseException:
            self._close()
            raise
        return self.result

    async def close(self) -> None:
        """Stop: the server stops generating too. Does nothing after the end."""
        self._close()
        await asyncio.sleep(0)  # asyncio closes the socket in the loop's next round

    async def __aenter__(self) -> Self:
        """Return the stream, to be closed at the end of the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    def __del__(self) -> None:
        """Close: nobody waits for the rest any more."""
        if getattr(self, "_exchange", None) is not None:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._events.clear()
        if self._exchange is not None:
            self._exchange.close()

    async def _next_piece(self) -> str:
        """Return the next piece that is not empty; nothing at the end."""
        if self._result is not None or self._closed:
            return ""
        exchange, answer = await self._start()
        while True:
            while self._events:
                piece = answer.add(self._events.pop())
                if piece:
                    return piece
            data = await exchange.read()
            if not data:
                self._end(answer)
                return ""
            self._events = self._decoder.feed(data)
            self._events.reverse()

    async def _start(self) -> tuple[AsyncExchange, Answer]:
        """Send the request, the first time."""
        if self._exchange is None or self._answer is None:
            deadline, generation = Deadline(self._timeout), self._generation
            exchange = await self._sender.send("POST", generation.target, body=generation.body, deadline=deadline)
            if not is_stream(exchange.status, exchange.headers):
                raise read_error(exchange.status, await exchange.read_all(), headers=exchange.headers)
            self._exchange, self._answer = exchange, generation.answer(started=deadline.started)
        return self._exchange, self._answer

    def _end(self, answer: Answer) -> None:
        if not answer.finished:
            raise ConnectionFailedError(
                self._sender.transport.url, "the server ended the stream before the answer was complete"
            )
        self._close()
        self._result = answer.result()
        if self._on_result is not None:
            self._on_result(self._result)
