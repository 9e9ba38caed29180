"""Every option of ``llcuda serve``: one row is a flag, a variable ``LLCUDA_SERVE_…`` and a key of serve.toml.

From it come the check of a value, the command's help, and the table of docs/serve-options.md, which a test compares.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from functools import partial
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
    metavar: str = ""
    field: str = ""
    """The field of ``scope``, if it has another name."""
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
    def placeholder(self) -> str:
        """What stands for the value in the help."""
        return self.metavar or {"seconds": "SECONDS", "path": "FILE"}.get(self.kind, "N")

    @property
    def target(self) -> str:
        """The field of ``scope``."""
        return self.field or self.name

    @property
    def default(self) -> Any:
        """What holds if nothing is said; None for what has to be said."""
        found = [one for one in fields(self.scope) if one.name == self.target]
        return found[0].default if found and found[0].default is not MISSING else None


_model = partial(Option, scope=ModelConfig, group="models")
_address = partial(Option, scope=GatewayConfig, group="address")
_access = partial(Option, scope=GatewayConfig, group="access")
_limit = partial(Option, scope=Limits, group="limits")
_time = partial(Option, scope=Limits, group="times, in seconds")

OPTIONS = (
    Option("model", "list", "what is served, and what requests call it: demo, a path, a name from `llcuda models "
           "list`, repo:file on the hub, a URL, or sha256:…; may be repeated", GatewayConfig, "models",
           metavar="MODEL|NAME=MODEL", short="-m"),
    _model("workers", "workers", "llama-servers of each model, or the addresses of workers on other machines, with "
           "commas between: http://HOST:PORT, https://HOST:PORT or dns://NAME:PORT", low=1, high=256, metavar="N|URL"),
    _model("slots", "count", "requests that a worker answers at the same time", low=1, high=512),
    _model("device", "text", "where they run; auto and cuda spread the workers over the GPUs",
           metavar="auto|cuda|cuda:N|cpu"),
    _model("ctx_size", "count", "tokens of context of each slot", low=1),
    _model("gpu_layers", "count", "layers to keep on the GPU"),
    _model("threads", "count", "CPU threads of each worker", low=1, high=4096),
    _model("on_demand", "switch", "start a model with its first request, not at once"),
    _model("unload_after", "seconds", "unload a model that nobody has asked for so many seconds", field="idle_timeout"),
    _model("server_options", "server_options", "any other option of llama-server, such as cache-type-k=q8_0; may be "
           "repeated", metavar="NAME=VALUE", singular="server_option"),
    _address("host", "text", "the address to listen on; another than loopback needs a key", metavar="ADDRESS"),
    _address("port", "count", "the port to listen on; 0 takes a free one", high=65535),
    _address("grpc_port", "count", "the port for gRPC calls, at the same address; 0 takes a free one", high=65535),
    _address("tls_certificate", "path", "answer HTTPS, with this chain of certificates", metavar="PEM"),
    _address("tls_key", "path", "the certificate's private key", metavar="PEM"),
    _access("api_key_file", "path", "keys that may ask, one a line, as KEY or NAME:KEY; nobody else may read the file"),
    _access("allowed_hosts", "list", "a name that this gateway is reached by, besides IP addresses and localhost",
            metavar="NAME", singular="allowed_host"),
    _access("allowed_origins", "list", "the origin of web pages that may ask, besides the gateway's own",
            metavar="SCHEME://HOST", singular="allowed_origin"),
    _access("audit_log", "path", "add a line of JSON for each request to this file"),
    _access("strict_fields", "switch", "refuse a request with a field that is not known, instead of leaving it out"),
    _access("otlp_endpoint", "text", "send a trace of each request to this OpenTelemetry collector", metavar="URL"),
    _access("gpu_bundle", "source", "where GPU upgrades come from, instead of the releases: a bundle, a folder or "
            "address with an index.json, or hf://datasets/OWNER/NAME", metavar="SOURCE"),
    _limit("max_body_bytes", "count", "the largest body of a request", low=1024, high=1 << 30),
    _limit("max_header_bytes", "count", "the largest head of a request", low=1024, high=1 << 20),
    _limit("max_headers", "count", "header fields of a request", low=8, high=1000),
    _limit("max_connections", "count", "connections at once", low=1, high=1 << 20),
    _limit("max_queued", "count", "requests that wait for a slot", high=1 << 20),
    _limit("max_queued_tokens", "count", "estimated tokens of the requests that wait", low=1),
    _time("header_timeout", "seconds", "for the head of a request"),
    _time("body_timeout", "seconds", "for the body of a request"),
    _time("keep_alive_timeout", "seconds", "that a connection is kept without a request", field="idle_timeout"),
    _time("write_timeout", "seconds", "that a client may take nothing of its answer"),
    _time("request_timeout", "seconds", "for a whole answer"),
    _time("grace_timeout", "seconds", "for the answers that have begun, at the end", scope=GatewayConfig),
    _time("hang_timeout", "seconds", "without a sign of life or of progress, after which a worker is started anew",
          scope=GatewayConfig),
)  # fmt: skip

MODEL_OPTIONS = (
    Option("name", "text", "what requests call it", ModelConfig),
    Option("model", "text", "what is served", ModelConfig),
    Option("aliases", "list", "other names that requests may call it", ModelConfig),
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
