"""A configuration as plain data and as TOML, with no key in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.gateway.config.key_files import MASK
from llcuda.gateway.config.model_names import place_model
from llcuda.gateway.config.reading import KEY_VARIABLE
from llcuda.gateway.config.serve_options import MODEL_OPTIONS, OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llcuda.fleet.model_config import ModelConfig
    from llcuda.gateway.config.configuration import GatewayConfig, Limits
    from llcuda.gateway.config.reading import Given
    from llcuda.gateway.config.serve_options import Option

__all__ = ["format_toml", "to_plain"]


def to_plain(given: Given, config: GatewayConfig) -> dict[str, Any]:
    """Return every option with the value that holds, as serve.toml would have it; keys are masked."""
    plain = {**_to_table(config, OPTIONS), **_to_table(config.limits, OPTIONS)}
    if file := given.values.get("api_key_file"):
        plain["api_key_file"] = _to_value(file)
    plain["models"] = [
        {**_to_table(one, MODEL_OPTIONS), "workers": _list_workers(one), "model": place_model(one.model, Path())}
        for one in config.models
    ]
    plain["keys"] = [_mask(table) for table in given.keys]
    return plain


def format_toml(given: Given, config: GatewayConfig) -> str:
    """Return the configuration as a file that ``--config`` takes, once masked keys have been put in again."""
    plain = to_plain(given, config)
    tables = {name: plain.pop(name) for name in ("models", "keys")}
    lines = [_format_pair(name, value) for name, value in plain.items()]
    if given.key is not None:
        lines.insert(0, f"# Besides the keys below, the one in {KEY_VARIABLE} holds.")
    for name, entries in tables.items():
        for entry in entries:
            lines += ["", f"[[{name}]]", *(_format_pair(key, value) for key, value in entry.items())]
    return "\n".join(lines)


def _to_table(holder: GatewayConfig | Limits | ModelConfig, options: Iterable[Option]) -> dict[str, Any]:
    """Return what the ``holder`` has of the options, those left out that are not set."""
    mine = [one for one in options if isinstance(holder, one.scope) and hasattr(holder, one.target)]
    values = {one.name: getattr(holder, one.target) for one in mine}
    return {name: _to_value(value) for name, value in values.items() if value is not None and value != {}}


def _list_workers(model: ModelConfig) -> Any:
    """Return the count, or a list with the workers of other machines and the count beside them."""
    urls = [
        remote.url if remote.key_file is None else {"url": remote.url, "key_file": _to_value(remote.key_file)}
        for remote in model.remotes
    ]
    return [*([model.workers] if model.workers else []), *urls] if urls else model.workers


def _to_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value


def _mask(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: MASK if name == "key" else _to_value(value) for name, value in table.items()}


def _format_pair(name: str, value: Any) -> str:
    # All names are ours or llama-server's, which need no quotes.
    return f"{name} = {_format_value(value)}"


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(_format_pair(name, entry) for name, entry in value.items())} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_format_value, value))}]"
    # A text of printable characters, a number and a boolean are written in TOML as in JSON.
    return json.dumps(value, ensure_ascii=False)
