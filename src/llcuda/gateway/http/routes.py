"""Every address that the gateway answers, and what kind of request it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llcuda.gateway.http.endpoints import ENDPOINTS, GENERATING, Endpoint

__all__ = [
    "ALIASES", "CHAT_FOLDER", "INSTEAD", "MODEL_PREFIX", "PAGES", "PREFLIGHT", "ROUTES", "SECOND", "Kind", "ModelRoute",
    "OwnRoute", "Route", "find_routes",
]  # fmt: skip

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

PAGES = {
    "/": "index.html",
    "/page/api.js": "api.js",
    "/page/charts.js": "charts.js",
    "/page/gpu.js": "gpu.js",
    "/page/icon.svg": "icon.svg",
    "/page/models.js": "models.js",
    "/page/offload.js": "offload.js",
    "/page/page.css": "page.css",
    "/page/page.js": "page.js",
    "/page/words.js": "words.js",
}
"""The addresses of the page at ``/``, each with the name of its file."""

ROUTES: dict[str, Route] = {
    **{path: ModelRoute(endpoint, _choose_kind(endpoint)) for path, endpoint in ENDPOINTS.items()},
    "/health": OwnRoute("health", is_public=True),
    "/v1/health": OwnRoute("health", is_public=True),
    "/v1/models": OwnRoute("models"),
    "/models": OwnRoute("models"),
    "/props": OwnRoute("props"),
    "/slots": OwnRoute("slots"),
    "/metrics": OwnRoute("metrics"),
    "/openapi.json": OwnRoute("openapi", is_public=True),
    "/api/capabilities": OwnRoute("capabilities"),
    "/chat": OwnRoute("chat_folder", is_public=True),
    "/chat/tools": OwnRoute("chat_tools", is_public=True),
    "/chat/v1/streams/lookup": OwnRoute("chat_streams", method="POST"),
    "/api/status": OwnRoute("status"),
    "/api/admin/offload": OwnRoute("offload", method="POST", is_admin=True),
    **{path: OwnRoute("page", is_public=True) for path in PAGES},
    "/api/admin/reload": OwnRoute("reload", method="POST", is_admin=True),
    "/api/admin/upgrade-gpu": OwnRoute("upgrade_plan", is_admin=True),
    "/api/admin/rollback-gpu": OwnRoute("rollback", method="POST", is_admin=True),
    "/api/admin/benchmark": OwnRoute("benchmark", method="POST", is_admin=True),
}
SECOND: dict[str, Route] = {
    "/api/admin/upgrade-gpu": OwnRoute("upgrade", method="POST", is_admin=True),
}
"""What a path takes besides, where it takes two methods."""

CHAT_FOLDER = "/chat/"
_CHAT_FILE = OwnRoute("chat_page", is_public=True)
"""What lies in that folder and is no other address."""

ALIASES = {f"/chat{path}": path for path in ("/props", "/slots", "/v1/chat/completions", "/v1/models")}
"""What the chat page asks beside itself, and the address that answers it."""

MODEL_PREFIX = "/v1/models/"
"""What comes before a model's name, percent-encoded, to ask about that model alone."""
_ONE_MODEL = OwnRoute("model")

INSTEAD: dict[str, str] = {
    "/api/chat": "/v1/chat/completions",
    "/api/embed": "/v1/embeddings",
    "/api/embeddings": "/v1/embeddings",
    "/api/generate": "/v1/completions",
    "/api/ps": "/v1/models",
    "/api/show": "/v1/models",
    "/api/tags": "/v1/models",
    "/api/version": "/api/capabilities",
}
"""What is asked of Ollama, and the address here that does the same."""

_BY_METHOD = {path: {route.method: route} for path, route in ROUTES.items()}
for _path, _route in SECOND.items():
    _BY_METHOD[_path][_route.method] = _route


def find_routes(path: str) -> dict[str, Route]:
    """Return what a path leads to, by the method; nothing where there is no such path."""
    found = _BY_METHOD.get(path)
    if found is not None:
        return found
    if path.startswith(MODEL_PREFIX):
        return {_ONE_MODEL.method: _ONE_MODEL}
    return {_CHAT_FILE.method: _CHAT_FILE} if path.startswith(CHAT_FOLDER) else {}
