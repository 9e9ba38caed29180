"""llama-server's answers, whole and streamed, as Ollama's API writes them: a stream is one object a line."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from time import monotonic
from typing import TYPE_CHECKING, Any

from llcuda.gateway.dialects.event_writer import NOT_UNDERSTOOD, EventWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["OllamaAnswer", "OllamaStream", "read_now"]

_DATA = b"data: "
_DONE = b"[DONE]"
_NANOSECONDS_A_MILLISECOND = 1_000_000
_UNCLEAR = "the worker's answer is not understood"


def read_now() -> str:
    """Return the time as Ollama writes it."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


class OllamaAnswer:
    """Writes a whole answer of one request anew."""

    __slots__ = ("_began", "_endpoint", "_model")

    def __init__(self, endpoint: str, model: str) -> None:
        """Answer ``endpoint`` by the name of the ``model`` that the client gave."""
        self._endpoint, self._model, self._began = endpoint, model, monotonic()

    def write(self, body: bytes) -> bytes:
        """Return the answer in Ollama's words. Raises one of NOT_UNDERSTOOD."""
        return _encode(self._translate(json.loads(body)))

    def _translate(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "data" in answer:
            return self._embeddings(answer)
        if "tokens" in answer and "content" not in answer:
            return self.end({}, reason="load")
        if "choices" not in answer:
            return self.end(answer, reason=_find_reason(answer), text=answer["content"])
        (choice,) = answer["choices"]
        message = choice["message"]
        calls, text = _read_calls(message.get("tool_calls") or ())
        said = self.say((message.get("content") or "") + text, message.get("reasoning_content"), calls)
        said |= _read_probabilities(choice)
        return self.end(answer, reason=choice["finish_reason"], said=said)

    def say(self, text: str, thinking: str | None = None, calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Return a piece of an answer."""
        more = {"thinking": thinking} if thinking else {}
        calling = {"tool_calls": calls} if calls else {}
        if self._endpoint == "ollama_chat":
            return {"message": {"role": "assistant", "content": text, **more, **calling}}
        return {"response": text, **more, **calling}

    def piece(self, said: Mapping[str, Any], *, done: bool = False) -> dict[str, Any]:
        """Return one object of an answer."""
        return {"model": self._model, "created_at": read_now(), **said, "done": done}

    def end(
        self, answer: Mapping[str, Any], *, reason: str, text: str = "", said: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the last object of an answer, with its counts and times."""
        # Ollama has no reason of its own for calls.
        why = {"tool_calls": "stop"}.get(reason, reason)
        timings = answer.get("timings") or {}
        counts = {
            "total_duration": self._duration(),
            "load_duration": 0,
            "prompt_eval_count": timings.get("cache_n", 0) + timings.get("prompt_n", 0),
            "prompt_eval_duration": int(timings.get("prompt_ms", 0) * _NANOSECONDS_A_MILLISECOND),
            "eval_count": timings.get("predicted_n", 0),
            "eval_duration": int(timings.get("predicted_ms", 0) * _NANOSECONDS_A_MILLISECOND),
        }
        return {**self.piece(said or self.say(text), done=True), "done_reason": why, **counts}

    def _embeddings(self, answer: dict[str, Any]) -> dict[str, Any]:
        vectors = [one["embedding"] for one in sorted(answer["data"], key=lambda one: one["index"])]
        if self._endpoint == "ollama_embeddings":
            return {"embedding": vectors[0]}
        counts = {"load_duration": 0, "prompt_eval_count": answer["usage"]["prompt_tokens"]}
        return {"model": self._model, "embeddings": vectors, "total_duration": self._duration(), **counts}

    def _duration(self) -> int:
        """Return the nanoseconds since the request came."""
        return int((monotonic() - self._began) * 1000 * _NANOSECONDS_A_MILLISECOND)


class OllamaStream(EventWriter):
    """Writes the events of one stream anew, each as a line."""

    content_type = "application/x-ndjson"

    def __init__(self, answer: OllamaAnswer) -> None:
        """Say it as ``answer`` does."""
        super().__init__()
        self._answer = answer
        self._calls: dict[int, dict[str, Any]] = {}
        self._reason = ""
        self._end: list[dict[str, Any]] = []

    def write(self, event: bytes) -> bytes:
        """Return the lines that an event becomes."""
        return b"".join(_encode(line) + b"\n" for line in self._read(event))

    write_rest = write

    def _read(self, event: bytes) -> Iterator[dict[str, Any]]:
        if not event.startswith(_DATA):
            return
        if event.startswith(_DATA + _DONE):
            # Not before: until then, the answer may break off or not hold to its schema.
            yield from self._end
            return
        try:
            yield from self._translate(json.loads(event[len(_DATA) :]))
        except NOT_UNDERSTOOD:
            yield {"error": _UNCLEAR}

    def _translate(self, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "error" in data:
            yield {"error": data["error"]["message"]}
        elif "choices" in data:
            yield from self._read_chunk(data)
        elif data["stop"]:
            yield self._answer.end(data, reason=_find_reason(data), text=data["content"])
        else:
            yield self._answer.piece(self._answer.say(data["content"]))

    def _read_chunk(self, chunk: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            self._gather(delta.get("tool_calls") or ())
            text, thinking = delta.get("content"), delta.get("reasoning_content")
            if text or thinking:
                yield self._answer.piece({**self._answer.say(text or "", thinking), **_read_probabilities(choice)})
            self._reason = choice["finish_reason"] or self._reason
        if self._reason and "timings" in chunk:
            calls, text = _read_calls(self._calls.values())
            if calls or text:
                yield self._answer.piece(self._answer.say(text, calls=calls))
            self._end = [self._answer.end(chunk, reason=self._reason)]

    def _gather(self, deltas: Any) -> None:
        """Put the pieces of calls together: Ollama sends each call whole."""
        for delta in deltas:
            function = self._calls.setdefault(delta["index"], {"function": {"name": "", "arguments": ""}})["function"]
            for name, piece in delta.get("function", {}).items():
                function[name] += piece


def _read_calls(calls: Any) -> tuple[list[dict[str, Any]], str]:
    """Return the calls with their arguments as objects, and the text of those that are none: they were cut off."""
    read, cut = [], ""
    for call in calls:
        function = call["function"]
        try:
            arguments = json.loads(function["arguments"] or "{}")
        except ValueError:
            arguments = None
        if type(arguments) is dict:
            read.append({"function": {"name": function["name"], "arguments": arguments}})
        else:
            cut += function["arguments"]
    return read, cut


def _read_probabilities(choice: Mapping[str, Any]) -> dict[str, Any]:
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        return {}
    names = ("token", "logprob")
    return {
        "logprobs": [
            {
                **{name: one[name] for name in names},
                "top_logprobs": [{name: other[name] for name in names} for other in one.get("top_logprobs") or ()],
            }
            for one in content
        ]
    }


def _find_reason(answer: Mapping[str, Any]) -> str:
    return "length" if answer["stop_type"] == "limit" else "stop"


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
