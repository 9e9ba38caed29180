"""`llcuda serve`: what it checks, prints and hands to the gateway, which is a stand-in here."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.cli import main
from llcuda.cli.serve import describe
from llcuda.gateway import GatewayConfig, ModelConfig
from llcuda.gateway.config.serve_options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(option.variable for option in OPTIONS), "LLCUDA_SERVE_CONFIG", "LLCUDA_SERVE_API_KEY"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for the gateway: it is ready at once, reads its configuration again, and ends."""
    seen: list[Any] = []

    class Gateway:
        notes = ("Using the CPU.",)
        without_chat = ("mute",)

        def __init__(self, config: GatewayConfig, *, on_link: Callable[[str], None] | None) -> None:
            assert on_link is None  # stderr is no terminal
            seen.append(config)

        def run(self, *, on_ready: Callable[[str], None], read_config: Callable[[], GatewayConfig]) -> None:
            on_ready("http://127.0.0.1:8090")
            seen.append(read_config())

    module = ModuleType("llcuda.gateway.gateway")
    module.Gateway = Gateway  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def test_a_gateway_is_told_what_was_said_and_its_start_is_announced(
    started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "-m", "demo", "--workers", "2", "--device", "cpu", "--port", "0"]) == 0
    assert started == [GatewayConfig((ModelConfig("demo", "demo", workers=2, device="cpu"),), port=0)] * 2
    assert capsys.readouterr() == (
        "",
        ("llcuda: loading demo\n"
        "llcuda serves demo on http://127.0.0.1:8090 with 2 workers; Ctrl-C ends it\n"
        "  Using the CPU.\n"
        "  page http://127.0.0.1:8090/   chat http://127.0.0.1:8090/chat   OpenAI's API http://127.0.0.1:8090/v1\n"
        '  try: llcuda-client --url http://127.0.0.1:8090 "What is 2+2?"\n'),
    )


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("models", "example"),
    [
        (["mute=demo", "demo"], '--model demo "What is 2+2?"'),
        (["demo", "mute=demo"], '8090 "What is 2+2?"'),
        (["mute=demo"], '--raw "What is 2+2?"'),
    ],
)
def test_the_example_asks_a_model_that_can_answer(
    capsys: pytest.CaptureFixture[str], models: list[str], example: str
) -> None:
    main(["serve", *(part for model in models for part in ("-m", model))])
    assert capsys.readouterr().err.endswith(f"{example}\n")


def test_a_reload_reads_the_file_again(started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "serve.toml"
    path.write_text("model = 'demo'\nworkers = 1")
    monkeypatch.setattr(
        "llcuda.cli.serve.print_note", lambda _: path.write_text("model = 'demo'\nworkers = 3")
    )
    main(["serve", "--config", str(path)])
    assert [config.models[0].workers for config in started] == [1, 3]


@pytest.mark.parametrize(
    ("models", "line"),
    [
        ([ModelConfig("a", "x")], "a on URL with 1 worker"),
        ([ModelConfig("a", "x", workers=3, device="cuda")], "a on URL with 3 workers"),
        ([ModelConfig("a", "x", device="cuda:1", on_demand=True)], "a on URL with 1 worker, on demand"),
        (
            [ModelConfig("a", "x"), ModelConfig("b", "y", workers=2, device="cpu")],
            "a (1 worker) and b (2 workers) on URL",
        ),
    ],
)
def test_one_line_says_what_is_served(models: list[ModelConfig], line: str) -> None:
    assert describe(GatewayConfig(tuple(models)), "URL") == f"llcuda serves {line}; Ctrl-C ends it"


@pytest.mark.usefixtures("started")
def test_check_prints_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLCUDA_SERVE_API_KEY", "sk-secret")
    assert main(["serve", "--check", "-m", "a=demo", "-m", "b=demo", "--host", "0.0.0.0"]) == 0  # noqa: S104
    first = capsys.readouterr().out
    path = tmp_path / "serve.toml"
    path.write_text(first)
    assert main(["serve", "--check", "--config", str(path)]) == 0
    assert capsys.readouterr().out == first
    assert "secret" not in first


def test_check_starts_nothing(started: list[Any]) -> None:
    assert main(["serve", "--check", "-m", "demo"]) == 0
    assert started == []


def test_check_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--check", "--json", "-m", "demo", "--slots", "2"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["port"], printed["models"][0]["slots"], printed["keys"]) == (8090, 2, [])


def test_check_without_the_extra_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    assert main(["serve", "--check", "-m", "demo"]) == 0


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no model is named"),
        (["-m", "demo", "--host", "0.0.0.0"], "there is no key"),  # noqa: S104
        (["-m", "demo", "--workers", "two"], "--workers: 'two' is not a whole number"),
        (["-m", "demo", "--json"], "--json goes with --check"),
        (["--config", "/no/such.toml"], "/no/such.toml cannot be read"),
    ],
)
def test_what_cannot_be_served_ends_with_2_and_says_what_to_do(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "\n  try: " in err


def test_a_key_is_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "-m", "demo", "--api-key", "sk-secret"])
    assert caught.value.code == 2
    assert "--api-key" in capsys.readouterr().err


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("llcuda.gateway.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("unloaded")
def test_without_the_extra_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    assert main(["serve", "-m", "demo"]) == 2
    assert capsys.readouterr().err == (
        "llcuda: llcuda serve needs httptools, which is not installed\n  try: pip install 'llcuda[gateway]'\n"
    )


@pytest.mark.usefixtures("unloaded")
def test_a_part_of_llcuda_that_is_missing_is_not_taken_for_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llcuda.gateway.running", None)
    assert main(["serve", "-m", "demo"]) == 1
