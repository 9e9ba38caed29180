"""docs/troubleshooting.md has a section for every error, with words that the error really says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from llcuda import errors
from llcuda.server.failures import Launch, classify_failure
from tests.places import ROOT

if TYPE_CHECKING:
    from llcuda.errors import LlcudaError

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
LOGS = ROOT / "tests" / "data" / "logs"
LAUNCH = Launch("/bin/llama-server", "model.gguf")


def recorded(name: str, returncode: int = 1) -> LlcudaError:
    return classify_failure((LOGS / f"{name}.log").read_text().splitlines(), returncode, launch=LAUNCH)


EXAMPLES = (
    recorded("wrong_option"),
    errors.BinaryNotFoundError("llama-server", searched=["the package: /site-packages/llcuda/binaries/llama-server"]),
    recorded("missing_library", 127),
    recorded("cuda/written-cublas-12-missing", -6),
    recorded("cuda/written-803", -6),
    recorded("cuda/written-illegal-memory-access", -6),
    errors.InstallError("llcuda-0.1.0-cuda12-linux-x86_64.tar.gz", "'extra.so' is not in its record"),
    errors.NoDeviceError("This machine has no NVIDIA GPU."),
    errors.UnsupportedDeviceError("3.5", built_for=["5.0", "6.1"]),
    errors.DriverTooOldError("470.1", required="550"),
    recorded("no_memory"),
    recorded("cuda/written-out-of-memory-while-computing", -6),
    recorded("no_file"),
    recorded("truncated"),
    recorded("wrong_architecture"),
    recorded("wrong_magic"),
    recorded("no_tokenizer"),
    errors.ChecksumMismatchError("model.gguf", expected="sha256:aa", actual="sha256:bb"),
    errors.DownloadError("https://example.org/model.gguf", "no route to host"),
    errors.DraftMismatchError("draft.gguf", "its vocabulary has 32000 tokens, the model's 151936"),
    classify_failure(["loading"], -6),
    classify_failure(["loading"], -9),
    errors.ServerNotReadyError("llama-server made no progress for 60 s", timeout=60),
    errors.PortInUseError("127.0.0.1", 8090),
    errors.RequestTimeoutError("no complete answer within 600 s", timeout=600),
    errors.ConnectionFailedError("http://127.0.0.1:8090", "cannot connect (Connection refused)"),
    errors.SchemaMismatchError("$.age: 'x' is not an integer", text="{}"),
)

# Every class that is raised as itself; the others only gather them.
RAISED = [
    name
    for name in errors.__all__
    if name in {"UsageError", "ServerError", "DeviceError"} or not getattr(errors, name).__subclasses__()
]


@pytest.mark.parametrize("name", RAISED)
def test_every_error_has_a_section_with_its_exit_code(name: str) -> None:
    assert f"Exit code {getattr(errors, name).exit_code}." in SECTIONS[name]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: str(error)[:40])
def test_a_section_shows_the_message_and_the_hint_as_they_are(error: LlcudaError) -> None:
    assert f"```text\n{error}\n{error.hint}\n```" in SECTIONS[type(error).__name__]


def test_no_section_shows_words_that_no_error_says() -> None:
    shown = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    said = {f"{error}\n{error.hint}\n" for error in EXAMPLES}
    unchecked = {"/bin/llama-server cannot be used: it has no execute permission\nRun: chmod +x '/bin/llama-server'\n"}
    assert set(shown) - said == unchecked
