"""The replicas of one model, here and on other machines: started together, replaced one after the other, stopped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from logging import getLogger
from time import monotonic
from typing import TYPE_CHECKING

from llcuda.engine.load import can_chat
from llcuda.engine.placement import settle
from llcuda.errors import LlcudaError, OutOfMemoryError, ServerError
from llcuda.fleet.dispatch.worker import Worker
from llcuda.fleet.processes.machine_shares import Share, has_room, prepare_loads
from llcuda.fleet.processes.replica import Replica
from llcuda.fleet.processes.socket_folder import SocketFolder
from llcuda.fleet.remotes.remote import Remote
from llcuda.fleet.remotes.resolver import follow_name
from llcuda.fleet.states import State
from llcuda.fleet.timeouts import until
from llcuda.server.free_memory import read_free_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llcuda.engine.load import Load
    from llcuda.fleet.model_config import ModelConfig, RemoteConfig
    from llcuda.fleet.states import WatchedServer
    from llcuda.models import ModelFile

__all__ = ["Fleet"]

_GRACE = 30.0
_RETRY_INTERVAL = 10.0
"""Seconds for which a failure answers whoever asks for the model, before it is tried again."""
_REVIVE_INTERVAL = 60.0
_IDLE = (State.STOPPED, State.FAILED)


class Fleet:
    """The replicas of one model, for one event loop, each with the worker that requests see of it.

    A replica is stopped when nothing of its worker's is in flight, or after the seconds of grace. Starts, reloads and
    stops wait for each other, but for a stop that comes while something starts: it ends that.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        share: Share = Share(),  # noqa: B008 - it never changes
        hang_timeout: float = 10.0,
        on_change: Callable[[], object] = lambda: None,
        on_death: Callable[[Iterable[int]], object] = lambda _: None,
    ) -> None:
        """Prepare; nothing is started yet.

        ``on_change`` is called when a replica's state has changed, and when its worker can be used again; ``on_death``
        when a replica has ended by itself, with the requests that were given up and that it may still have computed.
        """
        self.config = config
        self.last_error: LlcudaError | None = None
        """Why the last start on demand failed; None if it did not."""
        self.can_chat = True
        """Whether the model that was last loaded here has a chat template; True if none was."""
        self._failed_at = 0.0
        self.workers: dict[WatchedServer, Worker] = {}
        """What there is just now; only those that are ready may be asked."""
        self._names: dict[RemoteConfig, asyncio.Task[None]] = {}
        self._share = share
        self._hang_timeout = hang_timeout
        self._on_change = on_change
        self._on_death = on_death
        self._folder: SocketFolder | None = None
        self._made = 0
        self._lock = asyncio.Lock()
        self._left = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._revivals: set[asyncio.Future[LlcudaError | None]] = set()

    @property
    def replicas(self) -> tuple[WatchedServer, ...]:
        """The servers that there are just now."""
        return tuple(self.workers)

    @property
    def _locals(self) -> tuple[Replica, ...]:
        return tuple(one for one in self.workers if isinstance(one, Replica))

    @property
    def _remotes(self) -> tuple[Remote, ...]:
        return tuple(one for one in self.workers if isinstance(one, Remote))

    @property
    def is_ready(self) -> bool:
        """Whether any replica may be asked."""
        return State.READY in [replica.state for replica in self.workers]

    @property
    def model(self) -> ModelFile | None:
        """The model that is loaded on this machine; None if none is."""
        return next((replica.load.model for replica in self._locals), None)

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
        """Return at once if a replica is ready, else after a start that all callers share.

        Raises why none can be started; for ten seconds after that, nothing is tried again. If others are ready, a
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
        """Let what is in flight end, within ``grace`` seconds, stop every replica, and remove the folder.

        Those of other machines go on; they are asked no more. :meth:`ensure_started` loads the model again.
        """
        self._left.set()
        try:
            await self._forget_names(tuple(self._names))
            await asyncio.gather(*(replica.stop() for replica in self.replicas if replica.state is State.STARTING))
            async with self._lock:
                await self._stop(self.replicas, grace)
                if self._folder is not None:
                    self._folder.remove()
                    self._folder = None
        finally:
            self._left.clear()

    async def reload(self, grace: float = _GRACE) -> None:
        """Find the model anew, and replace one replica after the other by a new one, without one less in between.

        If the memory does not hold one more, the old one is stopped before the new one is started. Raises why a new
        one does not start; the old ones that were not replaced by then go on. Workers of other machines come and go as
        the configuration says.
        """
        async with self._lock:
            await self._have_remotes(grace)
            loads = await self._prepare()
            old = self._locals
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
                    getLogger("llcuda.gateway").warning("%s does not start: %s", self.config.name, failures[0].message)
                raise failures[0]

    async def _start(self) -> list[LlcudaError]:
        """Start what does not run, all at the same time, and return the failures."""
        try:
            await self._have_remotes(0)
            if not self._locals:
                for load in await self._prepare():
                    self._make(load)
        except LlcudaError as error:
            return [error]
        results = await asyncio.gather(*(_try_start(replica) for replica in self._locals))
        return [error for error in results if error is not None]

    def _revive(self) -> None:
        for replica in self.workers:
            if replica.failed_at is not None and monotonic() - replica.failed_at > _REVIVE_INTERVAL:
                task = asyncio.ensure_future(_try_start(replica))
                self._revivals.add(task)
                task.add_done_callback(self._revivals.discard)

    async def _prepare(self) -> tuple[Load, ...]:
        """Find the model, which may take a download, and see to the folder. Raises ServerError at a stop meanwhile."""
        if not self.config.workers:
            return ()
        work = asyncio.ensure_future(asyncio.to_thread(self._prepare_blocking))
        left = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if self._left.is_set():
                raise ServerError(f"the model {self.config.name} was stopped while it was starting")
            self._folder, loads = work.result()
            self.can_chat = all(can_chat(load.model, load.options) for load in loads)
        finally:
            work.cancel()
            left.cancel()
        return loads

    def _prepare_blocking(self) -> tuple[SocketFolder, tuple[Load, ...]]:
        loads = prepare_loads(self.config, self._share)
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
        replica = Replica(
            f"{self.config.name}/{number}",
            load,
            socket_path=self._folder.path / f"{number}.sock",
            hang_timeout=self._hang_timeout,
            on_change=self._note_state,
        )
        self.workers[replica] = self._make_worker(replica)
        return replica

    def _make_worker(self, server: WatchedServer) -> Worker:
        return Worker(server, on_free=self._on_change, on_death=self._on_death)

    def _note_state(self, server: WatchedServer) -> None:
        if worker := self.workers.get(server):
            worker.note_state()
            self._on_change()

    async def _have_remotes(self, grace: float) -> None:
        """Have the workers of other machines that the configuration says, and no others. Raises why that cannot be."""
        wanted = self.config.remotes
        await self._forget_names([one for one in self._names if one not in wanted])
        await self._stop([one for one in self._remotes if one.config not in wanted], grace)
        names = [self._follow_name(one) for one in wanted if one.is_name and one not in self._names]
        hosts = [self._have(one, frozenset({one.address.host})) for one in wanted if not one.is_name]
        await asyncio.gather(*names, *hosts)

    async def _follow_name(self, config: RemoteConfig) -> None:
        """Have the workers that a name leads to, from now on; return when it has been looked up.

        Raises why that cannot be done, and ServerError at a stop meanwhile.
        """
        looked = asyncio.Event()

        async def note(hosts: frozenset[str] | None) -> None:
            if hosts is not None:
                await self._have(config, hosts)
            looked.set()

        self._names[config] = task = asyncio.ensure_future(follow_name(config.address.host, note))
        first = asyncio.ensure_future(looked.wait())
        await asyncio.wait({task, first}, return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
        if task.cancelled():
            raise ServerError(f"the model {self.config.name} was stopped while it was starting")
        if task.done():
            self._names.pop(config, None)
            task.result()

    async def _forget_names(self, configs: Sequence[RemoteConfig]) -> None:
        tasks = [self._names.pop(config) for config in configs]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _have(self, config: RemoteConfig, hosts: frozenset[str]) -> None:
        """Have a worker at each of the hosts, and none at others that the same ``config`` led to."""
        known = {one.address.host: one for one in self._remotes if one.config == config}
        new = [self._make_remote(config, host) for host in sorted(hosts - known.keys())]
        await asyncio.gather(*(one.start() for one in new))
        await self._stop([one for host, one in known.items() if host not in hosts], _GRACE)

    def _make_remote(self, config: RemoteConfig, host: str) -> Remote:
        remote = Remote(
            config,
            replace(config.address, host=host),
            model=self.config.name,
            slots=self.config.slots,
            hang_timeout=self._hang_timeout,
            on_change=self._note_state,
        )
        self.workers[remote] = self._make_worker(remote)
        return remote

    async def _stop(self, replicas: Sequence[WatchedServer], grace: float) -> None:
        """Drain and stop the replicas, all at the same time, and forget them."""
        await asyncio.gather(*(self._stop_one(replica, grace) for replica in replicas))
        for worker in [self.workers.pop(replica) for replica in replicas if replica in self.workers]:
            worker.leave()
            self._on_change()

    async def _stop_one(self, replica: WatchedServer, grace: float) -> None:
        replica.drain()
        worker = self.workers.get(replica)
        if worker is not None and replica.state is State.DRAINING:
            await until(lambda: not worker.busy, seconds=grace)
        await replica.stop()


async def _try_start(replica: WatchedServer) -> LlcudaError | None:
    try:
        await replica.start()
    except LlcudaError as error:
        return error
    return None


def _has_room(replica: Replica) -> bool:
    """Return whether there is room for one more like ``replica``, asking the driver if it uses a GPU."""
    from llcuda.devices import find_devices  # noqa: PLC0415 - only if something is replaced

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
