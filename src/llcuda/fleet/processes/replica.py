"""One llama-server of a gateway, and its life on an event loop: started, watched, started anew, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from logging import getLogger
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from llcuda.engine.load import start
from llcuda.engine.placement import settle
from llcuda.errors import (
    BinaryError,
    LlcudaError,
    ModelError,
    ServerError,
    ServerExitedError,
    ServerNotReadyError,
    UsageError,
)
from llcuda.fleet.processes.heartbeat import Heartbeat
from llcuda.fleet.states import State, WatchedServer
from llcuda.fleet.timeouts import timeout
from llcuda.server import ServerManager
from llcuda.transport.address import unix_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llcuda.engine import DeviceReport
    from llcuda.engine.load import Load

__all__ = ["Replica", "Restarts"]

T = TypeVar("T")

_EXIT_TIMEOUT = 5.0
_STOP_INTERVAL = 0.1  # seconds; between two tries of one start there is no server to stop
# A second try would find the same.
_PERMANENT = (BinaryError, ModelError, UsageError)
_LOGGED_LINES = 10
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 10.0
_BUDGET = 5
_WINDOW = 60.0
"""Seconds in which there may be _BUDGET starts; also how long a server must run for its past to be forgotten."""


@dataclass(slots=True)
class Restarts:
    """The starts and ends so far; times are those of ``time.monotonic``."""

    starts: list[float] = field(default_factory=list)
    """Those of the last minute."""
    in_a_row: int = 0
    """Ends without a minute of life in between."""

    def note_start(self, now: float) -> None:
        """Take a start."""
        self.starts = [*(at for at in self.starts if now - at < _WINDOW), now]

    def choose_delay(self, now: float) -> float | None:
        """Return the seconds to wait before the next start, after an end at ``now``; None if the budget is spent."""
        if self.starts and now - self.starts[-1] >= _WINDOW:
            self.in_a_row = 0
        self.in_a_row += 1
        if sum(now - at < _WINDOW for at in self.starts) >= _BUDGET:
            return None
        # The exponent is bounded, or the power would become too large for a float in the end.
        return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self.in_a_row - 1, 10))


class Replica(WatchedServer):
    """One llama-server on a Unix socket, in a :class:`~llcuda.fleet.states.State`.

    All methods are for one event loop; nothing in them blocks it.

    A server that ends by itself is started anew: after 0.1 s, and each time after twice as long, up to 10 s. With five
    starts within a minute it has failed. It fails at once if a second try would find the same, and if it was not ready
    once since :meth:`start`.

    One that computes on the CPU is a batch job for the kernel. Its threads then do not interrupt the gateway whenever
    they wake: with two workers of the demo model and eight streams on two cores the first token came after 21 ms
    instead of 39, and 81 answers were given in a second instead of 78 (medians of four).
    """

    def __init__(
        self,
        name: str,
        load: Load,
        *,
        socket_path: Path,
        hang_timeout: float = 10.0,
        on_change: Callable[[Any], object] = lambda _: None,
    ) -> None:
        # The key is the same after each start.
        super().__init__(
            name,
            unix_address(str(socket_path)),
            slots=load.options.get("n_parallel") or 1,
            api_key=os.urandom(24).hex(),
            hang_timeout=hang_timeout,
            on_change=on_change,
        )
        self.load = load
        self.socket_path = socket_path
        self._server = ServerManager(on_exit=self._tell_exit, is_batch=True)
        # One for a start, which may hang, and one for the stop that ends it.
        self._threads: ThreadPoolExecutor | None = None
        self._past = Restarts()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: asyncio.Task[None] | None = None
        self._outcome: asyncio.Future[None] | None = None
        self._ended = asyncio.Event()
        self._left = asyncio.Event()
        self._lost = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id of llama-server, while it runs."""
        return self._server.server_pid

    @property
    def was_killed(self) -> bool:
        """Whether it last ended by SIGKILL, which this gateway did not send, nor llama-server itself."""
        error = self.last_error
        return isinstance(error, ServerExitedError) and error.returncode == -signal.SIGKILL

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The last lines of its log."""
        return self._server.log_tail

    def give_up(self, reason: str) -> None:
        """Kill it and start it anew, though it answers its health check."""
        if self.state in {State.READY, State.SILENT, State.DRAINING}:
            self._reason = reason
            self._lost.set()

    async def start(self) -> None:
        """Start it, unless it runs, and return when it is ready; calls at the same time share one start.

        Raises what :func:`llcuda.engine.load.start` raises, ServerError if it is stopped meanwhile, and UsageError
        if it is being stopped.
        """
        if self.state in {State.STOPPING, State.DRAINING}:
            raise UsageError(f"the replica {self.name} is {self.state}", hint="Start it when it has stopped.")
        if self.state in {State.STOPPED, State.FAILED}:
            self._threads = self._threads or ThreadPoolExecutor(2, thread_name_prefix=f"llcuda-{self.name}")
            self._loop = asyncio.get_running_loop()
            self._left = asyncio.Event()
            self._outcome = self._loop.create_future()
            self._life = asyncio.ensure_future(self._live())
            self._set(State.STARTING)
        if self._outcome is not None:
            await asyncio.shield(self._outcome)

    async def stop(self, grace: float = _EXIT_TIMEOUT) -> None:
        """End it, by force after ``grace`` seconds, and return when it is gone. An answer that it streams is cut."""
        life = self._life
        if life is not None and not life.done():
            self._left.set()
            self._ended.set()
            self._set(State.STOPPING)
            while not life.done():
                await self._run(partial(self._server.stop_server, timeout=grace))
                await asyncio.wait({life}, timeout=_STOP_INTERVAL)
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None
        self._set(State.STOPPED)

    async def _live(self) -> None:
        """Start it and keep it running, until it is stopped or has failed."""
        error = await self._start() or await self._keep_running()
        if error is None or self._left.is_set():
            self._refuse(ServerError(f"the replica {self.name} was stopped while it was starting"))
            return
        self.last_error, self.failed_at = error, monotonic()
        self._refuse(error)
        self._set(State.FAILED)

    async def _keep_running(self) -> LlcudaError | None:
        """Watch it, and start it anew when it has ended; return why it cannot be, or None if it is stopped."""
        error = await self._watch()
        while error is not None and not self._left.is_set():
            self.last_error = error
            self._log_end(error)
            delay = self._choose_delay(error)
            if delay is None:
                return error
            self._await_another()
            with suppress(asyncio.TimeoutError):
                async with timeout(delay):
                    await self._left.wait()
            if not self._left.is_set():
                self.restarts += 1
                self._set(State.STARTING)
                error = await self._start() or await self._watch()
        return None

    def _log_end(self, error: LlcudaError) -> None:
        last = "".join(f"\n  | {line}" for line in error.log_tail[-_LOGGED_LINES:])
        getLogger("llcuda.gateway").warning("the worker %s ended: %s%s", self.name, error.message, last)

    def _choose_delay(self, error: LlcudaError) -> float | None:
        if isinstance(error, _PERMANENT) or self.state is State.DRAINING:
            return None
        return self._past.choose_delay(monotonic())

    def _await_another(self) -> None:
        """Let who calls start from now on wait for the next start."""
        if self._loop is not None and (self._outcome is None or self._outcome.done()):
            self._outcome = self._loop.create_future()
        self._set(State.WAITING)

    def _refuse(self, error: LlcudaError) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(error)
            self._outcome.exception()  # nobody may be waiting for it

    async def _start(self) -> LlcudaError | None:
        """Start the server, and return why it does not run, or None if it does or is not to."""
        self._past.note_start(monotonic())
        self._ended.clear()
        self._lost.clear()
        self._reason = f"it gave no sign of life for {self.hang_timeout:g} s"
        try:
            self.device_report = await self._run(partial(self._start_server, anew=self.device_report is not None))
        except LlcudaError as error:
            return error
        if not self._left.is_set():
            self._become_ready()
        return None

    def _start_server(self, *, anew: bool) -> DeviceReport:
        if anew:
            self._server.stop_server()
            settle(self.load.placement)
        return start(self._server, self.load, host=str(self.socket_path), api_key=self.api_key)

    def _become_ready(self) -> None:
        self.failed_at = None
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)
        self._set(State.READY)

    async def _watch(self) -> LlcudaError | None:
        """Wait until the server has ended, is given up, or is to be stopped, and return why it ended."""
        if self._left.is_set():
            return None
        ended = asyncio.ensure_future(self._wait_for_end())
        watchers = {ended, asyncio.ensure_future(Heartbeat(self).run()), asyncio.ensure_future(self._lost.wait())}
        await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
        is_lost = not ended.done()
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        if self._left.is_set():
            return None
        return await self._kill() if is_lost else self._read_death()

    async def _wait_for_end(self) -> None:
        while self._server.state == "ready" and not self._left.is_set():
            await self._ended.wait()
            self._ended.clear()

    async def _kill(self) -> LlcudaError:
        self.last_error = error = ServerNotReadyError(
            f"llama-server was killed: {self._reason}",
            timeout=self.hang_timeout,
            log_tail=self._server.log_tail,
        )
        if self.state is not State.DRAINING:
            self._await_another()
        try:
            await self._run(partial(self._server.stop_server, timeout=0.0))
        except ServerError as failure:
            return failure
        return error

    def _read_death(self) -> LlcudaError:
        try:
            self._server.raise_if_exited()
        except LlcudaError as error:
            return error
        return ServerError("llama-server was stopped by somebody else", log_tail=self._server.log_tail)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _tell_exit(self) -> None:
        """Pass the end of a server on to the loop; the thread that looked after it calls this."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._ended.set)
