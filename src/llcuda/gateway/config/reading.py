"""Flags, variables and serve.toml -> one configuration. A flag wins over a variable, and that over the file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.fleet.model_config import ModelConfig, RemoteConfig
from llcuda.gateway.config.checks import check_config
from llcuda.gateway.config.configuration import GatewayConfig, KeyConfig, Limits
from llcuda.gateway.config.key_files import check_key, check_private, read_key_file, read_private
from llcuda.gateway.config.model_names import name_model, place_model, split_model
from llcuda.gateway.config.option_values import Workers, check_value, parse_flag, parse_variable
from llcuda.gateway.config.serve_options import KEY_OPTIONS, MODEL_OPTIONS, OPTIONS, PREFIX, Option
from llcuda.options import suggest_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CONFIG_VARIABLE", "KEY_VARIABLE", "Given", "make_config", "read_config", "read_given"]

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
KEY_VARIABLE = f"{PREFIX}API_KEY"
_MODEL_NAMES = frozenset(option.name for option in MODEL_OPTIONS)


@dataclass(frozen=True, slots=True)
class Given:
    """What was said, by names of options, with what overrides what already decided; nothing that was not said."""

    values: dict[str, Any]
    models: tuple[dict[str, Any], ...]
    keys: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    """The tables ``[[keys]]``."""
    key: str | None = field(default=None, repr=False)
    """What the variable has."""


def read_config(flags: Mapping[str, Any], *, environment: Mapping[str, str]) -> GatewayConfig:
    """Return the configuration; ``flags`` are by names of options, and ``config`` names the file.

    Raises UsageError, which says what is wrong, where it stands, and what to do.
    """
    return make_config(read_given(flags, environment=environment))


def read_given(flags: Mapping[str, Any], *, environment: Mapping[str, str]) -> Given:
    """Return what is said at the three places; raises UsageError for what cannot be, each value by itself."""
    file = flags.get("config") or environment.get(CONFIG_VARIABLE)
    below = _read_file(Path(file).expanduser()) if file else Given({}, ())
    above = _read_variables(environment) | _read_flags(flags)
    values = below.values | above
    tables = below.models if below.models and "model" not in above else _to_tables(values)
    return replace(
        below,
        values={name: value for name, value in values.items() if name not in _MODEL_NAMES},
        models=tuple(_only_models(below.values) | table | _only_models(above) for table in tables),
        key=environment.get(KEY_VARIABLE) or None,
    )


def make_config(given: Given) -> GatewayConfig:
    """Return what was given as a configuration, with the keys that it names; raises UsageError."""
    config = GatewayConfig(
        models=tuple(_make_model(table) for table in given.models),
        keys=_read_keys(given),
        limits=Limits(**_fields(Limits, OPTIONS, given.values)),
        **_fields(GatewayConfig, OPTIONS, given.values),
    )
    check_config(config)
    return config


def _make_model(table: Mapping[str, Any]) -> ModelConfig:
    values = _fields(ModelConfig, MODEL_OPTIONS, table)
    workers: Workers | None = values.pop("workers", None)
    if workers is not None:
        values |= {"workers": workers.number, "remotes": tuple(map(_read_remote_key, workers.remotes))}
    return ModelConfig(**values)


def _read_remote_key(remote: RemoteConfig) -> RemoteConfig:
    file = remote.key_file
    return remote if file is None else replace(remote, key=check_key(read_private(file).strip(), place=str(file)))


def _fields(scope: type[Any], options: Sequence[Option], values: Mapping[str, Any]) -> dict[str, Any]:
    known = {one.name for one in fields(scope)}
    mine = (one for one in options if one.scope is scope and one.target in known)
    return {one.target: values[one.name] for one in mine if one.name in values}


def _only_models(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in _MODEL_NAMES - {"model", "name"}}


def _to_tables(values: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    pairs = (split_model(text) for text in values.get("model", ()))
    return tuple({"name": name or name_model(model), "model": model} for name, model in pairs)


def _read_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: parse_flag(one, flags[one.name]) for one in OPTIONS if flags.get(one.name) is not None}


def _read_variables(environment: Mapping[str, str]) -> dict[str, Any]:
    known = {one.variable: one for one in OPTIONS}
    names = (*known, CONFIG_VARIABLE, KEY_VARIABLE)
    for name in environment:
        if name.startswith(PREFIX) and name not in names:
            endings = [one.removeprefix(PREFIX) for one in names]
            raise _unknown(f"the variable {name}", name.removeprefix(PREFIX), endings, prefix=PREFIX)
    # A variable that is empty is one that is not set, as everywhere in llcuda.
    return {one.name: parse_variable(one, environment[key]) for key, one in known.items() if environment.get(key)}


def _read_file(path: Path) -> Given:
    document = _load_toml(path)
    tables = {name: document.pop(name, []) for name in ("models", "keys")}
    for name, entries in tables.items():
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UsageError(f"{path}: {name} is not a list of tables", hint=f"Write [[{name}]] above each.")
    values = _check_table(document, OPTIONS, place=str(path), folder=path.parent)
    models = tuple(_check_model(table, path, number) for number, table in enumerate(tables["models"], start=1))
    if models and "model" in values:
        raise UsageError(f"{path} has both model and [[models]]", hint="Keep the tables, or the list.")
    if "model" in values:
        values["model"] = tuple(_place(text, path.parent) for text in values["model"])
    keys = tuple(_check_key_table(table, path, number) for number, table in enumerate(tables["keys"], start=1))
    return Given(values, models, keys=keys)


def _load_toml(path: Path) -> dict[str, Any]:
    toml = _import_toml()
    try:
        with path.open("rb") as file:
            return dict(toml.load(file))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Name another with --config.") from None
    except (ValueError, RecursionError) as error:
        known = isinstance(error, (toml.TOMLDecodeError, UnicodeDecodeError))
        reason = str(error) if known else "a number has too many digits, or it is nested too deeply"
        raise UsageError(f"{path} is not TOML: {reason}", hint="See https://toml.io for how it is written.") from None


def _import_toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - only if there is a file
    else:
        try:
            import tomli as tomllib  # noqa: PLC0415
        except ModuleNotFoundError:
            raise UsageError("a file needs tomli on Python 3.10", hint="pip install 'llcuda[gateway]'") from None
    return tomllib


def _check_table(table: Mapping[str, Any], options: Sequence[Option], *, place: str, folder: Path) -> dict[str, Any]:
    known = {one.name: one for one in options}
    for name in table:
        if name not in known:
            raise _unknown(f"{place}: the key {name}", name, list(known))
    checked = {name: check_value(known[name], value, f"{place}: {name}") for name, value in table.items()}
    # A file means the same wherever it is used from.
    return {name: _place_file(value, folder.absolute()) for name, value in checked.items()}


def _place_file(value: Any, folder: Path) -> Any:
    if isinstance(value, Workers):
        return value._replace(remotes=tuple(_place_key_file(remote, folder) for remote in value.remotes))
    return folder / value if isinstance(value, Path) else value


def _place_key_file(remote: RemoteConfig, folder: Path) -> RemoteConfig:
    return remote if remote.key_file is None else replace(remote, key_file=folder / remote.key_file)


def _check_model(table: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    place = f"{path}, [[models]] {number}"
    checked = _check_table(table, MODEL_OPTIONS, place=place, folder=path.parent)
    workers = checked.get("workers")
    if "model" not in checked and "name" in checked and workers is not None and not workers.number:
        checked["model"] = checked["name"]  # nothing is loaded here, so it stands for nothing
    if "model" not in checked:
        raise UsageError(f"{place} has no model", hint='Write model = "demo", a path, or another name of a model.')
    return {"name": name_model(checked["model"]), **checked, "model": place_model(checked["model"], path.parent)}


def _place(text: str, folder: Path) -> str:
    name, model = split_model(text)
    placed = place_model(model, folder)
    return f"{name}={placed}" if name else placed


def _check_key_table(table: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    place = f"{path}, [[keys]] {number}"
    checked = _check_table(table, KEY_OPTIONS, place=place, folder=path.parent)
    if "name" not in checked:
        raise UsageError(f"{place} has no name", hint="The audit log and messages call the key's owner by it.")
    if ("key" in checked) == ("key_file" in checked):
        raise UsageError(f"{place} has not one of key and key_file", hint="Write one of them.")
    if "key" in checked:
        check_private(path, path.stat().st_mode)
        check_key(checked["key"], place=place)
    return checked


def _read_keys(given: Given) -> tuple[KeyConfig, ...]:
    keys = [_read_key(table) for table in given.keys]
    if file := given.values.get("api_key_file"):
        keys += read_key_file(file)
    if given.key is not None:
        keys.append(KeyConfig("environment", check_key(given.key, place=KEY_VARIABLE)))
    return tuple(keys)


def _read_key(table: Mapping[str, Any]) -> KeyConfig:
    file = table.get("key_file")
    key = check_key(read_private(file).strip(), place=str(file)) if file else table["key"]
    return KeyConfig(**_fields(KeyConfig, KEY_OPTIONS, {**table, "key": key}))


def _unknown(what: str, name: str, known: list[str], *, prefix: str = "") -> UsageError:
    near = [prefix + one for one in suggest_names(name, known)]
    everything = ", ".join(prefix + one for one in known)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {everything}."
    return UsageError(f"{what} is not known", hint=hint)
