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
    from llcuda.transport.sync import Exchange

__all__ = ["run_all"]


class Start(Protocol):
    """Sends a request, and tells of the exchange before it waits for the answer."""

    def __call__(self, generation: Generation, on_open: Callable[[Exchange], object]) -> TextStream: ...


class _Batch:
    """The exchanges in flight, so that all of them can be ended when one fails."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lock = Lock()
        self._live: set[Exchange] = set()
        self._stopped = False

    def run(self, generation: Generation) -> InferResult | None:
        """Generate one text; None where the batch was stopped before its turn."""
        if self._stopped:
            return None
        opened: list[Exchange] = []

        def register(exchange: Exchange) -> None:
            opened.append(exchange)
            with self._lock:
                self._live.add(exchange)
                if self._stopped:
                    exchange.abort()

        try:
            return self._start(generation, register).read_all()
        finally:
            with self._lock:
                self._live.difference_update(opened)

    def stop(self) -> None:
        """End every generation in flight, and begin no other."""
        with self._lock:
            self._stopped = True
            for exchange in self._live:
                exchange.abort()


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
