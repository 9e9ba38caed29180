"""Conversations go back to their cache: the short version of ``python -m benchmarks.gateway_affinity``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.scenarios.conversations import Replay, build_trace, replay
from tests.watching import watched

if TYPE_CHECKING:
    from pathlib import Path

_WORKERS = 6


def hold(folder: Path, choice: str) -> Replay:
    folder.mkdir()
    model = {"workers": _WORKERS, "slots": 2, "threads": 1, "ctx_size": 1024}
    with watched(folder, model=model, choice=choice) as gateway:
        # So few that no worker is ever full: a conversation always finds a place at its own.
        return replay(gateway.port, build_trace(7, conversations=30, seconds=0.0), at_once=3)


def test_a_conversation_finds_its_cache_where_lots_do_not(tmp_path: Path) -> None:
    own, drawn = hold(tmp_path / "own", "own"), hold(tmp_path / "random", "random")
    assert own.failures == drawn.failures == []
    assert own.later_turns == drawn.later_turns > 50
    # Five of six draws miss.
    assert own.hits > 0.6 * own.later_turns
    assert own.hits > 2.5 * drawn.hits
    assert own.reused_tokens > 1.5 * drawn.reused_tokens
