"""What clients want in an answer, and llama-server leaves out or writes in another form."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from llcuda.fleet.refusals import RefusedError
from llcuda.gateway.dialects.event_writer import NOT_UNDERSTOOD, EventWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ProbabilityEvents", "find_writer", "has_probabilities"]

_DATA = b"data: "
_EMBEDDING = b'"embedding":'


def find_writer(endpoint: str, fields: Mapping[str, Any]) -> Callable[[bytes], bytes] | None:
    """Return what writes a whole answer as a request wants it, None if it is so already.

    It raises RefusedError for vectors of another size than was asked for.
    """
    if endpoint == "embeddings" and fields.get("dimensions") is not None:
        return partial(_check_dimensions, wanted=fields["dimensions"])
    edit = _find_edit(endpoint, fields)
    return partial(_rewrite, edit=edit) if edit else None


def _find_edit(endpoint: str, fields: Mapping[str, Any]) -> Callable[[Any], Any] | None:
    if has_probabilities(endpoint, fields):
        return partial(_shape_logprobs, offsets={})
    if endpoint == "rerank" and fields.get("return_documents") and fields.get("documents"):
        return partial(_add_documents, documents=fields["documents"])
    if fields.get("response_fields"):
        return partial(_choose_parts, wanted=fields["response_fields"])
    return None


def _rewrite(body: bytes, edit: Callable[[Any], Any]) -> bytes:
    return json.dumps(edit(json.loads(body)), ensure_ascii=False, separators=(",", ":")).encode()


def has_probabilities(endpoint: str, fields: Mapping[str, Any]) -> bool:
    """Tell whether an answer has the probabilities of completions, which are lists beside each other."""
    return endpoint == "completions" and bool(fields.get("logprobs"))


def _shape_logprobs(answer: dict[str, Any], offsets: dict[int, int]) -> dict[str, Any]:
    """Shape the probabilities of an answer, or of an event, whose choices have come to these ``offsets``."""
    for choice in answer.get("choices", ()):
        content = (choice.get("logprobs") or {}).get("content")
        if content is None:
            continue
        at = offsets.get(choice["index"], 0)
        places = []
        for token in content:
            places.append(at)
            at += len(token["token"])
        offsets[choice["index"]] = at
        choice["logprobs"] = {
            "tokens": [token["token"] for token in content],
            "token_logprobs": [_read_probability(token) for token in content],
            "top_logprobs": [
                {one["token"]: _read_probability(one) for one in token.get("top_logprobs") or token["top_probs"]}
                for token in content
            ],
            "text_offset": places,
        }
    return answer


def _read_probability(token: dict[str, Any]) -> Any:
    return token["logprob"] if "logprob" in token else token["prob"]


def _add_documents(answer: dict[str, Any], documents: list[str]) -> dict[str, Any]:
    for result in answer["results"]:
        result["document"] = {"text": documents[result["index"]]}
    return answer


def _choose_parts(answer: Any, wanted: list[str]) -> Any:
    """Return the parts that ``wanted`` names, ``timings/prompt_n`` for one, of an answer or of each of a list.

    llama-server would leave out how it ended, and its counts.
    """
    if type(answer) is list:
        return [_choose_parts(one, wanted) for one in answer]
    found = {name: reduce(_look_into, name.split("/"), answer) for name in wanted}
    return {name: value for name, value in found.items() if value is not _NOTHING}


_NOTHING: Any = object()


def _look_into(value: Any, name: str) -> Any:
    return value.get(name, _NOTHING) if type(value) is dict else _NOTHING


def _check_dimensions(body: bytes, wanted: int) -> bytes:
    at = body.find(_EMBEDDING) + len(_EMBEDDING)
    end = body.find(b"]" if body[at : at + 1] == b"[" else b'"', at + 1)
    # A number has four bytes, of which base64 makes four characters for three, and fills up the last four.
    found = body.count(b",", at, end) + 1 if body[at : at + 1] == b"[" else (end - at - 1) * 3 // 16
    if found != wanted:
        reason = f"dimensions must be left out, or {found}: this model makes vectors of no other size"
        raise RefusedError(400, reason, code="invalid_value", param="dimensions")
    return body


class ProbabilityEvents(EventWriter):
    """The events of a streamed completion with its probabilities."""

    def __init__(self) -> None:
        """Begin at the first character."""
        super().__init__()
        self._shape = partial(_shape_logprobs, offsets={})

    def write(self, event: bytes) -> bytes:
        """Return the event as OpenAI's API has it."""
        if event.startswith(_DATA + b"{"):
            with suppress(*NOT_UNDERSTOOD):  # what is otherwise is not for us to judge
                event = _DATA + _rewrite(event[len(_DATA) :], self._shape)
        return super().write(event)
