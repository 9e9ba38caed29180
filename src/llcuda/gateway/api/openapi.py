"""The OpenAPI document at ``/openapi.json``: made of the tables that the gateway itself goes by."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from llcuda import __version__
from llcuda.gateway.api.field_checks import IGNORED
from llcuda.gateway.api.field_tables import FIELDS
from llcuda.gateway.api.openapi_answers import ENVELOPE, OWN_BODIES, describe_answers, describe_refusals
from llcuda.gateway.http.routes import ALIASES, CHAT_FOLDER, MODEL_PREFIX, ROUTES, ModelRoute, find_routes

if TYPE_CHECKING:
    from llcuda.gateway.api.field_checks import Field, Schema
    from llcuda.gateway.http.exchange import Exchange
    from llcuda.gateway.http.routes import Route

__all__ = ["PREFIXED", "describe_body", "make_document", "serve_document"]

_MAX_QUERIED = 80
"""Characters of a name in a query: as many as fit into a target in any script."""

PREFIXED: dict[str, dict[str, Any]] = {
    f"{MODEL_PREFIX}{{model}}": {
        "name": "model", "schema": {"type": "string", "minLength": 1, "maxLength": _MAX_QUERIED},
    },
    f"{CHAT_FOLDER}{{file}}": {"name": "file", "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,80}$"}},
}  # fmt: skip
"""Addresses with a name in them."""

_KINDS = {
    "generate": "Generate text, in a stream or whole",
    "compute": "Compute, in a slot of the model",
    "ask": "Ask the model's server, without a slot",
}
_SUMMARIES = {
    "benchmark": "Measure a model",
    "capabilities": "Version, devices, models, workers and limits",
    "health": "Whether a model can answer",
    "metrics": "Figures for Prometheus",
    "model": "One model",
    "models": "The models",
    "offload": "Choose where a model runs",
    "openapi": "This document",
    "props": "llama-server's settings",
    "reload": "Replace every worker by a new one",
    "rollback": "Take the GPU's backend that was in use before",
    "slots": "Every worker's slots",
    "status": "Workers, memory, and the figures of the last two minutes",
    "upgrade": "Install the GPU's backend",
    "upgrade_plan": "What installing the GPU's backend would do",
}


async def serve_document(exchange: Exchange) -> None:
    """Answer with the document."""
    exchange.respond(200, _encode(), headers=("Cache-Control: no-cache",))


@cache
def _encode() -> bytes:
    return json.dumps(make_document(), separators=(",", ":")).encode()


def make_document() -> dict[str, Any]:
    """Return the document: every address, what it takes, what it answers, and who may ask."""
    paths = {path: path for path in (*ROUTES, *PREFIXED)} | ALIASES
    bodies = {endpoint: describe_body(endpoint) for endpoint in FIELDS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llcuda serve",
            "version": __version__,
            "description": "What the gateway checks of a request. A field that is not here is refused, and so is a "
            "number such as 1.0 where a whole one is meant. What is within messages is for llama-server to take.",
        },
        "paths": {path: _describe_path(path, find_routes(target)) for path, target in sorted(paths.items())},
        "components": {
            "schemas": {"Error": ENVELOPE, **bodies, **OWN_BODIES},
            "responses": describe_refusals(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
        # Where the gateway has no keys, it asks for none.
        "security": [{"bearer": []}, {"header": []}],
    }


def _describe_path(path: str, routes: dict[str, Route]) -> dict[str, Any]:
    described: dict[str, Any] = {method.lower(): _describe(path, route) for method, route in routes.items()}
    if path in PREFIXED:
        described["parameters"] = [{"in": "path", "required": True, **PREFIXED[path]}]
    return described


def _describe(path: str, route: Route) -> dict[str, Any]:
    is_model = isinstance(route, ModelRoute)
    summary = _KINDS[route.kind] if isinstance(route, ModelRoute) else _SUMMARIES.get(route.endpoint, "For the pages")
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{path.replace('/', '_').replace('{', '').replace('}', '')}",
        "summary": f"{summary}; for administrators" if route.is_admin else summary,
        "responses": describe_answers(route),
    }
    if is_model or route.endpoint in OWN_BODIES:
        reference = {"$ref": f"#/components/schemas/{route.endpoint}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    if route.endpoint == "props":
        name = {"type": "string", "maxLength": _MAX_QUERIED}
        operation["parameters"] = [{"name": "model", "in": "query", "schema": name}]
    if route.is_public:
        operation["security"] = []
    return operation


def describe_body(endpoint: str) -> Schema:
    """Return the schema of an endpoint's body: its fields, those it must have, and no others."""
    fields = FIELDS[endpoint]
    body: Schema = {
        "type": "object",
        "properties": {name: _describe_field(field) for name, field in sorted(fields.items())},
        "additionalProperties": False,
    }
    if required := [name for name, field in fields.items() if field.is_required]:
        body["required"] = required
    if "grammar" in fields and "json_schema" in fields:
        body["not"] = {"required": ["grammar", "json_schema"], "properties": {"json_schema": {"type": "object"}}}
    return body


def _describe_field(field: Field) -> Schema:
    """Return the schema of a field. Where one may be left out, null is the same."""
    schema = field.schema
    if field.is_required or field is IGNORED or schema.get("const", 0) is None:
        return schema
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}
