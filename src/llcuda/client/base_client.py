"""What both clients make of their arguments, and how they ask what is answered whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from llcuda.client.sending import Sender
from llcuda.errors import UsageError
from llcuda.transport import Deadline
from llcuda.transport.address import join_address, parse_address

if TYPE_CHECKING:
    from llcuda.client.requests import Call
    from llcuda.transport.base_transport import BaseTransport

MAX_CONCURRENCY = 64

T = TypeVar("T")


class BaseClient:
    """Where the server is, and how it is asked."""

    _make_transport: ClassVar[type[BaseTransport]]

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8090,
        *,
        api_key: str | None = None,
        url: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 2,
    ) -> None:
        """Remember where the server is; nothing is opened before the first request.

        ``url`` takes the place of ``host`` and ``port`` and can have ``https`` and a base path. ``timeout`` is in
        seconds, for each request as a whole, and each method that generates can be given another.
        A request that is sent away with 429 or 503, or refused because nobody listens, is sent again up to
        ``max_retries`` times within that time; ``health`` never is.
        """
        self._address = join_address(host, port) if url is None else parse_address(url)
        self.api_key = api_key
        self._timeout = choose_timeout(timeout, default=600.0)
        self._transport = self._make_transport(self._address, api_key=api_key, user_agent="llcuda")
        self._sender = Sender(self._transport, choose_retries(max_retries))

    @property
    def url(self) -> str:
        """Return the server's address."""
        return self._address.url

    def __repr__(self) -> str:
        """Return where it asks, without its key."""
        return f"<{type(self).__name__} of {self.url}>"

    async def _send(self, call: Call[T]) -> T:
        response = await self._sender.send(
            call.method, call.target, body=call.body, deadline=Deadline(self._timeout), repeats=call.repeats
        )
        return call.read(response.status, await response.read_all(), headers=response.headers)


def choose_timeout(timeout: float | None, *, default: float) -> float:
    """Return the time-out in seconds, raising UsageError if it is not above zero."""
    if timeout is None:
        return default
    if isinstance(timeout, bool) or not timeout > 0:
        raise UsageError(f"timeout={timeout!r} is not a number of seconds above 0")
    return timeout


def choose_retries(asked: int) -> int:
    """Return how often a request is sent again, raising UsageError if it is no count."""
    if type(asked) is not int or asked < 0:
        raise UsageError(f"max_retries={asked!r} is not a number of times, 0 or more")
    return asked


def choose_concurrency(asked: int | None, *, slots: int | None, count: int) -> int:
    """Return how many of ``count`` requests run at a time: as many as asked for, else as the server has slots."""
    if asked is not None and asked < 1:
        raise UsageError(f"max_concurrency={asked} is below 1")
    return max(1, min(asked or slots or 1, count, MAX_CONCURRENCY))
