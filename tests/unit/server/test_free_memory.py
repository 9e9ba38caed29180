"""How much memory is free, and how much of it old prompts may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llcuda.server.free_memory import limit_prompt_cache, read_free_memory

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 2000), ("max", 2000), (str(900 * MIB), 800), (str(50 * MIB), 0), ("strange", 2000)]
)
def test_the_limit_of_a_container_counts(tmp_path: Path, limit: str | None, expected: int) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    if limit:
        (tmp_path / "sys/fs/cgroup/a/b").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/a/b/memory.max").write_text(f"{limit}\n")
        (tmp_path / "sys/fs/cgroup/a/b/memory.current").write_text(f"{100 * MIB}\n")
    assert read_free_memory(tmp_path) == expected


def test_memory_that_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert read_free_memory(tmp_path) is None
    assert (read_free_memory() or 0) > 0


@pytest.mark.parametrize(
    ("free", "servers", "expected"),
    [(8000, 1, 2000), (8000, 4, 500), (1 << 20, 1, 8192), (1 << 20, 64, 4096), (1 << 20, 16, 8192), (3, 1, 0)],
)
def test_all_servers_together_keep_a_quarter_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, *, free: int, servers: int, expected: int
) -> None:
    monkeypatch.setattr("llcuda.server.free_memory.read_free_memory", lambda: free)
    assert limit_prompt_cache(servers) == expected


def test_what_is_not_known_to_be_free_is_left_to_llama_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.server.free_memory.read_free_memory", lambda: None)
    assert limit_prompt_cache() is None
