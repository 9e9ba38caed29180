"""The states of a replica."""

from __future__ import annotations

from enum import Enum

__all__ = ["DEAD", "EXPECTED", "GONE", "State"]


class State(str, Enum):
    """What a replica is doing; JSON has the value.

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
        """Return the value."""
        return self.value


EXPECTED = frozenset({State.READY, State.STARTING, State.SILENT, State.WAITING})
"""Those of a replica that is worth waiting for."""
DEAD = frozenset({State.WAITING, State.FAILED})
"""Those of one that has ended by itself."""
GONE = DEAD | {State.STOPPING, State.STOPPED}
"""Those of one that has no connections."""
