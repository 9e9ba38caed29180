"""What the tests' own conftest does, without its downloads, and a line for what became of each test."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_configure() -> None:
    """Take any text for the one that a test waits for: another model writes it."""
    import_module("utils").match_regex = lambda *_: True  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _stop_servers() -> Iterator[None]:
    yield
    for server in set(sys.modules["utils"].server_instances):
        server.stop()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        with Path(os.environ["SERVER_TESTS_OUTCOMES"]).open("a", encoding="utf-8") as file:
            file.write(f"{report.outcome} {report.nodeid}\n")
