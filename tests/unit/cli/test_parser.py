"""What the command line says to someone who does not know it yet, or mistypes."""

from __future__ import annotations

import ast
import io
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import llcuda
from llcuda.cli import build_parser, main
from llcuda.cli.arguments import read_prompt
from llcuda.cli.output import colour, speak_flags
from llcuda.errors import ConnectionFailedError, NoDeviceError, PortInUseError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("words", [[], ["models"], ["gpu"]])
def test_a_command_alone_shows_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: llcuda", *words]))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["infr"], "try: llcuda infer"),
        (["gpu", "stats"], "try: llcuda gpu status"),
        (["run", "demo"], "try: llcuda chat"),
        (["ls"], "try: llcuda models list"),
        (["infer", "-m", "demo", "--tempature", "1"], "try: --temperature"),
        (["serve", "-m", "demo", "--wokers", "2"], "try: --workers"),
    ],
)
def test_what_is_misspelt_gets_a_suggestion(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-m", "demo", "hi"], ["hi", "-m", "demo"], ["-m", "demo", "-p", "hi"]])
def test_a_prompt_needs_no_flag(words: list[str]) -> None:
    assert build_parser().parse_args(["infer", *words, "--json"]).prompt == "hi"


def test_a_prompt_that_is_missing_is_read_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = build_parser().parse_args(["infer", "-m", "demo"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped"))
    assert read_prompt(arguments.prompt) == "piped"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with pytest.raises(UsageError, match="there is no prompt"):
        read_prompt(arguments.prompt)


def test_help_keeps_its_examples_and_follows_the_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["infer", "--help"])
    said = capsys.readouterr().out
    assert '\n  llcuda infer -m demo "What is 2+2?"\n' in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (NoDeviceError("x").hint, "Use --device cpu, or --device auto to take a GPU if there is one."),
        ("gpu_layers=0 keeps it off", "--gpu-layers 0 keeps it off"),
        ("give require_gpu=True", "give --require-gpu"),
        ("a smaller ctx_size", "a smaller --ctx-size"),
        ('split_mode="row" is gone', "--server-option split-mode=row is gone"),
        ("temperature=-1 is below 0", "--temperature -1 is below 0"),
        ("stop_sequences=3 is not a list", "--stop 3 is not a list"),
        ("serve.toml: ctx_size is 'x'", "serve.toml: ctx_size is 'x'"),
        ("`sudo modprobe nvidia_uvm` and k=3 stay", "`sudo modprobe nvidia_uvm` and k=3 stay"),
    ],
)
def test_a_message_speaks_of_flags(words: str, said: str) -> None:
    assert speak_flags(words) == said


_PYTHON = re.compile(
    r"\b(?:engine|client|manager)\.\w|\b[A-Z][a-z]+[A-Z]\w+\(|\w\(\)|[a-z]+_[a-z_]+=…|\b(?:True|False|None)\b"
)
_FOR_PROGRAMS = (
    "Call engine.load_model", "Call start_server", "For example [{", "For messages, use chat()",
    "InferenceEngine() of its", "Talk to it with InferenceClient", "Use bool, int", "another ServerManager",
    "embeddings=True generates",
)  # fmt: skip
"""What only a program can meet."""


def read_texts(path: Path) -> Iterator[str]:
    """Yield what a module says to people: its texts of several words, but no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_no_message_at_the_command_line_speaks_python() -> None:
    folder = Path(llcuda.__file__).parent
    paths = [path for path in folder.rglob("*.py") if "gateway" not in path.parts or "config" in path.parts]
    texts = {speak_flags(text) for path in paths for text in read_texts(path) if " " in text and "\\" not in text}
    speaking = sorted(text for text in texts if _PYTHON.search(text) and not any(one in text for one in _FOR_PROGRAMS))
    assert speaking == []
    assert "--port 0" in speak_flags(PortInUseError("localhost", 1).hint)
    assert "--url" in speak_flags(ConnectionFailedError("URL", "refused").hint)


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colour("x", 31) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert colour("x", 31) == "x"


def test_flags_for_files_are_options_of_the_server() -> None:
    words = ["-m", "demo", "--server-option", "a=1", "--lora", "x.gguf", "--mmproj", "y.gguf"]
    words += ["--chat-template", "chatml"]
    given = ["a=1", "lora=x.gguf", "mmproj=y.gguf", "chat-template=chatml"]
    assert build_parser().parse_args(["chat", *words]).server_option == given
    assert build_parser().parse_args(["serve", *words]).server_options == given
