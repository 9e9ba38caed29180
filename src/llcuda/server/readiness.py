"""Wait for a llama-server: has it died, is it ready, is it getting on? And the two questions that a manager asks it."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.errors import ConnectionFailedError, RequestTimeoutError, ServerExitedError, ServerNotReadyError
from llcuda.server.failures import TAIL_LINES, classify_failure
from llcuda.transport.deadline import Deadline

if TYPE_CHECKING:
    from llcuda.server.failures import Launch
    from llcuda.server.launch import Child
    from llcuda.transport.address import Address


HTTP_OK = 200
_IS_IT_UP = "Is the loopback interface up? Run: ip link set lo up. A firewall may be the reason, too."
_LOOK_INTERVAL = 1.0  # seconds between looks at progress; a line that matters wakes at once
_EXIT_INTERVAL = 0.2  # seconds for a server that broke its connection to be seen dead


def wait_until_listening(child: Child, *, launch: Launch, timeout: float | None, stall_timeout: float) -> None:
    """Wait until the child's own log says where it listens: nobody else can write there, so the address is its own.

    Raises ServerNotReadyError after ``stall_timeout`` seconds without progress or ``timeout`` seconds in total, and
    what :func:`classify_failure` makes of a child that ended.
    """
    for module in ("llcuda.transport.sync", "llcuda.server.offload"):
        import_module(module)  # while llama-server loads, not after
    started = moved = monotonic()
    seen: tuple[int, ...] = ()
    while child.log.address is None:
        raise_failure(child, launch=launch)
        now = monotonic()
        if timeout is not None and now - started >= timeout:
            raise _not_ready(f"llama-server was not ready within {timeout:g} s", child, timeout)
        if now - moved >= stall_timeout:
            raise _not_ready(f"llama-server made no progress for {stall_timeout:g} s", child, stall_timeout)
        due = min(moved + stall_timeout, started + timeout if timeout is not None else moved + stall_timeout)
        child.log.wait(min(_LOOK_INTERVAL, due - now))
        progress = _measure(child)
        if progress != seen:
            seen, moved = progress, monotonic()


def check_answer(child: Child, address: Address, *, launch: Launch, timeout: float) -> None:
    """Ask the server for its health once. Raises ServerNotReadyError, or the failure of a child that ended."""
    try:
        status, _ = get(address, "/health", timeout=timeout)
    except (ConnectionFailedError, RequestTimeoutError) as error:
        child.wait(_EXIT_INTERVAL)
        raise_failure(child, launch=launch)
        reason = f"llama-server listens on {address.url} and does not answer: {error}"
        hint = _IS_IT_UP if isinstance(error, ConnectionFailedError) and not address.is_unix else ""
        raise _not_ready(reason, child, timeout, hint=hint) from error
    if status != HTTP_OK:
        raise _not_ready(f"llama-server's health check was answered with HTTP {status}", child, timeout)


def raise_failure(child: Child, *, launch: Launch) -> None:
    """Raise the error for a child that has ended; return if it runs."""
    if not child.ended:
        return
    if child.stop_asked:
        raise ServerExitedError(
            "llama-server was stopped while it was starting",
            returncode=child.returncode,
            log_tail=child.log.lines(TAIL_LINES),
        )
    raise classify_failure(child.log.lines(), child.returncode, launch=launch)


def get(address: Address, path: str, *, api_key: str | None = None, timeout: float) -> tuple[int, bytes]:
    """Return status and body of one GET. Raises ConnectionFailedError or RequestTimeoutError."""
    from llcuda.transport.base_transport import run  # noqa: PLC0415 - sockets are not needed to import a manager
    from llcuda.transport.sync import Transport  # noqa: PLC0415

    transport = Transport(address, api_key=api_key, user_agent="llcuda")
    try:
        response = run(transport.exchange("GET", path, body=None, deadline=Deadline(timeout)))
        return response.status, run(response.read_all())
    finally:
        transport.close()


def _measure(child: Child) -> tuple[int, ...]:
    pid = find_child(child.pid) if child.pid else None
    return (child.log.count, *(measure_progress(pid) if pid else ()))


def _not_ready(reason: str, child: Child, timeout: float, *, hint: str = "") -> ServerNotReadyError:
    return ServerNotReadyError(reason, timeout=timeout, log_tail=child.log.lines(TAIL_LINES), hint=hint)


def find_child(pid: int) -> int | None:
    """Return the process id of the first child of ``pid``, or None if it has none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(children[0]) if children else None


def measure_progress(pid: int) -> tuple[int, int]:
    """Return the bytes that ``pid`` has read, from files and from disk, and its resident memory in pages.

    Reading a mapped model shows in the second and the third only, and in the third alone when it is cached. Zeros stand
    for what the kernel does not show.
    """
    read = resident = 0
    with suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
        read = sum(int(line.split()[1]) for line in lines if line.startswith(("rchar:", "read_bytes:")))
    with suppress(OSError, ValueError, IndexError):
        resident = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return read, resident
