"""The values of options: out of a flag, a variable or a file, of the right kind and within their bounds."""

from __future__ import annotations

import json
import math
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llcuda.errors import UsageError
from llcuda.fleet.model_config import RemoteConfig
from llcuda.schema.validate import show

if TYPE_CHECKING:
    from collections.abc import Callable

    from llcuda.gateway.config.serve_options import Option

__all__ = ["Workers", "check_value", "parse_flag", "parse_variable"]

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_OPTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def parse_flag(option: Option, given: Any) -> Any:
    """Return the value of what argparse has: a text, a boolean, or a list of texts."""
    return check_value(option, _parse(option, given, option.flag), option.flag)


def parse_variable(option: Option, text: str) -> Any:
    """Return the value of the variable's ``text``; several texts are separated as a shell would."""
    given: str | list[str] = text
    if option.kind in {"list", "server_options"}:
        try:
            given = shlex.split(text)
        except ValueError as error:
            hint = "Separate by spaces, and quote as in a shell."
            raise UsageError(f"{option.variable}: {error}", hint=hint) from None
    return check_value(option, _parse(option, given, option.variable), option.variable)


def check_value(option: Option, value: Any, place: str) -> Any:
    """Return the value as the configuration has it; ``place`` says where it stands.

    Raises UsageError for one of the wrong type or out of range.
    """
    return _CHECKS[option.kind](option, value, place)


def _parse(option: Option, text: Any, place: str) -> Any:
    """Return what TOML would have for the text; what cannot be parsed is left for the check to refuse."""
    if option.kind == "server_options":
        return dict(_parse_pair(place, pair) for pair in text)
    if not isinstance(text, str):
        return text
    if option.kind == "workers":
        return [int(word) if word.isascii() and word.isdigit() else word for word in text.replace(",", " ").split()]
    if option.kind == "switch":
        word = text.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else text
    with suppress(ValueError, KeyError):
        return {"count": int, "seconds": float}[option.kind](text)
    return text


def _parse_pair(place: str, pair: str) -> tuple[str, Any]:
    name, separator, text = pair.lstrip("-").partition("=")
    if not name:
        raise UsageError(f"{place}: {pair!r} has no name", hint="Write NAME=VALUE, such as cache-type-k=q8_0.")
    value: Any = text if separator else True
    with suppress(ValueError, RecursionError):
        parsed = json.loads(text)
        value = parsed if isinstance(parsed, (bool, int, float)) else value
    return name.replace("-", "_"), value


def _check_count(option: Option, value: Any, place: str) -> int:
    if not _is_number(value) or isinstance(value, float):
        hint = _example(option, "a number without a unit")
        raise UsageError(f"{place}: {show(value)} is not a whole number", hint=hint)
    if not option.low <= value <= option.high:
        ends = f"at least {option.low:g}" if option.high == math.inf else f"from {option.low:g} to {option.high:.0f}"
        raise UsageError(f"{place}: {value} is out of range", hint=f"{option.name} is {ends}.")
    return int(value)


def _check_seconds(option: Option, value: Any, place: str) -> float:
    if not _is_number(value) or value <= 0:
        what = f"{value} is not more than nothing" if _is_number(value) else f"{show(value)} is not a time"
        raise UsageError(f"{place}: {what}", hint=_example(option, "a number of seconds"))
    return float(value)


def _is_number(value: Any) -> bool:
    """Tell whether it is a number that TOML has: a whole one has 64 bits, and hexadecimal digits may be any number."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63


def _example(option: Option, kind: str) -> str:
    default = option.default
    such = f", such as {default:g}" if isinstance(default, float) else "" if default is None else f", such as {default}"
    return f"{option.name} is {kind}{such}."


def _check_switch(option: Option, value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{place}: {show(value)} is neither true nor false", hint=f"{option.name} is true or false.")
    return value


def _check_text(option: Option, value: Any, place: str) -> str:
    # The value is not repeated: it may be a key.
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UsageError(f"{place} is not a text of printable characters", hint=f"{option.name} is {option.summary}.")
    return value


def _check_path(option: Option, value: Any, place: str) -> Path:
    return Path(_check_text(option, value, place)).expanduser()


def _check_source(option: Option, value: Any, place: str) -> Path | str:
    text = _check_text(option, value, place)
    return text if "://" in text else Path(text).expanduser()


def _check_list(option: Option, value: Any, place: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        raise UsageError(f"{place}: {show(value)} is not a list of texts", hint=f'Write {option.name} = ["…", "…"].')
    return tuple(_check_text(option, text, place) for text in texts)


def _check_server_options(option: Option, value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{place} is not a table", hint=f'Write {option.name} = {{ cache-type-k = "q8_0" }}.')
    for name, entry in value.items():
        if not _OPTION_NAME.fullmatch(name):
            raise UsageError(f"{place}: {name!r} is no name of an option", hint="Write it as llama-server --help does.")
        _check_server_option(entry, f"{place}.{name}")
    return {name.replace("-", "_"): entry for name, entry in value.items()}


def _check_server_option(entry: Any, place: str) -> None:
    if isinstance(entry, list):
        for one in entry:
            _check_server_option(one, place)
    elif not isinstance(entry, (str, bool)) and not _is_number(entry):
        hint = "It is a text, a number, true or false."
        raise UsageError(f"{place}: {show(entry)} is no value of an option", hint=hint)
    elif isinstance(entry, str) and not entry.isprintable():
        raise UsageError(f"{place} has characters that cannot be printed", hint="Write it without.")


class Workers(NamedTuple):
    """What answers for a model: llama-servers of this machine, and workers of others."""

    number: int
    remotes: tuple[RemoteConfig, ...]


def _check_workers(option: Option, value: Any, place: str) -> Workers:
    entries = value if isinstance(value, list) else [value]
    counts = [_check_count(option, entry, place) for entry in entries if _is_number(entry)]
    remotes = tuple(_check_remote(entry, place) for entry in entries if not _is_number(entry))
    if len(counts) > 1 or not entries or len({remote.url for remote in remotes}) < len(remotes):
        raise UsageError(f"{place} names one twice, or none", hint="Write a number, addresses of workers, or both.")
    return Workers(counts[0] if counts else 0, remotes)


def _check_remote(entry: Any, place: str) -> RemoteConfig:
    table = {"url": entry} if isinstance(entry, str) and "://" in entry else entry
    if not isinstance(table, dict) or not {"url"} <= table.keys() <= {"url", "key_file"}:
        hint = "workers is a number without a unit, http://HOST:PORT, or a table with url and key_file."
        raise UsageError(f"{place}: {show(entry)} is not a whole number", hint=hint)
    if not all(isinstance(text, str) and text for text in table.values()):
        raise UsageError(f"{place}: url and key_file are texts")
    file = Path(table["key_file"]).expanduser() if "key_file" in table else None
    remote = RemoteConfig(table["url"], key_file=file)
    try:
        address = remote.address
    except UsageError as error:
        # The address is not repeated if it may have a password.
        reason = "an address has no user name" if "@" in remote.url else error.message
        hint = "Write http://, https:// or dns://, a host and a port. A key goes into key_file."
        raise UsageError(f"{place}: {reason}", hint=hint) from None
    if address.is_unix:
        raise UsageError(f"{place}: {remote.url} is not an address of another machine")
    return remote


_CHECKS: dict[str, Callable[[Option, Any, str], Any]] = {
    "count": _check_count,
    "workers": _check_workers,
    "seconds": _check_seconds,
    "switch": _check_switch,
    "text": _check_text,
    "path": _check_path,
    "source": _check_source,
    "list": _check_list,
    "server_options": _check_server_options,
}
