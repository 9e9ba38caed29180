"""Gather a streamed answer, event by event, into a result. No I/O."""

from __future__ import annotations

from json import JSONDecodeError, JSONDecoder
from time import monotonic, time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llcuda.client.results import InferResult, ToolCall
from llcuda.client.sending import parse_retry_after
from llcuda.errors import ResponseError, SchemaMismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.schema import Schema

_OK = 200
_MANY = 300
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_decode = JSONDecoder().decode
_SHAPE_ERRORS = (KeyError, IndexError, TypeError, AttributeError, ValueError)
_HINTS = {
    401: "Give the key that the server was started with: api_key=…, or engine.api_key.",
    403: "Give the key that the server was started with: api_key=…, or engine.api_key.",
    404: "Is this the address of a llama-server or an llcuda gateway, without a path? Is the endpoint switched on?",
    501: "The server has to be started for this; the message says with which option.",
    503: "The model is still loading: try again when /health is answered with 200.",
}


class GatheredAnswer:
    """One answer while it comes. ``finished`` says whether the server has said that it is whole."""

    __slots__ = (
        "finish_reason", "first_token_at", "model", "pieces", "probabilities", "reasoning", "schema", "started",
        "strict", "timings", "tool_calls", "usage",
    )  # fmt: skip

    def __init__(
        self, *, started: float, schema: Schema | None, strict: Mapping[str, dict[str, Any]] | None = None
    ) -> None:
        """Begin; ``started`` is when the request began, on the clock of ``time.monotonic``."""
        self.started = started
        self.schema = schema
        self.strict = strict or {}
        self.first_token_at: float | None = None
        self.pieces: list[str] = []
        self.reasoning: list[str] = []
        self.tool_calls: dict[int, dict[str, str]] = {}
        self.probabilities: list[dict[str, Any]] = []
        self.finish_reason = self.model = ""
        self.timings: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}

    @property
    def finished(self) -> bool:
        """Tell whether a reason for the end has come."""
        return bool(self.finish_reason)

    def add(self, event: bytes) -> str:
        """Take an event's data, and return the piece of text in it, often empty.

        Raises ResponseError for an error sent within the stream, and for an event that is not what it should be.
        """
        if event == b"[DONE]":
            return ""
        try:
            data = _decode(event.decode())
            if "error" in data:
                raise read_error(_OK, event)
            return self._add(data)
        except _SHAPE_ERRORS as error:
            # ResponseError is none of these, so it passes.
            reason = f"the server sent an event that is not understood ({type(error).__name__}: {error})"
            raise ResponseError(_OK, reason, body=_shorten(event)) from None

    def result(self) -> InferResult:
        """Return the result.

        Raises SchemaMismatchError for a text that does not hold to the schema, or was cut off before its end, and for
        a tool call whose arguments are not a JSON object, or do not hold to the schema of a strict tool.
        """
        latency = monotonic() - self.started
        try:
            measured = self._measure(latency)
        except _SHAPE_ERRORS as error:
            reason = f"the server sent timings that are not understood ({type(error).__name__}: {error})"
            raise ResponseError(_OK, reason) from None
        text = "".join(self.pieces)
        return InferResult(
            text=text,
            latency_ms=latency * 1e3,
            finish_reason=self.finish_reason,
            value=self._parse_value(text),
            reasoning="".join(self.reasoning),
            tool_calls=tuple(self._parse_call(call) for _, call in sorted(self.tool_calls.items())),
            model=self.model,
            probabilities=tuple(self.probabilities),
            **measured,
        )

    def _measure(self, latency: float) -> dict[str, Any]:
        """Return the fields of the result that are counts and times; the server's if it sends them."""
        timings, usage, first = self.timings, self.usage, self.first_token_at
        generated = int(timings.get("predicted_n", usage.get("completion_tokens", len(self.pieces))))
        cached = int(timings.get("cache_n", (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)))
        # llama-server counts the first token to the prompt, so a single one has no speed.
        rate = timings.get("predicted_per_second") if generated > 1 else None
        return {
            "tokens_generated": generated,
            "prompt_tokens": int(usage.get("prompt_tokens", timings.get("prompt_n", 0) + cached)),
            "cached_tokens": cached,
            "time_to_first_token_ms": None if first is None else (first - self.started) * 1e3,
            "tokens_per_sec": float(generated / latency if rate is None else rate),
            "prompt_ms": float(timings.get("prompt_ms", 0.0)),
            "generation_ms": float(timings.get("predicted_ms", 0.0)),
            "draft_tokens": int(timings.get("draft_n", 0)),
            "draft_tokens_accepted": int(timings.get("draft_n_accepted", 0)),
        }

    def _add(self, data: dict[str, Any]) -> str:
        raise NotImplementedError

    def _keep(self, piece: str) -> str:
        """Keep a piece of text that is not empty."""
        if self.first_token_at is None:
            self.first_token_at = monotonic()
        self.pieces.append(piece)
        return piece

    def _parse_value(self, text: str) -> Any:
        if self.schema is None or self.finish_reason == "tool_calls":
            return None
        if self.finish_reason == "length":
            raise SchemaMismatchError("the answer was cut off at the limit of tokens", text=text)
        return self.schema.parse(text)

    def _parse_call(self, call: dict[str, str]) -> ToolCall:
        name, text = call["name"], call["arguments"]
        try:
            arguments = _decode(text or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise SchemaMismatchError(f"the arguments of the call of {name} are not a JSON object", text=text)
        if name in self.strict:
            from llcuda.schema.validate import find_mismatch  # noqa: PLC0415 - only if a tool is strict

            if reason := find_mismatch(arguments, self.strict[name]):
                raise SchemaMismatchError(f"the arguments of the call of {name}: {reason}", text=text)
        return ToolCall(call["id"], name, arguments)


class ChatAnswer(GatheredAnswer):
    """The answer of /v1/chat/completions, streamed or whole: a whole one has a ``message`` instead of a ``delta``."""

    __slots__ = ()

    def _add(self, data: dict[str, Any]) -> str:
        choices = data["choices"]
        piece = self._add_choice(choices[0]) if choices else ""
        if "timings" in data:
            self.timings = dict(data["timings"])
        if data.get("usage"):
            self.usage = dict(data["usage"])
            self.model = str(data.get("model", ""))
        return piece

    def _add_choice(self, choice: dict[str, Any]) -> str:
        delta = choice["delta"] if "delta" in choice else choice["message"]
        piece = delta.get("content")
        if piece:
            self._keep(_require_str(piece))
        if len(delta) > 1 or not piece:
            self._add_rest(delta)
        if choice["finish_reason"] is not None:
            self.finish_reason = _require_str(choice["finish_reason"])
        if choice.get("logprobs"):
            self.probabilities += choice["logprobs"]["content"]
        return piece or ""

    def _add_rest(self, delta: dict[str, Any]) -> None:
        if delta.get("reasoning_content"):
            self.reasoning.append(_require_str(delta["reasoning_content"]))
        for part in delta.get("tool_calls") or ():
            call = self.tool_calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
            function = part.get("function") or {}
            call["id"] += part.get("id") or ""
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
        if self.first_token_at is None and (self.reasoning or self.tool_calls):
            self.first_token_at = monotonic()


class CompletionAnswer(GatheredAnswer):
    """The answer of /completion and /infill."""

    __slots__ = ()

    def _add(self, data: dict[str, Any]) -> str:
        piece = data["content"]
        if piece:
            self._keep(_require_str(piece))
        if "completion_probabilities" in data:
            self.probabilities += data["completion_probabilities"]
        if data["stop"]:
            self.finish_reason = "length" if data.get("stop_type") == "limit" else "stop"
            self.model = str(data.get("model", ""))
            self.timings = dict(data.get("timings", {}))
            self.usage = {
                "prompt_tokens": data.get("tokens_evaluated", 0),
                "completion_tokens": data.get("tokens_predicted", len(self.pieces)),
            }
        return str(piece)


def is_stream(status: int, headers: Mapping[str, str]) -> bool:
    """Tell whether an answer is the stream that was asked for; anything else is read as an error."""
    return status == _OK and headers.get("content-type", "").startswith("text/event-stream")


def parse_json(body: bytes) -> Any:
    """Return the JSON of a whole answer, raising ResponseError if it is none."""
    try:
        return _decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise ResponseError(_OK, f"the answer is not JSON ({error})", body=_shorten(body)) from None


def read_error(status: int, body: bytes, *, headers: Mapping[str, str] = _NO_HEADERS) -> ResponseError:
    """Return the error that an answer is: the message of OpenAI's envelope, or else the text itself."""
    text = _shorten(body)
    kind, message = "", text.strip() or "no explanation"
    try:
        error = _decode(body.decode())["error"]
    except (JSONDecodeError, *_SHAPE_ERRORS, RecursionError):
        error = None
    if isinstance(error, dict):
        kind, message = str(error.get("type", "")), str(error.get("message", message))
        code = error.get("code")
        status = code if status < _MANY and isinstance(code, int) else status
    elif isinstance(error, str):
        message = error
    retry_after = parse_retry_after(headers.get("retry-after"), now=time())
    hint = _HINTS.get(status, "") if retry_after is None else f"Try again in {retry_after:g} s, as the server asks."
    if kind == "exceed_context_size_error":
        hint = "Shorten the prompt, or load the model with a larger ctx_size."
    return ResponseError(status, message, body=text, retry_after=retry_after, hint=hint)


def _require_str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a string was expected")
    return value


def _shorten(body: bytes) -> str:
    return body[:2000].decode(errors="replace")
