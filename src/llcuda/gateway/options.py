"""Every option of ``llcuda serve``: one row is a flag, a variable ``LLCUDA_SERVE_…`` and a key of serve.toml."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.errors import UsageError
from llcuda.gateway.config import GatewayConfig, KeyConfig, Limits, ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KEY_OPTIONS", "MODEL_OPTIONS", "OPTIONS", "PREFIX", "Option", "check_value", "parse_flag", "parse_variable"]

PREFIX = "LLCUDA_SERVE_"
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_OPTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
Scope = type[GatewayConfig] | type[Limits] | type[ModelConfig] | type[KeyConfig]


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its ``kind``, where its value goes, and the numbers that it may be, both ends included."""

    name: str
    kind: str
    """``count``, ``seconds``, ``switch``, ``text``, ``path``, ``source``, ``list`` of texts, or ``server_options``."""
    summary: str
    scope: Scope
    group: str = ""
    low: float = 0
    high: float = math.inf
    metavar: str = "N"
    field: str = ""
    """The field of ``scope``, where it has another name."""
    singular: str = ""
    """What the flag is called that gives one of a list."""
    short: str = ""

    @property
    def flag(self) -> str:
        """What the command line calls it."""
        return f"--{(self.singular or self.name).replace('_', '-')}"

    @property
    def variable(self) -> str:
        """What the environment calls it."""
        return PREFIX + self.name.upper()

    @property
    def target(self) -> str:
        """The field of ``scope``."""
        return self.field or self.name

    @property
    def default(self) -> Any:
        """What holds where nothing is said; None for what has to be said."""
        found = [one for one in fields(self.scope) if one.name == self.target]
        return found[0].default if found and found[0].default is not MISSING else None


_MODELS, _ADDRESS, _ACCESS, _LIMITS, _TIMES = "models", "address", "access", "limits", "times, in seconds"

