"""What the OpenAPI document says of answers: those of the gateway's own addresses, and every refusal."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from llcuda.gateway.api.fields import MOST_LAYERS, OFFLOADS
from llcuda.gateway.http.routes import ModelRoute
from llcuda.gateway.observe.gateway_metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from llcuda.gateway.api.field_checks import Schema
    from llcuda.gateway.http.routes import OwnRoute, Route

__all__ = ["ENVELOPE", "OWN_BODIES", "describe_answers", "describe_refusals", "find_refusals"]

ENVELOPE: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
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


OWN_BODIES: dict[str, Schema] = {
    "offload": {
        "anyOf": [
            _choice({"const": "mixed"}, _LAYERS, "gpu_layers"),
            _choice({"enum": [one for one in OFFLOADS if one != "mixed"]}, {"type": "null"}),
        ]
    },
}
"""The bodies of the gateway's own addresses, by their endpoint."""

_JSON, _EVENTS = "application/json", "text/event-stream"
_TEXT: Schema = {"type": "string"}


def _object(*required: str) -> Schema:
    return {"type": "object", "required": list(required)}


# By endpoint: the status, the type of the content, and its schema.
_OWN: dict[str, tuple[int, str, Schema]] = {
    "health": (200, _JSON, _object("status")),
    "model": (200, _JSON, _object("id", "object")),
    "models": (200, _JSON, _object("object", "data")),
    "props": (200, _JSON, _object("model_path")),
    "slots": (200, _JSON, {"type": "array", "items": _object("worker")}),
    "metrics": (200, CONTENT_TYPE.partition(";")[0], _TEXT),
    "openapi": (200, _JSON, _object("openapi", "paths")),
    "capabilities": (200, _JSON, _object("version", "devices", "models", "limits")),
    "status": (200, _JSON, _object("version", "models")),
    "offload": (202, _JSON, _object("model", "change")),
    "reload": (202, _JSON, _object("status")),
    "upgrade_plan": (200, _JSON, _object()),
    "upgrade": (200, _EVENTS, {}),
    "rollback": (200, _EVENTS, {}),
    "benchmark": (200, _EVENTS, {}),
    "chat_streams": (200, _JSON, {"type": "array", "maxItems": 0}),
}
_MORE: dict[str, tuple[int, ...]] = {
    "model": (404,), "props": (404,), "offload": (404, 409), "upgrade": (409,), "rollback": (409,),
    "benchmark": (404, 409, 429, 502, 504), "reload": (409,), "chat_folder": (404,), "chat_page": (404, 406),
}  # fmt: skip


def describe_answers(route: Route) -> dict[str, Any]:
    """Return the answers that a route can have, by their status."""
    refusals = {str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in find_refusals(route)}
    done = _describe_model(route) if isinstance(route, ModelRoute) else _describe_own(route)
    return dict(sorted({**done, **refusals}.items()))


def find_refusals(route: Route) -> tuple[int, ...]:
    """Return the statuses that a route can refuse a request with."""
    more = _OF_MODELS if isinstance(route, ModelRoute) else _MORE.get(route.endpoint, ())
    return (*_ALWAYS, *more, *(() if route.is_public else (401,)))


def describe_refusals() -> dict[str, Any]:
    """Return the answers that refusals refer to."""
    statuses = {*_ALWAYS, *_OF_MODELS, *(status for more in _MORE.values() for status in more), 401}
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    answers = ((status, HTTPStatus(status).phrase) for status in sorted(statuses))
    return {f"Refused{status}": {"description": phrase, "content": content} for status, phrase in answers}


def _describe_model(route: ModelRoute) -> dict[str, Any]:
    # What is within is llama-server's; an answer of tokens or vectors may be a list.
    content: dict[str, Any] = {_JSON: {"schema": {"type": ["object", "array"]}}}
    if route.kind == "generate":
        content[_EVENTS] = {}  # OpenAPI 3.1 has no schema for events
    return {"200": {"description": "The answer, as a stream of events where `stream` is true", "content": content}}


def _describe_own(route: OwnRoute) -> dict[str, Any]:
    known = _OWN.get(route.endpoint)
    if known is None:
        # Pages and the like: what they hold is for browsers.
        texts = {"200": "The answer", "304": "What the browser has is right", "308": "It is elsewhere"}
        return {status: {"description": text} for status, text in texts.items()}
    status, kind, schema = known
    return {str(status): {"description": "The answer", "content": {kind: {"schema": schema}}}}
