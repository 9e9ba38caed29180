"""The fields that llama-server has and the gateway does not pass on: to no endpoint, or to all but the chat's."""

from __future__ import annotations

__all__ = ["REFUSED"]

_INTERNAL = "llama-server sets it for itself from the chat template"
REFUSED: dict[str, str] = {
    "backend_sampling": "where the sampling runs is settled when the gateway starts",
    "chat_format": _INTERNAL,
    "chat_parser": f"{_INTERNAL}; read from a client it has been a way into the server's memory (CVE-2026-107183)",
    "generation_prompt": _INTERNAL,
    "grammar_lazy": _INTERNAL,
    "grammar_triggers": f"{_INTERNAL}; a client's expressions would run without a bound",
    "grammar_type": _INTERNAL,
    "id_slot": "the gateway chooses the slot",
    "lora": "adapters are the same for everyone",
    "message_delimiters": _INTERNAL,
    "n_cache_reuse": "how the cache is used is settled when the gateway starts",
    "parse_tool_calls": _INTERNAL,
    "preserved_tokens": _INTERNAL,
    "reasoning_budget_end_tag": _INTERNAL,
    "reasoning_budget_end_tags": _INTERNAL,
    "reasoning_budget_start_tag": _INTERNAL,
    "reasoning_control": "the endpoint that ends the reasoning is not served",
    "response_fields": "the gateway reads from an answer how it ended, and its counts",
    "sse_ping_interval": "the gateway tells by the pings that a server is alive",
    "verbose": "it would show other fields' inner values in every answer",
}
"""Their names, with the reason that a client is told."""
