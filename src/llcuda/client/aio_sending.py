"""Send a request, and send it again where it was sent away, for asyncio: the twin of ``sending``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llcuda.client.retries import Retries
from llcuda.errors import ConnectionFailedError

if TYPE_CHECKING:
    from llcuda.transport import Deadline
    from llcuda.transport.aio import AsyncExchange, AsyncTransport

__all__ = ["AsyncSender"]


@dataclass(frozen=True, slots=True)
class AsyncSender:
    """Sends the requests of one client."""

    transport: AsyncTransport
    max_retries: int

    async def send(
        self, method: str, target: str, *, body: bytes | None, deadline: Deadline, repeats: bool = True
    ) -> AsyncExchange:
        """Return the exchange of the last attempt."""
        handle = self.transport.begin()
        retries = Retries(self.max_retries if repeats else 0, deadline=deadline)
        while True:
            try:
                exchange = await self.transport.exchange(method, target, body=body, deadline=deadline, handle=handle)
            except ConnectionFailedError as error:
                seconds = retries.after_refusal() if error.refused else None
                if seconds is None:
                    raise
            else:
                seconds = retries.after_answer(exchange.status, exchange.headers)
                if seconds is None:
                    return exchange
                exchange.close()
            await self.transport.pause(seconds, handle=handle)
