"""What is asked of a server, and how its answers are read. No I/O: both clients send these calls."""

from __future__ import annotations

from binascii import a2b_base64
from dataclasses import dataclass, replace
from json import JSONEncoder
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llcuda.client.answers import Answer, ChatAnswer, CompletionAnswer, parse_json, read_error
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
    """Whether it is sent again where the server sends it away for now; not where that is what is asked."""

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
    """A request for a text. It always streams, also for ``infer``.

    A cancelled stream frees its slot in 10 ms, any other request in 394 ms, and the time to the first token
    is known. On two busy cores a token costs 50 µs of our CPU for it, most of that the kernel's for waking us up, and
    0.1 ms of llama-server's; real models take 5 ms and more for each.
    """

    target: str
    body: bytes
    schema: Schema | None

    def answer(self, *, started: float) -> Answer:
        """Return what gathers the answer."""
        kind = ChatAnswer if self.target.startswith("/v1/chat/") else CompletionAnswer
        return kind(started=started, schema=self.schema)


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
    payload["messages"] = _check_messages(messages)
    payload["stream"] = True
    payload["stream_options"] = {"include_usage": True}
    if "n_probs" in payload:
        payload["logprobs"], payload["top_logprobs"] = True, payload.pop("n_probs")
    if tools:
        payload["tools"] = _constrain_tools(tools)
    if tool_choice is not None:
        payload["tool_choice"] = tool_choice
    compiled = _compile(schema)
    if compiled is not None:
        named = {"name": "answer", "strict": True, "schema": compiled.constrain()}
        payload["response_format"] = {"type": "json_schema", "json_schema": named}
    return Generation("/v1/chat/completions", encode(payload), compiled)


def complete(prompt: str | Sequence[int], *, schema: object, options: Mapping[str, Any]) -> Generation:
    """Ask for a continuation of a text, or of tokens, with no template around it."""
    return _completion("/completion", {"prompt": _check_prompt(prompt)}, schema=schema, options=options)


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


def _constrain_tools(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    from llcuda.schema.tools import check_tools, constrain_tools  # noqa: PLC0415 - only if tools are given

    check_tools(tools)
    return constrain_tools(tools)


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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


def _check_prompt(prompt: str | Sequence[int]) -> str | list[int]:
    if isinstance(prompt, str):
        return prompt
    try:
        return [int(token) for token in prompt]
    except (TypeError, ValueError):
        raise UsageError("the prompt is neither a string nor a list of tokens") from None


def health() -> Call[dict[str, Any]]:
    """Ask whether the model is loaded."""
    return replace(_get("/health", dict), repeats=False)


def props() -> Call[dict[str, Any]]:
    """Ask for the server's properties."""
    return _get("/props", dict)


def models() -> Call[list[dict[str, Any]]]:
    """Ask which models are served."""
    return _get("/v1/models", lambda answer: [dict(model) for model in answer["data"]])


def slots() -> Call[list[dict[str, Any]]]:
    """Ask what the slots are doing."""
    return _get("/slots", lambda answer: [dict(slot) for slot in answer])


def metrics() -> Call[dict[str, float]]:
    """Ask for the counters."""
    return Call("GET", "/metrics", None, lambda body: parse_metrics(body.decode()))


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
    return _post("/v1/embeddings", {"input": inputs, "encoding_format": "base64"}, parse)


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

    return _post("/v1/rerank", payload, parse)


def tokenize(text: str, *, add_special: bool, parse_special: bool) -> Call[list[int]]:
    """Ask for the tokens of a text."""
    payload = {"content": text, "add_special": add_special, "parse_special": parse_special}
    return _post("/tokenize", payload, lambda answer: [int(token) for token in answer["tokens"]])


def detokenize(tokens: Sequence[int]) -> Call[str]:
    """Ask for the text of tokens."""
    return _post("/detokenize", {"tokens": _check_prompt(tokens)}, lambda answer: str(answer["content"]))


def apply_template(messages: Sequence[Mapping[str, Any]]) -> Call[str]:
    """Ask for the prompt that the model's chat template makes of messages."""
    payload = {"messages": _check_messages(messages)}
    return _post("/apply-template", payload, lambda answer: str(answer["prompt"]))


def lora_adapters() -> Call[list[dict[str, Any]]]:
    """Ask for the LoRA adapters and their scales."""
    return _get("/lora-adapters", lambda answer: [dict(adapter) for adapter in answer])


def set_lora_adapters(scales: Mapping[int, float]) -> Call[None]:
    """Ask for other scales of the LoRA adapters."""
    adapters = check_options({"lora": scales}, chat=False)["lora"]
    return _post("/lora-adapters", adapters, lambda _: None)


def slot_action(slot: int, action: str, *, filename: str | None) -> Call[dict[str, Any]]:
    """Ask for a slot's cache to be saved, restored or erased."""
    payload = {} if filename is None else {"filename": filename}
    return _post(f"/slots/{int(slot)}?action={action}", payload, dict)


def _get(target: str, parse: Callable[[Any], T]) -> Call[T]:
    return Call("GET", target, None, lambda body: parse(parse_json(body)))


def _post(target: str, payload: object, parse: Callable[[Any], T]) -> Call[T]:
    return Call("POST", target, encode(payload), lambda body: parse(parse_json(body)))
