"""Which requests a worker has died of: suspected after one death, refused after another that was theirs alone."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llcuda.fleet.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Suspects", "refuse"]

_REMEMBERED_SECONDS = 600.0
_MAX_REMEMBERED = 1024


@dataclass(slots=True)
class _Record:
    kills: int = 0
    """How often a worker was killed by somebody else while it answered nothing but this request."""
    is_proved: bool = False
    until: float = 0.0


class Suspects:
    """The requests of one model that were under way when a worker died, for ten minutes.

    A request is known by a hash of where it goes and of its body.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Suspect nobody; ``now`` is a clock."""
        self._now = now
        self._records: OrderedDict[int, _Record] = OrderedDict()

    def is_suspect(self, request: int) -> bool:
        """Tell whether it is to have a worker to itself. Raises RefusedError (422) if it has ended two workers."""
        record = self._records.get(request)
        if record is None or record.until < self._now():
            return False
        if record.is_proved:
            raise refuse()
        return True

    def suspect(self, request: int) -> None:
        """Note that a worker has died while it answered this request and others."""
        self._remember(request)

    def suspect_all(self, requests: Iterable[int]) -> None:
        """Note that a worker has died that may still have computed what these requests asked for."""
        for request in requests:
            self.suspect(request)

    def prove(self, request: int, *, was_killed: bool) -> bool:
        """Note that a worker has died that answered nothing else, and return whether that is proof.

        A worker that was killed (SIGKILL) is none the first time: the kernel, if memory is short, may have meant the
        request, and somebody else not.
        """
        record = self._remember(request)
        record.kills += was_killed
        record.is_proved = record.is_proved or not was_killed or record.kills > 1
        return record.is_proved

    def clear(self, request: int) -> None:
        """Note that a worker has answered it, and lives."""
        self._records.pop(request, None)

    def _remember(self, request: int) -> _Record:
        """Return what is known of a request, which is kept for ten minutes from now."""
        now = self._now()
        record = self._records.pop(request, None)
        if record is None or record.until < now:
            record = _Record()
        record.until = now + _REMEMBERED_SECONDS
        self._records[request] = record
        if len(self._records) > _MAX_REMEMBERED:
            self._records.popitem(last=False)
        return record


def refuse() -> RefusedError:
    """Return what is said of a request that has ended two workers."""
    return RefusedError(
        422,
        "llama-server has died twice while it answered this request, so it is not tried again for ten minutes; "
        "change the request, and please report it",
        code="fatal_request",
    )
