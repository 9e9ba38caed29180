"""The recorded logs of real failures, each with the error that it becomes."""

from __future__ import annotations

import signal

import pytest

from llcuda import errors
from llcuda.server.failures import TAIL_LINES, Launch, classify_failure
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
