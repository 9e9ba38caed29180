"""Every address that the gateway answers: who may ask, what answers, and what the OpenAPI document says of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from llcuda.fleet.refusals import RefusedError

__all__ = [
    "ALIASES", "CHAT_FOLDER", "MODEL_PREFIX", "PAGES", "PREFIXES", "PREFLIGHT", "ROUTES", "Answer", "Kind",
    "Route", "Who", "find_route", "resolve_path",
]  # fmt: skip


class Kind(str, Enum):
    """What answers: the gateway itself, or a worker; in a slot, and as a stream or whole, or whole only, or without."""

    OWN = "own"
    GENERATE = "generate"
    COMPUTE = "compute"
    ASK = "ask"


class Who(Enum):
    """Who may ask: everybody, whoever has a key (everybody, if there are no keys), or administrators."""

    PUBLIC = "public"
    KEY = "key"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway itself answers if all goes well."""

    schema: dict[str, Any]
    status: int = 200
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Route:
    """One address. ``endpoint`` names what answers, and the fields of the request's body."""

    method: str
    path: str
    endpoint: str
    kind: Kind = Kind.OWN
    who: Who = Who.KEY
    summary: str = "For the pages"
    answer: Answer | None = None
    """None for files, and what a worker answers."""
    refusals: tuple[int, ...] = ()
    """The statuses beside those that every address can answer with."""


def _object(*required: str, status: int = 200) -> Answer:
    return Answer({"type": "object", "required": list(required)}, status)


_EVENTS = Answer({}, content_type="text/event-stream")
_SLOTS = Answer({"type": "array", "items": {"type": "object", "required": ["worker"]}})
_HEALTH = ("health", Kind.OWN, Who.PUBLIC, "Whether a model can answer", _object("status"))
_MODELS = ("models", Kind.OWN, Who.KEY, "The models", _object("object", "data"))

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
MODEL_PREFIX = "/v1/models/"
"""What comes before a model's name, percent-encoded, to ask about that model alone."""
CHAT_FOLDER = "/chat/"
"""What lies in that folder and is no other address is a file of the chat page."""

_TABLE = (
    # llama-server's. ``/completions`` without ``/v1`` is the native form, as it is there.
    Route("POST", "/v1/chat/completions", "chat", Kind.GENERATE),
    Route("POST", "/chat/completions", "chat", Kind.GENERATE),
    Route("POST", "/v1/completions", "completions", Kind.GENERATE),
    Route("POST", "/completion", "completion", Kind.GENERATE),
    Route("POST", "/completions", "completion", Kind.GENERATE),
    Route("POST", "/infill", "infill", Kind.GENERATE),
    Route("POST", "/v1/responses", "responses", Kind.GENERATE),
    Route("POST", "/responses", "responses", Kind.GENERATE),
    Route("POST", "/v1/messages", "messages", Kind.GENERATE),
    Route("POST", "/v1/embeddings", "embeddings", Kind.COMPUTE),
    Route("POST", "/embeddings", "embedding", Kind.COMPUTE),
    Route("POST", "/embedding", "embedding", Kind.COMPUTE),
    Route("POST", "/v1/rerank", "rerank", Kind.COMPUTE),
    Route("POST", "/v1/reranking", "rerank", Kind.COMPUTE),
    Route("POST", "/rerank", "rerank", Kind.COMPUTE),
    Route("POST", "/reranking", "rerank", Kind.COMPUTE),
    Route("POST", "/tokenize", "tokenize", Kind.ASK),
    Route("POST", "/detokenize", "detokenize", Kind.ASK),
    Route("POST", "/apply-template", "apply_template", Kind.ASK),
    Route("POST", "/v1/chat/completions/input_tokens", "chat_tokens", Kind.ASK),
    Route("POST", "/chat/completions/input_tokens", "chat_tokens", Kind.ASK),
    Route("POST", "/v1/responses/input_tokens", "responses_tokens", Kind.ASK),
    Route("POST", "/responses/input_tokens", "responses_tokens", Kind.ASK),
    Route("POST", "/v1/messages/count_tokens", "messages_tokens", Kind.ASK),
    # Ollama's.
    Route("POST", "/api/chat", "ollama_chat", Kind.GENERATE),
    Route("POST", "/api/generate", "ollama_generate", Kind.GENERATE),
    Route("POST", "/api/embed", "ollama_embed", Kind.COMPUTE),
    Route("POST", "/api/embeddings", "ollama_embeddings", Kind.COMPUTE),
    Route("GET", "/api/tags", "ollama_tags", summary="The models, as Ollama lists them", answer=_object("models")),
    Route("GET", "/api/ps", "ollama_ps", summary="The models that are loaded", answer=_object("models")),
    Route(
        "POST", "/api/show", "ollama_show", summary="One model, as Ollama shows it", refusals=(404,),
        answer=_object("details", "model_info", "capabilities"),
    ),
    Route("GET", "/api/version", "ollama_version", who=Who.PUBLIC, summary="The release of Ollama whose API this is",
          answer=_object("version")),
    Route("POST", "/api/pull", "ollama_pull", summary="Whether a model is here", answer=_object("status"),
          refusals=(404,)),
    *(
        Route(method, f"/api/{name}", "ollama_managed", summary="Refused: models are chosen at the start",
              answer=_object("error", status=404))
        for method, name in (("POST", "push"), ("POST", "create"), ("POST", "copy"), ("DELETE", "delete"))
    ),
    # The gateway's own.
    Route("GET", "/health", *_HEALTH),
    Route("GET", "/v1/health", *_HEALTH),
    Route("GET", "/v1/models", *_MODELS),
    Route("GET", "/models", *_MODELS),
    Route("GET", "/props", "props", summary="llama-server's settings", answer=_object("model_path"), refusals=(404,)),
    Route("GET", "/slots", "slots", summary="Every worker's slots", answer=_SLOTS),
    Route(
        "GET", "/metrics", "metrics", summary="Figures for Prometheus", answer=Answer(
            {"type": "string"}, content_type="text/plain"
        ),
    ),
    Route(
        "GET", "/openapi.json", "openapi", who=Who.PUBLIC, summary="This document", answer=_object("openapi", "paths")
    ),
    Route(
        "GET", "/api/capabilities", "capabilities", summary="Version, devices, models, workers and limits",
        answer=_object("version", "devices", "models", "limits"),
    ),
    Route(
        "GET", "/api/status", "status", summary="Workers, memory, and the figures of the last two minutes",
        answer=_object("version", "models"),
    ),
    *(Route("GET", path, "page", who=Who.PUBLIC) for path in PAGES),
    Route("GET", "/chat", "chat_folder", who=Who.PUBLIC, refusals=(404,)),
    Route("POST", "/api/owner", "owner", answer=_object("key"), refusals=(403,)),
    Route("GET", "/chat/tools", "chat_tools", who=Who.PUBLIC),
    Route("POST", "/chat/tools", "chat_tools", who=Who.PUBLIC),
    Route("GET", "/chat/models/sse", "chat_models", answer=_EVENTS),
    Route("POST", "/chat/v1/streams/lookup", "chat_streams", answer=Answer({"type": "array", "maxItems": 0})),
    # For administrators.
    Route(
        "POST", "/api/admin/offload", "offload", who=Who.ADMIN, summary="Choose where a model runs",
        answer=_object("model", "change", status=202), refusals=(404, 409),
    ),
    Route(
        "POST", "/api/admin/reload", "reload", who=Who.ADMIN, summary="Replace every worker by a new one",
        answer=_object("status", status=202), refusals=(409,),
    ),
    Route(
        "GET", "/api/admin/upgrade-gpu", "upgrade_plan", who=Who.ADMIN,
        summary="What installing the GPU's backend would do", answer=_object(),
    ),
    Route(
        "POST", "/api/admin/upgrade-gpu", "upgrade", who=Who.ADMIN, summary="Install the GPU's backend",
        answer=_EVENTS, refusals=(409,),
    ),
    Route(
        "POST", "/api/admin/rollback-gpu", "rollback", who=Who.ADMIN,
        summary="Take the GPU's backend that was in use before", answer=_EVENTS, refusals=(409,),
    ),
    Route(
        "POST", "/api/admin/benchmark", "benchmark", who=Who.ADMIN, summary="Measure a model", answer=_EVENTS,
        refusals=(404, 409, 429, 502, 504),
    ),
)  # fmt: skip
ROUTES = {(route.method, route.path): route for route in _TABLE}
"""One row for each method and address; those with a name in them are among ``PREFIXES``."""
PREFIXES = (
    Route("GET", MODEL_PREFIX, "model", summary="One model", answer=_object("id", "object"), refusals=(404,)),
    Route("GET", CHAT_FOLDER, "chat_page", who=Who.PUBLIC, refusals=(404, 406)),
)
"""What answers the addresses that begin so, and are no others."""
PREFLIGHT = Route("OPTIONS", "", "preflight", who=Who.PUBLIC)
"""What a browser asks before a page of an allowed origin may."""

