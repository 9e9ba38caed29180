"""Where a request ends, and what is in it: the gateway's reader against h11's, on streams that err."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from tests.inputs.http_cases import CANARY, SAVED, cases, split
from tests.inputs.http_differential import SAFE, Reading, compare, name_lenience, read_here, read_there

COUNT = 20_000


def test_nothing_is_taken_that_h11_refuses_and_what_both_take_is_the_same() -> None:
    chance = random.Random(7)
    problems, refused, taken = [], 0, 0
    for stream in chain(SAVED, cases(COUNT, seed=7)):
        here, there = read_here(split(stream, chance)), read_there(stream)
        problem = compare(here, there)
        if problem and not name_lenience(problem):
            problems.append((problem, stream))
        taken += len(here.messages)
        refused += bool(here.refusal)
    assert problems == []
    assert taken > COUNT / 2
    assert refused > COUNT / 4


@pytest.mark.parametrize("stream", SAVED)
def test_what_was_somebodys_problem_is_read_in_one_way_however_it_is_cut(stream: bytes) -> None:
    whole = read_here([stream + CANARY])
    for cut in range(1, len(stream)):
        pieces = read_here([stream[:cut], stream[cut:] + CANARY])
        assert pieces.messages == whole.messages
        assert bool(pieces.refusal) == bool(whole.refusal)


def test_the_comparison_finds_what_is_not_the_same() -> None:
    one = read_there(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    other = read_there(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
    assert compare(one, other) == "not the same: target"
    assert compare(one, Reading(refusal="no")) == "taken here, refused there: no"
    assert compare(Reading(), one) == "still incomplete here, whole there"
    assert compare(Reading(refusal="no"), one) == ""


@pytest.mark.parametrize(
    ("stream", "number"),
    [
        (b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 0),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 1),
        (b"GET / RTSP/1.0\r\nHost: x\r\n\r\n", 2),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 30 + b"1\r\na\r\n0\r\n\r\n", 3),
    ],
)
def test_what_is_taken_beyond_h11_is_what_the_list_says(stream: bytes, number: int) -> None:
    here = read_here([stream])
    assert [message.target for message in here.messages] == ["/"]
    assert name_lenience(compare(here, read_there(stream))) == list(SAFE)[number]
    if number == 2:
        assert here.is_last


@pytest.mark.parametrize("version", [b"", b" HTTP/0.9", b" HTTP/2.0", b"HTTP/1.1"])
def test_a_request_of_another_version_is_refused(version: bytes) -> None:
    reading = read_here([b"GET /health" + version + b"\r\nHost: x\r\n\r\n"])
    assert reading.refusal
    assert not reading.messages


def test_blanks_around_a_value_are_no_part_of_it() -> None:
    (message,) = read_here([b"GET / HTTP/1.1\r\nHost: \t x \t \r\n\r\n"]).messages
    assert message.headers == {"host": "x"}
