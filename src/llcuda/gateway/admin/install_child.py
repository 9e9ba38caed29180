"""The process that plans, installs and goes back for a gateway: what it does, in lines of JSON on its stdout.

It is a process of its own because it can be ended at any moment, whatever it waits for: a network, another installer's
lock, a driver. It ends itself when its stdin does, which is when the gateway has died.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from logging import Handler, getLogger
from typing import TYPE_CHECKING, Any, TextIO

from llcuda.devices import choose_backend, find_devices
from llcuda.errors import InstallError, LlcudaError
from llcuda.installer import BinaryInstaller
from llcuda.native import binaries_dir, find_backends, find_executable

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import LogRecord

    from llcuda.installer import Bundle, Plan
    from llcuda.native import InstalledBundle

__all__ = ["describe_plan", "main"]

_INTERVAL = 0.2
"""Seconds between two lines of the same step."""
_PATIENCE = 2.0
"""Seconds to clear up in, after which the process ends all the same."""
_OWN_SERVER = "the llama-server in use is one of your own, and chooses its devices itself"
_MESSAGES = {
    "download": "downloading the bundle",
    "unpack": "unpacking it and comparing every file with its digest",
    "prove": "loading the demo model with it and asking three questions",
    "activate": "putting it into use",
}


def main(action: str, source: str | None) -> int:
    """Do what ``action`` says: ``plan``, ``install`` or ``rollback``; the last line has ``result`` or ``error``."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anybody prints is none of the lines
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_stdin, name="llcuda-install-end", daemon=True).start()
    lines = _Lines(out)
    getLogger("llcuda").addHandler(_Relay(lines))
    try:
        lines.write({"result": _ACTIONS[action](source, lines)})
    except LlcudaError as error:
        lines.write({"error": {"message": error.message, "hint": error.hint}})
    return 0


class _Lines:
    """Writes what is going on, not more often than anybody can read it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._step = ""
        self._written = 0.0

    def write(self, value: dict[str, Any]) -> None:
        self._out.write(f"{json.dumps(value)}\n")
        self._out.flush()

    def tell(self, step: str, done: int = 0, total: int | None = None, *, message: str = "") -> None:
        now = time.monotonic()
        if step == self._step and done != total and now - self._written < _INTERVAL and not message:
            return
        self._step, self._written = step, now
        self.write({"step": step, "done": done, "total": total, "message": message or _MESSAGES.get(step, step)})

    def remark(self, message: str) -> None:
        """Say something about the step that goes on."""
        self.tell(self._step or "download", message=message)


class _Relay(Handler):
    """Passes on what the installer warns of: that another one is at work, or that a download is tried again."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: LogRecord) -> None:
        self._lines.remark(record.getMessage())


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)


def _plan(source: str | None, _lines: _Lines) -> dict[str, Any]:
    installer = BinaryInstaller(source=source, progress=False)
    installed = [bundle for bundle in installer.list_installed() if bundle.is_backend]
    try:
        plan = _find_backend(installer)
    except LlcudaError as error:
        return describe_plan(None, installed=installed, reason=f"{error.message} {error.hint}".strip())
    return describe_plan(plan, installed=installed, carried=_find_carried(), is_own_server=_is_own_server())


def describe_plan(
    plan: Plan | None,
    *,
    installed: list[InstalledBundle],
    reason: str = "",
    carried: str | None = None,
    is_own_server: bool = False,
) -> dict[str, Any]:
    """Return what an upgrade would do, and why none is possible if none is.

    ``carried`` is the backend of the package that this machine's GPUs run with, if it has one.
    """
    bundle = plan.bundle if plan else None
    reason = reason or (_find_obstacle(bundle, installed, carried, is_own_server=is_own_server) if bundle else "")
    present = next((one for one in installed if bundle and one.profile == bundle.profile), None)
    current = present or (installed[-1] if installed else None)
    return {
        "possible": not reason,
        "reason": reason or None,
        "backend": bundle.profile if bundle else None,
        "download_bytes": None if plan is None else plan.bundle.bytes if plan.source.is_remote else 0,
        "installed": describe_installed(current) if current else None,
    }


def _find_obstacle(
    bundle: Bundle, installed: list[InstalledBundle], carried: str | None, *, is_own_server: bool
) -> str:
    if is_own_server:
        return f"{_OWN_SERVER[0].upper()}{_OWN_SERVER[1:]}."
    if any(one.sha256 == bundle.sha256 for one in installed):
        return f"The CUDA backend {bundle.profile} is installed already; a reload takes it into use."
    if bundle.profile == carried:
        return f"The package carries the CUDA backend {bundle.profile} already."
    return ""


def describe_installed(bundle: InstalledBundle) -> dict[str, Any]:
    """Return a bundle as plain data, without the folder that it is in."""
    facts = asdict(bundle)
    return {"backend": facts["profile"], **{name: facts[name] for name in ("sha256", "source", "date", "proof")}}


def _find_backend(installer: BinaryInstaller) -> Plan:
    plan = installer.plan()
    if not plan.bundle.is_backend:
        raise InstallError(plan.bundle.name, "it holds llama.cpp's executables and no CUDA backend")
    return plan


def _find_carried() -> str | None:
    backend = choose_backend(find_devices(), find_backends(binaries_dir())).backend
    return backend.name if backend else None


def _is_own_server() -> bool:
    return find_executable("llama-server").parent != binaries_dir().absolute()


def _install(source: str | None, lines: _Lines) -> dict[str, Any]:
    installer = BinaryInstaller(source=source, progress=False, on_step=lines.tell)
    before = {bundle.sha256 for bundle in installer.list_installed()}
    plan = _find_backend(installer)
    if _is_own_server():
        raise InstallError(plan.bundle.name, _OWN_SERVER)
    installed = installer.install(plan)
    return {"installed": describe_installed(installed), "changed": installed.sha256 not in before}


def _roll_back(_source: str | None, lines: _Lines) -> dict[str, Any]:
    lines.tell("activate", message="going back to what was in use before")
    left = [describe_installed(bundle) for bundle in BinaryInstaller(progress=False).rollback()]
    return {"installed": left[-1] if left else None, "changed": True}


_ACTIONS: dict[str, Callable[[str | None, _Lines], dict[str, Any]]] = {
    "plan": _plan,
    "install": _install,
    "rollback": _roll_back,
}
