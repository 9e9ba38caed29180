"""The options of one request, typed and checked once, for the client, the engine and the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence  # noqa: TC003 - OPTIONS reads the annotations
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, get_type_hints

from llcuda.errors import UsageError


@dataclass(frozen=True, slots=True)
class RequestOption:
    """What is checked of one option: its ``kind``, and the numbers it may take, both ends included.

    ``above`` is a lower end that is itself not allowed. ``field`` is its name in a request if that is another.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    field: str = ""
    chat_only: bool = False


_COUNT = RequestOption("int", low=0)
_COUNT_OR_ALL = RequestOption("int", low=-1)
_SHARE = RequestOption("float", low=0, high=1)
_PENALTY = RequestOption("float", low=-2, high=2)
_POSITIVE = RequestOption("float", low=0)
_FLOAT = RequestOption("float")
_BOOL = RequestOption("bool")


class SamplingOptions(TypedDict, total=False):
    """What can be said about how a text is generated. An option that is left out, or None, is the server's to choose.

    The meanings and defaults are llama-server's own; ``max_tokens`` is its ``n_predict`` (-1: no limit but the
    context), ``stop_sequences`` its ``stop``. Those that are ``chat_only`` are for the chat endpoint only.
    """

    max_tokens: Annotated[int | None, _COUNT_OR_ALL]
    temperature: Annotated[float | None, _POSITIVE]
    top_p: Annotated[float | None, _SHARE]
    top_k: Annotated[int | None, _COUNT_OR_ALL]
    min_p: Annotated[float | None, _SHARE]
    seed: Annotated[int | None, RequestOption("int", low=-1, high=2**32 - 1)]
    stop_sequences: Annotated[Sequence[str] | str | None, RequestOption("strings", field="stop")]
    repeat_penalty: Annotated[float | None, RequestOption("float", above=0)]
    repeat_last_n: Annotated[int | None, _COUNT]
    presence_penalty: Annotated[float | None, _PENALTY]
    frequency_penalty: Annotated[float | None, _PENALTY]
    typical_p: Annotated[float | None, RequestOption("float", above=0, high=1)]
    top_n_sigma: Annotated[float | None, _FLOAT]
    dynatemp_range: Annotated[float | None, _POSITIVE]
    dynatemp_exponent: Annotated[float | None, _POSITIVE]
    xtc_probability: Annotated[float | None, _SHARE]
    xtc_threshold: Annotated[float | None, _SHARE]
    dry_multiplier: Annotated[float | None, _POSITIVE]
    dry_base: Annotated[float | None, RequestOption("float", low=1)]
    dry_allowed_length: Annotated[int | None, _COUNT]
    dry_penalty_last_n: Annotated[int | None, _COUNT]
    dry_sequence_breakers: Annotated[Sequence[str] | None, RequestOption("strings")]
    mirostat: Annotated[int | None, RequestOption("int", low=0, high=2)]
    mirostat_tau: Annotated[float | None, _POSITIVE]
    mirostat_eta: Annotated[float | None, _POSITIVE]
    min_keep: Annotated[int | None, _COUNT]
    n_probs: Annotated[int | None, _COUNT]
    n_keep: Annotated[int | None, _COUNT_OR_ALL]
    t_max_predict_ms: Annotated[int | None, _COUNT_OR_ALL]
    id_slot: Annotated[int | None, _COUNT_OR_ALL]
    cache_prompt: Annotated[bool | None, _BOOL]
    ignore_eos: Annotated[bool | None, _BOOL]
    logit_bias: Annotated[Mapping[str, float | bool] | Sequence[Sequence[Any]] | None, RequestOption("json")]
    samplers: Annotated[Sequence[str] | None, RequestOption("strings")]
    grammar: Annotated[str | None, RequestOption("str")]
    model: Annotated[str | None, RequestOption("str")]
    lora: Annotated[Mapping[int, float] | None, RequestOption("lora")]
    chat_template_kwargs: Annotated[Mapping[str, Any] | None, RequestOption("json", chat_only=True)]
    reasoning_effort: Annotated[str | None, RequestOption("str", chat_only=True)]
    reasoning_format: Annotated[str | None, RequestOption("str", chat_only=True)]
    reasoning_budget_tokens: Annotated[int | None, RequestOption("int", low=-1, chat_only=True)]


class InferOptions(SamplingOptions, total=False):
    """What ``infer`` takes beside a prompt, for functions that pass it on."""

    system: str | None
    schema: Any
    raw: bool
    timeout: float | None


