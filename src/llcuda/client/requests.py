"""What is asked of a server, and how its answers are read. No I/O: both clients send these calls."""

from __future__ import annotations

from binascii import a2b_base64
from dataclasses import dataclass
from json import JSONEncoder
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llcuda.client.answers import ChatAnswer, CompletionAnswer, GatheredAnswer, parse_json, read_error
from llcuda.client.results import RerankResult
from llcuda.errors import ResponseError, UsageError
from llcuda.options import check_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llcuda.schema import Schema

T = TypeVar("T")

_OK = 200
_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request whose answer is read whole: ``parse`` makes the value out of the body."""

    method: str
    target: str
    body: bytes | None
    parse: Callable[[bytes], T]
    repeats: bool = True
    """Whether it is sent again if the server sends it away for now; not if that is what is asked."""

    def read(self, status: int, body: bytes, *, headers: Mapping[str, str]) -> T:
        """Return the value, raising ResponseError for an HTTP error and for an answer of another shape."""
        if status != _OK:
            raise read_error(status, body, headers=headers)
        try:
            return self.parse(body)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            text = body[:2000].decode(errors="replace")
            reason = f"{self.target} answered something that is not understood ({type(error).__name__}: {error})"
            raise ResponseError(status, reason, body=text) from None


@dataclass(frozen=True, slots=True)
class Generation:
    """A request for a text. It always streams, also for ``infer``, so that the time to the first token is known.

    On two busy cores that costs 50 µs of our CPU a token, and 0.1 ms of llama-server's; real models take 5 ms and more.
    """

    target: str
    body: bytes
    schema: Schema | None
    strict: Mapping[str, dict[str, Any]] | None = None
    """The schemas that calls of tools are held to, by the names of the tools."""

    def answer(self, *, started: float) -> GatheredAnswer:
        """Return what gathers the answer."""
        kind = ChatAnswer if self.target.startswith("/v1/chat/") else CompletionAnswer
        return kind(started=started, schema=self.schema, strict=self.strict)


def encode(payload: object) -> bytes:
    """Return a payload as JSON, raising UsageError for what JSON cannot hold."""
    try:
        return _encode(payload).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the request cannot be written as JSON: {error}") from None


def infer(prompt: str, *, system: str | None, raw: bool, schema: object, options: Mapping[str, Any]) -> Generation:
    """Ask for the answer to one prompt: through the model's chat template, or ``raw``."""
    if not isinstance(prompt, str):
        raise UsageError(f"the prompt is a {type(prompt).__name__}, not a string", hint="For messages, use chat().")
    if raw:
        if system is not None:
            raise UsageError("a system prompt needs the chat template, which raw=True leaves out")
        return complete(prompt, schema=schema, options=options)
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return chat(messages, tools=None, tool_choice=None, schema=schema, options=options)


def chat(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    tool_choice: str | Mapping[str, Any] | None,
    schema: object,
    options: Mapping[str, Any],
) -> Generation:
    """Ask for the next message of a conversation."""
    payload = check_options(options, chat=True)
    payload["messages"] = check_messages(messages)
    payload["stream"] = True
    payload["stream_options"] = {"include_usage": True}
    if "n_probs" in payload:
        payload["logprobs"], payload["top_logprobs"] = True, payload.pop("n_probs")
    strict = None
    if tools:
        payload["tools"], strict = _constrain_tools(tools)
    if tool_choice is not None:
        payload["tool_choice"] = tool_choice
    compiled = _compile(schema)
    if compiled is not None:
        named = {"name": "answer", "strict": True, "schema": compiled.constrain()}
        payload["response_format"] = {"type": "json_schema", "json_schema": named}
    return Generation("/v1/chat/completions", encode(payload), compiled, strict)


def complete(prompt: str | Sequence[int], *, schema: object, options: Mapping[str, Any]) -> Generation:
    """Ask for a continuation of a text, or of tokens, with no template around it."""
    return _completion("/completion", {"prompt": check_prompt(prompt)}, schema=schema, options=options)


def infill(prefix: str, suffix: str, *, prompt: str, options: Mapping[str, Any]) -> Generation:
    """Ask for what stands between two pieces of code."""
    texts = {"input_prefix": prefix, "input_suffix": suffix, "prompt": prompt}
    return _completion("/infill", texts, schema=None, options=options)


def _completion(target: str, payload: dict[str, Any], *, schema: object, options: Mapping[str, Any]) -> Generation:
    compiled = _compile(schema)
    payload |= check_options(options, chat=False)
    payload["stream"] = True
    if compiled is not None:
        payload["json_schema"] = compiled.constrain()
    return Generation(target, encode(payload), compiled)


