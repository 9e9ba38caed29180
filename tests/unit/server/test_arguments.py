"""Keyword arguments become llama-server's command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llcuda.errors import UsageError
from llcuda.server.arguments import build_arguments, build_own_arguments, check_key, with_defaults
from llcuda.server.failures import Launch


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"ctx_size": None}, []),
        ({"ctx_size": 4096}, ["--ctx-size", "4096"]),
        ({"gpu_layers": 0}, ["--gpu-layers", "0"]),
        ({"n_parallel": 4}, ["--parallel", "4"]),
        ({"temp": 0.5}, ["--temp", "0.5"]),
        ({"metrics": True}, ["--metrics"]),
        ({"metrics": False}, []),
        ({"warmup": False}, ["--no-warmup"]),
        ({"no_warmup": True}, ["--no-warmup"]),
        ({"jinja": True}, ["--jinja"]),
        ({"flash_attn": True}, ["--flash-attn", "on"]),
        ({"flash_attn": False}, ["--flash-attn", "off"]),
        ({"flash_attn": "auto"}, ["--flash-attn", "auto"]),
        ({"fit": False}, ["--fit", "off"]),
        ({"device": ["CUDA0", "CUDA1"]}, ["--device", "CUDA0,CUDA1"]),
        ({"tensor_split": [3, 1]}, ["--tensor-split", "3,1"]),
        ({"tensor_split": (0.75, 0.25)}, ["--tensor-split", "0.75,0.25"]),
        ({"tensor_split": "3,1"}, ["--tensor-split", "3,1"]),
        ({"alias": ["a,b", 'say "hi", you', '"quoted"', "c"]}, ["--alias", '"a,b","say ""hi"", you","""quoted""",c']),
        ({"control_vector_layer_range": (1, 3)}, ["--control-vector-layer-range", "1", "3"]),
        ({"alias": "--host"}, ["--alias", "--host"]),
        ({"ctx_size": 1, "threads": 2}, ["--ctx-size", "1", "--threads", "2"]),
        ({"lora_scaled": "/a:0.5"}, ["--lora-scaled", "/a:0.5"]),
        ({"nonesuch": 3}, ["--nonesuch", "3"]),
        ({"log_verbosity": 4}, ["--log-verbosity", "4"]),
    ],
)
def test_an_option_becomes_an_argument(options: dict[str, Any], expected: list[str]) -> None:
    assert build_arguments(**options) == expected


@pytest.mark.parametrize("name", ["mmproj", "grammar_file", "slot_save_path", "spec_draft_model", "chat_template_file"])
def test_a_relative_path_is_made_absolute(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build_arguments(**{name: "x.gguf"})[1] == str(tmp_path / "x.gguf")


def test_every_path_of_a_list_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build_arguments(lora=["a", "/b"]) == ["--lora", f"{tmp_path}/a,/b"]
    assert build_arguments(lora_scaled=["a:0.5", "b"]) == ["--lora-scaled", f"{tmp_path}/a:0.5,{tmp_path}/b"]


def test_a_path_object_is_made_absolute_whatever_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert build_arguments(some_new_file=Path("x")) == ["--some-new-file", str(tmp_path / "x")]


@pytest.mark.parametrize(
    "name",
    ["model", "host", "port", "api_key", "api_key_file", "cors_origins", "offline", "no_offline", "log_disable",
     "log_file", "no_log_prefix", "hf_repo", "model_url", "models_dir", "list_devices", "help", "reuse_port",
     "ssl_key_file", "verbose"],
)  # fmt: skip
def test_what_the_manager_decides_cannot_be_set(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        build_arguments(**{name: "x"})


def test_the_log_cannot_be_made_too_quiet_to_follow() -> None:
    with pytest.raises(UsageError, match="log_verbosity=2"):
        build_arguments(log_verbosity=2)


def test_the_managers_own_arguments_never_hold_the_key() -> None:
    arguments = build_own_arguments(Launch("/s", "/m.gguf", "127.0.0.1", 0))
    assert arguments[:6] == ["--model", "/m.gguf", "--host", "127.0.0.1", "--port", "0"]
    assert "--offline" in arguments
    assert arguments[arguments.index("--cors-origins") + 1] == "localhost"
    assert not any("key" in argument for argument in arguments)


def test_what_the_caller_says_goes_before_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcuda.server.free_memory.read_free_memory", lambda: 8000)
    defaults = ["--no-ui", "--metrics", "--cache-ram", "2000", "--log-verbosity", "4"]
    assert build_arguments(**with_defaults({})) == defaults
    own = {"ui": True, "metrics": False, "cache_ram": -1, "verbosity": 3}
    given = ["--ui", "--cache-ram", "-1", "--verbosity", "3"]
    assert build_arguments(**with_defaults(own)) == given


def test_a_key_is_made_where_none_is_given() -> None:
    keys = {check_key(None) for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 48 and key.isalnum() for key in keys)
    assert check_key("mine") == "mine"


@pytest.mark.parametrize("key", ["", "a,b", "a b", "a\nb", "é", '"a"', "a\x7f"])
def test_a_key_that_would_not_be_one_key_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="api_key"):
        check_key(key)