class ChatOptions(SamplingOptions, total=False):
    """What ``chat`` takes beside the messages, for functions that pass it on."""

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    schema: Any
    timeout: float | None


OPTIONS: dict[str, RequestOption] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(SamplingOptions, include_extras=True).items()
}

# What other libraries and llama-server itself call our options, if spelling alone would not lead to them.
_OTHER_NAMES = {
    **dict.fromkeys(("n_predict", "max_new_tokens", "num_predict", "max_completion_tokens"), "max_tokens"),
    "stop": "stop_sequences", "temp": "temperature", "repetition_penalty": "repeat_penalty", "logprobs": "n_probs",
    "response_format": "schema", "json_schema": "schema",
}  # fmt: skip


def check_options(options: Mapping[str, Any], *, chat: bool) -> dict[str, Any]:
    """Return the options as fields of a request, those that are None left out.

    Numbers come out as plain ``int`` and ``float``, whatever numeric type they had. Raises UsageError for a name that
    is not known, a value of the wrong kind or out of range, and an option that the endpoint does not have.
    """
    fields: dict[str, Any] = {}
    for name, value in options.items():
        option = OPTIONS.get(name)
        if option is None:
            raise _unknown(name)
        if value is None:
            continue
        if option.chat_only and not chat:
            raise UsageError(f"{name} is an option of chat; this request has no chat template")
        field = "n_predict" if name == "max_tokens" and not chat else option.field or name
        fields[field] = _CHECKS[option.kind](name, value, option)
    return fields


def suggest_names(name: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return those of the ``known`` names that ``name`` may have been meant to be, the nearest first, at most three."""
    from difflib import get_close_matches  # noqa: PLC0415 - 14 ms of CPU, for an error only

    near = get_close_matches(name, known, n=3, cutoff=0.6)
    return tuple(near or [candidate for candidate in known if candidate.startswith(name)][:3])


def _unknown(name: str) -> UsageError:
    meant = (_OTHER_NAMES[name],) if name in _OTHER_NAMES else suggest_names(name, tuple(OPTIONS))
    hint = f"Did you mean {' or '.join(meant)}?" if meant else f"The options are {', '.join(OPTIONS)}."
    return UsageError(f"there is no option {name!r}", hint=hint)


def _check_int(name: str, value: Any, option: RequestOption) -> int:
    try:
        number = int(value.__index__())
    except (AttributeError, TypeError):
        raise UsageError(f"{name}={value!r} is not a whole number") from None
    if isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is not a whole number")
    _check_range(name, number, option)
    return number


def _check_float(name: str, value: Any, option: RequestOption) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name}={value!r} is not a number") from None
    if isinstance(value, (bool, str)) or number != number or number in {float("inf"), float("-inf")}:  # noqa: PLR0124
        raise UsageError(f"{name}={value!r} is not a number")
    _check_range(name, number, option)
    return number


def _check_range(name: str, number: float, option: RequestOption) -> None:
    if option.low is not None and number < option.low:
        raise UsageError(f"{name}={number} is below {option.low}")
    if option.above is not None and number <= option.above:
        raise UsageError(f"{name}={number} is not above {option.above}")
    if option.high is not None and number > option.high:
        raise UsageError(f"{name}={number} is above {option.high}")


def _check_type(name: str, value: Any, option: RequestOption) -> Any:
    kind, words = {"bool": (bool, "neither true nor false"), "str": (str, "not a string")}[option.kind]
    if not isinstance(value, kind):
        raise UsageError(f"{name}={value!r} is {words}")
    return value


def _check_strings(name: str, value: Any, _option: RequestOption) -> list[str]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, (list, tuple)) or not all(isinstance(string, str) and string for string in strings):
        raise UsageError(f"{name}={value!r} is not a list of strings that are not empty")
    return list(strings)


def _check_lora(name: str, value: Any, _option: RequestOption) -> list[dict[str, Any]]:
    """Take ``{adapter id: scale}``."""
    try:
        return [{"id": int(adapter), "scale": float(scale)} for adapter, scale in value.items()]
    except (AttributeError, TypeError, ValueError):
        raise UsageError(f"{name}={value!r} does not map the ids of adapters to their scales") from None


_CHECKS: dict[str, Callable[[str, Any, RequestOption], Any]] = {
    "int": _check_int,
    "float": _check_float,
    "bool": _check_type,
    "str": _check_type,
    "strings": _check_strings,
    "lora": _check_lora,
    "json": lambda _name, value, _option: value,
}
