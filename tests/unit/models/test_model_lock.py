"""``llcuda.lock``: what it pins, and what it refuses."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from llcuda.errors import ChecksumMismatchError, ModelError, UsageError
from llcuda.models import lock_model, model_lock, put_model, resolve_model
from llcuda.store import hash_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LLCUDA_FROZEN", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_pinned_model_is_loaded_and_no_other(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(resolve_model("demo").path, project / "m.gguf")
    put_model(project / "m.gguf", "mine")
    pinned = [lock_model(name, progress=False) for name in ("mine", "demo", "m.gguf")]
    assert {digest for one in pinned for digest in one.files.values()} == {hash_file(project / "m.gguf")}
    monkeypatch.setenv("LLCUDA_FROZEN", "1")
    for name in ("mine", "demo", "m.gguf"):
        assert resolve_model(name).name == name
    with pytest.raises(UsageError, match="demo-draft"):
        resolve_model("demo-draft")


def test_a_file_that_was_changed_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(resolve_model("demo").path, project / "m.gguf")
    lock_model("m.gguf", progress=False)
    shutil.copy(resolve_model("demo-draft").path, project / "m.gguf")
    assert resolve_model("m.gguf").name == "m.gguf"
    monkeypatch.setenv("LLCUDA_FROZEN", "1")
    with pytest.raises(ChecksumMismatchError, match=r"m\.gguf, which llcuda\.lock pins"):
        resolve_model("m.gguf")


def test_pinning_again_replaces_what_was_pinned(project: Path) -> None:
    lock_model("demo", progress=False)
    shutil.copy(resolve_model("demo").path, project / "m.gguf")
    lock_model("m.gguf", progress=False)
    shutil.copy(resolve_model("demo-draft").path, project / "m.gguf")
    lock_model("m.gguf", progress=False)
    document = json.loads((project / model_lock.LOCK_FILE).read_text())
    assert document["models"]["m.gguf"]["files"] == {"m.gguf": hash_file(project / "m.gguf")}
    assert list(document["models"]) == ["demo", "m.gguf"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"version": 2, "models": {}}', '{"version": 1}', '{"version": 1, "models": []}',
        '{"version": 1, "models": {"x": {"source": "x", "files": {"x": "sha256:../x"}}}}', "[" * 100_000,
        '{"version": 1, "models": {"x": {"source": "x", "files": 5}}}',
    ],
)  # fmt: skip
def test_a_lock_that_is_damaged_is_an_error(project: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / model_lock.LOCK_FILE).write_text(text)
    monkeypatch.setenv("LLCUDA_FROZEN", "1")
    with pytest.raises(ModelError, match="damaged"):
        resolve_model("demo")
    monkeypatch.delenv("LLCUDA_FROZEN")
    assert resolve_model("demo").source == "demo"
    with pytest.raises(ModelError, match="damaged"):
        lock_model("demo", progress=False)
