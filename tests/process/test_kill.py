"""llama-server's owner is killed at random moments: the short version of ``python -m benchmarks.kill``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kill import MAX_GONE_MS, MODES, PARENT_MODES
from tests.processes import allowed_ms

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def executables(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(binaries / "llama-server"))


@pytest.mark.parametrize("mode", PARENT_MODES)
def test_the_server_is_gone_soon_after_its_owner_was_killed(mode: str, tiny_model: Path) -> None:
    figures = MODES[mode](12, model=tiny_model)
    assert figures.met >= 6
    assert max(figures.times_ms) < allowed_ms(MAX_GONE_MS)


def test_the_server_is_gone_soon_after_a_notebooks_kernel_was_killed(tiny_model: Path) -> None:
    pytest.importorskip("ipykernel", reason="needs ipykernel and jupyter_client, of the extra `test`")
    figures = MODES["kernel"](10, model=tiny_model)
    assert figures.met >= 2
    assert max(figures.times_ms) < allowed_ms(MAX_GONE_MS)


@pytest.mark.parametrize("mode", ["stop-random", "stop-listening"])
def test_a_stop_at_any_moment_leaves_nothing(mode: str, tiny_model: Path) -> None:
    figures = MODES[mode](20, model=tiny_model)
    assert figures.met >= 10
    assert set(figures.returncodes) <= {0, 1, -15}, "in order, at the second SIGTERM, or before the handler was there"
