"""Send a request, and send it again if it was sent away. Both clients do it so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llcuda.client.retries import Retries
from llcuda.errors import ConnectionFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.transport import Deadline
    from llcuda.transport.exchange import BaseTransport, Exchange
    from llcuda.transport.handle import Handle

__all__ = ["Sender"]


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends the requests of one client."""

    transport: BaseTransport
    max_retries: int

    async def send(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None,
        deadline: Deadline,
        repeats: bool = True,
        on_begin: Callable[[Handle], object] | None = None,
    ) -> Exchange:
        """Return the exchange of the last attempt. ``on_begin`` is given what another thread can end them all with."""
        handle = self.transport.begin()
        if on_begin is not None:
            on_begin(handle)
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
