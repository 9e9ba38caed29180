"""The replicas of one model: started together, replaced one after the other, stopped when what they do is done."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.engine.settle import settle
from llcuda.errors import LlcudaError, OutOfMemoryError, ServerError
from llcuda.fleet.processes.loads import prepare_loads
from llcuda.fleet.processes.replica import Replica
from llcuda.fleet.processes.socket_folder import SocketFolder
from llcuda.fleet.processes.spare_memory import has_room
from llcuda.fleet.timeouts import timeout
from llcuda.server.memory import read_free_memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llcuda.engine.load import Load
    from llcuda.fleet.model_config import ModelConfig
    from llcuda.models import ModelFile

__all__ = ["Fleet"]

_GRACE = 30.0
_RETRY_INTERVAL = 10.0
"""Seconds for which a failure answers whoever asks for the model, before it is tried again."""
_REVIVE_INTERVAL = 60.0
_IDLE = ("stopped", "failed")


class Fleet:
    """The replicas of one model, for one event loop.

    ``replicas`` is what there is just now; only those that are ``ready`` may be asked. ``drain`` is awaited, for at
    most the seconds of grace, before a replica is stopped: it is to return when nothing of the replica's is in flight.
    Starts, reloads and stops wait for each other, but for a stop that comes while something starts: it ends that.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        workers_before: int = 0,
        workers_in_all: int | None = None,
        hang_timeout: float = 10.0,
        drain: Callable[[Replica], Awaitable[object]] | None = None,
        on_change: Callable[[Replica], object] | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        ``on_change`` is called at each change of a replica's state. ``workers_before`` is how many workers the models
        before this one have: each model's are kept to other cores, as long as there are any. ``workers_in_all``, of all
        models, share the memory for old prompts.
        """
        self.config = config
        self.replicas: tuple[Replica, ...] = ()
        self.last_error: LlcudaError | None = None
        """Why the last start on demand failed; None where it did not."""
        self._failed_at = 0.0
        self._workers_before = workers_before
        self._workers_in_all = workers_in_all
        self._hang_timeout = hang_timeout
        self._drain = drain
        self._on_change = on_change
        self._folder: SocketFolder | None = None
        self._made = 0
        self._lock = asyncio.Lock()
        self._left = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._revivals: set[asyncio.Future[LlcudaError | None]] = set()

    @property
    def is_ready(self) -> bool:
        """Whether any replica may be asked."""
        return any(replica.state == "ready" for replica in self.replicas)

    @property
    def model(self) -> ModelFile | None:
        """The model that is loaded; None where none is."""
        return self.replicas[0].load.model if self.replicas else None

    async def start(self) -> None:
        """Find the model, start every replica that does not run, and return when all are ready.

        Raises the first failure; what had been started is stopped then.
        """
        async with self._lock:
            idle = [replica for replica in self.replicas if replica.state in _IDLE]
            failures = await self._start()
            if failures:
                await self._stop(tuple(idle) or self.replicas, 0)
                raise failures[0]

    async def ensure_started(self) -> None:
        """Return at once where a replica is ready, else after a start that all callers share.

        Raises why none can be started; for ten seconds after that, nothing is tried again. Where others are ready, a
        replica that has failed is tried again behind the callers' backs, once a minute at most.
        """
        if self.is_ready:
            self._revive()
            return
        if self.last_error is not None and monotonic() - self._failed_at < _RETRY_INTERVAL:
            raise self.last_error.with_traceback(None)
        if self._starting is None or self._starting.done():
            self._starting = asyncio.ensure_future(self._start_on_demand())
        await asyncio.shield(self._starting)

    async def stop(self, grace: float = _GRACE) -> None:
        """Let what is in flight end, within ``grace`` seconds, stop every replica, and remove the folder."""
        self._left.set()
        try:
            await asyncio.gather(*(replica.stop() for replica in self.replicas if replica.state == "starting"))
            async with self._lock:
                await self._stop(self.replicas, grace)
                if self._folder is not None:
                    self._folder.remove()
                    self._folder = None
        finally:
            self._left.clear()

    async def unload(self, grace: float = _GRACE) -> None:
        """Free the memory, as :meth:`stop` does; :meth:`ensure_started` loads the model again."""
        await self.stop(grace)

    async def reload(self, grace: float = _GRACE) -> None:
        """Find the model anew, and replace one replica after the other by a new one, without one less in between.

        Where the memory does not hold one more, the old one is stopped before the new one is started. Raises why a new
        one does not start; the old ones that were not replaced by then go on.
        """
        async with self._lock:
            loads = await self._prepare()
            old = self.replicas
            for number, load in enumerate(loads):
                await self._replace(old[number] if number < len(old) else None, load, grace=grace)
            await self._stop(old[len(loads) :], grace)

    async def _start_on_demand(self) -> None:
        async with self._lock:
            failures = [] if self.is_ready else await self._start()
            self.last_error = None
            if failures and not self.is_ready:
                # Forgotten, so that the next start looks at the model anew.
                await self._stop(self.replicas, 0)
                if not self._left.is_set():
                    self.last_error, self._failed_at = failures[0], monotonic()
                raise failures[0]

    async def _start(self) -> list[LlcudaError]:
        """Start what does not run, all at the same time, and return the failures."""
        try:
            if not self.replicas:
                self.replicas = tuple(self._make(load) for load in await self._prepare())
        except LlcudaError as error:
            return [error]
        results = await asyncio.gather(*(_try_start(replica) for replica in self.replicas))
        return [error for error in results if error is not None]

    def _revive(self) -> None:
        for replica in self.replicas:
            if replica.failed_at is not None and monotonic() - replica.failed_at > _REVIVE_INTERVAL:
                task = asyncio.ensure_future(_try_start(replica))
                self._revivals.add(task)
                task.add_done_callback(self._revivals.discard)

    async def _prepare(self) -> tuple[Load, ...]:
        """Find the model, which may take a download, and see to the folder. Raises ServerError at a stop meanwhile."""
        work = asyncio.ensure_future(asyncio.to_thread(self._prepare_blocking))
        left = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if self._left.is_set():
                raise ServerError(f"the model {self.config.name} was stopped while it was starting")
            self._folder, loads = work.result()
        finally:
            work.cancel()
            left.cancel()
        return loads

    def _prepare_blocking(self) -> tuple[SocketFolder, tuple[Load, ...]]:
        loads = prepare_loads(
            self.config, workers_before=self._workers_before, workers_in_all=self._workers_in_all
        )
        return self._folder or SocketFolder(), loads

    async def _replace(self, old: Replica | None, load: Load, *, grace: float) -> None:
        is_replaced = old is not None and await self._start_beside(old, load)
        if old is not None:
            await self._stop((old,), grace)
        if not is_replaced:
            await self._add(load)

    async def _start_beside(self, old: Replica, load: Load) -> bool:
        """Start a new replica beside the ``old`` one; return whether there was room for both."""
        if not await asyncio.to_thread(_has_room, old):
            return False
        try:
            # One step down the ladder would make room, and the new one smaller than the old.
            replica = await self._add(replace(load, fallback="error"))
        except OutOfMemoryError:
            return False
        replica.load = load
        return True

    async def _add(self, load: Load) -> Replica:
        replica = self._make(load)
        self.replicas = (*self.replicas, replica)
        error = await _try_start(replica)
        if error is not None:
            await self._stop((replica,), 0)
            raise error
        return replica

    def _make(self, load: Load) -> Replica:
        if self._folder is None or self._left.is_set():
            raise ServerError(f"the model {self.config.name} is being stopped")
        number = self._made
        self._made += 1
        return Replica(
            f"{self.config.name}/{number}",
            load,
            socket_path=self._folder.path / f"{number}.sock",
            hang_timeout=self._hang_timeout,
            on_change=self._on_change,
        )

    async def _stop(self, replicas: tuple[Replica, ...], grace: float) -> None:
        """Drain and stop the replicas, all at the same time, and forget them."""
        await asyncio.gather(*(self._stop_one(replica, grace) for replica in replicas))
        self.replicas = tuple(replica for replica in self.replicas if replica not in replicas)
        if self._on_change is not None:
            for replica in replicas:
                self._on_change(replica)  # it is forgotten only now

    async def _stop_one(self, replica: Replica, grace: float) -> None:
        replica.drain()
        if self._drain is not None and replica.state == "draining" and grace > 0:
            with suppress(asyncio.TimeoutError):
                async with timeout(grace):
                    await self._drain(replica)
        await replica.stop()


async def _try_start(replica: Replica) -> LlcudaError | None:
    try:
        await replica.start()
    except LlcudaError as error:
        return error
    return None


def _has_room(replica: Replica) -> bool:
    """Return whether there is room for one more like ``replica``, asking the driver where it uses a GPU."""
    from llcuda.devices import find_devices  # noqa: PLC0415 - only where something is replaced

    report = replica.device_report
    if report is None:
        return False
    gpus = find_devices(refresh=True).gpus if report.device == "cuda" else ()
    settle(replica.load.placement)
    return has_room(
        report,
        gpus_free_mib={gpu.uuid: gpu.memory_free_mib for gpu in gpus},
        memory_free_mib=read_free_memory(),
    )
