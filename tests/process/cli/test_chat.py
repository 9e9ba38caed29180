"""`llcuda chat` at a real terminal, with an editor and without one, and what it says of images and of the context."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.models.resolve import demo_path
from tests.made_models.sparse_model import write_sparse_projector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHAT = ["chat", "-m", "demo", "--device", "cpu", "--temperature", "0"]
WITH_EDITOR = [sys.executable, "-m", "llcuda"]
WITHOUT_EDITOR = [
    sys.executable, "-c",
    "import sys; sys.modules['prompt_toolkit'] = None\nfrom llcuda.__main__ import main\nsys.exit(main())",
]  # fmt: skip
UP, PASTE, END_OF_PASTE, ALT_ENTER = "\x1b[A", "\x1b[200~", "\x1b[201~", "\x1b\r"
_PROMPT = re.compile(r">[ \b\r]*$")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[=>])")


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self.end, other = os.openpty()
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=other, stdout=other, stderr=other, env=environment
        )
        os.close(other)

    def write(self, text: str) -> None:
        os.write(self.end, text.encode())

    def read_until(self, words: str, *, press: str = "") -> str:
        """Return what the screen has shown up to these words and the prompt after them; `press` again and again.

        CPython misses a Ctrl-C that comes while readline is not waiting for a key. A person then presses it again.
        """
        said = ""
        while not _PROMPT.search(said.rpartition(words)[2] if words in said else ""):
            if press and words not in said and not select.select([self.end], [], [], 1)[0]:
                self.write(press)
                continue
            said = _ESCAPE.sub("", said + os.read(self.end, 4096).decode(errors="replace"))
        return said


@contextmanager
def chatting(program: list[str]) -> Iterator[Terminal]:
    terminal = Terminal([*program, *CHAT])
    try:
        terminal.read_until("/bye ends")
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.end)


def read_questions(terminal: Terminal, file: Path) -> list[str]:
    terminal.write(f"/save {file}\r")
    terminal.read_until("messages are in")
    return [message["content"] for message in json.loads(file.read_text()) if message["role"] == "user"]


@pytest.mark.parametrize("program", [WITH_EDITOR, WITHOUT_EDITOR], ids=["editor", "readline"])
def test_a_question_comes_back_by_an_arrow_key(program: list[str], tmp_path: Path) -> None:
    with chatting(program) as terminal:
        terminal.write("What is 1+1?\r")
        terminal.read_until("1 + 1 = 2.")
        terminal.write(f"{UP}\r")
        terminal.read_until("1 + 1 = 2.")
        assert read_questions(terminal, tmp_path / "chat.json") == ["What is 1+1?"] * 2


def test_pasted_lines_and_lines_ended_by_alt_enter_are_one_message(tmp_path: Path) -> None:
    with chatting(WITH_EDITOR) as terminal:
        terminal.write(f"{PASTE}What is\n2+2?{END_OF_PASTE}\r")
        terminal.read_until("= 4.")
        terminal.write(f"What is{ALT_ENTER}3+3?\r")
        terminal.read_until("= 6.")
        assert read_questions(terminal, tmp_path / "chat.json") == ["What is\n2+2?", "What is\n3+3?"]


@pytest.mark.parametrize("program", [WITH_EDITOR, WITHOUT_EDITOR], ids=["editor", "readline"])
def test_ctrl_c_says_how_to_end_and_ctrl_d_ends(program: list[str]) -> None:
    with chatting(program) as terminal:
        terminal.write("half a word")
        terminal.read_until("(Ctrl-D ends the conversation)", press="\x03")
        terminal.write("\x04")
        assert terminal.process.wait(60) == 0


def converse(*words: str, turns: list[str], model: str = "demo") -> subprocess.CompletedProcess[str]:
    command = [*WITH_EDITOR, "chat", "-m", model, "--device", "cpu", *words]
    return subprocess.run(
        command, input="\n".join(turns), capture_output=True, text=True, timeout=100, check=False
    )


def test_a_full_context_says_how_to_go_on() -> None:
    done = converse("--ctx-size", "256", turns=["word " * 400, "/set temperature 0", "What is 2+2?"])
    assert (done.returncode, done.stdout) == (0, "2 + 2 = 4.\n")
    assert "/reset forgets the conversation" in done.stderr
    done = converse("--ctx-size", "256", turns=["/set ignore_eos true", "What is 2+2?"])
    assert "the context of 256 tokens is full" in done.stderr


def test_what_was_set_is_shown_and_left_to_the_model_again() -> None:
    turns = ["/set", "/set top_k 3", "/set seed 1", "/set top_k", "/set top_k many"]
    said = converse(turns=turns).stderr.splitlines()
    shown = ["Nothing is set.", "top_k is 3", "top_k is 3, seed is 1", "seed is 1"]
    assert [line for line in said if line in shown] == shown
    assert "'many' is not a whole number" in said[-1]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Write 8 by 8 grey pixels as a PNG file."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compress((b"\0" + b"\x80" * 8) * 8)
    file = tmp_path / "grey.png"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return file


def test_images_go_to_a_model_that_has_a_projector(picture: Path, tmp_path: Path) -> None:
    model, file = tmp_path / "seeing" / "model.gguf", tmp_path / "chat.json"
    model.parent.mkdir()
    shutil.copy(demo_path("demo"), model)
    write_sparse_projector(
        model.parent / "mmproj-model.gguf", width=64, layers=1, image=64, patch=16, output=256, kind="gemma3"
    )
    turns = ["What is this?", "/stats", f"/image {picture}", "And this?", "What is 2+2?", f"/save {file}"]
    done = converse("--image", str(picture), "-n", "8", turns=turns, model=str(model))
    assert done.returncode == 0, done.stderr
    assert "llcuda:" not in done.stderr
    said: list[Any] = [one["content"] for one in json.loads(file.read_text()) if one["role"] == "user"]
    assert [[part["type"] for part in one] for one in said[:2]] == [["image_url", "text"]] * 2
    assert said[0][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert said[2] == "What is 2+2?"


def test_a_model_without_a_projector_says_that_it_takes_none(picture: Path) -> None:
    done = converse(turns=[f"/image {picture}", "/image nowhere.png", "What is 2+2?"])
    assert done.returncode == 0
    assert "this model takes no images" in done.stderr
    assert "--mmproj FILE" in done.stderr
    assert "'nowhere.png' cannot be read: No such file" in done.stderr
    assert done.stdout
    assert converse("--image", str(picture), turns=[]).returncode == 2
