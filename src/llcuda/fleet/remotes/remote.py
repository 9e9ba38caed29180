"""One llama-server or gateway on another machine: greeted, watched, and greeted again when it is lost."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from http import HTTPStatus
from logging import getLogger
from typing import TYPE_CHECKING, Any

from llcuda.errors import LlcudaError, ResponseError, ServerNotReadyError
from llcuda.fleet.processes.heartbeat import Heartbeat
from llcuda.fleet.states import State, WatchedServer
from llcuda.transport.aio import AsyncTransport
from llcuda.transport.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.fleet.model_config import RemoteConfig
    from llcuda.transport.address import Address

__all__ = ["Remote"]

_GREETING_TIMEOUT = 5.0
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 5.0  # seconds between two greetings of one that does not answer
_PATIENCE = 60.0
"""Seconds without an answer after which no request waits for it any more. It is greeted as before."""
_MAX_SLOTS = 4096
_MAX_BYTES = 4 << 20


class Remote(WatchedServer):
    """A worker of another machine, in a :class:`~llcuda.fleet.states.State`.

    It is ``starting`` until it has answered for the first time, ``waiting`` while it is lost, and ``failed`` if that
    lasts for a minute; it is greeted until it answers again in any of them. Lost is one that nobody listens for, and
    one that has given no sign of life for ``hang_timeout`` seconds: what it was asked is asked elsewhere then.
    """

    is_remote = True
    was_killed = False
    """Whether it was last lost because it fell silent, and not because nobody listens there."""

    def __init__(
        self,
        config: RemoteConfig,
        address: Address,
        *,
        model: str,
        slots: int = 1,
        hang_timeout: float = 10.0,
        on_change: Callable[[Any], object] = lambda _: None,
    ) -> None:
        """Ask nothing yet. ``config`` is what led to it, and ``model`` what a gateway there calls the model.

        ``slots`` holds if it does not say itself how many requests it answers at a time.
        """
        name = f"{model}@{address.authority}"
        super().__init__(name, address, slots=slots, api_key=config.key, hang_timeout=hang_timeout, on_change=on_change)
        self.config = config
        self._model = model
        self._usual_slots = slots
        self._greeted = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch it, and return when it has answered, has not for the first time, or is stopped."""
        if self._life is None:
            self._greeted = asyncio.Event()
            self._set(State.STARTING)
            self._life = asyncio.ensure_future(self._live())
        await self._greeted.wait()

    async def stop(self) -> None:
        """Watch it no more; it goes on as it is."""
        life, self._life = self._life, None
        if life is not None:
            life.cancel()
            await asyncio.wait({life})
        self._greeted.set()  # whoever waits for it in start is not to wait for ever
        self._set(State.STOPPED)

    async def _live(self) -> None:
        if self.address.scheme == "https":
            # It takes 25 ms to read the certificates of the system.
            self.tls = await asyncio.to_thread(ssl.create_default_context)
        while True:
            await self._greet_until_it_answers()
            await self._watch()
            self.restarts += 1
            getLogger("llcuda.gateway").warning("the worker %s is lost: %s", self.name, self.last_error)
            self._set(State.WAITING)

    async def _greet_until_it_answers(self) -> None:
        loop = asyncio.get_running_loop()
        since, delay = loop.time(), _FIRST_DELAY
        while not await self._greet():
            if not self._greeted.is_set():
                getLogger("llcuda.gateway").warning("the worker %s does not answer yet: %s", self.name, self.last_error)
                self._greeted.set()
            if self.state in {State.STARTING, State.WAITING} and loop.time() - since > _PATIENCE:
                self._set(State.FAILED)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)
        self._greeted.set()

    async def _greet(self) -> bool:
        """Ask whether it is well, and how much it can do; return whether it may be asked."""
        transport = AsyncTransport(self.address, api_key=self.api_key, user_agent="llcuda", tls=self.tls)
        deadline = Deadline(_GREETING_TIMEOUT)
        try:
            health = await _get(transport, "/health", deadline)
            if health is None:
                raise ServerNotReadyError(f"{self.address.url} does not say that it is well", timeout=_GREETING_TIMEOUT)
            self.slots = (
                _read_slots(await _get(transport, "/api/capabilities", deadline), self._model)
                or _read_total(await _get(transport, "/props", deadline))
                or self._usual_slots
            )
        except LlcudaError as error:
            self.last_error = error
            return False
        finally:
            transport.close()
        return True

    async def _watch(self) -> None:
        """Return when it is lost."""
        heartbeat = Heartbeat(self)
        self._set(State.READY)
        await heartbeat.run()
        self.was_killed = not heartbeat.was_refused
        reason = "nobody listens" if heartbeat.was_refused else f"no sign of life for {self.hang_timeout:g} s"
        self.last_error = ServerNotReadyError(f"{self.address.url}: {reason}", timeout=self.hang_timeout)


async def _get(transport: AsyncTransport, path: str, deadline: Deadline) -> Any:
    """Return the JSON of an answer, None if it is an error or is not JSON. Raises why there is none."""
    exchange = await transport.exchange("GET", path, body=None, deadline=deadline)
    body = await exchange.read_all(max_bytes=_MAX_BYTES)
    if exchange.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise ResponseError(exchange.status, f"{transport.url} does not take the key", hint="Name its key_file.")
    if exchange.status != HTTPStatus.OK:
        return None
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


def _read_slots(capabilities: Any, model: str) -> int | None:
    """Return the slots that a gateway has for a model, None if it has none or is none."""
    try:
        (found,) = [one for one in capabilities["models"] if one["name"] == model]
        return _check_slots(sum(worker["slots"] for worker in found["workers"]))
    except (TypeError, KeyError, ValueError):
        return None


def _read_total(properties: Any) -> int | None:
    """Return the slots that a llama-server has, None if it does not say."""
    return _check_slots(properties.get("total_slots")) if isinstance(properties, dict) else None


def _check_slots(number: Any) -> int | None:
    return number if type(number) is int and 0 < number <= _MAX_SLOTS else None
