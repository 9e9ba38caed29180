"""What must hold for a configuration as a whole before anything is started."""

from __future__ import annotations

import re
import ssl
from ipaddress import ip_address
from typing import TYPE_CHECKING

from llcuda.errors import UsageError
from llcuda.server.arguments import build_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from llcuda.fleet.model_config import ModelConfig
    from llcuda.gateway.config.configuration import GatewayConfig

__all__ = ["check_config", "is_loopback", "load_tls", "parse_host"]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,]+", re.IGNORECASE)
# A password in it would be printed by --check.
_COLLECTOR = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?")
_MAX_NAME_LENGTH = 200
# What the gateway sets itself, and what to say instead.
_OWN = {
    "n_parallel": "slots",
    "parallel": "slots",
    "ctx_size": "ctx_size",
    "gpu_layers": "gpu_layers",
    "n_gpu_layers": "gpu_layers",
    "threads": "threads",
    "device": "device",
}


def check_config(config: GatewayConfig) -> None:
    """Raise UsageError for the first thing that stands in the way of serving with this configuration."""
    if not config.models:
        hint = "Add -m demo, set LLCUDA_SERVE_MODEL, or write [[models]] in the file."
        raise UsageError("no model is named", hint=hint)
    names = (name for model in config.models for name in (model.name, *model.aliases))
    _check_twins("models", names, hint="Name each: --model a=… --model b=….")
    for model in config.models:
        _check_model(model)
    _check_keys(config)
    _check_names(config)
    load_tls(config.tls_certificate, config.tls_key)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address; a name other than localhost may lead anywhere."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_host(authority: str) -> tuple[str, str | None] | None:
    """Return the name and the port of ``NAME``, ``NAME:PORT`` or an address, in lower case; None for all else."""
    match = _HOST.fullmatch(authority.lower())
    return (match[1], match[2]) if match else None


def load_tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return the context to serve with, or None if neither file is named.

    Raises UsageError if one of the two is missing, cannot be read, or does not belong to the other.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("TLS needs a certificate and its key", hint="Add --tls-certificate PEM and --tls-key PEM.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for path in (certificate, key):
        _check_readable(path)
    try:
        # A password would be asked for at the terminal.
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        reason = (error.reason or "no certificate, or no key").replace("_", " ").lower()
        hint = "Name a chain of certificates and the key of the first, both PEM."
        raise UsageError(f"{certificate} and {key} cannot be used: {reason}", hint=hint) from None
    return context


def _refuse_password() -> bytes:
    raise UsageError("the key of the certificate has a password", hint="`openssl pkey -in KEY` writes it without.")


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Name a file that can be read.") from None


def _check_model(model: ModelConfig) -> None:
    for name in (model.name, *model.aliases):
        if len(name) > _MAX_NAME_LENGTH:
            raise UsageError(f"the name of the model {name[:40]}… is too long", hint="Name it: --model NAME=MODEL.")
    if not _DEVICE.fullmatch(model.device):
        hint = "It is auto, cuda, cuda:N or cpu."
        raise UsageError(f"{model.device!r} is not a device (model {model.name})", hint=hint)
    for name in model.server_options:
        if own := _OWN.get(name):
            raise UsageError(f"{name} is not a server option here (model {model.name})", hint=f"Set {own} instead.")
    try:
        build_arguments(**model.server_options)
    except UsageError as error:
        raise UsageError(f"{error} (model {model.name})", hint=error.hint or "Leave the option out.") from None


def _check_keys(config: GatewayConfig) -> None:
    _check_twins("keys", (key.name for key in config.keys), hint="Name each owner once.")
    if len({key.key for key in config.keys}) < len(config.keys):
        raise UsageError("two names have the same key", hint="Give each a key of its own.")
    if not config.keys and not is_loopback(config.host):
        hint = "Set LLCUDA_SERVE_API_KEY, add --api-key-file FILE, or listen on 127.0.0.1."
        raise UsageError(f"other machines can reach {config.host}, and there is no key", hint=hint)


def _check_names(config: GatewayConfig) -> None:
    for host in config.allowed_hosts:
        if parse_host(host) is None:
            raise UsageError(f"{host!r} is not an allowed host", hint="Write a name, or NAME:PORT, without http://.")
    for origin in config.allowed_origins:
        if not _ORIGIN.fullmatch(origin):
            hint = "Write https://app.example.com, with the port if it has one."
            raise UsageError(f"{origin!r} is not an origin", hint=hint)
    if config.otlp_endpoint is not None and not _COLLECTOR.fullmatch(config.otlp_endpoint):
        hint = "Write http://127.0.0.1:4318; what it asks for besides goes into OTEL_EXPORTER_OTLP_HEADERS."
        raise UsageError("otlp_endpoint is not the address of a collector", hint=hint)


def _check_twins(what: str, names: Iterable[str], *, hint: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"two {what} are called {name}", hint=hint)
        seen.add(name)
