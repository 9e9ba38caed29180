"""The addresses that a name stands for, looked up again as their time to live says."""

from __future__ import annotations

import asyncio
from logging import getLogger
from typing import TYPE_CHECKING

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["follow_name"]

_SHORTEST, _LONGEST = 1.0, 300.0  # seconds from one look to the next
_RETRY_INTERVAL = 5.0
_TIMEOUT = 5.0


async def follow_name(name: str, on_look: Callable[[frozenset[str] | None], Awaitable[object]]) -> None:
    """Call ``on_look`` with the IP addresses of a name, again and again; with None if they cannot be had just now.

    A name that does not exist any more has none. Raises UsageError if dnspython is not installed.
    """
    while True:
        addresses, seconds = await _look_up(name)
        await on_look(addresses)
        await asyncio.sleep(seconds)


async def _look_up(name: str) -> tuple[frozenset[str] | None, float]:
    """Return the addresses, and in how many seconds they are to be looked up again."""
    try:
        import dns.asyncresolver  # noqa: PLC0415 - only if there is a name
        import dns.exception  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415
    except ModuleNotFoundError:
        raise UsageError("dns:// needs dnspython", hint="pip install 'llcuda[gateway]'") from None
    addresses: set[str] = set()
    times = [_LONGEST]
    for kind in ("A", "AAAA"):
        try:
            answer = await dns.asyncresolver.resolve(name, kind, lifetime=_TIMEOUT, search=True)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            continue
        except (dns.exception.DNSException, OSError) as error:
            getLogger("llcuda.gateway").warning("the name %s cannot be looked up: %s", name, error)
            return None, _RETRY_INTERVAL
        addresses |= {record.address for record in answer}
        times.append(float(answer.rrset.ttl) if answer.rrset is not None else _RETRY_INTERVAL)
    return frozenset(addresses), max(_SHORTEST, min(times)) if addresses else _RETRY_INTERVAL
