"""What OpenAI's API has in an answer and llama-server does not, or in another form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.api.field_media import count_texts
from llcuda.gateway.dialects.event_writer import NOT_UNDERSTOOD, EventWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["OpenaiAnswer", "OpenaiEvents"]

_DATA = b"data: "
_EMBEDDING = b'"embedding":'


class OpenaiAnswer:
    """What is to be changed in the answer to one request, if anything is."""

    def __init__(self, endpoint: str, fields: Mapping[str, Any]) -> None:
        """Find out what, from the request's fields."""
        self._edits: list[Callable[[dict[str, Any]], object]] = []
        self._dimensions = fields.get("dimensions") if endpoint == "embeddings" else None
        self._offsets: dict[int, int] = {}
        self._documents: list[str] = []
        if endpoint == "completions" and fields.get("logprobs"):
            self._edits.append(self._shape_logprobs)
        if endpoint == "rerank" and fields.get("return_documents") and fields.get("documents"):
            self._documents = fields["documents"]
            self._edits.append(self._add_documents)
        self.texts = count_texts(fields) if endpoint in {"chat", "completions"} and fields.get("stream") else 1
        self.choices = int(fields.get("n_cmpl") or fields.get("n") or 1)

    @property
    def is_needed(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self._edits) or self._dimensions is not None or self.texts > 1

    def write(self, body: bytes) -> bytes:
        """Return a whole answer as it should be. Raises RefusedError for vectors of another size than was asked for."""
        if self._dimensions is not None:
            _check_dimensions(body, self._dimensions)
        if not self._edits:
            return body
        answer = json.loads(body)
        self.edit(answer)
        return json.dumps(answer, ensure_ascii=False).encode()

    def edit(self, answer: dict[str, Any]) -> None:
        """Change a whole answer, or one event."""
        for edit in self._edits:
            edit(answer)

    def _shape_logprobs(self, answer: dict[str, Any]) -> None:
        """Write the probabilities as the completions have them: in lists beside each other."""
        for choice in answer.get("choices", ()):
            content = (choice.get("logprobs") or {}).get("content")
            if content is None:
                continue
            at = self._offsets.get(choice["index"], 0)
            offsets = []
            for token in content:
                offsets.append(at)
                at += len(token["token"])
            self._offsets[choice["index"]] = at
            choice["logprobs"] = {
                "tokens": [token["token"] for token in content],
                "token_logprobs": [_read_probability(token) for token in content],
                "top_logprobs": [
                    {one["token"]: _read_probability(one) for one in token.get("top_logprobs") or token["top_probs"]}
                    for token in content
                ],
                "text_offset": offsets,
            }

    def _add_documents(self, answer: dict[str, Any]) -> None:
        for result in answer["results"]:
            result["document"] = {"text": self._documents[result["index"]]}


def _read_probability(token: dict[str, Any]) -> Any:
    return token["logprob"] if "logprob" in token else token["prob"]


def _check_dimensions(body: bytes, wanted: int) -> None:
    at = body.find(_EMBEDDING) + len(_EMBEDDING)
    end = body.find(b"]" if body[at : at + 1] == b"[" else b'"', at + 1)
    # A number has four bytes, of which base64 makes four characters for three, and fills up the last four.
    found = body.count(b",", at, end) + 1 if body[at : at + 1] == b"[" else (end - at - 1) * 3 // 16
    if found != wanted:
        reason = f"dimensions must be left out, or {found}: this model makes vectors of no other size"
        raise RefusedError(400, reason, code="invalid_value", param="dimensions")


class OpenaiEvents(EventWriter):
    """The events of one stream, as they should be; of several texts the last one has the usage of all."""

    def __init__(self, answer: OpenaiAnswer) -> None:
        """Change what ``answer`` says."""
        super().__init__()
        self._answer = answer
        self._counted = 0
        self._usage = {"completion_tokens": 0, "prompt_tokens": 0}

    def write(self, event: bytes) -> bytes:
        """Return the event as OpenAI's API has it; nothing of one that had the usage of a text alone."""
        if not event.startswith(_DATA + b"{"):
            return super().write(event)
        try:
            data = json.loads(event[len(_DATA) :])
            self._answer.edit(data)
            if self._answer.texts > 1 and "usage" in data:
                self._sum(data)
                if not data["choices"] and "usage" not in data:
                    return b""
        except NOT_UNDERSTOOD:
            return super().write(event)  # not for us to judge
        return super().write(_DATA + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())

    def _sum(self, data: dict[str, Any]) -> None:
        """Keep the usage of a text until that of the last one; choices of one prompt share its tokens."""
        usage = data.pop("usage")
        for name in self._usage:
            self._usage[name] += usage[name]
        self._counted += 1
        if self._counted == self._answer.texts:
            prompt = self._usage["prompt_tokens"] // self._answer.choices
            completion = self._usage["completion_tokens"]
            data["usage"] = {**usage, "completion_tokens": completion, "prompt_tokens": prompt}
            data["usage"]["total_tokens"] = prompt + completion
