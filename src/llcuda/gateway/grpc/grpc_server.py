"""The gateway's binary protocol: gRPC calls on a port of their own, answered as every other request is."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from contextlib import asynccontextmanager, suppress
from functools import partial
from logging import getLogger
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from llcuda.errors import PortInUseError, ResponseError, UsageError
from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.fields import MAX_QUICK_BYTES
from llcuda.gateway.grpc.grpc_call import CallExchange
from llcuda.gateway.grpc.grpc_translation import (
    begin_answer,
    make_answer,
    make_body,
    make_embed_body,
    read_error,
    read_item,
    read_whole,
    to_status,
    trailing_metadata,
)
from llcuda.gateway.grpc.llcuda_pb2 import (
    DESCRIPTOR,
    BatchItem,
    Chunk,
    Embedding,
    EmbedResponse,
    Error,
    ListModelsResponse,
)
from llcuda.transport.events import EventDecoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from llcuda.client.answers import GatheredAnswer
    from llcuda.gateway.config.configuration import GatewayConfig
    from llcuda.gateway.grpc.llcuda_pb2 import (
        Answer,
        BatchRequest,
        ChatRequest,
        CompletionRequest,
        EmbedRequest,
        ListModelsRequest,
    )
    from llcuda.gateway.relay.service import GatewayService

__all__ = ["GrpcServer"]

_SERVICE = DESCRIPTOR.services_by_name["Inference"]
_HEADERS = ("authorization", "x-api-key", "x-request-id", "origin", "sec-fetch-site")
_MAX_ITEMS = 4096
_MAX_CONCURRENCY = 64
_MAX_STREAMS = 1024  # of one connection
_MAX_CONNECTIONS = 256
_HANDSHAKE_MS = 10_000
_FAREWELL_SECONDS = 1.0
_OK = 200
_UNREADABLE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    "the bytes of the request are no message of this method's type",
    (("llcuda-code", "invalid_message"),),
)
_FAILED = (
    grpc.StatusCode.INTERNAL,
    "the gateway failed at this call; its log says why",
    (("llcuda-code", "internal_error"),),
)


class GrpcServer:
    """Calls on one port: :meth:`listen`, :meth:`stop`. It runs on the gateway's loop."""

    def __init__(self, service: GatewayService) -> None:
        """Prepare; nothing is opened yet."""
        self._service = service
        self._tasks: dict[asyncio.Task[None], CallExchange] = {}
        self.port = 0
        limits = service.limits
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", limits.max_body_bytes),
                ("grpc.max_concurrent_streams", _MAX_STREAMS),
                ("grpc.max_metadata_size", limits.max_header_bytes),
                ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
                ("grpc.max_connection_idle_ms", int(1000 * limits.idle_timeout)),
                ("grpc.so_reuseport", 0),
            ),
            maximum_concurrent_rpcs=limits.max_connections,
            interceptors=(_Guard(),),
        )
        handlers = grpc.method_handlers_generic_handler(_SERVICE.full_name, self._make_handlers())
        self._server.add_generic_rpc_handlers((handlers,))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (_SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def listen(self, config: GatewayConfig) -> None:
        """Listen where the configuration says, and serve. Raises PortInUseError, UsageError."""
        host, port, credentials = config.host, config.grpc_port or 0, _read_credentials(config)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            if _is_taken(host, port):
                raise PortInUseError(host, port) from None
            raise UsageError(f"cannot serve gRPC on {address}: {error}") from None
        await self._server.start()

    async def tell_health(self, *, can_answer: bool) -> None:
        """Say to whoever asks for the health whether a model can answer."""
        status = health_pb2.HealthCheckResponse.SERVING if can_answer else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in (health.OVERALL_HEALTH, _SERVICE.full_name):
            await self._health.set(name, status)

    async def stop(self, grace: float) -> None:
        """Take no more calls, let those that have begun end within ``grace`` seconds, and end the others."""
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.ensure_future(self._server.stop(grace + _FAREWELL_SECONDS))
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=grace)
        for task, exchange in tuple(self._tasks.items()):
            exchange.is_late = True
            task.cancel()
        await stopping

    def abort(self) -> None:
        """End every call at once."""
        for task in tuple(self._tasks):
            task.cancel()

    def _make_handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        table = {
            "Complete": self._answer, "Chat": self._answer, "Embed": self._embed, "ListModels": self._list_models,
            "StreamComplete": self._stream, "StreamChat": self._stream, "Batch": self._batch,
        }  # fmt: skip
        handlers = {}
        for method in _SERVICE.methods:
            streams = method.server_streaming
            make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
            reads = GetMessageClass(method.input_type).FromString
            writes = GetMessageClass(method.output_type).SerializeToString
            handlers[method.name] = make(table[method.name], request_deserializer=reads, response_serializer=writes)
        return handlers

    async def _answer(self, request: CompletionRequest | ChatRequest, context: Any) -> Answer:
        """Return the whole answer to a request, which was held against the schema it asked for."""
        answer, path = begin_answer(request)
        exchange = self._begin(context, path)
        await self._add_body(exchange, make_body, request, streams=False)
        await self._wait(exchange)
        read_whole(answer, exchange.answer)
        return make_answer(answer, worker=exchange.worker, model=exchange.model, text=True)

    async def _stream(self, request: CompletionRequest | ChatRequest, context: Any) -> None:
        """Write each piece of text, and at the end what the answer took."""
        answer, path = begin_answer(request)
        exchange = self._begin(context, path)
        await self._add_body(exchange, make_body, request, streams=True)
        decoder = EventDecoder()
        async with self._handling(exchange) as task:
            async for data in exchange.pieces(task):
                for event in decoder.feed(data):
                    if piece := _add(answer, event, exchange=exchange):
                        await context.write(Chunk(text=piece))
            await task
        _check(exchange)
        await context.write(Chunk(end=make_answer(answer, worker=exchange.worker, model=exchange.model, text=False)))

    async def _add_body(
        self, exchange: CallExchange, write: Callable[..., bytes], request: Any, **options: bool
    ) -> None:
        """Give the exchange the body that is made of a request. Raises RefusedError, which is counted."""
        try:
            body = await _work(request.ByteSize(), partial(write, request, **options))
            exchange.add_body(_check_size(body, self._service.limits.max_body_bytes))
        except RefusedError as error:
            self._service.refuse(exchange, error)
            raise

    async def _batch(self, request: BatchRequest, context: Any) -> None:
        exchange = self._begin(context, "/v1/chat/completions")  # whose key it is, before anything else is said
        if len(request.items) > _MAX_ITEMS:
            error = RefusedError(400, f"a batch has at most {_MAX_ITEMS} items", code="invalid_value")
            self._service.refuse(exchange, error)
            raise error.without_frames()
        waiting = iter(enumerate(request.items))
        lock = asyncio.Lock()

        async def work() -> None:
            for index, item in waiting:
                answered = await self._answer_item(index, item, context)
                async with lock:
                    await context.write(answered)

        count = min(request.concurrency or self._count_slots(request.items), _MAX_CONCURRENCY)
        tasks = [asyncio.ensure_future(work()) for _ in range(count)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _count_slots(self, items: Iterable[BatchRequest.Item]) -> int:
        """Return how many items can be answered at a time by the models that they name."""
        slots = {}
        for name in {read_item(item).model for item in items}:
            with suppress(RefusedError):  # an item that names no model there is will be told so
                model = self._service.find_model(name or None)
                slots[model.name] = model.slots
        return sum(slots.values()) or 1

    async def _answer_item(self, index: int, item: BatchRequest.Item, context: Any) -> BatchItem:
        try:
            return BatchItem(index=index, answer=await self._answer(read_item(item), context))
        except RefusedError as error:
            told = Error(code=error.code or "", message=error.message, http_status=error.status)
            return BatchItem(index=index, error=told)

    async def _embed(self, request: EmbedRequest, context: Any) -> EmbedResponse:
        exchange = self._begin(context, "/v1/embeddings")
        await self._add_body(exchange, make_embed_body, request)
        await self._wait(exchange)
        data = json.loads(exchange.answer)
        rows = sorted(data["data"], key=lambda row: row["index"])
        return EmbedResponse(
            embeddings=[Embedding(values=row["embedding"]) for row in rows],
            prompt_tokens=exchange.usage[0],
            model=exchange.model,
        )

    async def _list_models(self, _request: ListModelsRequest, context: Any) -> ListModelsResponse:
        exchange = self._begin(context, "/v1/models", method="GET")
        await self._wait(exchange)
        return ListModelsResponse(models=[model["id"] for model in json.loads(exchange.answer)["data"]])

    async def _wait(self, exchange: CallExchange) -> None:
        """Wait for a whole answer. Raises RefusedError."""
        async with self._handling(exchange) as task:
            await asyncio.wait((task,))
        _check(exchange)

    def _begin(self, context: Any, path: str, *, method: str = "POST") -> CallExchange:
        """Return the request, its head checked. Raises RefusedError, which is counted."""
        headers: dict[str, str] = {}
        for name, value in context.invocation_metadata() or ():
            if name in _HEADERS:
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
        remaining = context.time_remaining()
        if remaining is not None:
            headers["x-request-timeout"] = f"{max(0.0, remaining):.3f}"
        exchange = CallExchange(path, headers=headers, method=method)
        try:
            self._service.check_head(exchange)
            exchange.method = "GRPC"
        except RefusedError as error:
            self._service.refuse(exchange, error)
            raise
        return exchange

    @asynccontextmanager
    async def _handling(self, exchange: CallExchange) -> AsyncIterator[asyncio.Task[None]]:
        """Answer within the block; who leaves it early frees the worker."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._service.handle(exchange))
        self._tasks[task] = exchange
        # Not at the block's end: whoever is cancelled there again does not come to it.
        task.add_done_callback(self._tasks.pop)

        def give_up() -> None:
            exchange.is_late = True
            task.cancel()

        timer = loop.call_later(self._service.limits.request_timeout, give_up)
        try:
            yield task
        finally:
            timer.cancel()
            if not task.done():
                exchange.leave()
                task.cancel()
            await asyncio.wait((task,))


def _is_taken(host: str, port: int) -> bool:
    """Tell whether somebody listens there: gRPC does not say why it cannot."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _read_credentials(config: GatewayConfig) -> grpc.ServerCredentials | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return grpc.ssl_server_credentials([(config.tls_key.read_bytes(), config.tls_certificate.read_bytes())])


def _add(answer: GatheredAnswer, event: bytes, *, exchange: CallExchange) -> str:
    """Return the text of an event. Raises RefusedError for one that ends the stream with an error."""
    try:
        return answer.add(event)
    except ResponseError as error:
        told = exchange.refusal or RefusedError(502, error.message, code="worker_failed")
        raise told.without_frames() from None


def _check(exchange: CallExchange) -> None:
    """Raise RefusedError if the request was not answered, or with an error."""
    if exchange.error is not None:
        raise exchange.error.without_frames()
    if not exchange.finished:
        raise RefusedError(499, "the call was cancelled", code="cancelled")
    if exchange.status != _OK:
        raise read_error(exchange.status, exchange.answer)


def _check_size(body: bytes, most: int) -> bytes:
    if len(body) > most:
        raise RefusedError(413, f"as JSON the request is larger than {most} bytes", code="body_too_large")
    return body


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Reads the requests of every service, and says in words of ours why one is not answered."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Put the guard around a method; one that takes a stream of requests is left as it is."""
        handler = await continuation(details)
        if handler is None or handler.request_streaming:
            return handler
        answer = handler.unary_stream if handler.response_streaming else handler.unary_unary

        async def guarded(data: bytes, context: Any) -> Any:
            try:
                request = await _work(len(data), partial(handler.request_deserializer, data))
                return await answer(request, context)
            except RefusedError as error:
                told = to_status(error.status), error.message, trailing_metadata(error)
            except DecodeError:
                told = _UNREADABLE
            except grpc.aio.AbortError:
                raise
            except Exception:
                getLogger("llcuda.gateway").exception("a call failed: %s", details.method)
                told = _FAILED
            # context.abort raises what gRPC keeps, and with it the frames of the call, until garbage is looked for.
            code, details_told, metadata = told
            context.set_code(code)
            context.set_details(details_told)
            context.set_trailing_metadata(metadata)
            return None

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(guarded, response_serializer=handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(guarded, response_serializer=handler.response_serializer)


async def _work(size: int, function: Callable[[], Any]) -> Any:
    """Return what a function makes of so many bytes; many are made something of in a thread."""
    return function() if size <= MAX_QUICK_BYTES else await asyncio.to_thread(function)
