"""When a request is sent again, by a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from llcuda.client.answers import read_error
from llcuda.client.base_client import choose_retries
from llcuda.client.sending import Sender, parse_retry_after
from llcuda.errors import ConnectionFailedError, UsageError
from llcuda.transport import Deadline
from llcuda.transport.base_transport import run as run_blocking

REFUSED = ConnectionFailedError("http://x", "refused", refused=True)
BROKEN = ConnectionFailedError("http://x", "broken")


@dataclass
class Exchange:
    status: int
    headers: dict[str, str]
    closed: bool = False

    def close(self) -> None:
        self.closed = True


class Transport:
    """Answers what it is told to, and waits by moving the clock."""

    def __init__(self, answers: list[Any], clock: list[float]) -> None:
        self.answers, self.clock = answers, clock
        self.waits: list[float] = []
        self.made: list[Exchange] = []

    def begin(self) -> str:
        return "handle"

    async def exchange(self, *_: object, **__: object) -> Exchange:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.made.append(Exchange(answer[0], dict(answer[1:])))
        return self.made[-1]

    async def pause(self, seconds: float, *, handle: str) -> None:
        assert handle == "handle"
        self.waits.append(seconds)
        self.clock[0] += seconds


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = [100.0]
    monkeypatch.setattr("llcuda.transport.deadline.monotonic", lambda: clock[0])

    def run(*answers: Any, timeout: float = 60.0, max_retries: int = 2, repeats: bool = True) -> Transport:
        transport: Any = Transport(list(answers), clock)
        sent = Sender(transport, max_retries).send("GET", "/", body=None, deadline=Deadline(timeout), repeats=repeats)
        exchange: Any = run_blocking(sent)
        made: list[Exchange] = transport.made
        assert exchange is made[-1]
        assert [one.closed for one in made] == [True] * (len(made) - 1) + [False]
        return cast("Transport", transport)

    return run


def test_the_server_is_asked_again_when_it_says(send: Any) -> None:
    after = ("retry-after", "7")
    assert send((429, after), (503, after), (200,)).waits == [7, 7]


def test_without_a_time_each_wait_is_longer_and_by_chance(send: Any) -> None:
    first, second = send((503,), (429,), (200,)).waits
    assert 0.25 <= first <= 0.5 <= second <= 1.0
    waits = send(*[(503,)] * 8, (200,), max_retries=8).waits
    assert 4 <= waits[-1] <= 8


def test_a_connection_that_was_refused_is_tried_again_and_a_broken_one_is_not(send: Any) -> None:
    assert len(send(REFUSED, (200,)).waits) == 1
    with pytest.raises(ConnectionFailedError, match="broken"):
        send(BROKEN, (200,))
    with pytest.raises(ConnectionFailedError, match="refused"):
        send(REFUSED, REFUSED, REFUSED, (200,))


@pytest.mark.parametrize("status", [200, 400, 404, 500, 502, 504])
def test_any_other_answer_is_given_back(send: Any, *, status: int) -> None:
    assert send((status, ("retry-after", "1"))).waits == []


def test_the_last_answer_is_given_back(send: Any) -> None:
    assert send((503,), (503,), (429,)).made[-1].status == 429
    assert send((503,), max_retries=0).waits == []
    assert send((503,), repeats=False).waits == []


def test_what_would_not_come_in_time_is_not_waited_for(send: Any) -> None:
    assert send((429, ("retry-after", "10")), timeout=10).waits == []
    assert send((429, ("retry-after", "6")), (429, ("retry-after", "6")), timeout=10).waits == [6]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("-1", None), ("1.5", None), ("0", 0), (" 12 ", 12),
        ("9" * 400, 1e9), ("Thu, 01 Jan 1970 00:16:50 GMT", 10), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_a_time_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=1000) == seconds


def test_the_error_has_the_seconds_and_says_them() -> None:
    error = read_error(429, b"full", headers={"retry-after": "30"})
    assert (error.retry_after, error.hint) == (30, "Try again in 30 s, as the server asks.")
    assert read_error(429, b"full").retry_after is None


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "2"])
def test_a_number_of_times_is_one(wrong: Any) -> None:
    with pytest.raises(UsageError, match="max_retries"):
        choose_retries(wrong)
