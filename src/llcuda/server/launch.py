"""One llama-server under its guard: the process, the pipe that it lives by, and the thread that looks after both.

Three things can end it: a word on the pipe, the end of the pipe when this process dies, and the guard's death. In a
child that this process forks, the copy of the pipe is closed at once.

The thread starts the guard, drains its log and reaps it. A signal handler, and so Ctrl-C, runs on the main thread only:
whatever it interrupts there, no process is lost between being made and being known.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import weakref
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import TYPE_CHECKING

from llcuda.errors import ServerError
from llcuda.server.listening import remove_socket
from llcuda.store import hold_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from llcuda.server.log import Log

_FIRST_FREE = 3  # after the standard descriptors
_ORDERLY = b"q"
_KILL = b"k"
_READ_BYTES = 1 << 16  # what a pipe holds
_MANY_BYTES = 1 << 14
_PAUSE_MS = 20.0
_KILL_TIMEOUT = 2.0

_children: weakref.WeakSet[Child] = weakref.WeakSet()


class Child:
    """A guard with its program. Only the process that made it may end it or wait for it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        guard: Path,
        directory: Path,
        environment: Mapping[str, str],
        log: Log,
        socket_path: str | None = None,
        on_exit: Callable[[], object] | None = None,
        is_batch: bool = False,
        files: Sequence[Path] = (),
    ) -> None:
        """Prepare to run ``command`` in ``directory``; nothing is started yet.

        The socket at ``socket_path`` is removed when it has ended, and ``on_exit`` called on the thread that saw it.
        ``is_batch`` has the kernel take it for a batch job (``SCHED_BATCH``): its threads have the same share of the
        cores, but when they wake they wait for whoever runs to pause. The store keeps ``files`` until it has ended.
        """
        self.log = log
        self._is_batch = is_batch
        self._files = tuple(files)
        self._socket_path = socket_path
        self._on_exit = on_exit
        self.owned = True
        self.stop_asked = False
        self._command = (str(guard), "--parent", str(os.getpid()), "--directory", str(directory), "--fd")
        self._program = tuple(command)
        self._environment = dict(environment)
        self._lock = threading.RLock()  # reentrant: a finaliser may run on the thread that holds it
        self._pipe = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._returncode: int | None = None
        self._error: OSError | None = None
        self._started = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._live, name="llcuda-server", daemon=True)
        _children.add(self)

    @property
    def pid(self) -> int | None:
        """The guard's process id, while it runs."""
        process = self._process
        return None if process is None else process.pid

    @property
    def ended(self) -> bool:
        """Whether the guard, and so everything under it, is gone and reaped."""
        return self._done.is_set()

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the number of the signal that it died of; None while it runs."""
        return self._returncode if self.ended else None

    def start(self) -> None:
        """Start it. Raises ServerError if the guard, or a thread, cannot be started."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ServerError(f"no thread could be started to look after llama-server: {error}") from error
        self._started.wait()
        if self._error is not None:
            raise ServerError(f"{self._command[0]} could not be started: {self._error.strerror}") from self._error

    def wait(self, timeout: float | None) -> bool:
        """Wait until it has ended, at most ``timeout`` seconds, and return whether it has."""
        return self._done.wait(timeout)

    def stop(self, timeout: float) -> None:
        """End it: in order, after ``timeout`` seconds by force. Any thread may call this at any time.

        Raises ServerError if even that did not end it: then it hangs inside the kernel.
        """
        if not self.owned:
            return
        with self._lock:
            self.stop_asked = True  # a start that has not begun will not begin
            if not self._send(_ORDERLY):
                return
        if threading.current_thread() is self._thread:
            return  # a finaliser on the thread that would have to say that it has ended
        if not self.wait(timeout):
            self._send(_KILL)
            self._force()

    def disown(self) -> None:
        """Give it up in a forked process: it is the parent's."""
        self.owned = False
        self._lock = threading.RLock()  # the parent's thread that held the old one is not here
        self._close_pipe()
        if self._process is not None:
            self._process.returncode = 0  # its destructor would otherwise wait for a process that is not a child

    def _force(self) -> None:
        if self.wait(_KILL_TIMEOUT):
            return
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()  # the kernel ends the program when the guard dies
        if not self.wait(_KILL_TIMEOUT):
            raise ServerError(
                f"process {self.pid} does not end, even when it is killed",
                log_tail=self.log.lines(40),
                hint="It waits inside the kernel, for a disk or a driver; dmesg may say for which.",
            )

    def _send(self, word: bytes) -> bool:
        with self._lock:
            if self._pipe < 0:
                return False
            with suppress(OSError):  # the guard may just have ended
                os.write(self._pipe, word)
            return True

    def _close_pipe(self) -> None:
        with self._lock:
            # Forgotten before it is closed: a fork in between must not close the next file of this number.
            pipe, self._pipe = self._pipe, -1
            if pipe >= 0:
                os.close(pipe)

    def _live(self) -> None:
        """Start the guard, drain its log until it has ended, and reap it."""
        try:
            if self._is_batch:
                _become_batch()
            with hold_files(self._files):
                log_end = self._open()
                if log_end is not None and self._process is not None:
                    self._started.set()
                    self._returncode = self._drain(log_end, self._process)
                    self._process = None
        except OSError as error:
            self._error = error
        finally:
            self._close_pipe()
            if self._socket_path is not None:
                remove_socket(self._socket_path)
            self._done.set()
            self._started.set()
            self.log.finish()
            if self._on_exit is not None:
                self._on_exit()

    def _open(self) -> int | None:
        """Start the guard and return the end of its log to read from; None if it was stopped before it began."""
        theirs: list[int] = []
        log_end = -1
        try:
            with self._lock:
                if self.stop_asked:
                    return None
                read_end, self._pipe = _open_pipe()
            theirs.append(read_end)
            log_end, write_end = _open_pipe()
            theirs.append(write_end)
            self._process = self._spawn(read_end, write_end)
        except OSError:
            if log_end >= 0:
                os.close(log_end)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        return log_end

    def _spawn(self, pipe: int, log: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._command, str(pipe), "--", *self._program],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(pipe,),
            env=self._environment,
            start_new_session=True,  # a terminal's Ctrl-C is for this process to handle
        )

    def _drain(self, fd: int, process: subprocess.Popen[bytes]) -> int:
        try:
            _read_until_end(fd, self.log, process.pid)
        finally:
            os.close(fd)
            returncode = process.wait()
        return returncode


