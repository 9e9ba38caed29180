"""What the command line decides without running anything."""

from __future__ import annotations

import argparse
import json

import pytest

import llcuda
from llcuda.cli import build_parser, main, run_guarded
from llcuda.cli.arguments import _parse_server_option, read_prompt, sampling_options
from llcuda.cli.output import format_bytes, format_table
from llcuda.errors import LlcudaError, ServerExitedError, UsageError
from tests.standins.fake_t4 import T4, devices


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3_571_904, "3.6 MB"),
        (18_600_000_000, "18.6 GB"),
        (2_000_000_000_000, "2000.0 GB"),
    ],
)
def test_a_size_is_written_for_people(count: int | None, text: str) -> None:
    assert format_bytes(count) == text


def test_a_table_aligns_its_columns_and_leaves_no_space_at_the_end() -> None:
    assert format_table(("name", "size"), [("a", "1"), ("longer", "22")]).splitlines() == [
        "name    size",
        "a       1",
        "longer  22",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert format_table(("name", "size"), []) == "name  size"


@pytest.mark.parametrize(
    ("pair", "name", "value"),
    [
        ("cache-type-k=q8_0", "cache_type_k", "q8_0"),
        ("--ubatch-size=64", "ubatch_size", 64),
        ("rope-scale=0.5", "rope_scale", 0.5),
        ("mlock=true", "mlock", True),
        ("mmap=false", "mmap", False),
        ("no-warmup", "no_warmup", True),
        ("override-kv=a=int:1", "override_kv", "a=int:1"),
        ("alias=null", "alias", "null"),
        ("alias=[1]", "alias", "[1]"),
        ("alias=", "alias", ""),
    ],
)
def test_a_server_option_is_parsed(pair: str, name: str, value: object) -> None:
    parsed = _parse_server_option(pair)
    assert parsed == (name, value)
    assert type(parsed[1]) is type(value)


def test_a_server_option_without_a_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="has no name"):
        _parse_server_option("=3")


def test_only_the_sampling_options_that_were_given_are_passed_on() -> None:
    arguments = build_parser().parse_args(["infer", "-m", "demo", "-p", "x", "--seed=0", "--stop=a", "--stop=b"])
    assert sampling_options(arguments) == {"seed": 0, "stop_sequences": ["a", "b"]}


def test_a_prompt_is_taken_as_it_stands() -> None:
    assert read_prompt("- no") == "- no"


def guarded(error: BaseException) -> int:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run_guarded(run, argparse.Namespace(verbose=False))


def test_an_error_ends_with_its_own_code_and_shows_log_message_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    error = ServerExitedError("it fell over", returncode=1, log_tail=("first", "last words"), hint="stand it up")
    assert guarded(error) == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["  | first", "  | last words", "llcuda: it fell over", "  try: stand it up"]


def test_every_class_of_errors_has_its_exit_code() -> None:
    codes = {cls.__name__: cls.exit_code for cls in LlcudaError.__subclasses__()}
    assert codes == {
        "UsageError": 2,
        "BinaryError": 3,
        "DeviceError": 4,
        "ModelError": 5,
        "ServerError": 6,
        "RequestError": 7,
    }


def test_ctrl_c_ends_with_130() -> None:
    assert guarded(KeyboardInterrupt()) == 130


def test_an_unexpected_error_is_one_line_and_not_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(ZeroDivisionError("by zero")) == 1
    assert capsys.readouterr().err.startswith("llcuda: unexpected ZeroDivisionError: by zero\n  try: ")


def test_an_unexpected_error_keeps_its_traceback_with_verbose() -> None:
    def run(_: argparse.Namespace) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_guarded(run, argparse.Namespace(verbose=True))


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"llcuda {llcuda.__version__}\n"


def test_a_command_line_that_is_wrong_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["infer"])
    assert caught.value.code == 2
    assert "--model" in capsys.readouterr().err


def test_models_list_works_from_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    names = [model["name"] for model in json.loads(capsys.readouterr().out)]
    assert len(names) == len(set(names))


def test_a_model_that_is_not_there_ends_with_5(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "inspect", "/no/such/file.gguf"]) == 5
    assert "try: " in capsys.readouterr().err


def test_what_was_not_downloaded_is_not_removed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "rm", "demo"]) == 2
    assert "not a downloaded model" in capsys.readouterr().err


def test_models_list_says_where_each_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llcuda.devices.find_devices", lambda: devices(T4))
    monkeypatch.setattr("llcuda.server.free_memory.read_free_memory", lambda: 20_000)
    assert main(["models", "list", "--json"]) == 0
    listed = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    named = ("demo", "phi-4-Q4_K_M", "gemma-3-27b-Q4_K_M", "qwen3-30b-a3b-Q4_K_M")
    assert [listed[name]["fits"] for name in named] == ["yes", "yes", "partly", "partly"]
    assert all(model["needs_bytes"] > model["bytes"] for model in listed.values())
    main(["models", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-4:] == ["needs", "fits", "last", "used"]
    assert lines[1].split()[-1] == "yes"
    monkeypatch.setattr("llcuda.devices.find_devices", devices)
    assert main(["models", "list", "--json"]) == 0
    alone = {model["name"]: model["fits"] for model in json.loads(capsys.readouterr().out)}
    assert [alone[name] for name in named] == ["yes", "yes", "yes", "no"]
