"""Everything that llcuda raises on purpose.

::

    LlcudaError                          exit code 1
    ├── UsageError(ValueError)           2
    ├── BinaryError                      3
    │   ├── BinaryNotFoundError(FileNotFoundError)
    │   ├── BinaryUnusableError
    │   └── InstallError
    ├── DeviceError                      4
    │   ├── NoDeviceError
    │   ├── UnsupportedDeviceError
    │   ├── DriverTooOldError
    │   └── OutOfMemoryError
    ├── ModelError                       5
    │   ├── ModelNotFoundError(FileNotFoundError)
    │   ├── ModelFormatError(ValueError)
    │   ├── ChecksumMismatchError
    │   ├── DownloadError(OSError)
    │   ├── StorageError(OSError)
    │   └── DraftMismatchError(ValueError)
    ├── ServerError                      6
    │   ├── ServerExitedError
    │   ├── ServerNotReadyError(TimeoutError)
    │   └── PortInUseError(OSError)
    └── RequestError                     7
        ├── RequestTimeoutError(TimeoutError)
        ├── ConnectionFailedError(ConnectionError)
        ├── ResponseError
        └── SchemaMismatchError

Each class carries facts as attributes, makes its message from them, and says in ``hint`` what to try next. A leaf also
derives from the builtin that a caller would already catch. ``exit_code`` is what the command line exits with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "BinaryError", "BinaryNotFoundError", "BinaryUnusableError", "ChecksumMismatchError", "ConnectionFailedError",
    "DeviceError", "DownloadError", "DraftMismatchError", "DriverTooOldError", "InstallError", "LlcudaError",
    "ModelError", "ModelFormatError", "ModelNotFoundError", "NoDeviceError", "OutOfMemoryError", "PortInUseError",
    "RequestError", "RequestTimeoutError", "ResponseError", "SchemaMismatchError", "ServerError", "ServerExitedError",
    "ServerNotReadyError", "StorageError", "UnsupportedDeviceError", "UsageError",
]  # fmt: skip

_OK = 200


class LlcudaError(Exception):
    """Any failure that llcuda foresaw."""

    exit_code: ClassVar[int] = 1
    hint = ""
    """The next thing to try; a class has one for when none is given."""
    log_tail: tuple[str, ...] = ()
    """The last lines of llama-server's log, if it had a part in this."""

    def __init__(self, message: str, *, hint: str = "", log_tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.hint
        self.log_tail = tuple(log_tail)

    def __str__(self) -> str:
        """Return the message, also if the second base class would format its own."""
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the facts: a pool of processes hangs on an error that it cannot rebuild."""
        return _rebuild, (type(self), vars(self))


def _rebuild(kind: type[LlcudaError], facts: dict[str, Any]) -> LlcudaError:
    error = kind.__new__(kind, facts["message"])
    vars(error).update(facts)
    return error


class UsageError(LlcudaError, ValueError):
    """An argument, an option or a variable has a value that cannot be used."""

    exit_code = 2


class BinaryError(LlcudaError):
    """The bundled executables cannot be used."""

    exit_code = 3


class BinaryNotFoundError(BinaryError, FileNotFoundError):
    """An executable, ``name``, is in none of the places that were ``searched``, each as ``place: path``."""

    hint = "Reinstall llcuda (`pip install --force-reinstall llcuda`), or set LLAMA_SERVER_PATH."

    def __init__(self, name: str, *, searched: Sequence[str]) -> None:
        self.name = name
        self.searched = tuple(searched)
        places = "".join(f"\n  {place}" for place in self.searched)
        super().__init__(f"{name} was not found. Looked at:{places}")


class BinaryUnusableError(BinaryError):
    """An executable is there and cannot run: no execute bit, damaged, or libraries are ``missing``."""

    hint = "Run `llcuda doctor` to see what is broken."

    def __init__(self, path: Path | str, reason: str, *, missing: Sequence[str] = (), hint: str = "") -> None:
        self.path = str(path)
        self.reason = reason
        self.missing = tuple(missing)
        super().__init__(f"{path} cannot be used: {reason}", hint=hint)


class InstallError(BinaryError):
    """A bundle of binaries, from ``source``, was refused or did not work here; what was in use before still is."""

    hint = "What was in use before still is. Get the bundle again, or name another source with --from."

    def __init__(self, source: str, reason: str, *, log_tail: Sequence[str] = (), hint: str = "") -> None:
        self.source = source
        self.reason = reason
        super().__init__(f"{source} is not installed: {reason}", hint=hint, log_tail=log_tail)


class DeviceError(LlcudaError):
    """The GPU, its driver or its memory is the reason."""

    exit_code = 4


class NoDeviceError(DeviceError):
    """A GPU was asked for and none can be used; the message says why."""

    hint = 'Use device="cpu", or device="auto" to take a GPU if there is one.'


class UnsupportedDeviceError(DeviceError):
    """The GPU's compute ``capability`` is not among those that the backend was ``built_for``."""

    hint = 'Use device="cpu".'

    def __init__(self, capability: str, *, built_for: Sequence[str], hint: str = "") -> None:
        self.capability = capability
        self.built_for = tuple(built_for)
        super().__init__(
            f"compute capability {capability} is not among those built for: {', '.join(built_for)}", hint=hint
        )


class DriverTooOldError(DeviceError):
    """The NVIDIA ``driver`` is older than the version ``required`` by the backend."""

    def __init__(self, driver: str, *, required: str) -> None:
        self.driver = driver
        self.required = required
        super().__init__(
            f"NVIDIA driver {driver} is older than {required}, which this backend needs",
            hint=f'Update the driver to {required} or newer, or use device="cpu".',
        )


class OutOfMemoryError(DeviceError):
    """The model does not fit into the memory there is."""

    hint = "Use a smaller ctx_size, a smaller quantisation, or fewer gpu_layers."


class ModelError(LlcudaError):
    """The model cannot be found, downloaded or used."""

    exit_code = 5


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No model has the ``name`` or the path that was given; ``suggestions`` are the nearest known names."""

    def __init__(self, name: str, reason: str, *, suggestions: Sequence[str] = (), hint: str = "") -> None:
        self.name = name
        self.suggestions = tuple(suggestions)
        did_you_mean = f"Did you mean {', '.join(self.suggestions)}? " if self.suggestions else ""
        super().__init__(
            f"{name}: {reason}", hint=hint or f"{did_you_mean}`llcuda models list` shows the names that are known."
        )


class ModelFormatError(ModelError, ValueError):
    """The file at ``path`` is not a GGUF model that can be used; ``offset`` is the byte that is wrong, if it is one."""

    hint = "Download the file again; it must be a GGUF model."

    def __init__(self, path: Path | str, reason: str, *, offset: int | None = None, hint: str = "") -> None:
        self.path = str(path)
        self.reason = reason
        self.offset = offset
        at = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{path}: {reason}{at}", hint=hint)


class ChecksumMismatchError(ModelError):
    """A file's SHA-256 is not the one that was promised: ``expected`` and ``actual`` are ``sha256:<64 hex>``."""

    hint = "The file is damaged or not the one meant: remove it and download it again."

    def __init__(self, path: Path | str, *, expected: str, actual: str, hint: str = "") -> None:
        self.path = str(path)
        self.expected = expected
        self.actual = actual
        super().__init__(f"{path}: expected {expected}, the file has {actual}", hint=hint)


class DownloadError(ModelError, OSError):
    """The download of ``url`` (or the hub's repository and file) failed, with the HTTP ``status`` if there was one."""

    hint = "Check the network and try again: what was downloaded is kept and resumed."

    def __init__(self, url: str, reason: str, *, status: int | None = None, hint: str = "") -> None:
        self.url = url
        self.reason = reason
        self.status = status
        super().__init__(f"{url} could not be downloaded: {reason}", hint=hint)


class StorageError(ModelError, OSError):
    """A remote that keeps models does not do as it should; ``status`` is its HTTP status if there was one."""

    status: int | None = None

    hint = "Check the address of the remote and the network, and try again: what is there already is not sent again."


class DraftMismatchError(ModelError, ValueError):
    """The ``draft`` model, a name or a path, cannot draft for the model: it has another vocabulary."""

    hint = 'Take a smaller model of the same family, or draft="ngram-mod", which needs no model.'

    def __init__(self, draft: Path | str, reason: str, *, hint: str = "") -> None:
        self.draft = str(draft)
        self.reason = reason
        super().__init__(f"{draft} cannot be the draft: {reason}", hint=hint)


class ServerError(LlcudaError):
    """llama-server did not do what was asked of it."""

    exit_code = 6


class ServerExitedError(ServerError):
    """llama-server ended by itself; ``returncode`` is an exit status, or minus a signal's number."""

    hint = "The last lines of its log say what it was doing."

    def __init__(self, reason: str, *, returncode: int | None, log_tail: Sequence[str] = (), hint: str = "") -> None:
        self.returncode = returncode
        super().__init__(reason, log_tail=log_tail, hint=hint)


class ServerNotReadyError(ServerError, TimeoutError):
    """llama-server runs, and did not become ready in ``timeout`` seconds."""

    hint = "Give it more time: stall_timeout=…, timeout=…."

    def __init__(self, message: str, *, timeout: float, log_tail: Sequence[str] = (), hint: str = "") -> None:
        self.timeout = timeout
        super().__init__(message, log_tail=log_tail, hint=hint)


class PortInUseError(ServerError, OSError):
    """Something else listens on the ``host`` and ``port`` that were asked for."""

    hint = (
        "Leave the port out to get a free one, choose another, or attach to what runs there with "
        "InferenceEngine(server_url=…)."
    )

    def __init__(self, host: str, port: int, *, log_tail: Sequence[str] = ()) -> None:
        self.host = host
        self.port = port
        super().__init__(f"port {port} on {host} is in use", log_tail=log_tail)


class RequestError(LlcudaError):
    """A request to a running server failed."""

    exit_code = 7


class RequestTimeoutError(RequestError, TimeoutError):
    """The answer did not come within ``timeout`` seconds."""

    hint = "Give it a longer timeout, or ask for fewer tokens."

    def __init__(self, message: str, *, timeout: float) -> None:
        self.timeout = timeout
        super().__init__(message)


class ConnectionFailedError(RequestError, ConnectionError):
    """Nobody answers at ``url``, or the connection broke; if it was ``refused``, nothing was sent."""

    hint = "Is the server running? `engine.check_server()` tells."

    def __init__(self, url: str, reason: str, *, refused: bool = False, hint: str = "") -> None:
        self.url = url
        self.reason = reason
        self.refused = refused
        super().__init__(f"{url}: {reason}", hint=hint)


class ResponseError(RequestError):
    """The server answered with an HTTP ``status`` and ``body``; ``retry_after`` is in seconds, if it named them."""

    def __init__(
        self, status: int, message: str, *, body: str = "", retry_after: float | None = None, hint: str = ""
    ) -> None:
        self.status = status
        self.body = body
        self.retry_after = retry_after
        # What is wrong within an answer has the status of one that went well.
        super().__init__(message if status == _OK else f"HTTP {status}: {message}", hint=hint)


class SchemaMismatchError(RequestError):
    """The answer, ``text``, does not hold to the schema that was asked for; ``reason`` names the place in it."""

    hint = "Allow more tokens (a cut-off answer cannot match), simplify the schema, or use a larger model."

    def __init__(self, reason: str, *, text: str) -> None:
        self.reason = reason
        self.text = text
        super().__init__(f"the answer does not match the schema: {reason}")
