"""The states of a worker's server, and what is known of every such server."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from llcuda.engine import DeviceReport
    from llcuda.errors import LlcudaError
    from llcuda.transport.address import Address

__all__ = ["DEAD", "EXPECTED", "GONE", "State", "WatchedServer"]


class State(str, Enum):
    """What a server is doing; JSON has the value.

    ========  ==============================================  ====================================================
    state     it means                                        it becomes
    ========  ==============================================  ====================================================
    stopped   there is none                                   starting, by start
    starting  it loads the model                              ready; waiting or failed, if it did not; stopping
    ready     it answers, and may be asked                    silent; draining; waiting, by its death; stopping
    silent    it has not answered for 750 ms                  ready, after two good answers; draining; waiting, by its
                                                              death or once it is given up and killed; stopping
    draining  it is asked no more, and finishes what it has   stopping; failed, by its death
    waiting   it has died, and is started anew in a moment    starting; failed, once the budget is spent; stopping
    stopping  it was told to end                              stopped
    failed    it cannot be started: last_error says why       starting, by start; stopped, by stop
    ========  ==============================================  ====================================================
    """

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    SILENT = "silent"
    DRAINING = "draining"
    WAITING = "waiting"
    STOPPING = "stopping"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


EXPECTED = frozenset({State.READY, State.STARTING, State.SILENT, State.WAITING})
"""Those of a server that is worth waiting for."""
DEAD = frozenset({State.WAITING, State.FAILED})
"""Those of one that has ended by itself."""
GONE = DEAD | {State.STOPPING, State.STOPPED}
"""Those of one that has no connections."""


class WatchedServer:
    """A llama-server of this machine, or a server on another one, in a :class:`State`."""

    is_remote = False
    """Whether it is on another machine, and neither started nor ended here."""
    tls: ssl.SSLContext | None = None
    """What connections to it are made with, if it is behind TLS."""
    heard_at = 0.0
    """When bytes last came from it, as ``time.monotonic`` counts."""
    restarts = 0
    """How often it was started anew, or was lost and came back."""
    last_error: LlcudaError | None = None
    """Why it last ended or did not start; kept when it runs again."""
    failed_at: float | None = None
    """When it failed, as ``time.monotonic`` counts; None if it has not since it was last ready."""
    device_report: DeviceReport | None = None
    """What it runs on, if that is known."""

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        slots: int,
        api_key: str | None,
        hang_timeout: float,
        on_change: Callable[[Any], object],
    ) -> None:
        """Be stopped. ``on_change`` is called on the loop at each change of the state."""
        self.name = name
        self.address = address
        self.slots = slots
        """How many requests it answers at a time."""
        self.api_key = api_key
        """The key that it asks for."""
        self.hang_timeout = hang_timeout
        self.state = State.STOPPED
        self._on_change = on_change

    @property
    def pid(self) -> int | None:
        """The process id of llama-server, while it runs on this machine."""
        return None

    @property
    def was_killed(self) -> bool:
        """Whether it last ended by a signal that only others send, or fell silent on another machine."""
        return False

    async def start(self) -> None:
        """Begin to start it, or to watch it, and return when it is ready or is known not to be. Raises why."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End it, or watch it no more, and return when that is done."""
        raise NotImplementedError

    def give_up(self, reason: str) -> None:
        """Kill it and start it anew, if it is a process of this machine."""

    def drain(self) -> None:
        """Let it be asked no more. What it has begun goes on until it is stopped."""
        if self.state in {State.READY, State.SILENT}:
            self._set(State.DRAINING)

    def note_silence(self, *, is_silent: bool) -> None:
        """Take note that it has fallen silent, or is back."""
        if self.state in {State.READY, State.SILENT}:
            self._set(State.SILENT if is_silent else State.READY)

    def _set(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(self)
