"""Where connections come in: as many as there are descriptors for, and a place for who has a key."""

from __future__ import annotations

import asyncio
import resource
from asyncio import sslproto
from heapq import nsmallest
from logging import getLogger
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterable

    from llcuda.gateway.http.connection import Connection, Service

__all__ = ["Listener", "allow_connections"]

_BACKLOG = 1024
_RESERVED_DESCRIPTORS = 256
"""For what is no connection: llama-servers, their logs, files, the gRPC port."""
_DESCRIPTORS_OF_ONE = 2
"""A client's connection, and the one to the worker that answers it."""
_AT_A_TIME = 16
"""Connections that are taken before others have their turn: 2 ms."""
_MAX_HANDSHAKES = 256
_HANDSHAKE_SECONDS = 10.0
_TLS_BUFFER_BYTES = 16 << 10
"""One record of TLS; asyncio itself takes 256 KiB for each connection."""
_RETRY_SECONDS = 0.1
_EPISODE_SECONDS = 60.0


def allow_connections(wanted: int) -> int:
    """Return how many connections may be open, raising the soft limit of descriptors for ``wanted`` if that is needed.

    Children inherit the limit: llama-server waits with poll(2), which takes descriptors of any number.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * _DESCRIPTORS_OF_ONE + _RESERVED_DESCRIPTORS
    if soft < needed:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = min(wanted, max(1, (soft - _RESERVED_DESCRIPTORS) // _DESCRIPTORS_OF_ONE))
    if allowed < wanted:
        getLogger("llcuda.gateway").warning(
            "%d descriptors may be open (ulimit -Hn): %d connections are taken, and not %d", hard, allowed, wanted
        )
    return allowed


class Listener:
    """Takes connections at bound sockets, until :meth:`close`.

    asyncio's own servers take whatever comes, count TLS connections from the end of their handshake on, and, without
    descriptors, try again and log it without an end. This one makes place if there are too many: the strangers go that
    have waited longest, then other idle connections. If there are none of these, the next wait in the kernel's queue.
    """

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        service: Service,
        *,
        connect: Callable[[], Connection],
        tls: ssl.SSLContext | None,
        max_connections: int,
    ) -> None:
        self._sockets = tuple(sockets)
        self._service = service
        self._connect = connect
        self._tls = tls
        self.max_connections = max_connections
        """A reload may change it."""
        self._loop = asyncio.get_running_loop()
        self._opening: dict[asyncio.Task[None], None] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._noted = float("-inf")
        if tls is not None:
            sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES  # type: ignore[attr-defined]

    def start(self) -> None:
        """Listen, and take connections."""
        for listening in self._sockets:
            listening.listen(_BACKLOG)
        self._watch()

    def close(self) -> None:
        """Take no more; those that are open go on."""
        self._ignore()
        if self._retry is not None:
            self._retry.cancel()
        for listening in self._sockets:
            listening.close()
        for task in tuple(self._opening):
            task.cancel()

    def _watch(self) -> None:
        self._retry = None
        for listening in self._sockets:
            self._loop.add_reader(listening, self._take, listening)

    def _ignore(self) -> None:
        for listening in self._sockets:
            if listening.fileno() >= 0:
                self._loop.remove_reader(listening)

    def _pause(self, why: str) -> None:
        self._note(why)
        self._ignore()
        self._retry = self._retry or self._loop.call_later(_RETRY_SECONDS, self._watch)

    def _take(self, listening: socket.socket) -> None:
        for _ in range(_AT_A_TIME):
            if len(self._opening) + len(self._service.connections) >= self.max_connections:
                self._make_place()
                return
            try:
                taken, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(f"no connection can be taken: {error.strerror}")
                return
            self._open(taken)

    def _open(self, taken: socket.socket) -> None:
        taken.setblocking(False)
        task = self._loop.create_task(self._finish(taken))
        self._opening[task] = None
        task.add_done_callback(lambda done: self._opening.pop(done, None))
        if self._tls is not None and len(self._opening) > _MAX_HANDSHAKES:
            first = next(iter(self._opening))
            del self._opening[first]
            first.cancel()

    async def _finish(self, taken: socket.socket) -> None:
        seconds = _HANDSHAKE_SECONDS if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(self._connect, taken, ssl=self._tls, ssl_handshake_timeout=seconds)
        except OSError:
            taken.close()  # no TLS, or not in time

    def _make_place(self) -> None:
        """Close some, so that looking for them pays; they have gone in the loop's next turn."""
        if self._opening and self._tls is None:
            return  # some are counted twice until then
        ranked = [(rank, id(one), one) for one in self._service.connections if (rank := one.rank) is not None]
        first = nsmallest(max(1, self.max_connections // 64), ranked)
        for _, _, connection in first:
            connection.abort()
        if first:
            self._note("there are too many connections: those that wait longest, and have shown no key, are closed")
        elif self._opening:
            next(iter(self._opening)).cancel()
        else:
            self._pause("there are too many connections, and all are in use: more wait")

    def _note(self, what: str) -> None:
        now = self._loop.time()
        if now - self._noted > _EPISODE_SECONDS:
            getLogger("llcuda.gateway").warning("%s", what)
        self._noted = now
