"""Several generations at a time, in threads."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Lock
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llcuda.client.requests import Generation
    from llcuda.client.results import InferResult
    from llcuda.client.streams import TextStream
    from llcuda.transport.base_transport import Handle

_STOPPED = "another request of the batch failed"


class Start(Protocol):
    """Sends a request, and gives before that what it can be ended with."""

    def __call__(self, generation: Generation, on_begin: Callable[[Handle], object]) -> TextStream:
        """Return the stream."""


class _Batch:
    """The requests in flight, so that all of them can be ended when one fails."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lock = Lock()
        self._live: set[Handle] = set()
        self._stopped = False

    def run(self, generation: Generation) -> InferResult | None:
        """Generate one text; None if the batch was stopped before its turn."""
        if self._stopped:
            return None
        begun: list[Handle] = []

        def register(handle: Handle) -> None:
            begun.append(handle)
            with self._lock:
                self._live.add(handle)
                if self._stopped:
                    handle.end(_STOPPED)

        try:
            return self._start(generation, register).read_all()
        finally:
            with self._lock:
                self._live.difference_update(begun)

    def stop(self) -> None:
        """End every generation in flight, and begin no other."""
        with self._lock:
            self._stopped = True
            for handle in self._live:
                handle.end(_STOPPED)


def run_all(start: Start, generations: Sequence[Generation], *, workers: int) -> list[InferResult]:
    """Return the results in the order of the generations; the first failure ends all of them and is raised."""
    batch = _Batch(start)
    with ThreadPoolExecutor(workers, thread_name_prefix="llcuda-batch") as pool:
        futures = [pool.submit(batch.run, generation) for generation in generations]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((future for future in futures if future in done and future.exception()), None)
        except BaseException:
            batch.stop()
            raise
        if failed is not None:
            batch.stop()
            failed.result()
    return [result for future in futures if (result := future.result()) is not None]
