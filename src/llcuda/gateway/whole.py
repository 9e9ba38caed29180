"""Stream from llama-server, whatever the client asked for, and answer as if it had not streamed.

llama-server notices in 10 ms that the client of a stream has left, and otherwise in 394 ms. What its streams lack, of
what the same request would be answered with otherwise:

- the end of a text that was held back because a stop string could have begun with it, when the limit of tokens came
  first, and the bytes of a character that the limit cut in half;
- probabilities of tokens without a text: the last one, and the marks around reasoning and calls of tools;
- tokens that are parts of a character, among ``tokens`` (``return_tokens``);
- the cut that ``n_indent`` makes in a line that was sent already;
- the marks of reasoning that is empty where nothing follows it, which llama-server takes for the text.

:func:`needs_whole` tells where the second, third and fourth matter: such a request is better sent on as it is.
"""

from __future__ import annotations

from json import JSONDecoder, JSONEncoder
from typing import TYPE_CHECKING, Any

from llcuda.errors import ResponseError
from llcuda.gateway.field_changes import find_changes
from llcuda.gateway.field_media import count_prompts
from llcuda.gateway.refusals import RefusedError
from llcuda.gateway.whole_blocks import MessagesAnswer, ResponsesAnswer
from llcuda.gateway.whole_chat import ChatAnswer
from llcuda.gateway.whole_deltas import TextEvents
from llcuda.gateway.whole_texts import CompletionsAnswer, NativeAnswer
from llcuda.transport.events import EventDecoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llcuda.gateway.endpoints import Endpoint

__all__ = ["WholeAnswer", "count_texts", "needs_whole", "read_error", "to_streamed", "to_understood"]

MAX_ANSWER_CHARACTERS = 16 << 20
"""Four million tokens, more than any model's context."""

_ANSWERS: dict[Endpoint, type[Any]] = {
    "chat": ChatAnswer,
    "completions": CompletionsAnswer,
    "completion": NativeAnswer,
    "infill": NativeAnswer,
    "responses": ResponsesAnswer,
    "messages": MessagesAnswer,
}
# Where a stream's events differ in their text alone.
_TEXT_FIELDS: dict[Endpoint, bytes] = {"chat": b"content", "completions": b"text"}
_SHAPE_ERRORS = (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError)
_ERRORS = range(400, 600)
_decode = JSONDecoder().decode
_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
# What nearly every body is given: 4 us less for each.
_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
_STREAMED_TEXT = _encode(_STREAMED)[1:-1].encode()


class WholeAnswer:
    """An answer that is put together out of a stream's bytes, in whatever pieces they come."""

    __slots__ = ("_answer", "_decoder", "_kept", "_limit", "_text_field", "_texts")

    def __init__(
        self, endpoint: Endpoint, fields: Mapping[str, Any], *, max_characters: int = MAX_ANSWER_CHARACTERS
    ) -> None:
        """Wait for the answer to a request with these fields, which says how many texts there will be."""
        self._answer = _ANSWERS[endpoint](count_texts(fields))
        self._decoder = EventDecoder()
        self._texts = TextEvents()
        self._text_field = _TEXT_FIELDS.get(endpoint)
        self._limit = max_characters
        self._kept = 0

    @property
    def finished(self) -> bool:
        """Tell whether all of the answer has come; a stream that ends before that was cut off."""
        return bool(self._answer.finished)

    def feed(self, data: bytes) -> None:
        """Take bytes of the stream.

        Raises RefusedError: for an error that the server reports, with its status; for an answer of more characters
        than the limit (502, ``answer_too_long``); for a stream that is not understood (502, ``bad_answer``).
        """
        try:
            for event in self._decoder.feed(data):
                self._kept += self._add(event)
        except ResponseError as error:
            raise RefusedError(502, error.args[0], code="bad_answer") from None
        except _SHAPE_ERRORS as error:
            reason = f"the server sent an event that is not understood ({type(error).__name__}: {error})"
            raise RefusedError(502, reason, code="bad_answer") from None
        if self._kept > self._limit:
            reason = f"the answer has more than {self._limit} characters"
            raise RefusedError(502, reason, code="answer_too_long")

    def result(self) -> bytes:
        """Return the body of the answer.

        Raises RefusedError (502, ``incomplete_answer``) where the stream ended too early.
        """
        if not self.finished:
            raise RefusedError(502, "the server ended the answer before it was complete", code="incomplete_answer")
        try:
            return _encode(self._answer.build()).encode()
        except _SHAPE_ERRORS as error:
            reason = f"the server sent an answer that is not understood ({type(error).__name__}: {error})"
            raise RefusedError(502, reason, code="bad_answer") from None

    def _add(self, event: bytes) -> int:
        length = self._texts.take(event)
        if length:
            return length
        # llama-server sends null at the beginning of every prompt of a request but the first.
        if event in {b"[DONE]", b"null"}:
            return 0
        data = _decode(event.decode())
        # An error is {"error": {...}}, but in Anthropic's API the inner object alone, without a type of an event.
        if "error" in data or isinstance(data.get("message"), str):
            raise read_error(502, data)
        kept = int(self._answer.add(data))
        if self._text_field and (found := self._answer.find_text(data)):
            self._texts.learn(event, self._text_field, text=found[0], kept=found[1])
        return kept


