"""Where a server is."""

from __future__ import annotations

import math

import pytest

from llcuda.errors import RequestTimeoutError, UsageError
from llcuda.transport import Address, Deadline, parse_address
from llcuda.transport.address import join_address


@pytest.mark.parametrize(
    ("url", "address", "canonical"),
    [
        ("http://127.0.0.1:8090", Address("http", "127.0.0.1", 8090, ""), "http://127.0.0.1:8090"),
        ("http://localhost/", Address("http", "localhost", 80, ""), "http://localhost"),
        ("https://host.example", Address("https", "host.example", 443, ""), "https://host.example"),
        (
            "https://host.example:8443/llm/",
            Address("https", "host.example", 8443, "/llm"),
            "https://host.example:8443/llm",
        ),
        ("http://host:1/v1", Address("http", "host", 1, ""), "http://host:1"),
        ("http://host:1/a/v1/", Address("http", "host", 1, "/a"), "http://host:1/a"),
        ("http://[::1]:8090", Address("http", "::1", 8090, ""), "http://[::1]:8090"),
        ("HTTP://HOST:80", Address("http", "host", 80, ""), "http://host"),
        ("unix:/run/x.sock", Address("unix", "/run/x.sock", 0, ""), "unix:/run/x.sock"),
        ("unix:///run/a b.sock", Address("unix", "/run/a b.sock", 0, ""), "unix:/run/a b.sock"),
    ],
)
def test_an_address_is_taken_apart_and_put_together(url: str, address: Address, canonical: str) -> None:
    assert parse_address(url) == address
    assert address.url == canonical
    assert parse_address(canonical) == address


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost", "localhost:8090", "127.0.0.1:8090", "ftp://host", "http://", "http://:80", "http://host:99999",
        "http://host:x", "http://user:secret@host", "http://host/?q=1", "http://host/#f", "http://ho st", "http://[::1",
        "http://host/\r\nX: y", "http://hôst",
        "unix:", "unix:/", "unix:x.sock", "unix:/run/\n.sock", f"unix:/{'x' * 107}",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_how_to_write_one(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(url)
    assert "http://host:port" in caught.value.hint


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_host_can_be_an_address_of_either_kind(host: str) -> None:
    assert join_address(host, 8090).url == "http://[::1]:8090"
    assert join_address("10.0.0.1", 8090).url == "http://10.0.0.1:8090"


@pytest.mark.parametrize(
    ("host", "port"), [("localhost", 0), ("localhost", 65536), ("", 80), ("http://x", 80), ("x:80", 80), ("a b", 80)]
)
def test_a_host_or_a_port_that_is_none_is_refused(host: str, port: int) -> None:
    with pytest.raises(UsageError):
        join_address(host, port)


def test_the_host_header_of_a_socket_is_what_every_server_allows() -> None:
    assert parse_address("unix:/run/x.sock").authority == "localhost"


def test_a_deadline_counts_down_to_an_error() -> None:
    deadline = Deadline(60)
    assert 0 < deadline.remaining() <= 60
    past = Deadline(1e-9)
    with pytest.raises(RequestTimeoutError) as caught:
        past.remaining()
    assert caught.value.timeout == 1e-9


def test_a_deadline_can_be_never() -> None:
    assert Deadline(math.inf).remaining() > 1e5


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_a_deadline_in_the_past_is_refused(timeout: float) -> None:
    with pytest.raises(UsageError):
        Deadline(timeout)
