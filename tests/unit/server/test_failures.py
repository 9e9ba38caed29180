"""The recorded logs of real failures, each with the error that it becomes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from llcuda import errors
from llcuda.server.failures import TAIL_LINES, Launch, classify_failure, explain_cuda
from tests.broken import BROKEN, LOGS, Broken

LAUNCH = Launch("/bin/llama-server", "/models/model.gguf", "127.0.0.1", 8090)


def read(case: Broken) -> list[str]:
    return case.log.read_text().splitlines()


RECORDED = [case for case in BROKEN if case.log.exists()]


def test_all_but_the_one_that_is_never_started_were_recorded() -> None:
    assert {case.name for case in BROKEN} - {case.name for case in RECORDED} == {"no_execute_bit"}
    assert {path.stem for path in LOGS.glob("*.log")} == {case.name for case in RECORDED} | {"ready"}


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_a_recorded_failure_becomes_its_error(case: Broken) -> None:
    error = classify_failure(read(case), 127 if "library" in case.name else 1, launch=LAUNCH)
    assert type(error) is case.error
    assert case.says in str(error)
    assert case.remedy in error.hint


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_the_error_has_the_last_lines(case: Broken) -> None:
    error = classify_failure(["earlier"] * 100 + read(case), 1)
    assert len(error.log_tail) == TAIL_LINES
    assert list(error.log_tail) == (["earlier"] * 100 + read(case))[-TAIL_LINES:]


def test_errors_name_their_facts() -> None:
    missing = classify_failure(read_named("missing_library"), 127, launch=LAUNCH)
    assert isinstance(missing, errors.BinaryUnusableError)
    assert missing.missing == ("libllama.so",)
    assert missing.path == "/bin/llama-server"
    taken = classify_failure(read_named("port_taken"), 1, launch=LAUNCH)
    assert isinstance(taken, errors.PortInUseError)
    assert (taken.host, taken.port > 0) == ("127.0.0.1", True)
    damaged = classify_failure(read_named("truncated"), 1, launch=LAUNCH)
    assert isinstance(damaged, errors.ModelFormatError)
    assert damaged.path == "/models/model.gguf"
    absent = classify_failure(read_named("no_file"), 1, launch=LAUNCH)
    assert isinstance(absent, errors.ModelNotFoundError)
    assert absent.name == "model.gguf"


def read_named(name: str) -> list[str]:
    return (LOGS / f"{name}.log").read_text().splitlines()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("llcuda-guard: cannot run /x: Exec format error", errors.BinaryUnusableError),
        ("llcuda-guard: cannot run /x: No such file or directory", errors.BinaryUnusableError),
        ("llcuda-guard: fork: Resource temporarily unavailable", errors.ServerExitedError),
        ("/x/llama-server: symbol lookup error: /x/libllama.so: undefined symbol: f", errors.BinaryUnusableError),
        ("CUDA error: out of memory", errors.OutOfMemoryError),
        ("CUDA error: the resource allocation failed", errors.OutOfMemoryError),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED", errors.OutOfMemoryError),
        ("CUDA error: no kernel image is available for execution on the device", errors.UnsupportedDeviceError),
        ("CUDA error: device kernel image is invalid", errors.DriverTooOldError),
        ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", errors.DriverTooOldError),
        ("CUDA error: no CUDA-capable device is detected", errors.NoDeviceError),
        ("CUDA error: something that nobody has seen", errors.DeviceError),
        ("llcuda: this libcublas.so.12 has no cublasGemmEx. Install another: pip install nvidia-cublas-cu12",
         errors.BinaryUnusableError),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1.0 MiB on device 0: cudaMalloc failed: out of memory",
         errors.OutOfMemoryError),
        ("E llama_init_from_model: failed to initialize the context: std::bad_alloc", errors.OutOfMemoryError),
        ("E llama_model_load: error loading model: unable to allocate CPU buffer", errors.OutOfMemoryError),
        ("E gguf_init_from_file: failed to open GGUF file '/m' (Permission denied)", errors.ModelNotFoundError),
        ("E llama_model_load: error loading model: missing tensor 'x'", errors.ModelFormatError),
        ("E gguf_init_from_reader: failed to read tensor info", errors.ModelFormatError),
    ],
)  # fmt: skip
def test_a_line_that_is_hard_to_provoke_becomes_its_error(line: str, kind: type[errors.LlcudaError]) -> None:
    assert type(classify_failure([line], 1)) is kind


@pytest.mark.parametrize("begun", ["0.00.001.156 ", "0.00.001.156 E "])
@pytest.mark.parametrize("case", ["bad_template", "unknown_value", "wrong_option"])
def test_last_words_that_break_into_a_line_of_the_log_are_understood(case: str, begun: str) -> None:
    words = [line for line in read_named(case) if line.startswith("error")]
    broken = [begun + words[0], *words[1:], "E common_chat_verify_template: failed to apply template: std::exception"]
    assert type(classify_failure(broken, 1)) is errors.UsageError


def test_a_file_that_may_not_be_run_is_named_with_the_command_that_helps() -> None:
    error = classify_failure(["llcuda-guard: cannot run /bin/llama-server: Permission denied"], 126, launch=LAUNCH)
    assert error.hint == "Run: chmod +x '/bin/llama-server'"


def test_an_unknown_end_says_its_status_and_the_last_complaint() -> None:
    error = classify_failure(["0.0 I all is well", "0.1 E srv : it is not", "0.2 I bye"], 1)
    assert type(error) is errors.ServerExitedError
    assert error.returncode == 1
    assert "exit status 1" in str(error)
    assert "it is not" in str(error)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM, signal.SIGSEGV])
def test_a_death_by_signal_names_it(number: signal.Signals) -> None:
    error = classify_failure(["0.0 I loading"], -number)
    assert isinstance(error, errors.ServerExitedError)
    assert number.name in str(error)
    assert error.returncode == -number
    assert ("memory" in error.hint) == (number == signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "says"), [(signal.SIGILL, "processor"), (signal.SIGBUS, "damaged"), (signal.SIGSEGV, "damaged")]
)
def test_a_death_before_the_first_word_means_a_bad_binary(number: signal.Signals, says: str) -> None:
    error = classify_failure([], -number, launch=LAUNCH)
    assert isinstance(error, errors.BinaryUnusableError)
    assert says in str(error)


def test_nothing_at_all_is_still_an_error() -> None:
    assert type(classify_failure([], None)) is errors.ServerExitedError
    assert type(classify_failure([], -200)) is errors.ServerExitedError


CUDA_LOGS = LOGS / "cuda"
"""Written after the format strings of ggml-cuda.cu and native/cublas: a GPU cannot be made to fail on demand."""
CUBLAS = "cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("log", "kind", "says", "remedy"),
    [
        ("no-kernel-image", errors.UnsupportedDeviceError, "compute capability 5.0 is not", "--no-binary llcuda"),
        ("kernel-image-invalid", errors.DriverTooOldError, "older than 550.54.14", "Update the driver to 550.54.14"),
        ("ptx-newer-than-driver", errors.DriverTooOldError, "the one that came with", "Update the driver"),
        ("803", errors.DeviceError, "unsupported display driver", "restart the machine; in a container"),
        ("804", errors.DeviceError, "forward compatibility", "cuda/compat"),
        ("unknown-error", errors.DeviceError, "CUDA0 (Tesla T4): unknown error", "modprobe"),
        ("illegal-memory-access", errors.DeviceError, "CUDA0 (Tesla T4): an illegal memory", 'flash_attn="off"'),
        ("unspecified-launch-failure", errors.DeviceError, "CUDA0 (Tesla T4): unspecified launch", "xid"),
        ("out-of-memory-while-computing", errors.OutOfMemoryError, "CUDA1 (NVIDIA GeForce RTX 3060)", "gpu_layers"),
        ("cublas-12-missing", errors.BinaryUnusableError, CUBLAS, "Run: pip install nvidia-cublas-cu12"),
        ("cublas-13-missing", errors.BinaryUnusableError, CUBLAS, 'Run: pip install "nvidia-cublas>=13,<14"'),
        ("model-missing-after-cuda-did-not-start", errors.ModelNotFoundError, "no such file", "Check the path"),
        ("killed-after-an-allocation-was-retried", errors.ServerExitedError, "SIGABRT", ""),
    ],
)
def test_a_cuda_failure_becomes_its_error(
    *, log: str, kind: type[errors.LlcudaError], says: str, remedy: str
) -> None:
    lines = (CUDA_LOGS / f"written-{log}.log").read_text().splitlines()
    error = classify_failure(lines, -signal.SIGABRT, launch=LAUNCH)
    assert type(error) is kind
    assert says in str(error)
    assert remedy in error.hint
    assert error.log_tail


@pytest.mark.parametrize(("what", "mib"), [("weights", "2.63"), ("compute", "3.51")])
def test_a_gpu_without_room_is_named(what: str, mib: str) -> None:
    lines = (LOGS / "offload" / f"recorded-out-of-memory-{what}.log").read_text().splitlines()
    error = classify_failure(lines, 1, launch=LAUNCH)
    assert type(error) is errors.OutOfMemoryError
    assert f"{mib} MiB more" in str(error)
    assert "CUDA0 (Fake GPU " in str(error)
    assert "gpu_layers" in error.hint
    assert "ctx_size" in error.hint
    assert 'device="cpu"' in error.hint


def test_a_cuda_failure_names_its_facts() -> None:
    def classify(log: str) -> errors.LlcudaError:
        lines = (CUDA_LOGS / f"written-{log}.log").read_text().splitlines()
        launch = Launch("/bin/llama-server", driver_floor="550.54.14", toolkit="12.9.86")
        return classify_failure(lines, -signal.SIGABRT, launch=launch)

    unsupported = classify("no-kernel-image")
    assert isinstance(unsupported, errors.UnsupportedDeviceError)
    assert unsupported.capability == "5.0"
    assert unsupported.built_for == ("6.1", "7.5", "8.0", "8.6", "8.9", "9.0", "12.0")
    too_old = classify("kernel-image-invalid")
    assert isinstance(too_old, errors.DriverTooOldError)
    assert too_old.required == "550.54.14"
    assert "the one that came with CUDA 12.9.86" in str(classify("ptx-newer-than-driver"))
    for major in ("12", "13"):
        missing = classify(f"cublas-{major}-missing")
        assert isinstance(missing, errors.BinaryUnusableError)
        assert missing.missing == (f"libcublas.so.{major}",)


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("system not yet initialized", "nvidia-fabricmanager"),
        ("CUDA-capable device(s) is/are busy or unavailable", "COMPUTE"),
        ("the launch timed out and was terminated", "display"),
        ("PTX JIT compiler library not found", "libnvidia-ptxjitcompiler"),
        ("uncorrectable ECC error encountered", "xid"),
        ("the library was not initialized", "memory"),
        ("no CUDA-capable device is detected", "CUDA_VISIBLE_DEVICES"),
        ("something that nobody has seen", "Update the NVIDIA driver"),
    ],
)
def test_what_kept_cuda_from_starting_has_a_remedy(reason: str, remedy: str) -> None:
    error = explain_cuda(reason, "", launch=LAUNCH)
    assert isinstance(error, errors.DeviceError)
    assert reason in str(error)
    assert remedy in error.hint


def test_every_cuda_log_is_tested() -> None:
    source = Path(__file__).read_text()
    assert all(f'"{path.stem.removeprefix("written-")}"' in source for path in CUDA_LOGS.glob("*.log"))
