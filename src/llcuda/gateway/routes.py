"""Every address that the gateway answers, and what kind of request it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llcuda.gateway.endpoints import ENDPOINTS, GENERATING, Endpoint

__all__ = ["PREFLIGHT", "ROUTES", "SECOND", "Kind", "ModelRoute", "OwnRoute", "Route", "find_routes"]

Kind = Literal["generate", "compute", "ask"]

_COMPUTING: frozenset[Endpoint] = frozenset({"embeddings", "embedding", "rerank"})


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """An address of llama-server's, which a worker answers.

    ``generate`` takes a slot, and answers in a stream or whole; ``compute`` takes a slot, and answers whole; ``ask``
    takes none.
    """

    endpoint: Endpoint
    kind: Kind
    method: str = "POST"
    is_public: bool = False
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class OwnRoute:
    """An address that the gateway answers itself."""

    endpoint: str
    method: str = "GET"
    is_public: bool = False
    """Whether it needs no key."""
    is_admin: bool = False
    """Whether it needs the key of an administrator."""


Route = ModelRoute | OwnRoute


def _choose_kind(endpoint: Endpoint) -> Kind:
    if endpoint in GENERATING:
        return "generate"
    return "compute" if endpoint in _COMPUTING else "ask"


PREFLIGHT = OwnRoute("preflight", method="OPTIONS", is_public=True)
"""What a browser asks before a page of an allowed origin may."""

ROUTES: dict[str, Route] = {
    **{path: ModelRoute(endpoint, _choose_kind(endpoint)) for path, endpoint in ENDPOINTS.items()},
    "/health": OwnRoute("health", is_public=True),
    "/v1/health": OwnRoute("health", is_public=True),
    "/v1/models": OwnRoute("models"),
    "/models": OwnRoute("models"),
    "/props": OwnRoute("props"),
    "/slots": OwnRoute("slots"),
    "/metrics": OwnRoute("metrics"),
    "/api/capabilities": OwnRoute("capabilities"),
    "/api/admin/reload": OwnRoute("reload", method="POST", is_admin=True),
    "/api/admin/upgrade-gpu": OwnRoute("upgrade_plan", is_admin=True),
    "/api/admin/rollback-gpu": OwnRoute("rollback", method="POST", is_admin=True),
    "/api/admin/benchmark": OwnRoute("benchmark", method="POST", is_admin=True),
}
SECOND: dict[str, Route] = {
    "/api/admin/upgrade-gpu": OwnRoute("upgrade", method="POST", is_admin=True),
}
"""What a path takes besides, where it takes two methods."""


def find_routes(path: str) -> dict[str, Route]:
    """Return what the path takes, by the method; nothing where there is no such path."""
    found = (table.get(path) for table in (ROUTES, SECOND))
    return {route.method: route for route in found if route is not None}
