"""Several generations at a time, in threads."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llcuda.client.requests import Generation
    from llcuda.client.results import InferResult
    from llcuda.client.streams import TextStream

__all__ = ["run_all"]


class _Batch:
    """The streams in flight, so that all of them can be ended when one fails."""

    def __init__(self, start: Callable[[Generation], TextStream]) -> None:
        self._start = start
        self._lock = Lock()
        self._live: set[TextStream] = set()
        self._stopped = False

    def run(self, generation: Generation) -> InferResult | None:
        """Generate one text; None where the batch was stopped before its turn."""
        if self._stopped:
            return None
        with self._start(generation) as stream:
            if not self._register(stream):
                return None
            try:
                for _ in stream:
                    pass
            finally:
                with self._lock:
                    self._live.discard(stream)
            return stream.result

    def _register(self, stream: TextStream) -> bool:
        """Note that a stream is in flight, unless the batch was stopped meanwhile."""
        with self._lock:
            if not self._stopped:
                self._live.add(stream)
            return not self._stopped

    def stop(self) -> None:
        """End every generation in flight, and begin no other."""
        with self._lock:
            self._stopped = True
            for stream in self._live:
                stream.abort()


def run_all(
    start: Callable[[Generation], TextStream], generations: Sequence[Generation], *, workers: int
) -> list[InferResult]:
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
