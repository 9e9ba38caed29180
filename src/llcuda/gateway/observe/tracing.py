"""Traces, where they are asked for: OpenTelemetry is loaded then, and only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llcuda.errors import UsageError

if TYPE_CHECKING:
    from llcuda.gateway.config.configuration import GatewayConfig
    from llcuda.gateway.observe.otlp import Tracer

__all__ = ["open_tracer"]


def open_tracer(config: GatewayConfig) -> Tracer | None:
    """Return what sends traces, or None where no collector is named. Raises UsageError where the extra is missing."""
    if config.otlp_endpoint is None:
        return None
    try:
        from llcuda.gateway.observe.otlp import Tracer  # noqa: PLC0415 - it needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "llcuda":
            raise
        raise UsageError(
            f"traces need {error.name}, which is not installed", hint="pip install 'llcuda[telemetry]'"
        ) from None
    return Tracer(config.otlp_endpoint, scheme="https" if config.tls_certificate else "http")
