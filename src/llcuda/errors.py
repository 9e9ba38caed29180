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
    "BinaryError",
    "BinaryNotFoundError",
    "BinaryUnusableError",
    "ChecksumMismatchError",
    "ConnectionFailedError",
    "DeviceError",
    "DownloadError",
    "DraftMismatchError",
    "DriverTooOldError",
    "InstallError",
    "LlcudaError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "NoDeviceError",
    "OutOfMemoryError",
    "PortInUseError",
    "RequestError",
    "RequestTimeoutError",
    "ResponseError",
    "SchemaMismatchError",
    "ServerError",
    "ServerExitedError",
    "ServerNotReadyError",
    "UnsupportedDeviceError",
    "UsageError",
]


class LlcudaError(Exception):
    """Any failure that llcuda foresaw."""

    exit_code: ClassVar[int] = 1
    log_tail: tuple[str, ...] = ()
    """The last lines of llama-server's log, where it had a part in this."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the ``message`` and the ``hint``: the next thing to try."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message, also where the second base class would format its own."""
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
    """An executable is in none of the places where it is looked for."""

    def __init__(self, name: str, *, searched: Sequence[str]) -> None:
        """Keep the executable's ``name`` and every place that was ``searched``, as ``where: path``."""
        self.name = name
        self.searched = tuple(searched)
        places = "".join(f"\n  {place}" for place in self.searched)
        super().__init__(
            f"{name} was not found. Looked at:{places}",
            hint="Reinstall llcuda (`pip install --force-reinstall llcuda`), or set LLAMA_SERVER_PATH.",
        )


class BinaryUnusableError(BinaryError):
    """An executable is there and cannot run: no execute bit, damaged, or a library is missing."""

    def __init__(self, path: Path | str, reason: str, *, missing: Sequence[str] = (), hint: str = "") -> None:
        """Keep the ``path``, and the names of libraries that are ``missing``."""
        self.path = str(path)
        self.reason = reason
        self.missing = tuple(missing)
        super().__init__(f"{path} cannot be used: {reason}", hint=hint or "Run `llcuda doctor` to see what is broken.")


class InstallError(BinaryError):
    """A bundle of binaries was refused, or did not work here; what was in use before still is."""

    def __init__(self, source: str, reason: str, *, log_tail: Sequence[str] = (), hint: str = "") -> None:
        """Keep the ``source`` of the bundle, and the last lines of llama-server's log where it was tried."""
        self.source = source
        self.reason = reason
        self.log_tail = tuple(log_tail)
        super().__init__(
            f"{source} is not installed: {reason}",
            hint=hint or "What was in use before still is. Get the bundle again, or name another source with --from.",
        )


class DeviceError(LlcudaError):
    """The GPU, its driver or its memory stands in the way."""

    exit_code = 4


class NoDeviceError(DeviceError):
    """A GPU was asked for and there is none to use."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the ``message``, which says what stands in the way."""
        super().__init__(message, hint=hint or 'Use device="cpu", or device="auto" to take a GPU where there is one.')


class UnsupportedDeviceError(DeviceError):
    """The GPU's compute capability is not among those that the backend was built for."""

    def __init__(self, capability: str, *, built_for: Sequence[str], hint: str = "") -> None:
        """Keep the GPU's ``capability`` and the list that the backend was ``built_for``."""
        self.capability = capability
        self.built_for = tuple(built_for)
        super().__init__(
            f"compute capability {capability} is not among those built for: {', '.join(built_for)}",
            hint=hint or 'Use device="cpu".',
        )


class DriverTooOldError(DeviceError):
    """The NVIDIA driver is older than the backend needs."""

    def __init__(self, driver: str, *, required: str) -> None:
        """Keep the installed ``driver`` version and the one ``required``."""
        self.driver = driver
        self.required = required
        super().__init__(
            f"NVIDIA driver {driver} is older than {required}, which this backend needs",
            hint=f'Update the driver to {required} or newer, or use device="cpu".',
        )


class OutOfMemoryError(DeviceError):
    """The model does not fit into the memory there is."""

    def __init__(self, message: str, *, log_tail: Sequence[str] = (), hint: str = "") -> None:
        """Keep the last lines of llama-server's log."""
        self.log_tail = tuple(log_tail)
        super().__init__(
            message, hint=hint or "Use a smaller ctx_size, a smaller quantisation, or fewer gpu_layers."
        )


class ModelError(LlcudaError):
    """The model cannot be had or cannot be used."""

    exit_code = 5


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No model has the name or the path that was given."""

    def __init__(self, name: str, reason: str, *, suggestions: Sequence[str] = (), hint: str = "") -> None:
        """Keep the ``name`` as given and the nearest known names as ``suggestions``."""
        self.name = name
        self.suggestions = tuple(suggestions)
        did_you_mean = f"Did you mean {', '.join(self.suggestions)}? " if self.suggestions else ""
        super().__init__(
            f"{name}: {reason}", hint=hint or f"{did_you_mean}`llcuda models list` shows the names that are known."
        )


class ModelFormatError(ModelError, ValueError):
    """The file is not a GGUF model that can be used."""

    def __init__(self, path: Path | str, reason: str, *, offset: int | None = None, hint: str = "") -> None:
        """Keep the ``path`` and the byte ``offset`` at which the file is wrong (None where there is no such place)."""
        self.path = str(path)
        self.reason = reason
        self.offset = offset
        where = "" if offset is None else f" at byte {offset}"
        super().__init__(
            f"{path}: {reason}{where}", hint=hint or "Download the file again; it must be a GGUF model."
        )


class ChecksumMismatchError(ModelError):
    """A file's SHA-256 is not the one that was promised."""

    def __init__(self, path: Path | str, *, expected: str, actual: str, hint: str = "") -> None:
        """Keep both digests, each as ``sha256:<64 hex>``."""
        self.path = str(path)
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"{path}: expected {expected}, the file has {actual}",
            hint=hint or "The file is damaged or not the one meant: remove it and download it again.",
        )