ALIASES = {f"/chat{path}": path for path in ("/props", "/slots", "/v1/chat/completions", "/v1/models")}
"""What the chat page asks beside itself, and the address that answers it."""

_PATHS = frozenset(route.path for route in _TABLE)
_TOO_MUCH = re.compile(r"(?<=/)/+|(?<=^/v1)(/v1)+(?=/)|(?<=.)/+$")
"""What a base URL that is nearly right adds to an address: a slash too many, or a second ``/v1``."""


def resolve_path(path: str) -> str:
    """Return the address that answers: for the chat page's own, and for those that are nearly right."""
    path = ALIASES.get(path, path)
    if path in _PATHS or path == CHAT_FOLDER:
        return path
    tidy = _TOO_MUCH.sub("", _TOO_MUCH.sub("", path))
    tidy = ALIASES.get(tidy, tidy)
    if tidy not in _PATHS and tidy.removeprefix("/v1") in _PATHS:
        return tidy.removeprefix("/v1")  # llama-server's own addresses and Ollama's have none
    return tidy if tidy in _PATHS or tidy.startswith(MODEL_PREFIX) else path


def find_route(method: str, path: str) -> Route:
    """Return what answers an address. Raises RefusedError: 404 for an unknown path, 405 for another method.

    HEAD is answered by what answers GET (RFC 9110, 9.3.2).
    """
    method = "GET" if method == "HEAD" else method
    found = ROUTES.get((method, path))
    if found is not None:
        return found
    routes = [route for route in _TABLE if route.path == path] or [one for one in PREFIXES if path.startswith(one.path)]
    if not routes:
        instead = max((one for one in _PATHS - {"/"} if path.endswith(one)), key=len, default="")
        hint = f"; use {instead}" if instead else ""
        raise RefusedError(404, f"there is no {path}{hint}", code="not_found")
    for route in routes:
        if route.method == method:
            return route
    allowed = ", ".join("GET, HEAD" if route.method == "GET" else route.method for route in routes)
    raise RefusedError(405, f"{path} takes {allowed}", code="method_not_allowed", headers={"Allow": allowed})
