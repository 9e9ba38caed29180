"""The folder that holds the sockets of one fleet: nobody else can enter it, and it does not outlive its owner for long.

Its name carries the process id and the start time of its owner, and the owner holds a lock on it, which the kernel
gives back however the owner ends. What a killed gateway has left is removed by the next one: only a folder of this
user, of that name, that nobody else can enter, whose owner is dead and whose lock is free. In another container process
ids mean other processes; the lock is what tells there.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda.errors import UsageError
from llcuda.transport.address import MAX_SOCKET_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SocketFolder", "choose_parent", "list_parents", "parse_owner", "remove_leftovers"]

_NAME = re.compile(r"llcuda-(\d+)-(\d+)-\w+")
_LONGEST_REST = len("/llcuda-4194304-18446744073709551615-abcdefgh/4294967295.sock")


def parse_owner(name: str) -> tuple[int, int] | None:
    """Return the process id and the start time that a folder's name carries; None if it is no name of ours."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def choose_parent(folders: Iterable[Path]) -> Path:
    """Return the first of the folders in which a socket's path is short enough.

    Raises UsageError if there is none.
    """
    tried = list(folders)
    for folder in tried:
        if len(os.fsencode(folder)) + _LONGEST_REST <= MAX_SOCKET_BYTES:
            return folder
    raise UsageError(
        f"no folder for sockets has a short enough path: {', '.join(map(str, tried)) or 'none can be written to'}",
        hint="Set XDG_RUNTIME_DIR or TMPDIR to a folder with a short path.",
    )


def list_parents() -> list[Path]:
    """Return the folders in which one for sockets may be made: the user's own for that, then the temporary ones."""
    folders = dict.fromkeys([os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"])  # noqa: S108
    return [Path(name) for name in folders if name.startswith("/") and os.access(name, os.W_OK | os.X_OK)]


class SocketFolder:
    """A new folder, until it is removed, collected as garbage, or the interpreter exits."""

    def __init__(self) -> None:
        """Make it and lock it, and remove what dead owners have left beside it."""
        parents = list_parents()
        remove_leftovers(parents)
        pid = os.getpid()
        prefix = f"llcuda-{pid}-{_read_start_time(pid)}-"
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=choose_parent(parents)))
        lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._finalizer = weakref.finalize(self, _give_back, self.path, lock, pid)

    def remove(self) -> None:
        """Remove it with the sockets in it; what else somebody has put there stays, and so does the folder then."""
        self._finalizer()


def remove_leftovers(parents: Iterable[Path]) -> list[Path]:
    """Remove the folders of dead owners, and return which they were. What cannot be judged is left alone."""
    removed = []
    for parent in parents:
        with suppress(OSError), os.scandir(parent) as entries:
            removed += [Path(entry.path) for entry in entries if _is_abandoned(entry.name) and _clear(entry.path)]
    return removed


def _is_abandoned(name: str) -> bool:
    owner = parse_owner(name)
    return owner is not None and _read_start_time(owner[0]) != owner[1]


def _clear(path: str) -> bool:
    """Remove one folder, if it is this user's alone and nobody holds its lock; return whether it is gone."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
            return False
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _remove(Path(path), folder)
    except OSError:  # somebody holds the lock
        return False
    finally:
        os.close(folder)


def _give_back(path: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:
        _remove(path, lock)
    os.close(lock)


def _remove(path: Path, folder: int) -> bool:
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)]:
            os.unlink(name, dir_fd=folder)
    with suppress(OSError):
        path.rmdir()
        return True
    return False


def _read_start_time(pid: int) -> int:
    """Return when the process started, in the kernel's ticks since the machine did; 0 if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])
