"""What tests/standins/stub_engine.py is asked, and llama-server's answers to it, as bytes that are made once.

The shapes are those of llama.cpp b11434; test_stub_engine.py compares them with the real one's.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

__all__ = ["ENDPOINTS", "Asked", "Stream", "build_stream", "build_whole", "error", "plain", "read_request"]

Ending = Literal["end", "die", "silent", "cut"]
ENDPOINTS = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/completions": "completions",
    "/completion": "completion",
    "/v1/embeddings": "embeddings",
}
KEEP_ALIVE = b"Keep-Alive: timeout=5, max=100\r\n"
CLOSE = b"Connection: close\r\n"
STAMP = "@" + 19 * "0"
LAST_CHUNK = b"0\r\n\r\n"

_MODEL = "stub.gguf"
_CHARACTERS_PER_TOKEN = 4
_PARAMS: dict[str, Any] = {
    "seed": 4294967295, "temperature": 0.8, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0, "top_k": 40, "top_p": 0.95,
    "min_p": 0.05, "top_n_sigma": -1.0, "xtc_probability": 0.0, "xtc_threshold": 0.1, "typical_p": 1.0,
    "repeat_last_n": 64, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    "dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": 64, "mirostat": 0,
    "mirostat_tau": 5.0, "mirostat_eta": 0.1, "adaptive_target": -1.0, "adaptive_decay": 0.9, "max_tokens": -1,
    "n_predict": -1, "n_keep": 0, "n_discard": 0, "ignore_eos": False, "stream": False, "n_probs": 0, "min_keep": 0,
    "chat_format": "Content-only", "reasoning_format": "none", "reasoning_in_content": False, "generation_prompt": "",
    "samplers": ["top_k", "top_p", "temperature"], "speculative.types": "none", "timings_per_token": False,
    "post_sampling_probs": False, "backend_sampling": False, "lora": [],
}  # fmt: skip
_MORE_PARAMS: dict[str, Any] = {
    "dry_sequence_breakers": [], "stop": [], "logit_bias": [], "grammar": "", "grammar_lazy": False,
    "grammar_triggers": [], "preserved_tokens": [],
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A request, and what its prompt says about the answer; times are in seconds."""

    endpoint: str
    prompt: str
    stream: bool
    usage: bool
    tokens: int
    """How many come before the ending."""
    ending: Ending
    reason: str
    first: float
    gap: float
    status: int
    text: str
    stamp: bool
    heedless: bool
    tag: Any

    @property
    def prompt_tokens(self) -> int:
        return max(1, len(self.prompt) // _CHARACTERS_PER_TOKEN)

    @property
    def answer(self) -> str:
        return self.text * self.tokens

    def count_cached(self, characters: int) -> int:
        """Return how many tokens of the prompt need no work where so many characters are known; the last one does."""
        return min(characters // _CHARACTERS_PER_TOKEN, self.prompt_tokens - 1)


class Stream(NamedTuple):
    start: bytes
    tokens: tuple[bytes, ...]
    end: bytes


@lru_cache(1024)
def read_request(path: str, body: bytes) -> Asked:
    """Read a body. Raises ValueError, KeyError, TypeError or AttributeError for one that is none."""
    fields = json.loads(body)
    endpoint = ENDPOINTS[path]
    prompt, steering = _read_prompt(fields)
    wishes: dict[str, Any] = json.loads(steering) if steering.startswith("{") else {}
    wanted = int(wishes.get("tokens", os.environ.get("STUB_TOKENS", "16")))
    limit = fields.get("max_tokens") or fields.get("n_predict") or wanted
    tokens, ending = _find_end(wishes, min(wanted, limit))
    return Asked(
        endpoint=endpoint,
        prompt=prompt,
        stream=fields.get("stream") is True,
        usage=bool((fields.get("stream_options") or {}).get("include_usage")),
        tokens=tokens,
        ending=ending,
        reason="length" if limit < wanted else "stop",
        first=float(wishes.get("first_ms", os.environ.get("STUB_FIRST_MS", "0"))) / 1000,
        gap=float(wishes.get("token_ms", os.environ.get("STUB_TOKEN_MS", "0"))) / 1000,
        status=int(wishes.get("status", 200)),
        text=STAMP if wishes.get("stamp") else str(wishes.get("text", " token")),
        stamp=bool(wishes.get("stamp")),
        heedless=bool(wishes.get("heedless")),
        tag=wishes.get("tag"),
    )


def _read_prompt(fields: dict[str, Any]) -> tuple[str, str]:
    """Return the prompt as the model would see it, and the text that steers."""
    if "messages" in fields:
        # A template's marks are a token each, so here they are one character, not twelve.
        parts = [f"\x01{one['role']}\n{one['content']}\x02\n" for one in fields["messages"]]
        return "".join(parts) + "\x01assistant\n", str(fields["messages"][-1]["content"])
    text = fields.get("prompt", fields.get("input", ""))
    text = text if isinstance(text, str) else json.dumps(text)
    return text, text


def _find_end(wishes: dict[str, Any], tokens: int) -> tuple[int, Ending]:
    names: tuple[Ending, ...] = ("die", "silent", "cut")
    ends: list[tuple[int, Ending]] = [(int(wishes[f"{name}_at"]), name) for name in names if f"{name}_at" in wishes]
    return min([(tokens, "end"), *ends], key=lambda end: end[0])


def plain(
    status: int, payload: object, *, content_type: str = "application/json; charset=utf-8", more: str = ""
) -> bytes:
    """Return a whole answer; like llama-server's, an error's closes the connection."""
    body = payload.encode() if isinstance(payload, str) else _encode(payload)
    last = KEEP_ALIVE if status < HTTPStatus.BAD_REQUEST else CLOSE
    line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: llama.cpp\r\n{more}"
    head = f"{line}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + last + b"\r\n" + body


def error(status: int, message: str, kind: str) -> bytes:
    """Return one of llama-server's errors."""
    return plain(status, {"error": {"code": status, "message": message, "type": kind}})


@lru_cache(1024)
def build_stream(asked: Asked, cached: int) -> Stream:
    """Return a streamed answer, with so many tokens of the prompt from the cache."""
    build = {"chat": _chat_events, "completions": _completions_events, "completion": _completion_events}
    return build[asked.endpoint](asked, cached)


@lru_cache(1024)
def build_whole(asked: Asked, cached: int) -> bytes:
    """Return an answer that is not streamed."""
    build = {"chat": _chat, "completions": _completions, "completion": _completion, "embeddings": _embeddings}
    return plain(200, build[asked.endpoint](asked, cached))


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nX-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n" + KEEP_ALIVE + b"\r\n"
)


def _encode(payload: object) -> bytes:
    return json.dumps(payload, separators=(",", ":")).encode()


def _event(payload: object) -> bytes:
    data = b"data: %b\n\n" % (payload if isinstance(payload, bytes) else _encode(payload))
    return b"%x\r\n%b\r\n" % (len(data), data)


_DONE = _event(b"[DONE]") + LAST_CHUNK


def _common(kind: str) -> dict[str, Any]:
    return {
        "created": 1790000000, "id": "chatcmpl-0123456789abcdefABCDEF0123456789", "model": _MODEL,
        "system_fingerprint": "b11434-b11434", "object": kind,
    }  # fmt: skip


def _usage(asked: Asked, cached: int) -> dict[str, Any]:
    prompt = asked.prompt_tokens
    return {
        "completion_tokens": asked.tokens, "prompt_tokens": prompt, "total_tokens": asked.tokens + prompt,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip


def _timings(asked: Asked, cached: int) -> dict[str, Any]:
    return {
        "cache_n": cached, "prompt_n": asked.prompt_tokens - cached, "prompt_ms": 1.0, "prompt_per_token_ms": 0.1,
        "prompt_per_second": 10000.0, "predicted_n": asked.tokens, "predicted_ms": 1.0, "predicted_per_token_ms": 0.5,
        "predicted_per_second": 2000.0,
    }  # fmt: skip


def _chat(asked: Asked, cached: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": asked.answer}
    return {
        "choices": [{"finish_reason": asked.reason, "index": 0, "message": message}],
        **_common("chat.completion"), "usage": _usage(asked, cached), "timings": _timings(asked, cached),
    }  # fmt: skip


def _chat_events(asked: Asked, cached: int) -> Stream:
    common = _common("chat.completion.chunk")

    def delta(content: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        return _event({"choices": [{"finish_reason": reason, "index": 0, "delta": content}], **common, **more})

    timings = {"timings": _timings(asked, cached)}
    if asked.usage:
        last = _event({"choices": [], **common, "usage": _usage(asked, cached), **timings})
        end = delta({}, asked.reason) + last
    else:
        end = delta({}, asked.reason, **timings)
    start = _STREAM_HEAD + delta({"role": "assistant", "content": None})
    return Stream(start, (delta({"content": asked.text}),) * asked.tokens, end + _DONE)


def _completions(asked: Asked, cached: int) -> dict[str, Any]:
    return {
        "choices": [{"text": asked.answer, "index": 0, "logprobs": None, "finish_reason": asked.reason}],
        **_common("text_completion"), "usage": _usage(asked, cached), "timings": _timings(asked, cached),
    }  # fmt: skip


def _completions_events(asked: Asked, cached: int) -> Stream:
    def event(text: str, reason: str | None, **more: Any) -> bytes:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
        return _event({"choices": [choice], **_common("text_completion"), **more})

    end = event("", asked.reason, usage=_usage(asked, cached), timings=_timings(asked, cached))
    return Stream(_STREAM_HEAD, (event(asked.text, None),) * asked.tokens, end + _DONE)


def _completion(asked: Asked, cached: int, *, content: str | None = None) -> dict[str, Any]:
    settings = {**_PARAMS, **_MORE_PARAMS, "stream": asked.stream}
    return {
        "index": 0, "content": asked.answer if content is None else content, "tokens": [], "id_slot": 0, "stop": True,
        "model": _MODEL, "tokens_predicted": asked.tokens, "tokens_evaluated": asked.prompt_tokens,
        "generation_settings": settings, "prompt": asked.prompt, "has_new_line": False, "truncated": False,
        "stop_type": "limit" if asked.reason == "length" else "eos", "stopping_word": "",
        "tokens_cached": asked.prompt_tokens + asked.tokens, "timings": _timings(asked, cached),
    }  # fmt: skip


def _completion_events(asked: Asked, cached: int) -> Stream:
    def event(number: int) -> bytes:
        return _event({
            "index": 0, "content": asked.text, "tokens": [7], "stop": False, "id_slot": -1, "tokens_predicted": number,
            "tokens_evaluated": asked.prompt_tokens,
        })  # fmt: skip

    tokens = tuple(event(number + 1) for number in range(asked.tokens))
    # Not OpenAI's: it ends without a [DONE].
    return Stream(_STREAM_HEAD, tokens, _event(_completion(asked, cached, content="")) + LAST_CHUNK)


def _embeddings(asked: Asked, _cached: int) -> dict[str, Any]:
    used = {"prompt_tokens": asked.prompt_tokens, "total_tokens": asked.prompt_tokens}
    data = [{"embedding": [0.5, -0.5, 0.5, -0.5], "index": 0, "object": "embedding"}]
    return {"model": _MODEL, "object": "list", "usage": used, "data": data}


def props(slots: int, *, model: str) -> bytes:
    """Return what /props says."""
    return plain(200, {
        "default_generation_settings": {"params": _PARAMS, "n_ctx": 4096}, "total_slots": slots, "model_alias": model,
        "model_ftype": "F16", "model_path": model, "modalities": {"vision": False, "video": False, "audio": False},
        "media_marker": "<__media__>", "endpoint_slots": True, "endpoint_props": False, "endpoint_metrics": True,
        "ui": False, "ui_settings": {}, "chat_template": "{{ messages }}", "chat_template_caps": {}, "bos_token": "",
        "eos_token": "", "build_info": "b11434-b11434", "is_sleeping": False, "cors_proxy_enabled": False,
    })  # fmt: skip


def describe_slot(number: int, asked: Asked | None, *, cached: int, sent: int, busy: bool) -> dict[str, Any]:
    """Return one entry of /slots; an idle one still says what it did last."""
    slot = {"id": number, "n_ctx": 4096, "speculative": False, "is_processing": busy}
    if asked is None:
        return slot
    left = {"has_next_token": True, "has_new_line": False, "n_remain": asked.tokens - sent, "n_decoded": sent}
    return {
        **slot, "id_task": 0, "n_prompt_tokens": asked.prompt_tokens + sent,
        "n_prompt_tokens_processed": asked.prompt_tokens - cached, "n_prompt_tokens_cache": cached, "params": _PARAMS,
        "next_token": [left],
    }  # fmt: skip