def _compile(schema: object) -> Schema | None:
    if schema is None:
        return None
    from llcuda.schema import compile_schema  # noqa: PLC0415 - only if a schema is asked for

    return compile_schema(schema)


def _constrain_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], dict[str, dict[str, Any]]]:
    from llcuda.schema import tool_calls as schemas  # noqa: PLC0415 - only if tools are given

    schemas.check_tools(tools)
    return schemas.constrain_tools(tools), schemas.find_strict(tools)


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages of a conversation. Raises UsageError for what is none."""
    try:
        checked = [dict(message) for message in messages]
    except (TypeError, ValueError):
        checked = []
    if not checked or not all("role" in message for message in checked):
        raise UsageError(
            "the messages are not a list of mappings with a role and a content",
            hint='For example [{"role": "user", "content": "Hello"}]; for a single prompt, use infer().',
        )
    return checked


def check_prompts(prompts: Sequence[str]) -> Sequence[str]:
    """Return the prompts of a batch. Raises UsageError for a single text, whose characters would be asked."""
    if isinstance(prompts, str):
        raise UsageError("batch_infer takes a list of prompts, and was given one text", hint="Use infer for one.")
    return prompts


def check_prompt(prompt: str | Sequence[int]) -> str | list[int]:
    """Return a text, or a list of tokens. Raises UsageError for anything else."""
    if isinstance(prompt, str):
        return prompt
    try:
        return [int(token) for token in prompt]
    except (TypeError, ValueError):
        raise UsageError("the prompt is neither a string nor a list of tokens") from None


def parse_metrics(text: str) -> dict[str, float]:
    """Read Prometheus' text format: a sample's name, with its labels as they stand, to its value."""
    samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name.strip(): float(value) for name, _, value in samples}


def embed(texts: str | Sequence[str]) -> Call[list[list[float]]]:
    """Ask for the embeddings of texts."""
    inputs = [texts] if isinstance(texts, str) else list(texts)
    if not inputs or not all(isinstance(text, str) for text in inputs):
        raise UsageError("there is nothing to embed: give a string, or a list of strings with at least one")

    def parse(answer: Any) -> list[list[float]]:
        rows = {int(row["index"]): _read_vector(row["embedding"]) for row in answer["data"]}
        return [rows[index] for index in range(len(inputs))]

    # base64 holds the same 32-bit floats as decimal numbers would, and is read 30 times faster.
    return post("/v1/embeddings", {"input": inputs, "encoding_format": "base64"}, parse)


def _read_vector(embedding: str | list[float]) -> list[float]:
    if not isinstance(embedding, str):
        return [float(number) for number in embedding]
    from array import array  # noqa: PLC0415

    return array("f", a2b_base64(embedding)).tolist()


def rerank(query: str, documents: Sequence[str], *, top_n: int | None) -> Call[list[RerankResult]]:
    """Ask how well documents answer a query."""
    texts = list(documents)
    payload: dict[str, Any] = {"query": query, "documents": texts}
    if top_n is not None:
        payload["top_n"] = top_n

    def parse(answer: Any) -> list[RerankResult]:
        ranks = [(float(rank["relevance_score"]), int(rank["index"])) for rank in answer["results"]]
        return [RerankResult(index, score, texts[index]) for score, index in sorted(ranks, reverse=True)]

    return post("/v1/rerank", payload, parse)


def set_lora_adapters(scales: Mapping[int, float]) -> Call[None]:
    """Ask for other scales of the LoRA adapters."""
    adapters = check_options({"lora": scales}, chat=False)["lora"]
    return post("/lora-adapters", adapters, lambda _: None)


def slot_action(slot: int, action: str, payload: dict[str, str]) -> Call[dict[str, Any]]:
    """Ask for a slot's cache to be saved, restored or erased."""
    return post(f"/slots/{int(slot)}?action={action}", payload, dict)


def get(target: str, parse: Callable[[Any], T], *, repeats: bool = True) -> Call[T]:
    """Ask for what is at ``target``, as JSON."""
    return Call("GET", target, None, lambda body: parse(parse_json(body)), repeats)


def post(target: str, payload: object, parse: Callable[[Any], T]) -> Call[T]:
    """Send a ``payload`` as JSON, and read the answer as JSON."""
    return Call("POST", target, encode(payload), lambda body: parse(parse_json(body)))
