"""A gateway's life on an event loop: models started, connections taken, everything brought to an end in order."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from functools import partial
from logging import getLogger
from typing import TYPE_CHECKING

from llcuda.errors import LlcudaError, PortInUseError, UsageError
from llcuda.fleet.served_model import prepare_models
from llcuda.fleet.timeouts import until
from llcuda.gateway.admin.information import Information
from llcuda.gateway.admin.self_benchmark import SelfBenchmark
from llcuda.gateway.admin.status import Status
from llcuda.gateway.admin.upgrade import Upgrade
from llcuda.gateway.config.checks import load_tls
from llcuda.gateway.dialects.ollama_listing import Listing
from llcuda.gateway.http.access import Access
from llcuda.gateway.http.connection import Connection
from llcuda.gateway.http.listener import Listener, allow_connections
from llcuda.gateway.http.owner import Owner
from llcuda.gateway.observe.audit_log import AuditLog
from llcuda.gateway.observe.gateway_metrics import GatewayMetrics
from llcuda.gateway.observe.gpu_metrics import GpuMetrics
from llcuda.gateway.pages.chat_files import ARCHIVE_NAME
from llcuda.gateway.pages.chat_page import ChatPage
from llcuda.gateway.relay.service import GatewayService
from llcuda.native import binaries_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from llcuda.gateway.config.configuration import GatewayConfig
    from llcuda.gateway.grpc.grpc_server import GrpcServer
    from llcuda.gateway.observe.tracing import Tracer

__all__ = ["Running", "run_until_stopped"]

_TICK_SECONDS = 1.0
_FAREWELL_SECONDS = 1.0


class Running:
    """A gateway on the loop that runs: :meth:`start`, :meth:`begin_stop`, :meth:`wait_closed`."""

    def __init__(self, config: GatewayConfig, *, on_link: Callable[[str], object] | None = None) -> None:
        """Prepare; nothing is started yet. ``on_link`` is given the links by which a gateway without keys is owned."""
        self.config = config
        self.owner = Owner(on_link)
        self.url = ""
        self.port = 0
        self.grpc: GrpcServer | None = None
        """Calls of the binary protocol, if it is switched on."""
        self._loop = asyncio.get_running_loop()
        self.metrics = GatewayMetrics()
        self._audit = AuditLog(config.audit_log) if config.audit_log else None
        self._tracer = _open_tracer(config)
        self.models = prepare_models(config.models, limits=config.limits, hang_timeout=config.hang_timeout)
        self._information, self._status, self._upgrade = Information(self), Status(self), Upgrade(self)
        self._benchmark = SelfBenchmark(self.models)
        self._gpus = GpuMetrics()
        self.metrics.add_gauges(self._gpus.read)
        self._listener: Listener | None = None
        self._service: GatewayService | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    async def start(self) -> None:
        """Take the port, start the models that are not on demand, and serve.

        Raises PortInUseError, UsageError, and why a model does not start; nothing is left running then.
        """
        try:
            self._listener = listener = await self._listen()
            grpc = self._make_grpc()
            await self._start_models()
            if grpc is not None:
                await grpc.listen(self.config)
                self.grpc = grpc
                await self._tell_health()
            listener.start()
            self._gpus.start()
        except BaseException:
            await self._end(grace=0.0)
            raise
        self._ticker = asyncio.ensure_future(self._tick())

    @property
    def grpc_port(self) -> int | None:
        """The port of the binary protocol, if it is switched on."""
        return self.grpc.port if self.grpc is not None else None

    def offer_link(self) -> None:
        """Give out the link by which a gateway without keys is owned."""
        if not self.config.keys:
            self.owner.offer(self.url)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopping is not None

    async def wait_closed(self) -> None:
        """Return when it has been stopped."""
        await self._closed.wait()

    def begin_stop(self, *, grace: float | None = None) -> None:
        """Take no more requests, and end when those that have begun are answered, or after the time of grace.

        A second call ends it at once.
        """
        if self._stopping is None:
            grace = self.config.grace_timeout if grace is None else grace
            self._stopping = asyncio.ensure_future(self._end(grace=grace))
        elif self._service is not None:
            for connection in tuple(self._service.connections):
                connection.abort()
            if self.grpc is not None:
                self.grpc.abort()

    async def reload(self, config: GatewayConfig | None = None, *, models: Collection[str] | None = None) -> None:
        """Replace every worker by a new one without losing a request, and open the audit log anew.

        ``models`` names those whose workers are replaced, if it is not all of them. Keys, names, limits and the
        options of each model follow ``config``, if it is given. Raises UsageError if it has another address, log
        or other models than those that run, and why a new worker does not start; the old ones go on then.
        """
        if config is not None:
            self._follow(config)
        if self._audit is not None:
            self._audit.reopen()
        for name, model in self.models.items():
            if model.workers and (models is None or name in models):
                await model.fleet.reload(self.config.grace_timeout)

    async def reload_logged(self, read_config: Callable[[], GatewayConfig] | None = None) -> None:
        """Reload, with what ``read_config`` returns if it is given, and log why that is not possible."""
        try:
            await self.reload(await asyncio.to_thread(read_config) if read_config else None)
        except LlcudaError as error:
            getLogger("llcuda").warning("the reload failed, the workers before go on: %s", error)

    async def _start_models(self) -> None:
        """Start the models that are not on demand, all at the same time. Raises why one cannot be."""
        starts = [model.fleet.start() for model in self.models.values() if not model.config.on_demand]
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _follow(self, config: GatewayConfig) -> None:
        fixed = ("host", "port", "grpc_port", "tls_certificate", "tls_key", "audit_log", "otlp_endpoint")
        changed = [name for name in fixed if getattr(config, name) != getattr(self.config, name)]
        if [model.name for model in config.models] != list(self.models):
            changed.append("models")
        if changed:
            what = ", ".join(changed)
            raise UsageError(f"{what} cannot change while the gateway runs", hint="Start it anew for that.")
        self.config = config
        if self._listener is not None:
            self._listener.max_connections = allow_connections(config.limits.max_connections)
        for model in config.models:
            self.models[model.name].configure(model, config.limits)
        if self._service is not None:
            self._service.configure(config, Access(config, port=self.port, owner=self.owner))

    async def _listen(self) -> Listener:
        config, loop = self.config, self._loop
        tls = load_tls(config.tls_certificate, config.tls_key)
        try:
            # It binds what a name stands for, and is not started.
            server = await loop.create_server(asyncio.Protocol, config.host, config.port, start_serving=False)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(config.host, config.port) from None
            reason = error.strerror or str(error)
            raise UsageError(f"cannot listen on {config.host} port {config.port}: {reason}") from None
        sockets = [socket.socket(fileno=os.dup(one.fileno())) for one in server.sockets]
        server.close()
        self.port = sockets[0].getsockname()[1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.url = f"{'https' if config.tls_certificate else 'http'}://{host}:{self.port}"
        self._service = service = self._make_service()
        return Listener(
            sockets,
            service,
            connect=partial(Connection, service, loop),
            tls=tls,
            max_connections=allow_connections(config.limits.max_connections),
        )

    def _make_grpc(self) -> GrpcServer | None:
        """Return what answers gRPC. Raises UsageError if that cannot be, before a model is loaded."""
        if self.config.grpc_port is None or self._service is None:
            return None
        from llcuda.gateway.grpc.grpc_server import GrpcServer  # noqa: PLC0415 - 60 ms that few need

        return GrpcServer(self._service)

    def _make_service(self) -> GatewayService:
        own = (self._information, self._status, self._upgrade, self._benchmark, Listing(self.models))
        chat = ChatPage(binaries_dir() / ARCHIVE_NAME)
        return GatewayService(
            self.config,
            access=Access(self.config, port=self.port, owner=self.owner),
            models=self.models,
            metrics=self.metrics,
            own={name: answer for one in (*own, chat) for name, answer in one.table.items()},
            audit=self._audit,
            trace=self._tracer.record if self._tracer else None,
        )

    async def _tick(self) -> None:
        while True:
            self._status.note_second()
            await asyncio.sleep(_TICK_SECONDS)
            if self._service is not None:
                self._service.check_times()
                self._service.check_counts()
            for model in self.models.values():
                model.look()
            await self._tell_health()
            for model in self.models.values():
                await model.unload_if_idle()

    async def _tell_health(self) -> None:
        if self.grpc is not None and not self.is_stopping:
            await self.grpc.tell_health(can_answer=any(model.can_answer for model in self.models.values()))

    async def _end(self, *, grace: float) -> None:
        service, listener = self._service, self._listener
        self._upgrade.begin_stop()
        self._benchmark.begin_stop()
        try:
            if listener is not None:
                listener.close()
            if service is not None:
                await self._drain(service, grace)
            if self._ticker is not None:
                self._ticker.cancel()
            await asyncio.gather(*(model.fleet.stop(0.0) for model in self.models.values()))
            await self._upgrade.wait_ended()
            await asyncio.to_thread(self._gpus.stop)
        finally:
            if self._audit is not None:
                self._audit.close()
            if self._tracer is not None:
                await self._tracer.close()
            self._closed.set()

    async def _drain(self, service: GatewayService, grace: float) -> None:
        """Let what has begun end; what has not by then is told so."""
        service.draining = True
        calls = asyncio.ensure_future(self.grpc.stop(grace)) if self.grpc is not None else None
        for connection in tuple(service.connections):
            connection.close()
        await until(lambda: not service.connections, seconds=grace)
        for connection in tuple(service.connections):
            connection.give_up()
        # A moment for what they were told to be sent.
        await until(lambda: not service.connections, seconds=_FAREWELL_SECONDS)
        for connection in tuple(service.connections):
            connection.abort()
        if calls is not None:
            await calls


async def run_until_stopped(running: Running, *, on_ready: Callable[[], object]) -> None:
    """Start, say so, and return when it has been stopped. Raises why it does not start."""
    try:
        await running.start()
    except LlcudaError:
        if running.is_stopping:
            return
        raise
    on_ready()
    await running.wait_closed()


def _open_tracer(config: GatewayConfig) -> Tracer | None:
    """Return what sends traces if a collector is named. Raises UsageError if the extra is missing."""
    if config.otlp_endpoint is None:
        return None
    try:
        from llcuda.gateway.observe.tracing import Tracer  # noqa: PLC0415 - it needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "llcuda":
            raise
        hint = "pip install 'llcuda[telemetry]'"
        raise UsageError(f"traces need {error.name}, which is not installed", hint=hint) from None
    return Tracer(config.otlp_endpoint, scheme="https" if config.tls_certificate else "http")