def _open_pipe() -> tuple[int, int]:
    """Return the two ends of a pipe, neither of them a standard descriptor, also if one of those is closed here."""
    low = os.pipe()
    try:
        read_end = fcntl(low[0], F_DUPFD_CLOEXEC, _FIRST_FREE)
        try:
            return read_end, fcntl(low[1], F_DUPFD_CLOEXEC, _FIRST_FREE)
        except OSError:
            os.close(read_end)
            raise
    finally:
        for fd in low:
            os.close(fd)


def _become_batch() -> None:
    """Make this thread a batch job, and so what it starts; a policy that somebody chose stays."""
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # some sandboxes
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _read_until_end(fd: int, log: Log, pid: int) -> None:
    """Feed the log until it ends or the guard has: a relative of the program that keeps it open is not waited for.

    A server that answers logs some 40 lines for each request, and each read takes the interpreter from whoever relays
    the answers: once it listens, its lines are read 50 times a second, unless there are many.
    """
    ended = _open_process(pid)
    try:
        both, end = select.poll(), select.poll()
        both.register(fd, select.POLLIN)
        if ended >= 0:
            both.register(ended, select.POLLIN)
            end.register(ended, select.POLLIN)
        while fd in dict(both.poll()) and (data := os.read(fd, _READ_BYTES)):
            log.feed(data)
            if log.address is not None and len(data) < _MANY_BYTES:
                end.poll(_PAUSE_MS)
    finally:
        if ended >= 0:
            os.close(ended)


def _open_process(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:  # Linux before 5.3, and some sandboxes
        return -1


def _disown_all() -> None:
    for child in list(_children):
        child.disown()


os.register_at_fork(after_in_child=_disown_all)
