"""What docs/serve-options.md says of the options, the keys and the audit log is so."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from llcuda.cli import build_parser
from llcuda.gateway.config.reading import read_config
from llcuda.gateway.config.serve_options import KEY_OPTIONS, MODEL_OPTIONS, OPTIONS, Option
from llcuda.gateway.observe.audit_log import AuditRecord
from tests.places import DOCS

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (DOCS / "serve-options.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| ([^|]*) \| (.*) \|$", PAGE, re.MULTILINE)


def format_row(option: Option) -> tuple[str, str, str]:
    default = option.default
    shown = {None: "", (): "", False: "false"}.get(default, f"{default:g}" if isinstance(default, float) else default)
    return option.name, f"`{shown}`" if shown else "", option.summary.replace("|", "\\|")


def test_the_table_is_the_table_of_the_options() -> None:
    assert [format_row(option) for option in OPTIONS] == ROWS


def test_the_options_of_a_model_are_those_said() -> None:
    names = [option.name for option in OPTIONS]
    of_a_model = [option.name for option in MODEL_OPTIONS if option.name not in {"name", "model", "aliases"}]
    assert names[1:10] == of_a_model
    assert [option.flag for option in OPTIONS if option.kind in {"list", "server_options"}] == [
        "--model",
        "--server-option",
        "--allowed-host",
        "--allowed-origin",
    ]


def test_every_flag_of_the_command_is_on_the_page() -> None:
    commands: Any = next(action.choices for action in build_parser()._actions if action.choices)
    actions = commands["serve"]._actions
    keys = {option.flag for option in OPTIONS}
    flags = [(one.option_strings[-1], one.help) for one in actions if not keys & set(one.option_strings)]
    assert re.findall(r"^\| `(--[\w-]+)` \| (.*) \|$", PAGE, re.MULTILINE) == flags
    assert keys <= {string for one in actions for string in one.option_strings}
    assert "`aliases`" in PAGE


def test_the_keys_of_a_key_are_those_said() -> None:
    part = PAGE.partition("## Keys")[2].partition("##")[0]
    assert all(f"`{option.name}`" in part for option in KEY_OPTIONS if option.name != "admin")
    assert "`admin = true`" in part


def test_the_fields_of_the_audit_log_are_those_said() -> None:
    part = PAGE.partition("## The audit log")[2]
    said = re.findall(r"`(\w+)`", part)
    assert set(said) == {field.name for field in dataclasses.fields(AuditRecord)}


def test_the_file_that_is_shown_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml serve.toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    path = tmp_path / "serve.toml"
    path.write_text(text, encoding="utf-8")
    for name in ("ann", "batch"):
        (tmp_path / f"{name}.key").write_text(f"sk-{name}")
        (tmp_path / f"{name}.key").chmod(0o600)
    config = read_config({"config": str(path)}, environment={})
    assert [(one.name, one.workers) for one in config.models] == [("small", 2), ("large", 1)]
    assert config.models[1].on_demand
    assert config.models[1].model == str(tmp_path / "models" / "large.gguf")
    assert [(key.name, key.is_admin, key.priority, key.max_in_flight) for key in config.keys] == [
        ("ann", True, 0, None),
        ("batch", False, -1, 8),
    ]


def test_several_in_a_variable_are_quoted_as_said() -> None:
    text = re.findall(r'`LLCUDA_SERVE_MODEL="([^`]*)"`', PAGE)[0]
    config = read_config({}, environment={"LLCUDA_SERVE_MODEL": text})
    assert [(one.name, one.model) for one in config.models] == [("small", "demo"), ("large", "/my models/x.gguf")]
