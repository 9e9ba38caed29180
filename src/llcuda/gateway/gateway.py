"""A gateway for programs and for the command line: on a thread of its own, or on this one until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from functools import partial
from logging import getLogger
from typing import TYPE_CHECKING, Any

import uvloop

from llcuda.errors import LlcudaError, ServerError
from llcuda.gateway.running import Running, run_until_stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from typing_extensions import Self

    from llcuda.gateway.config.configuration import GatewayConfig

__all__ = ["Gateway"]


def _has_terminal() -> bool:
    """Return whether this process would be told that its terminal closes: it has one, and nohup was not used."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Gateway:
    """One address in front of the replicas of one or several models.

    ``with Gateway(config) as gateway`` serves on a thread until the block ends; :meth:`run` serves on this one. Its
    llama-servers end with it, and with this process however it dies.
    """

    def __init__(self, config: GatewayConfig, *, on_link: Callable[[str], object] | None = None) -> None:
        """Prepare; nothing is started yet.

        ``on_link``, if it is given, is called with a link to the page: without keys, whoever opens it first is the
        administrator. It is called again with another one if that one is opened a second time.
        """
        self.config = config
        self._on_link = on_link
        self._running: Running | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._failure: LlcudaError | None = None
        self._has_ended = False

    @property
    def url(self) -> str:
        """The address without a path; add ``/v1`` for an OpenAI client. Raises ServerError if it does not run."""
        if self._running is None or not self._running.url:
            raise ServerError("the gateway does not run", hint="Call gateway.start() first.")
        return self._running.url

    @property
    def port(self) -> int:
        """The port that it listens on. Raises ServerError if it does not run."""
        return int(self.url.rpartition(":")[2])

    @property
    def grpc_port(self) -> int:
        """The port for gRPC calls. Raises ServerError if there is none."""
        if self._running is None or self._running.grpc is None:
            raise ServerError("the gateway answers no gRPC calls", hint="Set grpc_port, and start it.")
        return self._running.grpc.port

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the workers on this machine run, and why, and which models cannot chat: a sentence for each."""
        models = self._running.models if self._running else {}
        workers = [worker for model in models.values() for worker in model.workers]
        reports = [getattr(worker.server, "device_report", None) for worker in workers]
        places = dict.fromkeys(f"{report.reason} {report.remedy}".strip() for report in reports if report)
        return (*places, *(f"{name} has no chat template: it continues texts." for name in self.without_chat))

    @property
    def without_chat(self) -> tuple[str, ...]:
        """The names of the models that cannot chat."""
        models = self._running.models if self._running else {}
        return tuple(name for name, model in models.items() if not model.fleet.can_chat)

    def start(self) -> None:
        """Serve on a thread of its own, and return when every model answers.

        Raises PortInUseError, UsageError, and why a model does not start; nothing is left running then.
        """
        if self._thread is not None:
            raise ServerError("the gateway runs already")
        ready = threading.Event()
        self._failure, self._has_ended = None, False
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="llcuda-gateway", daemon=True)
        self._thread.start()
        try:
            ready.wait()
        except BaseException:
            self.stop(grace=0.0)
            raise
        failure = self._take_failure()
        if failure is not None or self._has_ended:
            self.stop()
            raise failure or ServerError("the gateway ended while it was starting")

    def stop(self, *, grace: float | None = None) -> None:
        """Let what has begun be answered, for at most ``grace`` seconds, stop every llama-server, and return."""
        thread, loop, running = self._thread, self._loop, self._running
        if thread is None:
            return
        if loop is not None and running is not None and not loop.is_closed():
            loop.call_soon_threadsafe(partial(running.begin_stop, grace=grace))
        thread.join()
        self._thread = self._loop = self._running = None

    def reload(self) -> None:
        """Replace every worker by a new one without losing a request, and return when it is done.

        Raises why a new one does not start; the old ones go on then.
        """
        if self._loop is None or self._running is None:
            raise ServerError("the gateway does not run", hint="Call gateway.start() first.")
        asyncio.run_coroutine_threadsafe(self._running.reload(), self._loop).result()

    def run(
        self,
        *,
        on_ready: Callable[[str], object],
        read_config: Callable[[], GatewayConfig] | None = None,
    ) -> None:
        """Serve on this thread until SIGTERM or SIGINT; a second one ends it at once.

        ``on_ready`` is given the address. SIGHUP, with which a terminal closes, ends it too, if it was started at one;
        without a terminal, and under nohup, it reloads, with what ``read_config`` returns then, if it is given.
        Raises what :meth:`start` raises.
        """
        self._run_loop(self._run_with_signals(on_ready, read_config))

    async def _run_with_signals(
        self, on_ready: Callable[[str], object], read_config: Callable[[], GatewayConfig] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self._running = running = Running(self.config, on_link=self._on_link)
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            getLogger("llcuda").warning("SIGHUP: reading the configuration and replacing the workers")
            if not reloads:
                task = loop.create_task(running.reload_logged(read_config))
                reloads.add(task)
                task.add_done_callback(reloads.discard)

        def tell() -> None:
            on_ready(running.url)
            running.offer_link()

        def hang_up() -> None:
            getLogger("llcuda").warning("SIGHUP: the terminal has closed, so this gateway ends")
            running.begin_stop()

        is_at_terminal = _has_terminal()

        def take_hangup(*_: object) -> None:
            if is_at_terminal:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it comes more than once, also after the loop has ended
            loop.call_soon_threadsafe(hang_up if is_at_terminal else reload)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.begin_stop)
        # The loop would give it back its default at its end: to end the process at once, with another status.
        before = signal.signal(signal.SIGHUP, take_hangup)
        try:
            await run_until_stopped(running, on_ready=tell)
        finally:
            if signal.getsignal(signal.SIGHUP) is take_hangup:
                signal.signal(signal.SIGHUP, before)

    def _run_loop(self, serving: Coroutine[Any, Any, None]) -> None:
        """Run it by uvloop, but by asyncio if there is TLS: uvloop's 256 KiB a connection cannot be made less."""
        (asyncio.run if self.config.tls_certificate else uvloop.run)(serving)

    def _take_failure(self) -> LlcudaError | None:
        failure, self._failure = self._failure, None
        return failure

    def _serve(self, ready: threading.Event) -> None:
        def take_note() -> None:
            if self._running is not None:
                self._running.offer_link()
            ready.set()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._running = running = Running(self.config, on_link=self._on_link)
            await run_until_stopped(running, on_ready=take_note)

        try:
            self._run_loop(serve())
        except LlcudaError as error:
            self._failure = error
        finally:
            self._has_ended = True
            ready.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
