"""What requests come back with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model asks for: the tool's ``name`` and its ``arguments``, as parsed from JSON."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RerankResult:
    """How well one document answers the query; ``index`` is its place among those that were given."""

    index: int
    score: float
    document: str


@dataclass(frozen=True, slots=True)
class InferResult:
    """A generated text and what it took. Having one means success: what fails raises.

    Token counts are the server's. ``prompt_tokens`` is the whole prompt; ``cached_tokens`` of them were not processed
    again. ``latency_ms`` and ``time_to_first_token_ms`` (None if no token came) are measured here, from before the
    request is sent. ``prompt_ms``, ``generation_ms`` and ``tokens_per_sec`` (generated tokens per second of
    generation) are the server's own measurements; if it sends none, the first two are 0 and the last comes from our
    clock. ``finish_reason`` is ``stop``, ``length`` or ``tool_calls``. ``value`` is what the text holds, if a
    ``schema`` was asked for. ``probabilities`` has an entry per token if ``n_probs`` was. ``draft_tokens`` were
    drafted for the model to verify, and ``draft_tokens_accepted`` of them were what it would have generated itself.
    """

    text: str
    tokens_generated: int
    prompt_tokens: int
    latency_ms: float
    time_to_first_token_ms: float | None
    tokens_per_sec: float
    finish_reason: str
    value: Any = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    model: str = ""
    cached_tokens: int = 0
    prompt_ms: float = 0.0
    generation_ms: float = 0.0
    draft_tokens: int = 0
    draft_tokens_accepted: int = 0
    probabilities: tuple[dict[str, Any], ...] = ()

    @property
    def tokens(self) -> int:
        """Return the number of tokens generated."""
        return self.tokens_generated

    @property
    def draft_acceptance(self) -> float | None:
        """Return the share of the drafted tokens that were accepted, None if none was drafted."""
        return self.draft_tokens_accepted / self.draft_tokens if self.draft_tokens else None

    @property
    def message(self) -> dict[str, Any]:
        """Return the answer as a chat message, to be appended to the messages of the next request."""
        import json  # noqa: PLC0415 - imported by then

        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                }
                for call in self.tool_calls
            ]
        return message

    def __str__(self) -> str:
        """Return the text."""
        return self.text
