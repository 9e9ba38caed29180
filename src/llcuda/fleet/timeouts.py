"""Bounds on the time of a wait.

``timeout`` loses no cancellation, as ``asyncio.wait_for`` does before Python 3.12.
"""

from __future__ import annotations

import asyncio
import math
import sys
from typing import TYPE_CHECKING

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["timeout", "until"]

_LOOK_SECONDS = 0.02


async def until(condition: Callable[[], bool], *, seconds: float = math.inf) -> None:
    """Return when it is so, or the time is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition() and loop.time() < end:  # noqa: ASYNC110 - a look at an end that comes once
        await asyncio.sleep(_LOOK_SECONDS)
