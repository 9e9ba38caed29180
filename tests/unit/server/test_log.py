"""llama-server's log in a bounded ring."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcuda.server.log import MAX_LINE_BYTES, MAX_LINES, Log

READY = (Path(__file__).parents[2] / "data" / "logs" / "ready.log").read_bytes()
LINE = b"0.00.448.351 I srv  llama_server: listening on http://127.0.0.1:36015\n"


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_lines_are_the_same_however_the_pipe_cuts_them(data: bytes, cuts: list[int]) -> None:
    log = Log()
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    for at in range(len(places) - 1):
        log.feed(data[places[at] : places[at + 1]])
    log.finish()
    whole = Log()
    whole.feed(data)
    whole.finish()
    assert log.lines() == whole.lines()
    assert log.count == whole.count


def test_the_last_lines_are_kept() -> None:
    log = Log()
    for number in range(MAX_LINES + 10):
        log.feed(f"{number}\n".encode())
    assert len(log.lines()) == MAX_LINES
    assert log.lines(2) == (str(MAX_LINES + 8), str(MAX_LINES + 9))
    assert log.count == MAX_LINES + 10


def test_a_line_without_end_is_cut() -> None:
    log = Log()
    for _ in range(100):
        log.feed(b"x" * 10_000)
    log.feed(b"\nnext\n")
    first, second = log.lines()
    assert len(first) == MAX_LINE_BYTES
    assert second == "next"


def test_an_unfinished_line_is_shown_and_counted_at_the_end() -> None:
    log = Log()
    log.feed(b"one\ntw")
    assert log.lines() == ("one", "tw")
    log.feed(b"o")
    log.finish()
    assert log.lines() == ("one", "two")
    assert log.count == 2


def test_bytes_that_are_no_text_are_replaced() -> None:
    log = Log()
    log.feed(b"\xff\xfe\r\n")
    assert log.lines() == ("��",)


def test_the_address_is_found_in_a_real_log() -> None:
    log = Log()
    log.feed(READY)
    assert log.address is not None
    assert log.address.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("cut", range(1, len(LINE), 7))
def test_the_address_is_found_wherever_the_line_is_cut(cut: int) -> None:
    log = Log()
    log.feed(LINE[:cut])
    assert log.address is None
    log.feed(LINE[cut:])
    assert log.address == "http://127.0.0.1:36015"


def test_the_path_of_a_socket_is_an_address_too() -> None:
    log = Log()
    log.feed("0.00.448.351 I srv  llama_server: listening on unix:///tmp/a ü.sock\n".encode())
    assert log.address == "unix:///tmp/a ü.sock"


@pytest.mark.parametrize(
    "line",
    [
        b"listening on http://127.0.0.1:1\n",
        b"general.name = I srv  llama_server: listening on http://127.0.0.1:1\n",
        b"0.00.1.1 I print_info: I srv  llama_server: listening on http://127.0.0.1:1\n",
        b"0.00.448.351 I srv  llama_server: listening on http://127.0.0.1:0\n",
        b"0.00.448.351 I srv  llama_server: listening on http://127.0.0.1:1 no\n",
        b"0.00.448.351 I srv  llama_server: listening on unix:///tmp/x.sock no\n",
        b"0.00.448.351 I srv  other: listening on http://127.0.0.1:1\n",
    ],
)
def test_a_line_that_only_looks_like_it_is_not_believed(line: bytes) -> None:
    log = Log()
    log.feed(line)
    assert log.address is None


def test_the_first_address_stays() -> None:
    log = Log()
    log.feed(LINE + LINE.replace(b"36015", b"4"))
    assert log.address == "http://127.0.0.1:36015"


def test_every_line_is_passed_on() -> None:
    seen: list[str] = []
    log = Log(seen.append)
    log.feed(b"one\ntwo\nthr")
    assert seen == ["one", "two"]
    log.finish()
    assert seen == ["one", "two", "thr"]


def test_a_waiting_thread_is_woken_by_the_line_and_by_the_end() -> None:
    for wake in (lambda log: log.feed(LINE), Log.finish):
        log = Log()
        waiting = threading.Thread(target=log.wait, args=(3600,))
        waiting.start()
        wake(log)
        waiting.join(120)
        assert not waiting.is_alive()


def test_waiting_ends_with_its_timeout() -> None:
    log = Log()
    log.wait(0.01)
    assert log.address is None
