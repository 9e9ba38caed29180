"""What is wrong with a load is said before anything is unloaded; what nobody asked for is in no load's way."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import llcuda
from llcuda.errors import BinaryUnusableError, LlcudaError, ModelNotFoundError, ServerNotReadyError, UsageError
from llcuda.models.resolve import demo_path
from llcuda.server.failures import classify_failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def engine() -> Iterator[llcuda.InferenceEngine]:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo", device="cpu", silent=True)
        yield engine


@pytest.mark.parametrize(
    ("name", "options", "kind", "says"),
    [
        ("demo", {"gpu_layer": 3}, UsageError, "llama-server knows no option gpu_layer"),
        ("demo", {"ctx_size": -5}, UsageError, "ctx_size=-5 is not a whole number from 0 on"),
        ("demo", {"ctx_size": True}, UsageError, "ctx_size=True is not a whole number from 0 on"),
        ("demo", {"n_parallel": 0}, UsageError, "n_parallel=0 is not a whole number from 1 on"),
        ("demo", {"timeout": "5"}, UsageError, "timeout='5' is not a number of seconds"),
        ("demo", {"stall_timeout": 0}, UsageError, "stall_timeout=0 is not a number of seconds"),
        ("demo", {"cache_type_k": "q9"}, UsageError, "cache_type_k"),
        ("demo", {"device": "tpu"}, UsageError, "tpu"),
        ("none", {}, ModelNotFoundError, "none"),
        ("./none.gguf", {}, ModelNotFoundError, "none.gguf"),
    ],
)
def test_what_works_goes_on_if_the_next_load_is_wrong(
    engine: llcuda.InferenceEngine, *, name: str, options: dict[str, Any], kind: type[LlcudaError], says: str
) -> None:
    with pytest.raises(kind) as caught:
        engine.load_model(name, silent=True, **options)
    assert says in str(caught.value)
    assert engine.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ctx_size": -5}, "ctx_size=-5 is not"),
        ({"timeout": "5"}, "timeout='5' is not"),
        ({"ctx_size": "x"}, "ctx_size"),
    ],
)
def test_a_first_load_says_so_too(options: dict[str, Any], says: str) -> None:
    with llcuda.InferenceEngine() as engine, pytest.raises(UsageError, match=says):
        engine.load_model("demo", silent=True, **options)


def test_a_projector_that_nobody_asked_for_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(demo_path("demo"), tmp_path / "model.gguf")
    shutil.copy(demo_path("demo-draft"), tmp_path / "mmproj-model.gguf")
    with llcuda.InferenceEngine() as engine, caplog.at_level(logging.WARNING):
        engine.load_model(tmp_path / "model.gguf", device="cpu", silent=True)
        assert engine.infer("What is 2+2?", temperature=0).text == "2 + 2 = 4."
        assert "Trying again without the projector mmproj-model.gguf." in caplog.text
        with pytest.raises(LlcudaError):
            engine.load_model(tmp_path / "model.gguf", device="cpu", silent=True, mmproj=tmp_path / "mmproj-model.gguf")


def test_what_is_printed_of_an_object_is_a_line_that_says_what_it_is(engine: llcuda.InferenceEngine) -> None:
    assert engine.model is not None
    with engine.infer_stream("What is 2+2?", temperature=0) as stream:
        next(stream)
        assert repr(stream).startswith("<TextStream: open, ")
        stream.read_all()
    lines = {
        repr(llcuda.InferenceEngine()): "<InferenceEngine: no model is loaded>",
        repr(llcuda.InferenceEngine("http://localhost:1")): "<InferenceEngine: attached to http://localhost:1>",
        repr(engine): f"<InferenceEngine: demo on cpu at {engine.url}>",
        repr(engine.client): f"<InferenceClient of {engine.url}>",
        repr(stream): "<TextStream: ended, 10 characters: '2 + 2 = 4.'>",
        repr(engine.model): f"<ModelFile demo: llama, F16, {engine.model.path}>",
    }
    assert list(lines) == list(lines.values())
    assert "template" not in repr(engine.model.info).replace("has_chat_template", "")


def test_one_text_is_no_batch(engine: llcuda.InferenceEngine) -> None:
    with pytest.raises(UsageError, match="takes a list of prompts, and was given one text"):
        engine.batch_infer("What is 2+2?")


def test_a_foreign_library_is_told_from_a_damaged_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", "-o", str(tmp_path / "libstdc++.so.6")], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with llcuda.InferenceEngine() as engine, pytest.raises(BinaryUnusableError) as caught:
        engine.load_model("demo", device="cpu", silent=True)
    assert caught.value.hint.startswith(f"Try it without LD_LIBRARY_PATH, which is {tmp_path} here.")
    monkeypatch.delenv("LD_LIBRARY_PATH")
    lines = ["llama-server: /opt/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by llama-server)"]
    assert classify_failure(lines, 1).hint.startswith("Reinstall")


def test_a_loopback_that_is_down_is_named() -> None:
    program = "import llcuda\ntry: llcuda.InferenceEngine().load_model('demo', device='cpu', silent=True)\n"
    program += "except Exception as error: print(type(error).__name__, error.hint)"
    done = subprocess.run(
        ["unshare", "--user", "--net", "--map-root-user", sys.executable, "-c", program],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    if "unshare" in done.stderr:
        pytest.skip("this machine makes no namespaces")
    assert done.stdout.startswith(f"{ServerNotReadyError.__name__} Is the loopback interface up?"), done
