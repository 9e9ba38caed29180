"""Every option of ``llcuda serve``: one row is a flag, a variable ``LLCUDA_SERVE_…`` and a key of serve.toml."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any

from llcuda.fleet.model_config import ModelConfig
from llcuda.gateway.config.configuration import GatewayConfig, KeyConfig, Limits

__all__ = ["KEY_OPTIONS", "MODEL_OPTIONS", "OPTIONS", "PREFIX", "Option"]

PREFIX = "LLCUDA_SERVE_"
Scope = type[GatewayConfig] | type[Limits] | type[ModelConfig] | type[KeyConfig]


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its ``kind``, where its value goes, and the numbers that it may be, both ends included."""

    name: str
    kind: str
    """``count``, ``seconds``, ``switch``, ``text``, ``path``, ``source``, ``list`` of texts, ``workers``, or
    ``server_options``."""
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
    Option("workers", "workers", "llama-servers of each model, or the addresses of workers on other machines, "
           "with commas between: http://HOST:PORT, https://HOST:PORT or dns://NAME:PORT", ModelConfig, _MODELS, low=1,
           high=256, metavar="N|URL"),
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
    Option("hang_timeout", "seconds", "without a sign of life or of progress, after which a worker is started anew",
           GatewayConfig, _TIMES, metavar="SECONDS"),
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