OPTIONS = (
    Option(
        "model",
        "list",
        "what is served, and what requests call it: demo, a path, a name from `llcuda models list`, repo:file on the "
        "hub, a URL, or sha256:…; may be repeated",
        GatewayConfig,
        _MODELS,
        metavar="MODEL|NAME=MODEL",
        short="-m",
    ),
    Option("workers", "count", "llama-servers of each model", ModelConfig, _MODELS, low=1, high=256),
    Option("slots", "count", "requests that a worker answers at the same time", ModelConfig, _MODELS, low=1, high=512),
    Option(
        "device",
        "text",
        "where they run; auto and cuda spread the workers over the GPUs",
        ModelConfig,
        _MODELS,
        metavar="auto|cuda|cuda:N|cpu",
    ),
    Option("ctx_size", "count", "tokens of context of each slot", ModelConfig, _MODELS, low=1),
    Option("gpu_layers", "count", "layers to keep on the GPU", ModelConfig, _MODELS),
    Option("threads", "count", "CPU threads of each worker", ModelConfig, _MODELS, low=1, high=4096),
    Option("on_demand", "switch", "start a model with its first request, not at once", ModelConfig, _MODELS),
    Option(
        "unload_after",
        "seconds",
        "unload a model that nobody has asked for so many seconds",
        ModelConfig,
        _MODELS,
        metavar="SECONDS",
        field="idle_timeout",
    ),
    Option(
        "server_options",
        "server_options",
        "any other option of llama-server, such as cache-type-k=q8_0; may be repeated",
        ModelConfig,
        _MODELS,
        metavar="NAME=VALUE",
        singular="server_option",
    ),
    Option("host", "text", "the address to listen on; another than loopback needs a key", GatewayConfig, _ADDRESS,
           metavar="ADDRESS"),
    Option("port", "count", "the port to listen on; 0 takes a free one", GatewayConfig, _ADDRESS, high=65535),
    Option("grpc_port", "count", "the port for gRPC calls, at the same address; 0 takes a free one", GatewayConfig,
           _ADDRESS, high=65535),
    Option("tls_certificate", "path", "answer HTTPS, with this chain of certificates", GatewayConfig, _ADDRESS,
           metavar="PEM"),
    Option("tls_key", "path", "the certificate's private key", GatewayConfig, _ADDRESS, metavar="PEM"),
    Option("api_key_file", "path", "keys that may ask, one a line, as KEY or NAME:KEY; nobody else may read the file",
           GatewayConfig, _ACCESS, metavar="FILE"),
    Option("allowed_hosts", "list", "a name that this gateway is reached by, besides IP addresses and localhost",
           GatewayConfig, _ACCESS, metavar="NAME", singular="allowed_host"),
    Option("allowed_origins", "list", "the origin of web pages that may ask, besides the gateway's own",
           GatewayConfig, _ACCESS, metavar="SCHEME://HOST", singular="allowed_origin"),
    Option("audit_log", "path", "add a line of JSON for each request to this file", GatewayConfig, _ACCESS,
           metavar="FILE"),
    Option("otlp_endpoint", "text", "send a trace of each request to this OpenTelemetry collector", GatewayConfig,
           _ACCESS, metavar="URL"),
    Option("gpu_bundle", "source", "where GPU upgrades come from, instead of the releases: a bundle, a folder or "
           "address with an index.json, or hf://datasets/OWNER/NAME", GatewayConfig, _ACCESS, metavar="SOURCE"),
    Option("max_body_bytes", "count", "the largest body of a request", Limits, _LIMITS, low=1024, high=1 << 30),
    Option("max_header_bytes", "count", "the largest head of a request", Limits, _LIMITS, low=1024, high=1 << 20),
    Option("max_headers", "count", "header fields of a request", Limits, _LIMITS, low=8, high=1000),
    Option("max_connections", "count", "connections at once", Limits, _LIMITS, low=1, high=1 << 20),
    Option("max_queued", "count", "requests that wait for a slot", Limits, _LIMITS, high=1 << 20),
    Option("max_queued_tokens", "count", "estimated tokens of the requests that wait", Limits, _LIMITS, low=1),
    Option("header_timeout", "seconds", "for the head of a request", Limits, _TIMES, metavar="SECONDS"),
    Option("body_timeout", "seconds", "for the body of a request", Limits, _TIMES, metavar="SECONDS"),
    Option("keep_alive_timeout", "seconds", "that a connection is kept without a request", Limits, _TIMES,
           metavar="SECONDS", field="idle_timeout"),
    Option("write_timeout", "seconds", "that a client may take nothing of its answer", Limits, _TIMES,
           metavar="SECONDS"),
    Option("request_timeout", "seconds", "for a whole answer", Limits, _TIMES, metavar="SECONDS"),
    Option("grace_timeout", "seconds", "for the answers that have begun, at the end", GatewayConfig, _TIMES,
           metavar="SECONDS"),
    Option("hang_timeout", "seconds", "without a sign of life, after which a worker is started anew", GatewayConfig,
           _TIMES, metavar="SECONDS"),
)  # fmt: skip

MODEL_OPTIONS = (
    Option("name", "text", "what requests call it", ModelConfig),
    Option("model", "text", "what is served", ModelConfig),
    *(option for option in OPTIONS if option.scope is ModelConfig),
)
"""The keys of a ``[[models]]`` table."""

KEY_OPTIONS = (
    Option("name", "text", "what the audit log calls its owner", KeyConfig),
    Option("key", "text", "the key", KeyConfig),
    Option("key_file", "path", "a file that holds the key alone", KeyConfig),
    Option("admin", "switch", "whether it may install, reload and measure", KeyConfig, field="is_admin"),
    Option("priority", "count", "higher ones leave the queue first", KeyConfig, low=-100, high=100),
    Option("max_in_flight", "count", "requests at once, queued ones among them", KeyConfig, low=1),
)
"""The keys of a ``[[keys]]`` table."""