class DownloadError(ModelError, OSError):
    """A download failed."""

    def __init__(self, url: str, reason: str, *, status: int | None = None, hint: str = "") -> None:
        """Keep the ``url`` (or the hub's repository and file) and the HTTP ``status``, if there was one."""
        self.url = url
        self.reason = reason
        self.status = status
        super().__init__(
            f"{url} could not be downloaded: {reason}",
            hint=hint or "Check the network and try again: what was downloaded is kept and resumed.",
        )


class DraftMismatchError(ModelError, ValueError):
    """The draft model cannot draft for the model: it has another vocabulary."""

    def __init__(self, draft: Path | str, reason: str, *, hint: str = "") -> None:
        """Keep the ``draft``'s name or path, and the ``reason``."""
        self.draft = str(draft)
        self.reason = reason
        super().__init__(
            f"{draft} cannot be the draft: {reason}",
            hint=hint or 'Take a smaller model of the same family, or draft="ngram-mod", which needs no model.',
        )


class ServerError(LlcudaError):
    """llama-server did not do what was asked of it."""

    exit_code = 6

    def __init__(self, message: str, *, log_tail: Sequence[str] = (), hint: str = "") -> None:
        """Keep the last lines of llama-server's log."""
        self.log_tail = tuple(log_tail)
        super().__init__(message, hint=hint)


class ServerExitedError(ServerError):
    """llama-server ended by itself."""

    def __init__(
        self, reason: str, *, returncode: int | None, log_tail: Sequence[str] = (), hint: str = ""
    ) -> None:
        """Keep the ``returncode``: an exit status, or minus a signal's number."""
        self.returncode = returncode
        super().__init__(
            reason, log_tail=log_tail, hint=hint or "The last lines of its log say what it was doing."
        )


class ServerNotReadyError(ServerError, TimeoutError):
    """llama-server runs, and did not become ready in time."""

    def __init__(self, message: str, *, timeout: float, log_tail: Sequence[str] = (), hint: str = "") -> None:
        """Keep the ``timeout`` in seconds that ran out."""
        self.timeout = timeout
        super().__init__(message, log_tail=log_tail, hint=hint or "Give it more time: stall_timeout=…, timeout=….")


class PortInUseError(ServerError, OSError):
    """Something else listens on the port that was asked for."""

    def __init__(self, host: str, port: int, *, log_tail: Sequence[str] = ()) -> None:
        """Keep the ``host`` and the ``port``."""
        self.host = host
        self.port = port
        super().__init__(
            f"port {port} on {host} is in use",
            log_tail=log_tail,
            hint="Leave the port out to get a free one, choose another, or attach to what runs there with "
            "InferenceEngine(server_url=…).",
        )


class RequestError(LlcudaError):
    """A request to a running server failed."""

    exit_code = 7


class RequestTimeoutError(RequestError, TimeoutError):
    """The answer did not come within the deadline."""

    def __init__(self, message: str, *, timeout: float) -> None:
        """Keep the ``timeout`` in seconds."""
        self.timeout = timeout
        super().__init__(message, hint="Give it a longer timeout, or ask for fewer tokens.")


class ConnectionFailedError(RequestError, ConnectionError):
    """Nobody answers at the address, or the connection broke."""

    def __init__(self, url: str, reason: str, *, refused: bool = False, hint: str = "") -> None:
        """Keep the ``url``, and whether the connection was ``refused``, so that nothing was sent."""
        self.url = url
        self.reason = reason
        self.refused = refused
        super().__init__(f"{url}: {reason}", hint=hint or "Is the server running? `engine.check_server()` tells.")


class ResponseError(RequestError):
    """The server answered with an error."""

    def __init__(
        self, status: int, message: str, *, body: str = "", retry_after: float | None = None, hint: str = ""
    ) -> None:
        """Keep the HTTP ``status``, the ``body`` as it came, and the seconds to wait if the server named them."""
        self.status = status
        self.body = body
        self.retry_after = retry_after
        super().__init__(f"HTTP {status}: {message}", hint=hint)


class SchemaMismatchError(RequestError):
    """The answer does not hold to the schema that was asked for."""

    def __init__(self, reason: str, *, text: str) -> None:
        """Keep the model's ``text``, and the ``reason`` with the place in it."""
        self.reason = reason
        self.text = text
        super().__init__(
            f"the answer does not match the schema: {reason}",
            hint="Allow more tokens (a cut-off answer cannot match), simplify the schema, or use a larger model.",
        )
