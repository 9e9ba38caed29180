"""What both clients make of their arguments."""

from __future__ import annotations

from llcuda.errors import UsageError
from llcuda.transport.address import Address, join_address, parse_address

__all__ = ["build_address", "choose_concurrency", "choose_retries", "choose_timeout", "user_agent"]

MAX_CONCURRENCY = 64


def build_address(host: str, port: int, *, url: str | None) -> Address:
    """Return the server's address: ``url`` if it is given, else ``host`` and ``port``."""
    return join_address(host, port) if url is None else parse_address(url)


def choose_timeout(timeout: float | None, *, default: float) -> float:
    """Return the time-out in seconds, raising UsageError where it is not above zero."""
    if timeout is None:
        return default
    if isinstance(timeout, bool) or not timeout > 0:
        raise UsageError(f"timeout={timeout!r} is not a number of seconds above 0")
    return timeout


def choose_retries(asked: int) -> int:
    """Return how often a request is sent again, raising UsageError where it is no count."""
    if type(asked) is not int or asked < 0:
        raise UsageError(f"max_retries={asked!r} is not a number of times, 0 or more")
    return asked


def choose_concurrency(asked: int | None, *, slots: int | None, count: int) -> int:
    """Return how many of ``count`` requests run at a time: as many as asked for, else as the server has slots."""
    if asked is not None and asked < 1:
        raise UsageError(f"max_concurrency={asked} is below 1")
    return max(1, min(asked or slots or 1, count, MAX_CONCURRENCY))


def user_agent() -> str:
    """Return how the client names itself."""
    return "llcuda"