def parse_flag(option: Option, given: Any) -> Any:
    """Return the value of what argparse has: a text, a boolean, or a list of texts."""
    if option.kind == "server_options":
        return check_value(option, dict(_parse_pair(option.flag, pair) for pair in given), option.flag)
    return check_value(option, _parse(option, given), option.flag)


def parse_variable(option: Option, text: str) -> Any:
    """Return the value of the variable's ``text``; several texts are separated as a shell would."""
    if option.kind not in {"list", "server_options"}:
        return check_value(option, _parse(option, text), option.variable)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option.variable}: {error}", hint="Separate by spaces, and quote as in a shell.") from None
    if option.kind == "server_options":
        return check_value(option, dict(_parse_pair(option.variable, pair) for pair in words), option.variable)
    return check_value(option, words, option.variable)


def check_value(option: Option, value: Any, place: str) -> Any:
    """Return the value as the configuration has it; ``place`` is where it stands.

    Raises UsageError for one of the wrong type or out of range.
    """
    return _CHECKS[option.kind](option, value, place)


def _parse(option: Option, text: Any) -> Any:
    """Return what TOML would have for the text; what cannot be parsed is left for the check to refuse."""
    if not isinstance(text, str):
        return text
    if option.kind == "switch":
        word = text.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else text
    if option.kind in {"count", "seconds"}:
        try:
            return int(text) if option.kind == "count" else float(text)
        except ValueError:
            return text
    return text


def _parse_pair(place: str, pair: str) -> tuple[str, Any]:
    name, separator, text = pair.lstrip("-").partition("=")
    if not name:
        raise UsageError(f"{place}: {pair!r} has no name", hint="Write NAME=VALUE, such as cache-type-k=q8_0.")
    value: Any = text if separator else True
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    return name.replace("-", "_"), parsed if isinstance(parsed, (bool, int, float)) else value


def _check_count(option: Option, value: Any, place: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{place}: {value!r} is not a whole number", hint=_example(option, "a number without a unit"))
    _check_range(option, value, place)
    return value


def _check_seconds(option: Option, value: Any, place: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise UsageError(f"{place}: {value!r} is not a time", hint=_example(option, "a number of seconds"))
    if value <= 0:
        raise UsageError(f"{place}: {value} is not more than nothing", hint=_example(option, "a number of seconds"))
    return float(value)


def _check_range(option: Option, value: float, place: str) -> None:
    if not option.low <= value <= option.high:
        ends = f"at least {option.low:g}" if option.high == math.inf else f"from {option.low:g} to {option.high:.0f}"
        raise UsageError(f"{place}: {value} is out of range", hint=f"{option.name} is {ends}.")


def _example(option: Option, kind: str) -> str:
    default = option.default
    such = f", such as {default:g}" if isinstance(default, float) else "" if default is None else f", such as {default}"
    return f"{option.name} is {kind}{such}."


def _check_switch(option: Option, value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{place}: {value!r} is neither true nor false", hint=f"{option.name} is true or false.")
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
        raise UsageError(f"{place}: {value!r} is not a list of texts", hint=f'Write {option.name} = ["…", "…"].')
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
    elif not isinstance(entry, (str, int, float)) or (isinstance(entry, float) and not math.isfinite(entry)):
        raise UsageError(f"{place}: {entry!r} is no value of an option", hint="It is a text, a number, true or false.")
    elif isinstance(entry, str) and not entry.isprintable():
        raise UsageError(f"{place} has characters that cannot be printed", hint="Write it without.")


_CHECKS: dict[str, Callable[[Option, Any, str], Any]] = {
    "count": _check_count,
    "seconds": _check_seconds,
    "switch": _check_switch,
    "text": _check_text,
    "path": _check_path,
    "source": _check_source,
    "list": _check_list,
    "server_options": _check_server_options,
}
