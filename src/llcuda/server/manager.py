"""Own one llama-server: start it, know its state, ask it, stop it."""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.errors import ConnectionFailedError, RequestTimeoutError, ServerError, UsageError
from llcuda.native import binaries_dir, child_environment, find_executable, find_guard
from llcuda.server.arguments import build_arguments, build_own_arguments, check_key, check_numbers, with_defaults
from llcuda.server.failures import TAIL_LINES, Launch, classify_failure
from llcuda.server.launch import Child
from llcuda.server.listening import check_host, check_port_free, is_socket_path, restrict_socket, to_address
from llcuda.server.log import Log
from llcuda.server.readiness import HTTP_OK, check_answer, find_child, get, raise_failure, wait_until_listening

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from llcuda.native import Backend
    from llcuda.transport.address import Address

_START_OPTIONS = frozenset({"host", "port", "timeout", "stall_timeout", "api_key", "verbose"})
_MODEL_OPTIONS = ("mmproj", "model_draft")
_EXIT_TIMEOUT = 5.0
_HEALTH_TIMEOUT = 5.0


class _ServerState(Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class _Process:
    """One llama-server that was made: it may load, answer, or have ended."""

    child: Child
    launch: Launch
    api_key: str
    command: tuple[str, ...]
    finalizer: weakref.finalize[..., ServerManager]


class ServerManager:
    """One llama-server and its life.

    ========  ========================================  ==================================================
    state     it means                                  it becomes
    ========  ========================================  ==================================================
    stopped   there is none, or it was stopped          starting, by start_server
    starting  it loads the model                        ready; stopping; stopped, if the start failed
    ready     it answers                                stopping, by stop_server; exited, by its own death
    stopping  it was told to end                        stopped
    exited    it ended by itself                        starting, by start_server; stopped, by stop_server
    ========  ========================================  ==================================================

    The server ends with the manager: when it is stopped, collected as garbage, when the interpreter exits, and within
    250 ms of the death of this process however it dies. A thread that started it may end; a process that was forked
    has no part in it, and every method but the plain attributes raises ServerError there. All methods may be called
    from any thread. The server listens on loopback, and answers only who has ``api_key``.
    """

    def __init__(
        self, *, on_exit: Callable[[], object] | None = None, is_batch: bool = False, folder: Path | None = None
    ) -> None:
        """Start nothing yet. ``on_exit`` is called whenever a server has ended, on a thread of its own: be quick.

        ``is_batch`` makes a server that computes on the CPU a batch job for the kernel (``SCHED_BATCH``), so that it
        does not interrupt whoever serves its answers on the same cores. The llama-server and the guard are those in
        ``folder``, or those that are found.
        """
        self._folder = folder
        self._on_exit = on_exit
        self._is_batch = is_batch
        self._lock = threading.RLock()  # held for moments only, never while waiting; reentrant for signal handlers
        self._state = _ServerState.STOPPED
        self._run: _Process | None = None
        self._starts = 0
        self._address: Address | None = None

    def find_llama_server(self) -> Path:
        """Return the path of the llama-server that would be started.

        Raises BinaryNotFoundError with every place that was looked at, or BinaryUnusableError.
        """
        return self._folder / "llama-server" if self._folder else find_executable("llama-server")

    def find_guard(self) -> Path:
        """Return the path of the guard that it would be started under. Raises what find_llama_server raises."""
        return self._folder / "llcuda-guard" if self._folder else find_guard()

    def start_server(
        self,
        model_path: str | os.PathLike[str],
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        gpu_layers: int | None = None,
        ctx_size: int | None = None,
        n_parallel: int = 1,
        timeout: float | None = None,
        stall_timeout: float = 60.0,
        api_key: str | None = None,
        verbose: bool = False,
        backend: Backend | None = None,
        visible_devices: str | None = None,
        **server_options: Any,
    ) -> None:
        """Start llama-server with a model and return when it answers.

        Without ``port`` it takes a free one. A ``host`` that ends in ``.sock`` is the absolute path of a Unix socket in
        a folder that only this user can write to. The start may take as long as it makes progress (log lines, bytes
        read, memory that grows): ``stall_timeout`` seconds without any end it, and ``timeout`` seconds in total.
        ``gpu_layers`` and ``ctx_size`` (tokens) are llama-server's to choose if they are None. ``verbose`` logs its
        lines to the logger ``llcuda.server``. ``backend`` is the CUDA backend that it loads, one of
        :func:`llcuda.native.find_backends`; without one it runs on the CPU, whatever ``gpu_layers`` says.
        ``visible_devices`` is its CUDA_VISIBLE_DEVICES. ``server_options`` are those of :func:`build_arguments`.

        Raises PortInUseError, BinaryError, ModelError, OutOfMemoryError, UsageError or ServerExitedError, each with the
        last lines of the log, and ServerNotReadyError if time ran out. Nothing is left running then.
        """
        options = {"gpu_layers": gpu_layers, "ctx_size": ctx_size, "n_parallel": n_parallel, **server_options}
        check_numbers({**options, "timeout": timeout, "stall_timeout": stall_timeout})
        start = self._claim()
        try:
            launch = self._plan(model_path, host=check_host(host), port=port, backend=backend)
            run = self._make_run(
                launch,
                start,
                key=check_key(api_key),
                backend=backend,
                visible_devices=visible_devices,
                verbose=verbose,
                options=options,
            )
            run.child.start()
            wait_until_listening(run.child, launch=launch, timeout=timeout, stall_timeout=stall_timeout)
            self._become_ready(start, run, timeout=stall_timeout)
        except BaseException:
            self._give_up(start)
            raise

    def check_options(self, **options: Any) -> None:
        """Let the bundled llama-server judge the options of start_server, without a model. Raises what it would raise.

        Only what it finds out when it reads them; whether they go with a model, it finds out when it loads that.
        """
        import subprocess  # noqa: PLC0415 - kept out of the import

        check_numbers(options)
        executable = self.find_llama_server()
        own = {name: value for name, value in options.items() if name not in _START_OPTIONS}
        command = [str(executable), *build_arguments(**with_defaults(own)), "--version"]
        if executable.parent != binaries_dir().absolute():
            return
        environment = child_environment(executable)
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd=executable.parent
        )
        if done.returncode:
            lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
            raise classify_failure(lines, done.returncode, launch=Launch(str(executable)))

    def stop_server(self, *, timeout: float = _EXIT_TIMEOUT) -> None:
        """End the server, by force after ``timeout`` seconds, and wait until it is gone, if there is one.

        Raises ServerError if even force does not end it.
        """
        self._check_owner()
        self._end(timeout)

    def check_server_health(self) -> bool:
        """Return whether our server answers its health check."""
        if self.state != "ready" or self._address is None:
            return False
        try:
            return get(self._address, "/health", timeout=_HEALTH_TIMEOUT)[0] == HTTP_OK
        except (ConnectionFailedError, RequestTimeoutError):
            return False

    def get_server_info(self) -> dict[str, Any]:
        """Return llama-server's /props: the model's path, its chat template, the context of each slot.

        Raises ServerError if no server is ready, and RequestError if it does not answer.
        """
        import json  # noqa: PLC0415 - kept out of the import

        self.raise_if_exited()
        status, body = get(self._require_address(), "/props", api_key=self.api_key, timeout=_HEALTH_TIMEOUT)
        if status != HTTP_OK:
            raise ServerError(f"/props was answered with HTTP {status}", log_tail=self.log_tail)
        info: dict[str, Any] = json.loads(body)
        return info

    def raise_if_exited(self, *, timeout: float = 0.0) -> None:
        """Raise the error that says why the server ended by itself, if it has, or does within ``timeout`` seconds."""
        run = self._run
        if timeout and run is not None:
            run.child.wait(timeout)
        if self.state == "exited" and run is not None:
            raise_failure(run.child, launch=run.launch)

    @property
    def state(self) -> str:
        """One of stopped, starting, ready, stopping and exited."""
        self._check_owner()
        with self._lock:
            if self._state is _ServerState.READY and self._run is not None and self._run.child.ended:
                self._state = _ServerState.EXITED
            return self._state.value

    @property
    def url(self) -> str:
        """The server's address, without a path; ``unix:/path/to.sock`` for a socket.

        Raises ServerError if none is running.
        """
        return self._require_address().url

    @property
    def port(self) -> int:
        """The port that the server listens on.

        Raises ServerError if none is running, and UsageError if it listens on a Unix socket.
        """
        address = self._require_address()
        if address.is_unix:
            raise UsageError(f"a server on {address.url} has no port", hint="Use url, which every client takes.")
        return address.port

    @property
    def api_key(self) -> str | None:
        """The key that the server asks for; None if none was started."""
        return self._run.api_key if self._run is not None else None

    @property
    def command(self) -> tuple[str, ...]:
        """The command line of the last server; empty if none was started."""
        return self._run.command if self._run is not None else ()

    @property
    def pid(self) -> int | None:
        """The process id of the server's guard, while it runs."""
        return self._run.child.pid if self._run is not None else None

    @property
    def server_pid(self) -> int | None:
        """The process id of llama-server itself, while it runs."""
        return find_child(self.pid) if self.pid else None

    @property
    def returncode(self) -> int | None:
        """The exit status of the last server, or minus the signal that it died of; None while it runs."""
        return self._run.child.returncode if self._run is not None else None

    @property
    def log(self) -> tuple[str, ...]:
        """The lines of the last server's log that are kept: the last 4,000."""
        return self._run.child.log.lines() if self._run is not None else ()

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The last 40 lines of the last server's log."""
        return self._run.child.log.lines(TAIL_LINES) if self._run is not None else ()

    def __enter__(self) -> Self:
        """Return the manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server; in a forked process, leave it alone."""
        if self._run is None or self._run.child.owned:
            self.stop_server()

    def _claim(self) -> int:
        """Begin a start and return its number: what an earlier start that failed has still to do is not ours."""
        self._check_owner()
        with self._lock:
            state = self.state
            if state not in {"stopped", "exited"}:
                raise UsageError(f"this manager's server is {state}", hint="Stop it, or use another ServerManager.")
            self._state = _ServerState.STARTING
            self._starts += 1
            return self._starts

    def _plan(
        self, model_path: str | os.PathLike[str], *, host: str, port: int | None, backend: Backend | None
    ) -> Launch:
        if port is not None:
            check_port_free(host, port)
        model = os.path.abspath(os.fspath(model_path))  # noqa: PTH100 - links are kept as they are
        launch = Launch(str(self.find_llama_server()), model, host, port or 0)
        if backend is None:
            return launch
        return replace(launch, driver_floor=backend.driver_floor, toolkit=backend.toolkit)

    def _make_run(
        self,
        launch: Launch,
        start: int,
        *,
        key: str,
        backend: Backend | None,
        visible_devices: str | None,
        verbose: bool,
        options: dict[str, Any],
    ) -> _Process:
        executable = Path(launch.executable)
        command = (launch.executable, *build_own_arguments(launch), *build_arguments(**with_defaults(options)))
        extra = {"LLAMA_API_KEY": key, "GGML_NO_BACKTRACE": os.environ.get("GGML_NO_BACKTRACE", "1")}
        if visible_devices is not None:
            extra["CUDA_VISIBLE_DEVICES"] = visible_devices
        environment = child_environment(executable, backend=backend, extra=extra)
        with self._lock:
            self._require_start(start)
            child = Child(
                command,
                guard=self.find_guard(),
                directory=executable.parent,
                environment=environment,
                log=Log(_log_line() if verbose else None),
                socket_path=launch.host if is_socket_path(launch.host) else None,
                on_exit=self._on_exit,
                is_batch=self._is_batch and backend is None,
                files=[Path(file) for file in (launch.model, *map(options.get, _MODEL_OPTIONS)) if file],
            )
            # It runs at garbage collection and at the interpreter's exit, and must not hold the manager itself.
            finalizer = weakref.finalize(self, child.stop, _EXIT_TIMEOUT)
            self._run = run = _Process(child, launch, key, command, finalizer)
        return run

    def _become_ready(self, start: int, run: _Process, *, timeout: float) -> None:
        address = to_address(run.launch.host, run.child.log.address or "")
        if address.is_unix:
            restrict_socket(address.host)
        check_answer(run.child, address, launch=run.launch, timeout=timeout)
        with self._lock:
            self._require_start(start)
            self._address = address
            self._state = _ServerState.READY

    def _require_start(self, start: int) -> None:
        if self._starts != start or self._state is not _ServerState.STARTING:
            raise ServerError("the server was stopped while it was starting", log_tail=self.log_tail)

    def _give_up(self, start: int) -> None:
        if self._starts == start:
            self._end(_EXIT_TIMEOUT)

    def _end(self, timeout: float) -> None:
        with self._lock:
            start, run = self._starts, self._run
            self._state = _ServerState.STOPPING
            self._address = None
        try:
            if run is not None:
                run.child.stop(timeout)
        finally:
            with self._lock:
                if self._starts == start:
                    self._state = _ServerState.STOPPED
            if run is not None and run.child.ended:
                run.finalizer.detach()

    def _require_address(self) -> Address:
        if self._address is None:
            raise ServerError("no server is running", log_tail=self.log_tail, hint="Call start_server first.")
        return self._address

    def _check_owner(self) -> None:
        if self._run is not None and not self._run.child.owned:
            raise ServerError(
                "this server belongs to the process that this one was forked from",
                hint="Talk to it with InferenceClient(url=…, api_key=…), or start one here with a new ServerManager.",
            )


def _log_line() -> Callable[[str], object]:
    from logging import getLogger  # noqa: PLC0415 - only if it is asked for

    return getLogger("llcuda.server").info
