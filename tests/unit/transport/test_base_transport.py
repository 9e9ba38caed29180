"""The rules of a request, with a connection that fails as it is told to."""

from __future__ import annotations

import errno
import os

import pytest

from llcuda.errors import ConnectionFailedError, LlcudaError, RequestTimeoutError
from llcuda.transport import Deadline, parse_address
from llcuda.transport.base_transport import BaseTransport, ClientConnection, run


class Failing:
    owner = usable = True

    def __init__(self, failure: OSError) -> None:
        self.failure = failure
        self.closed = False

    def limit(self, deadline: Deadline | None) -> None: ...

    async def send(self, request: bytes) -> None: ...

    async def receive(self) -> bytes:
        raise self.failure

    def cut(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class FailingTransport(BaseTransport):
    def __init__(self, connection: ClientConnection) -> None:
        super().__init__(parse_address("http://x"), api_key=None, user_agent="test")
        self.connection = connection

    def _find_owner(self) -> object:
        return True

    async def _open(self, *_: object) -> ClientConnection:
        return self.connection


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (TimeoutError("timed out"), RequestTimeoutError),
        # The kernel gave up on a host that is gone; the deadline has not passed.
        (TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)), ConnectionFailedError),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionFailedError),
    ],
)
def test_only_a_deadline_that_has_passed_is_a_time_out(failure: OSError, expected: type[LlcudaError]) -> None:
    connection = Failing(failure)
    transport = FailingTransport(connection)
    with pytest.raises(expected):
        run(transport.exchange("GET", "/", body=None, deadline=Deadline(60)))
    assert connection.closed
