"""`llcuda storage`, as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from llcuda import InferenceEngine
from llcuda.cli.arguments import read_bytes
from llcuda.errors import UsageError
from llcuda.models import put_model, resolve_model
from llcuda.store import ModelStore
from tests.made_models.gguf_builder import U16, small_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.gguf"
    path.write_bytes(resolve_model("demo").path.read_bytes())
    return path


def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llcuda", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == status, done.stderr
    return done


def ask(*words: str) -> Any:
    return json.loads(run("storage", *words, "--json").stdout)


def digest_of(path: Path) -> str:
    return f"sha256:{sha256(path.read_bytes()).hexdigest()}"


def test_a_model_goes_in_answers_and_comes_out(file: Path, tmp_path: Path) -> None:
    content, digest = file.read_bytes(), digest_of(file)
    assert run("storage", "put", str(file)).stdout == "own, 2.8 MB: use it with -m own\n"
    file.unlink()
    assert run("infer", "-m", "own", "--temperature", "0", "What is 2+2?").stdout == "2 + 2 = 4.\n"
    (listed,) = ask("list")
    assert (listed["names"], listed["layers"][0]["digest"]) == (["own"], digest)
    assert "F16" in run("storage", "list").stdout
    assert "llama" in run("storage", "show", "own").stdout
    for name, out in (("own", "a.gguf"), (digest, "b.gguf"), (listed["digest"], "c.gguf")):
        run("storage", "get", name, "-o", str(tmp_path / out))
        assert (tmp_path / out).read_bytes() == content
    assert ask("verify") == {"files": 3, "wrong": []}
    assert ask("du")["models"] == 1
    assert run("storage", "rm", "own").stderr.endswith("freed\n")
    assert ask("list") == []
    assert "no model in the store" in run("storage", "show", "own", status=5).stderr


def test_a_second_name_takes_no_space(file: Path) -> None:
    first, second = ask("put", str(file)), ask("put", str(file), "--name", "other")
    assert first["layers"] == second["layers"]
    assert ask("du")["bytes"] < file.stat().st_size + 3000
    run("storage", "rm", "own")
    assert [model["names"] for model in ask("list")] == [["other"]]


def test_a_file_that_was_changed_is_found(file: Path) -> None:
    digest = ask("put", str(file))["layers"][0]["digest"]
    with ModelStore().path(digest).open("r+b") as opened:
        opened.write(b"X")
    done = run("storage", "verify", status=5)
    assert f"{digest} was changed, and is set aside" in done.stdout
    assert "no model" in run("infer", "-m", "own", "Hi", status=5).stderr


def test_what_is_loaded_is_not_collected(file: Path) -> None:
    put_model(file, "used", is_copied=True)
    with InferenceEngine() as engine:
        engine.load_model("used", device="cpu")
        assert ask("gc", "--keep", "0")["models"] == []
        assert engine.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."
    assert ask("gc", "--keep", "0")["models"] == ["used"]
    assert ask("du")["bytes"] == 0


def test_all_parts_are_one_model(tmp_path: Path) -> None:
    for number in range(2):
        model = small_model()
        model.pairs += [("split.no", U16, number), ("split.count", U16, 2)]
        (tmp_path / f"big-0000{number + 1}-of-00002.gguf").write_bytes(model.build())
    assert run("storage", "put", str(tmp_path / "big-00002-of-00002.gguf")).returncode == 0
    stored = resolve_model("big")
    assert [path.name for path in stored.parts] == ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]
    folder = tmp_path / "out"
    assert "no folder" in run("storage", "get", "big", "-o", str(folder), status=2).stderr
    folder.mkdir()
    run("storage", "get", "big", "-o", str(folder))
    assert sorted(path.name for path in folder.iterdir()) == [path.name for path in stored.parts]


@pytest.mark.parametrize("place", ["hub/hub/models--a--b/blobs/{}", "ollama/blobs/sha256-{}"])
def test_other_programs_files_are_linked(file: Path, tmp_path: Path, place: str) -> None:
    digest = digest_of(file)
    theirs = tmp_path / place.format(digest[7:])
    theirs.parent.mkdir(parents=True)
    file.rename(theirs)
    model = resolve_model(digest)
    assert model.path.samefile(theirs) or model.path.read_bytes() == theirs.read_bytes()
    assert model.path == ModelStore().path(digest)


@pytest.mark.parametrize("name", ["demo", "./x", "sha256:" + "a" * 64, " "])
def test_a_name_that_means_something_else_is_refused(file: Path, name: str) -> None:
    assert "llcuda:" in run("storage", "put", str(file), "--name", name, status=2).stderr
    assert ask("list") == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("300", 300), ("20GB", 20 * 10**9), ("1.5 GiB", 3 << 29), ("2k", 2000), ("1TiB", 1 << 40)],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1 QB", "1iB", "1e9", "9" * 20])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_bytes(text)
