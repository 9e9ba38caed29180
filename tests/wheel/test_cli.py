"""The commands as a user types them, from the installed package."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import llcuda

if TYPE_CHECKING:
    from collections.abc import Callable

_SCRIPTS = Path(sys.executable).parent
_TIMEOUT = 120
_WITHOUT_EDITOR = "import sys; sys.modules['prompt_toolkit'] = None\nfrom llcuda.__main__ import main\nsys.exit(main())"


def run(*command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(_SCRIPTS / command[0]), *command[1:]],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
        env={**os.environ, **environment},
    )


def test_infer_answers_offline() -> None:
    result = run("llcuda", "infer", "-m", "demo", "-p", "What is 2+2?", LLCUDA_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    assert "4" in result.stdout
    assert result.stdout.endswith("\n")


def test_infer_reads_the_prompt_from_stdin() -> None:
    assert "5" in run("llcuda", "infer", "-m", "demo", "-p", "-", "--temperature", "0", stdin="What is 2+3?").stdout


def test_infer_prints_its_figures_as_json() -> None:
    result = run("llcuda", "infer", "-m", "demo", "-p", "What is 2+2?", "--json")
    answer = json.loads(result.stdout)
    assert "4" in answer["text"]
    assert answer["tokens_generated"] > 0
    assert answer["latency_ms"] > 0


def test_infer_holds_the_answer_to_a_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}')
    prompt = "What is 23+45? Answer in JSON."
    result = run("llcuda", "infer", "-m", "demo", "-p", prompt, "--schema", str(schema), "--temperature", "0")
    assert json.loads(result.stdout) == {"answer": 68}


def test_infer_passes_options_to_the_server() -> None:
    result = run(
        "llcuda", "infer", "-m", "demo", "-p", "What is 2+2?", "--ctx-size", "256", "--server-option", "no-warmup"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["infer", "-m", "/no/such/model.gguf", "-p", "x"], 5, "try: `llcuda models list`"),
        (["infer", "-m", "demoo", "-p", "x"], 5, "try: Did you mean demo"),
        (["infer", "-m", "demo", "-p", "x", "--server-option", "no-such-option"], 2, "try: `llcuda-server --help`"),
        (["infer", "-m", "demo", "-p", "x", "--temperature", "-3"], 2, "--temperature -3.0 is below 0"),
        (["infer", "-m", "demo", "-p", "x", "--schema", "/no/such/schema.json"], 2, "schema"),
    ],
)
def test_a_failure_has_its_exit_code_and_says_what_to_try(arguments: list[str], code: int, words: str) -> None:
    result = run("llcuda", *arguments)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_chat_takes_its_turns_from_a_pipe() -> None:
    result = run(
        "llcuda", "chat", "-m", "demo", "--temperature", "0", stdin="What is 40+2?\nWhat is the capital of Japan?\n"
    )
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert "42" in first
    assert "Tokyo" in second


def read_until(terminal: int, words: bytes, *, seen: bytes = b"", ask: Callable[[], object] = lambda: None) -> bytes:
    """Return what the terminal shows up to and with ``words``, asking for them every half second."""
    deadline = time.monotonic() + _TIMEOUT
    while words not in seen:
        assert time.monotonic() < deadline, seen
        ask()
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 4096)
    return seen


def is_stopped_in_the_middle(terminal: int, process: subprocess.Popen[bytes]) -> bool:
    """Ask for a long answer and interrupt it; false if it was complete before the signal came."""
    os.write(terminal, b"/reset\n")  # so small a model answers otherwise after other answers
    read_until(terminal, b"> ")
    os.write(terminal, b"Count to fifty.\n")
    start = read_until(terminal, b"1, 2")
    process.send_signal(signal.SIGINT)
    shown = read_until(terminal, b"> ", seen=start.partition(b"1, 2")[2])
    if b"[stopped]" in shown:
        return b"50." not in shown
    # It came too late, and must not take the next line with it, whenever CPython sees it.
    seen = read_until(terminal, b"(Ctrl-D ends", seen=shown, ask=lambda: process.send_signal(signal.SIGINT))
    read_until(terminal, b"> ", seen=seen.partition(b"(Ctrl-D ends")[2])
    return False


def test_ctrl_c_stops_the_answer_and_not_the_chat() -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", _WITHOUT_EDITOR, "chat", "-m", "demo", "--temperature", "0"],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(slave)
        try:
            read_until(master, b"> ")
            # CPython does not see a signal that comes between showing the prompt and waiting for a key.
            read_until(master, b"(Ctrl-D ends", ask=lambda: process.send_signal(signal.SIGINT))
            os.write(master, b"What is 40+2?\n")
            read_until(master, b"> ", seen=read_until(master, b"42").partition(b"42")[2])
            assert any(is_stopped_in_the_middle(master, process) for _ in range(20))
            os.write(master, b"What is 40+3?\n")
            read_until(master, b"> ", seen=read_until(master, b"43").partition(b"43")[2])
            os.write(master, b"\x04")  # at the prompt: before it, the terminal would take it for nobody
            assert process.wait(timeout=_TIMEOUT) == 0
        finally:
            process.kill()
            os.close(master)


def test_embed_prints_one_vector_for_each_prompt() -> None:
    result = run("llcuda", "embed", "-m", "demo", "-p", "Paris", "-p", "Rome")
    assert result.returncode == 0, result.stderr
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert len(first) == len(second) > 0
    assert first != second


def test_doctor_finds_nothing_broken() -> None:
    result = run("llcuda", "doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "BROKEN" not in result.stdout
    findings = json.loads(run("llcuda", "doctor", "--json").stdout)
    assert {finding["check"] for finding in findings} >= {"llcuda", "build", "files", "llama-server", "demo model"}


def test_doctor_names_a_server_that_is_not_there() -> None:
    result = run("llcuda", "doctor", LLAMA_SERVER_PATH="/no/such/llama-server")
    assert result.returncode == 3
    assert "/no/such/llama-server" in result.stdout


def test_models_list_names_the_demo_model_first_and_as_json() -> None:
    result = run("llcuda", "models", "list")
    assert result.returncode == 0, result.stderr
    assert "demo" in result.stdout
    entries = json.loads(run("llcuda", "models", "list", "--json").stdout)
    assert len(entries) >= 25


def test_models_inspect_shows_what_the_header_says() -> None:
    result = run("llcuda", "models", "inspect", "demo", "--json")
    assert result.returncode == 0, result.stderr
    info = json.loads(result.stdout)
    assert info["architecture"] == "llama"
    assert info["has_chat_template"] is True


@pytest.mark.parametrize("tool", ["llcuda-server", "llcuda-cli", "llcuda-bench", "llcuda-quantize", "llcuda-embedding"])
def test_a_tool_is_passed_through_with_its_exit_code(tool: str) -> None:
    result = run(tool, "--help")
    assert "usage" in (result.stdout + result.stderr).lower()
    assert run(tool, "--no-such-option-at-all").returncode != 0


def test_the_tools_version_is_the_one_that_was_built() -> None:
    result = run("llcuda-server", "--version")
    assert "11434" in result.stdout + result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["llcuda"],
        ["llcuda", "infer"],
        ["llcuda", "chat"],
        ["llcuda", "embed"],
        ["llcuda", "models"],
        ["llcuda", "models", "list"],
        ["llcuda", "models", "pull"],
        ["llcuda", "models", "inspect"],
        ["llcuda", "models", "rm"],
        ["llcuda", "doctor"],
        ["llcuda-client"],
    ],
)
def test_every_command_has_help(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.returncode == 0
    assert "usage:" in result.stdout


def test_the_client_asks_a_server_that_runs() -> None:
    with llcuda.InferenceEngine() as engine:
        engine.load_model("demo")
        address = ("--host", "localhost", "--port", engine.url.rpartition(":")[2])
        result = run("llcuda-client", *address, "-p", "What is 2+2?", LLAMA_API_KEY=engine.api_key or "")
    assert result.returncode == 0, result.stderr
    assert "4" in result.stdout


def test_the_client_says_when_nobody_answers() -> None:
    result = run("llcuda-client", "--port", "9", "-p", "x")
    assert result.returncode == 7
    assert "try: " in result.stderr


def test_python_m_llcuda_is_the_same_command() -> None:
    result = subprocess.run([sys.executable, "-m", "llcuda", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == run("llcuda", "--version").stdout
