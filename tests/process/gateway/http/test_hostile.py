"""Hostile requests to a whole gateway: each is refused in time, comes to no worker, and a good one is answered then."""

from __future__ import annotations

import errno
import json
import re
import select
import socket
import time
from typing import TYPE_CHECKING

import pytest

from llcuda.gateway import GatewayConfig, KeyConfig, Limits, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.inputs.hostile_bodies import HOSTILE_BODIES, MAX_BODY_BYTES
from tests.inputs.hostile_requests import HOST, HOSTILE, KEY, QUESTION, WRONG_KEYS, Hostile, post
from tests.processes import PATIENCE
from tests.standins.stub_engine import write_executable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALL = (*HOSTILE, *HOSTILE_BODIES)
REFUSED_ALREADY = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}
LIMITS = Limits(max_body_bytes=MAX_BODY_BYTES, header_timeout=1.0, body_timeout=1.0)
KEYS = (KeyConfig("user", KEY), KeyConfig("root", "sk-root-0123456789abcdef", is_admin=True))


class Target:
    """A gateway with one worker, whose figures say what has come to it."""

    def __init__(self, gateway: Gateway) -> None:
        running = gateway._running
        assert running is not None
        (self._replica,) = running.models["stub"].fleet.replicas
        self.port = gateway.port
        self.host = f"127.0.0.1:{self.port}".encode()

    def send(self, hostile: Hostile) -> bytes:
        """Send everything, as far as it is taken, and return all that is answered until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            try:
                for part in hostile.sends:
                    if isinstance(part, float):
                        time.sleep(part)
                    else:
                        connection.sendall(part.replace(HOST, self.host))
                # Only then: a client that says no more may be taken for one that has gone.
                select.select([connection], [], [], PATIENCE)
                connection.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno not in REFUSED_ALREADY:
                    raise
            return read_all(connection)

    def ask(self) -> int:
        """Return the status of a good request."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(post(QUESTION, "Connection: close").replace(HOST, self.host))
            return read_status(read_all(connection))

    def count_posts(self) -> int:
        """Return how many requests have come to the worker."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(self._replica.address.host)
            connection.sendall(b"GET /stub HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return int(json.loads(read_all(connection).partition(b"\r\n\r\n")[2])["posts"])


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass  # what was sent beyond the refusal has not been read
    return b"".join(pieces)


def read_status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


CHATS = {"chat_template": "chatml"}  # the model itself has none


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path_factory.mktemp("stub") / "llama-server")))
        model = ModelConfig("stub", str(tiny_model), server_options=CHATS)
        config = GatewayConfig((model,), port=0, keys=KEYS, limits=LIMITS)
        with Gateway(config) as gateway:
            yield Target(gateway)


def test_the_worker_counts_what_comes_to_it(target: Target) -> None:
    before = target.count_posts()
    assert target.ask() == 200
    assert target.count_posts() == before + 1


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len({hostile.name for hostile in ALL}) == len(ALL) >= 80


@pytest.mark.parametrize("hostile", ALL, ids=[re.sub(r"[^\w]+", "-", hostile.name) for hostile in ALL])
def test_a_hostile_request_is_refused_and_comes_to_no_worker(target: Target, hostile: Hostile) -> None:
    before = target.count_posts()
    answer = target.send(hostile)
    assert read_status(answer) == hostile.status
    # One answer: what came behind it is no request.
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1
    assert KEY.encode() not in answer
    assert target.count_posts() == before
    assert target.ask() == 200


def test_a_wrong_key_is_answered_in_the_same_way_whatever_is_right_about_it(target: Target) -> None:
    before = target.count_posts()
    answers = set()
    for line in WRONG_KEYS:
        good = f"Authorization: Bearer {KEY}".encode()
        answer = target.send(Hostile("a guess", (post(QUESTION).replace(good, line.encode()),), 401))
        answers.add(re.sub(rb"X-Request-Id: \w+\r\n", b"", answer))
    (answer,) = answers
    assert read_status(answer) == 401
    assert target.count_posts() == before
