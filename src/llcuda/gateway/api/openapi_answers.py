"""What the OpenAPI document says of answers: those of the gateway's own addresses, and every refusal."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from llcuda.gateway.api.fields import MOST_LAYERS, OFFLOADS
from llcuda.gateway.http.routes import PREFIXES, ROUTES, Kind, Who

if TYPE_CHECKING:
    from llcuda.gateway.api.field_checks import Schema
    from llcuda.gateway.http.routes import Route

__all__ = ["ENVELOPE", "OWN_BODIES", "describe_answers", "describe_refusals", "find_refusals"]

ENVELOPE: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "description": "Of Ollama's API, the message alone.",
            "type": ["object", "string"],
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"], "description": "llama-server's own are numbers."},
            },
        }
    },
}
"""How every refusal is written."""

# What any request can be refused with before it is known what it asks for, and while it is read.
_ALWAYS = (400, 403, 405, 408, 413, 414, 415, 421, 431, 500, 501, 503, 505)
_OF_MODELS = (404, 422, 429, 502, 504)

_MODEL: Schema = {"type": "string"}
_LAYERS: Schema = {"type": "integer", "minimum": 1, "maximum": MOST_LAYERS}


def _choice(offloads: Schema, layers: Schema, *required: str) -> Schema:
    return {
        "type": "object",
        "required": ["model", "offload", *required],
        "properties": {"model": _MODEL, "offload": offloads, "gpu_layers": layers},
        "additionalProperties": False,
    }


def _named(*more: str) -> Schema:
    """Return the schema of a body that names a model as one of Ollama's clients does."""
    properties: Schema = {"model": _MODEL, "name": _MODEL, **{name: {"type": "boolean"} for name in more}}
    return {"type": "object", "properties": properties, "additionalProperties": False}


OWN_BODIES: dict[str, Schema] = {
    "ollama_pull": _named("insecure", "stream"),
    "ollama_show": _named("verbose"),
    "offload": {
        "anyOf": [
            _choice({"const": "mixed"}, _LAYERS, "gpu_layers"),
            _choice({"enum": [one for one in OFFLOADS if one != "mixed"]}, {"type": "null"}),
        ]
    },
}
"""The bodies of the gateway's own addresses, by their endpoint."""

_JSON = "application/json"


def describe_answers(route: Route) -> dict[str, Any]:
    """Return the answers that a route can have, by their status."""
    refusals = {str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in find_refusals(route)}
    return dict(sorted({**_describe_done(route), **refusals}.items()))


def find_refusals(route: Route) -> tuple[int, ...]:
    """Return the statuses that a route can refuse a request with."""
    of_models = () if route.kind is Kind.OWN else _OF_MODELS
    return (*_ALWAYS, *of_models, *route.refusals, *(() if route.who is Who.PUBLIC else (401,)))


def describe_refusals() -> dict[str, Any]:
    """Return the answers that refusals refer to."""
    statuses = {status for route in (*ROUTES.values(), *PREFIXES) for status in find_refusals(route)}
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    phrases = {status: HTTPStatus(status).phrase for status in sorted(statuses)}
    return {f"Refused{status}": {"description": phrase, "content": content} for status, phrase in phrases.items()}


def _describe_done(route: Route) -> dict[str, Any]:
    if route.kind is not Kind.OWN:
        # What is within is llama-server's; an answer of tokens or vectors may be a list.
        content: dict[str, Any] = {_JSON: {"schema": {"type": ["object", "array"]}}}
        if route.kind is Kind.GENERATE:
            kind = "application/x-ndjson" if route.endpoint.startswith("ollama") else "text/event-stream"
            content[kind] = {}  # OpenAPI 3.1 has no schema for what comes piece by piece
        return {"200": {"description": "The answer, as a stream of events if `stream` is true", "content": content}}
    answer = route.answer
    if answer is None:
        # Pages and the like: what they hold is for browsers.
        texts = {"200": "The answer", "304": "What the browser has is right", "308": "It is elsewhere"}
        return {status: {"description": text} for status, text in texts.items()}
    content = {answer.content_type: {"schema": answer.schema}}
    return {str(answer.status): {"description": "The answer", "content": content}}
