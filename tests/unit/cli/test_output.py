"""What the command line prints while it waits."""

from __future__ import annotations

import threading

import pytest

from llcuda.cli import output
from tests.processes import wait_until


def test_what_goes_on_is_said_until_something_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(output, "_SILENCE", 0.001)
    monkeypatch.setattr(output, "print_note", said.append)
    with output.keep_saying("demo is being loaded") as stop_saying:
        wait_until(lambda: len(said) > 1)
        stop_saying()
    assert said[0] == "llcuda: demo is being loaded, since 0 s"


def test_it_is_not_said_if_it_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def holds() -> bool:
        asked.set()
        return False

    monkeypatch.setattr(output, "_SILENCE", 0.001)
    monkeypatch.setattr(output, "print_note", lambda _: pytest.fail("it was said"))
    with output.keep_saying("it is being loaded", holds=holds):
        asked.wait()
