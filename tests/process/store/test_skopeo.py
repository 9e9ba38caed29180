"""The store is an OCI image layout: skopeo, which is Debian's own, copies models out of it and into it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from llcuda.models import put_model, resolve_model
from llcuda.store import ModelStore, hash_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def copy(source: Path, target: Path, *, name: str) -> None:
    command = ["skopeo", "copy", "--insecure-policy", f"oci:{source}:{name}", f"oci:{target}:{name}"]
    subprocess.run(command, check=True, capture_output=True, timeout=100)


def test_models_go_out_and_in(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = put_model(resolve_model("demo").path, "mine")
    copy(home / "models", tmp_path / "layout", name="mine")
    digest = model.layers[0].digest
    assert hash_file(tmp_path / "layout" / "blobs" / "sha256" / digest[7:]) == digest

    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "second"))
    (tmp_path / "second").mkdir()
    copy(tmp_path / "layout", tmp_path / "second" / "models", name="mine")
    found = ModelStore().get_model("mine")
    assert (found.digest, found.layers, found.facts) == (model.digest, model.layers, model.facts)
    assert resolve_model("mine").info.name == resolve_model("demo").info.name
    assert all(is_right for _, is_right in ModelStore().verify())
