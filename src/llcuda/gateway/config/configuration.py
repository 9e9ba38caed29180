"""What a gateway is told: models, keys and limits, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llcuda.fleet.model_config import ModelConfig

__all__ = ["MAX_KEY_LENGTH", "GatewayConfig", "KeyConfig", "Limits"]

MAX_KEY_LENGTH = 256
"""Characters of a key: what is longer is no key, and is not hashed in full."""


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """One key, and what its owner may do."""

    name: str
    """What the audit log calls its owner."""
    key: str = field(repr=False)
    is_admin: bool = False
    priority: int = 0
    """Requests of a higher priority leave the queue first."""
    max_in_flight: int | None = None
    """Requests, queued ones among them, that it may have at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of everything that clients can make the gateway hold."""

    max_body_bytes: int = 8 << 20
    max_header_bytes: int = 32 << 10
    max_headers: int = 100
    max_connections: int = 4096
    max_queued: int = 256
    """Requests that wait for a slot."""
    max_queued_tokens: int = 1 << 20
    """Estimated tokens, of prompts and answers, of the requests that wait for a slot."""
    header_timeout: float = 10.0
    """Seconds for the head of a request to come."""
    body_timeout: float = 30.0
    """Seconds for the body of a request to come."""
    idle_timeout: float = 75.0
    """Seconds that a connection may be kept without a request."""
    write_timeout: float = 60.0
    """Seconds that a client may take nothing of what it is sent."""
    request_timeout: float = 600.0
    """Seconds for a whole request, from its last byte to the last byte of its answer."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Everything that ``llcuda serve`` can be told."""

    models: tuple[ModelConfig, ...]
    host: str = "127.0.0.1"
    port: int = 8090
    """0 takes a free one."""
    grpc_port: int | None = None
    """For the binary protocol, at the same host; 0 takes a free one, None leaves it out."""
    keys: tuple[KeyConfig, ...] = ()
    """Without any, whoever can reach the address may ask; only a loopback address may do without."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that the Host header may have besides IP addresses and ``localhost``."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may ask, besides the gateway's own."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    audit_log: Path | None = None
    strict_fields: bool = False
    """Whether a request with a field that is not known is refused; else the field is left out, and named."""
    otlp_endpoint: str | None = None
    """The OpenTelemetry collector that is sent a trace of each request."""
    gpu_bundle: Path | str | None = None
    """Where an administrator's GPU upgrade comes from: a path or an address; None for the releases."""
    grace_timeout: float = 30.0
    """Seconds for the answers that have begun, when the gateway or a replica is to end."""
    hang_timeout: float = 10.0
    """Seconds without a sign of life or of progress after which a llama-server is given up and started anew."""
    limits: Limits = field(default_factory=Limits)
