"""One llama-server under its guard: the process, the pipe that it lives by, and the thread that drains its log.

Three parties can end it: this process by a word on the pipe, the pipe itself when this process dies or forgets it, and
the guard's death. A child that this process forks has no part in that: its copy of the pipe is closed at once.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from llcuda.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llcuda.server.log import Log

__all__ = ["Child"]

_ORDERLY = b"q"
_KILL = b"k"
_READ_BYTES = 1 << 16
_KILL_TIMEOUT = 2.0

_children: weakref.WeakSet[Child] = weakref.WeakSet()


class Child:
    """A running guard with its program. Only the process that made it may end it or wait for it.

    The log's thread reaps the guard; everybody else waits for that thread's word, so no two threads wait for one pid.
    """

    def __init__(
        self, command: Sequence[str], *, guard: Path, directory: Path, environment: Mapping[str, str], log: Log
    ) -> None:
        """Start ``command`` in ``directory``. Raises ServerError where the guard cannot be started."""
        _watch_forks()
        self.log = log
        self.owned = True
        self.stop_asked = False
        self._done = threading.Event()
        self._pipe_lock = threading.RLock()  # reentrant: a finaliser may run in the thread that holds it
        self._pipe = -1
        _children.add(self)
        try:
            log_end = self._start_guard(command, guard=guard, directory=directory, environment=environment)
        except OSError as error:
            self._close_pipe()
            raise ServerError(f"{guard} could not be started: {error.strerror}") from error
        self._start_draining(log_end)

    @property
    def pid(self) -> int:
        """The guard's process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the guard, and so everything under it, is gone and reaped."""
        return self._done.is_set()

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the number of the signal that it died of; None while it runs."""
        return self._process.returncode if self.ended else None

    def wait(self, timeout: float | None) -> bool:
        """Wait until it has ended, at most ``timeout`` seconds, and return whether it has."""
        return self._done.wait(timeout)

    def stop(self, timeout: float) -> None:
        """End it: in order, after ``timeout`` seconds by force. Any thread may call this at any time.

        Raises ServerError where even that did not end it: then it hangs inside the kernel.
        """
        if not self.owned:
            return
        self.stop_asked = True
        self._send(_ORDERLY)
        if threading.current_thread() is self._thread:
            return  # a finaliser on the thread that would have to say that it has ended
        if not self.wait(timeout):
            self._send(_KILL)
            self._force()
        self._close_pipe()

    def _force(self) -> None:
        if self.wait(_KILL_TIMEOUT):
            return
        with suppress(ProcessLookupError):
            self._process.kill()  # the kernel ends the program when the guard dies
        if not self.wait(_KILL_TIMEOUT):
            raise ServerError(
                f"process {self.pid} does not end, even when it is killed",
                log_tail=self.log.lines(40),
                hint="It waits inside the kernel, for a disk or a driver; dmesg may say for which.",
            )

    def _send(self, word: bytes) -> None:
        with self._pipe_lock, suppress(OSError):
            if self._pipe >= 0:
                os.write(self._pipe, word)

    def _close_pipe(self) -> None:
        with self._pipe_lock:
            # Forgotten before it is closed: a fork in between must not close the next file of this number.
            pipe, self._pipe = self._pipe, -1
            if pipe >= 0:
                os.close(pipe)

    def _start_guard(
        self, command: Sequence[str], *, guard: Path, directory: Path, environment: Mapping[str, str]
    ) -> int:
        """Start the process and return the end of its log to read from."""
        theirs: list[int] = []
        log_end = -1
        try:
            read_end, self._pipe = os.pipe()
            theirs.append(read_end)
            log_end, write_end = os.pipe()
            theirs.append(write_end)
            options = ["--parent", str(os.getpid()), "--fd", str(read_end), "--directory", str(directory)]
            self._process = subprocess.Popen(
                [str(guard), *options, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                pass_fds=(read_end,),
                env=dict(environment),
                start_new_session=True,  # a terminal's Ctrl-C is for this process to handle
            )
        except BaseException:
            if log_end >= 0:
                os.close(log_end)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        return log_end

    def _start_draining(self, fd: int) -> None:
        self._thread = threading.Thread(
            target=_drain,
            args=(fd, self.log, self._process),
            kwargs={"done": self._done},
            name="llcuda-log",
            daemon=True,
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads
            self._close_pipe()
            self._process.wait()
            os.close(fd)
            raise ServerError(f"no thread could be started to read llama-server's log: {error}") from error

    def disown(self) -> None:
        """Give it up in a forked process, where it is the parent's."""
        self.owned = False
        self._pipe_lock = threading.RLock()  # the parent's thread that held the old one is not here
        self._close_pipe()
        process = getattr(self, "_process", None)
        if process is not None:
            process.returncode = 0  # its destructor would otherwise wait for a process that is not a child

    def __del__(self) -> None:
        """Close the pipe of one that nobody took: the guard then ends the program."""
        self._close_pipe()


def _drain(fd: int, log: Log, process: subprocess.Popen[bytes], *, done: threading.Event) -> None:
    """Read the log until the guard has ended. A relative of the program that keeps the pipe open is not waited for."""
    try:
        _read_until_end(fd, log, process.pid)
    finally:
        os.close(fd)
        process.wait()
        done.set()
        log.finish()


def _read_until_end(fd: int, log: Log, pid: int) -> None:
    ended = _open_process(pid)
    try:
        poll = select.poll()
        for watched in filter(lambda one: one >= 0, (fd, ended)):
            poll.register(watched, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if fd not in ready:
                return
            data = os.read(fd, _READ_BYTES)
            if not data:
                return
            log.feed(data)
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


def _watch_forks() -> None:
    # At the first start, not at import: importing changes nothing.
    if not hasattr(_watch_forks, "done"):
        os.register_at_fork(after_in_child=_disown_all)
        _watch_forks.done = True  # type: ignore[attr-defined]
