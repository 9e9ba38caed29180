"""Conversations at the command line with the demo model, and with one that has no chat template."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from llcuda.gateway import Gateway, GatewayConfig, ModelConfig
from tests.made_models.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path


def ask(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llcuda", *words]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=100, check=False)


def test_a_piped_prompt_is_answered() -> None:
    done = ask("infer", "-m", "demo", "--temperature", "0", said="What is 2+2?")
    assert done.stdout == "2 + 2 = 4.\n"


def test_a_conversation_has_commands_and_texts_of_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    turns = ["/set temperature 0", '"""What is', '2+2?"""', "/stats", "/set temprature 1", "/hlp"]
    turns += [f"/save {file}", "/bye", "x"]
    done = ask("chat", "-m", "demo", said="\n".join(turns))
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert [message["role"] for message in json.loads(file.read_text())] == ["user", "assistant"]
    assert json.loads(file.read_text())[0]["content"] == "What is\n2+2?"
    for line in ("temperature is 0", "tokens/s", "Did you mean temperature?", "did you mean /help?"):
        assert line in done.stderr


def test_an_answer_that_is_cut_off_is_said_to_be() -> None:
    done = ask("chat", "-m", "demo", "-n", "2", said="What is the capital of France?")
    assert "cut off" in done.stderr


@pytest.fixture
def base_model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "base.gguf")


def test_a_model_without_a_chat_template_says_so(base_model: Path) -> None:
    done = ask("chat", "-m", str(base_model), said="Hello")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no chat template" in done.stderr
    assert "--chat-template chatml" in done.stderr
    done = ask("infer", "-m", str(base_model), "-n", "2", "Hello")
    assert done.returncode == 0
    assert "it continues the text" in done.stderr


def test_the_gateway_says_so_too(base_model: Path) -> None:
    config = GatewayConfig((ModelConfig("base", str(base_model), device="cpu"),), port=0)
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    with Gateway(config) as gateway, httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as http:
        refused = http.post("/v1/chat/completions", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "no_chat_template"
        assert http.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 2}).status_code == 200
        assert gateway.notes[1:] == ("base has no chat template: it continues texts.",)
        code = "from llcuda.cli.client import main; raise SystemExit(main())"
        command = [sys.executable, "-c", code, "--url", gateway.url, "-n", "2", "--raw", "Hello"]
        assert subprocess.run(command, check=False, timeout=60, stdout=subprocess.DEVNULL).returncode == 0


def test_an_option_of_the_server_takes_the_place_of_a_flag() -> None:
    done = ask("infer", "-m", "demo", "--server-option", "ctx-size=-5", "x")
    assert done.returncode == 2
    assert "--ctx-size -5 is not a whole number" in done.stderr
    done = ask("infer", "-m", "demo", "--server-option", "nonesuch=1", "x")
    assert "try: `llcuda-server --help` lists them.\n" in done.stderr


def test_a_folder_is_a_model(base_model: Path) -> None:
    command = [sys.executable, "-m", "llcuda", "models", "inspect", base_model.parent.name]
    done = subprocess.run(command, cwd=base_model.parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
