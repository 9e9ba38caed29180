"""The endpoints whose requests have a body, by llama-server's paths."""

from __future__ import annotations

from typing import Literal

__all__ = ["ENDPOINTS", "GENERATING", "Endpoint"]

Endpoint = Literal[
    "chat",
    "completions",
    "completion",
    "infill",
    "responses",
    "messages",
    "embeddings",
    "embedding",
    "rerank",
    "tokenize",
    "detokenize",
    "apply_template",
    "chat_tokens",
    "responses_tokens",
    "messages_tokens",
]

ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/completions": "completions",
    "/completion": "completion",
    "/completions": "completion",
    "/infill": "infill",
    "/v1/responses": "responses",
    "/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
    "/embeddings": "embedding",
    "/embedding": "embedding",
    "/v1/rerank": "rerank",
    "/v1/reranking": "rerank",
    "/rerank": "rerank",
    "/reranking": "rerank",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
    "/apply-template": "apply_template",
    "/v1/chat/completions/input_tokens": "chat_tokens",
    "/chat/completions/input_tokens": "chat_tokens",
    "/v1/responses/input_tokens": "responses_tokens",
    "/responses/input_tokens": "responses_tokens",
    "/v1/messages/count_tokens": "messages_tokens",
}
"""``/completions`` without ``/v1`` is the native form, as it is in llama-server."""

GENERATING: frozenset[Endpoint] = frozenset({"chat", "completions", "completion", "infill", "responses", "messages"})
"""Those that generate text, and so can stream."""
