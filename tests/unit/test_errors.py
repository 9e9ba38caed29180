"""The error tree: complete, drawn, and usable by who catches builtins."""

from __future__ import annotations

import pickle

import pytest

from llcuda import errors
from llcuda.errors import LlcudaError


def walk(cls: type[LlcudaError]) -> list[type[LlcudaError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in walk(child))]


EXAMPLES = [
    errors.UsageError("x", hint="h"),
    errors.BinaryNotFoundError("llama-server", searched=("LLAMA_SERVER_PATH: /a", "package: /b")),
    errors.BinaryUnusableError("/a", "no execute bit", missing=("libx.so",)),
    errors.NoDeviceError("no GPU", hint='Use device="cpu".'),
    errors.UnsupportedDeviceError("3.5", built_for=("5.0", "6.1")),
    errors.DriverTooOldError("470.1", required="550"),
    errors.OutOfMemoryError("too large", log_tail=("a",)),
    errors.ModelNotFoundError("gema", "no model has this name", suggestions=("gemma",)),
    errors.ModelFormatError("/a.gguf", "wrong magic", offset=0),
    errors.ChecksumMismatchError("/a", expected="sha256:" + "0" * 64, actual="sha256:" + "1" * 64),
    errors.DownloadError("https://example.invalid/a", "refused", status=403),
    errors.StorageError("https://example.invalid: the server answers 507"),
    errors.ServerExitedError("it ended", returncode=-9, log_tail=("a", "b")),
    errors.ServerNotReadyError("no progress", timeout=60.0),
    errors.PortInUseError("127.0.0.1", 8090),
    errors.RequestTimeoutError("too slow", timeout=1.0),
    errors.ConnectionFailedError("http://127.0.0.1:1", "refused"),
    errors.ResponseError(400, "bad", body="{}"),
    errors.SchemaMismatchError("$.answer: not an integer", text="{}"),
    errors.DraftMismatchError("/d.gguf", "its vocabulary is another"),
    errors.InstallError("bundle.tar.gz", "it is damaged"),
]


def test_every_leaf_has_an_example_here() -> None:
    leaves = {cls for cls in walk(LlcudaError) if not cls.__subclasses__()}
    assert leaves == {type(example) for example in EXAMPLES}


def test_the_drawing_and_all_name_every_class() -> None:
    names = {cls.__name__ for cls in walk(LlcudaError)}
    assert names == set(errors.__all__)
    assert all(name in (errors.__doc__ or "") for name in names)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_leaf_says_what_was_wrong_and_what_to_try(error: LlcudaError) -> None:
    assert str(error)
    assert str(error) == error.message
    if not isinstance(error, errors.ResponseError):
        assert error.hint
    assert error.exit_code in range(2, 8)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_leaf_survives_the_way_to_another_process(error: LlcudaError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("leaf", "builtin"),
    [
        (errors.UsageError, ValueError),
        (errors.BinaryNotFoundError, FileNotFoundError),
        (errors.ModelNotFoundError, FileNotFoundError),
        (errors.ModelFormatError, ValueError),
        (errors.DownloadError, OSError),
        (errors.StorageError, OSError),
        (errors.ServerNotReadyError, TimeoutError),
        (errors.PortInUseError, OSError),
        (errors.RequestTimeoutError, TimeoutError),
        (errors.ConnectionFailedError, ConnectionError),
        (errors.DraftMismatchError, ValueError),
    ],
)
def test_a_leaf_is_caught_as_the_builtin_that_a_caller_knows(leaf: type[LlcudaError], builtin: type[Exception]) -> None:
    assert any(isinstance(error, builtin) for error in EXAMPLES if type(error) is leaf)


def test_the_places_that_were_searched_are_all_in_the_message() -> None:
    message = str(EXAMPLES[1])
    assert "LLAMA_SERVER_PATH: /a" in message
    assert "package: /b" in message
