"""Ways to break what llama-server needs, one at a time, each with the error that must come of it.

``python -m tests.broken FOLDER_OF_BINARIES`` records what the real llama-server prints for each into tests/data/logs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.errors import (
    BinaryUnusableError,
    LlcudaError,
    ModelFormatError,
    ModelNotFoundError,
    OutOfMemoryError,
    PortInUseError,
    UsageError,
)
from llcuda.server.arguments import build_arguments
from tests.made_models.tiny_model import build_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable

LOGS = Path(__file__).parent / "data" / "logs"


@dataclass(frozen=True)
class Broken:
    """One thing that is wrong."""

    name: str
    error: type[LlcudaError]
    says: str
    """Words of the message."""
    remedy: str
    """Words of the hint."""
    model: Callable[[Path], object] = lambda path: path.write_bytes(build_tiny_model())
    server: Callable[[Path, Path], Path] = lambda binaries, _folder: binaries / "llama-server"
    options: dict[str, Any] = field(default_factory=dict)
    needs_port: bool = False

    @property
    def log(self) -> Path:
        """Where its recorded log is; some fail before llama-server is started."""
        return LOGS / f"{self.name}.log"


def truncate(path: Path) -> None:
    whole = build_tiny_model()
    path.write_bytes(whole[: len(whole) // 2])


def with_a_missing_library(binaries: Path, folder: Path) -> Path:
    server = copy_server(binaries, folder)
    (server.parent / "libllama.so").unlink()
    return server


def without_cpu_backend(binaries: Path, folder: Path) -> Path:
    server = copy_server(binaries, folder)
    for library in server.parent.glob("libggml-cpu*.so"):
        library.unlink()
    return server


def with_a_damaged_library(binaries: Path, folder: Path) -> Path:
    server = copy_server(binaries, folder)
    library = server.parent / "libllama.so"
    library.unlink()
    library.write_bytes(b"\x7fELF not a library at all")
    return server


def copy_server(binaries: Path, folder: Path) -> Path:
    """Copy the executable, which looks for libraries beside itself, and link the libraries."""
    copied = folder / "binaries"
    copied.mkdir()
    for library in binaries.glob("*.so"):
        (copied / library.name).symlink_to(library.resolve())
    return Path(shutil.copy(binaries / "llama-server", copied))


def without_execute_bit(binaries: Path, folder: Path) -> Path:
    server = copy_server(binaries, folder)
    server.chmod(0o644)
    return server


def with_little_memory(binaries: Path, folder: Path) -> Path:
    server = folder / "llama-server"
    server.write_text(f'#!/bin/sh\nulimit -v 600000\nexec "{(binaries / "llama-server").resolve()}" "$@"\n')
    server.chmod(0o755)
    return server


BROKEN = (
    Broken("no_file", ModelNotFoundError, "there is no such file", "Check the path", model=lambda _path: None),
    Broken("empty", ModelFormatError, "it is empty", "download it again", model=lambda path: path.write_bytes(b"")),
    Broken(
        "44_bytes", ModelFormatError, "ends inside its header", "download it again",
        model=lambda path: path.write_bytes(build_tiny_model()[:44]),
    ),
    Broken("truncated", ModelFormatError, "the file ends before its tensor", "download it again", model=truncate),
    Broken(
        "wrong_magic", ModelFormatError, "begins with 'GGML'", "Give a file in GGUF format",
        model=lambda path: path.write_bytes(b"GGML" + build_tiny_model()[4:]),
    ),
    Broken(
        "wrong_architecture", ModelFormatError, "architecture 'nonesuch' is unknown", "Update llcuda",
        model=lambda path: path.write_bytes(build_tiny_model(architecture="nonesuch")),
    ),
    Broken(
        "no_tokenizer", ModelFormatError, "has no tokenizer", "complete language model",
        model=lambda path: path.write_bytes(build_tiny_model(with_tokenizer=False)),
    ),
    Broken(
        "no_memory", OutOfMemoryError, "not enough memory", "smaller ctx_size",
        server=with_little_memory, options={"ctx_size": 4_000_000, "threads": 1, "threads_http": 2, "warmup": False},
    ),
    Broken("port_taken", PortInUseError, "is in use", "Leave the port out", needs_port=True),
    Broken(
        "missing_library", BinaryUnusableError, "libllama.so is missing", "Reinstall", server=with_a_missing_library
    ),
    Broken("no_execute_bit", BinaryUnusableError, "no execute permission", "chmod +x", server=without_execute_bit),
    Broken("wrong_option", UsageError, "knows no option nonesuch", "llcuda-server --help", options={"nonesuch": 3}),
    # Beyond the twelve.
    Broken("damaged_library", BinaryUnusableError, "damaged", "Reinstall", server=with_a_damaged_library),
    Broken("no_backend", BinaryUnusableError, "no CPU backend", "Reinstall", server=without_cpu_backend),
    Broken(
        "new_version", ModelFormatError, "GGUF version 99 is unknown", "Update llcuda",
        model=lambda path: path.write_bytes(b"GGUF\x63\0\0\0" + build_tiny_model()[8:]),
    ),
    Broken(
        "cut_header", ModelFormatError, "header is damaged or cut off", "download it again",
        model=lambda path: path.write_bytes(build_tiny_model()[:5001]),
    ),
    Broken("wrong_value", UsageError, "ctx_size: not a number", "--help", options={"ctx_size": "many"}),
    Broken("unknown_value", UsageError, "cache_type_k: Unsupported", "--help", options={"cache_type_k": "q9"}),
    Broken("bad_template", UsageError, "chat template", "--help", options={"chat_template": "{{ nope"}),
    Broken("no_projector", ModelNotFoundError, "nonesuch.gguf", "Check the path", options={"mmproj": "/nonesuch.gguf"}),
    Broken("no_adapter", ModelNotFoundError, "nonesuch.gguf", "Check the path", options={"lora": ["/nonesuch.gguf"]}),
)  # fmt: skip

TWELVE = BROKEN[:12]


def record(binaries: Path, case: Broken) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.model(folder / "model.gguf")
        server = case.server(binaries, folder)
        if not os.access(server, os.X_OK):
            return
        log = _run(server, folder, case)
    case.log.write_bytes(log.replace(str(folder).encode() + b"/", b"").replace(str(binaries).encode() + b"/", b""))


def _run(server: Path, folder: Path, case: Broken) -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if case.needs_port else 0
        command = [f"./{server.relative_to(folder)}" if server.is_relative_to(folder) else str(server)]
        command += ["--model", "model.gguf", "--host", "127.0.0.1", "--port", str(port), "--offline", "--no-ui"]
        command += ["--cors-origins", "localhost", "--log-colors", "off", *build_arguments(**case.options)]
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "LLAMA_API_KEY": "key"}
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            return process.communicate(timeout=60)[0]


if __name__ == "__main__":
    LOGS.mkdir(parents=True, exist_ok=True)
    for each in BROKEN:
        record(Path(sys.argv[1]).resolve(), each)