def read_error(status: int, data: Any) -> RefusedError:
    """Return the refusal that a llama-server's error is; its own ``type`` becomes the code."""
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return RefusedError(status, str(error), code="bad_answer")
    code = error.get("code")
    status = code if isinstance(code, int) and code in _ERRORS else status
    return RefusedError(status, str(error.get("message", error)), code=str(error.get("type", "bad_answer")))


def needs_whole(endpoint: Endpoint, fields: Mapping[str, Any]) -> bool:
    """Tell whether the answer to a request that does not stream has something that no stream has.

    In a chat with tools, llama-server refuses probabilities in a stream.
    """
    if endpoint in {"responses", "messages"}:
        return False
    wanted = ("logprobs", "n_probs", "return_tokens", "n_indent")
    return any(fields.get(name) for name in wanted)


def to_streamed(body: bytes, fields: Mapping[str, Any]) -> bytes:
    """Return the body that asks for a stream with its counts, given the body and the fields that are in it.

    What is missing goes in after the first brace. Where a field has to change, the body is written anew: of two fields
    of one name llama-server takes the last. A body that asks for a stream stays as it is, but for what
    :func:`~llcuda.gateway.field_changes.find_changes` finds. Raises RefusedError where that does.
    """
    changes = find_changes(fields)
    if fields.get("stream") is not True:
        usage = {**(fields.get("stream_options") or {}), "include_usage": True}
        changes |= {"stream": True, "stream_options": usage}
        if fields.get("continue_final_message"):
            # A stream leaves out the beginning of the message, which was given; a whole answer has it.
            changes["echo"] = True
    return _change(body, fields, changes)


def to_understood(body: bytes, fields: Mapping[str, Any]) -> bytes:
    """Return the body that asks for what ``fields`` say in llama-server's words; see :func:`to_streamed`."""
    return _change(body, fields, find_changes(fields))


def _change(body: bytes, fields: Mapping[str, Any], changes: Mapping[str, Any]) -> bytes:
    if not changes:
        return body
    if not changes.keys().isdisjoint(fields):
        return _encode({**fields, **changes}).encode()
    more = _STREAMED_TEXT if changes == _STREAMED else _encode(changes)[1:-1].encode()
    return b"{" + more + (b"," if fields else b"") + body.lstrip()[1:]


def count_texts(fields: Mapping[str, Any]) -> int:
    """Return how many texts a request asks for: its choices, for each of its prompts."""
    choices = fields.get("n_cmpl") or fields.get("n") or 1
    return int(choices) * count_prompts(fields.get("prompt"))
