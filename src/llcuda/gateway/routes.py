"""Every address that the gateway answers, and what kind of request it is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ROUTES", "Route"]


@dataclass(frozen=True, slots=True)
class Route:
    """One address.

    ``endpoint`` is what its fields and answers are looked up by. ``kind`` is ``generate`` (it takes a slot, and
    answers in a stream or whole), ``compute`` (it takes a slot, and answers whole), ``ask`` (it takes no slot) or
    ``own``, which the gateway answers itself.
    """

    endpoint: str
    kind: str
    method: str = "POST"
    upstream: str = ""
    is_public: bool = False
    is_admin: bool = False


def _generate(endpoint: str, *paths: str) -> dict[str, Route]:
    return {path: Route(endpoint, "generate", upstream=paths[0]) for path in paths}


def _compute(endpoint: str, *paths: str) -> dict[str, Route]:
    return {path: Route(endpoint, "compute", upstream=paths[0]) for path in paths}


def _ask(endpoint: str, *paths: str) -> dict[str, Route]:
    return {path: Route(endpoint, "ask", upstream=paths[0]) for path in paths}


def _own(endpoint: str, *paths: str, is_public: bool = False) -> dict[str, Route]:
    return {path: Route(endpoint, "own", method="GET", is_public=is_public) for path in paths}


ROUTES: dict[str, Route] = {
    **_generate("chat", "/v1/chat/completions", "/chat/completions"),
    **_generate("completions", "/v1/completions"),
    **_generate("completion", "/completion", "/completions"),
    **_generate("infill", "/infill"),
    **_generate("responses", "/v1/responses", "/responses"),
    **_generate("messages", "/v1/messages"),
    **_compute("embeddings", "/v1/embeddings"),
    **_compute("embedding", "/embeddings", "/embedding"),
    **_compute("rerank", "/v1/rerank", "/rerank", "/v1/reranking", "/reranking"),
    **_ask("tokenize", "/tokenize"),
    **_ask("detokenize", "/detokenize"),
    **_ask("apply_template", "/apply-template"),
    **_ask("chat_tokens", "/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"),
    **_ask("responses_tokens", "/v1/responses/input_tokens", "/responses/input_tokens"),
    **_ask("messages_tokens", "/v1/messages/count_tokens"),
    **_own("health", "/health", "/v1/health", is_public=True),
    **_own("models", "/v1/models", "/models"),
    **_own("props", "/props"),
    **_own("slots", "/slots"),
    **_own("metrics", "/metrics"),
    **_own("capabilities", "/api/capabilities"),
    "/api/admin/reload": Route("reload", "own", is_admin=True),
}
