"""The OpenAPI document at ``/openapi.json``: made of the tables that the gateway itself goes by."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

from llcuda import __version__
from llcuda.gateway.api.field_checks import IGNORED
from llcuda.gateway.api.field_tables import FIELDS
from llcuda.gateway.api.openapi_answers import ENVELOPE, OWN_BODIES, describe_answers, describe_refusals
from llcuda.gateway.http.routes import ALIASES, CHAT_FOLDER, MODEL_PREFIX, PREFIXES, ROUTES, Kind, Who

if TYPE_CHECKING:
    from llcuda.gateway.api.field_checks import Field, Schema
    from llcuda.gateway.http.exchange import Exchange
    from llcuda.gateway.http.routes import Route

__all__ = ["describe_body", "make_document", "serve_document"]

_MAX_QUERIED = 80
"""Characters of a name in a query: as many as fit into a target in any script."""

_PREFIXED: dict[str, dict[str, Any]] = {
    MODEL_PREFIX: {"name": "model", "schema": {"type": "string", "minLength": 1, "maxLength": _MAX_QUERIED}},
    CHAT_FOLDER: {"name": "file", "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,80}$"}},
}
"""The names in addresses, by what comes before them."""

_SUMMARIES = {
    Kind.GENERATE: "Generate text, in a stream or whole",
    Kind.COMPUTE: "Compute, in a slot of the model",
    Kind.ASK: "Ask the model's server, without a slot",
}


async def serve_document(exchange: Exchange) -> None:
    """Answer with the document."""
    exchange.respond(200, _encode(), headers=("Cache-Control: no-cache",))


@cache
def _encode() -> bytes:
    return json.dumps(make_document(), separators=(",", ":")).encode()


def make_document() -> dict[str, Any]:
    """Return the document: every address, what it takes, what it answers, and who may ask."""
    bodies = {endpoint: describe_body(endpoint) for endpoint in FIELDS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llcuda serve",
            "version": __version__,
            "description": "What the gateway checks of a request. A field that is not here is left out and named in "
            "X-Llcuda-Ignored; one that is misspelt is refused.",
        },
        "paths": _describe_paths(),
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


def _describe_paths() -> dict[str, Any]:
    paths: dict[str, Any] = defaultdict(dict)
    for route in ROUTES.values():
        for path in (route.path, *(alias for alias, target in ALIASES.items() if target == route.path)):
            paths[path][route.method.lower()] = _describe_route(path, route)
    for route in PREFIXES:
        name = _PREFIXED[route.path]
        path = f"{route.path}{{{name['name']}}}"
        paths[path] = {"get": _describe_route(path, route), "parameters": [{"in": "path", "required": True, **name}]}
    return dict(sorted(paths.items()))


def _describe_route(path: str, route: Route) -> dict[str, Any]:
    summary = _SUMMARIES.get(route.kind, route.summary)
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{path.replace('/', '_').replace('{', '').replace('}', '')}",
        "summary": f"{summary}; for administrators" if route.who is Who.ADMIN else summary,
        "responses": describe_answers(route),
    }
    if route.endpoint in FIELDS or route.endpoint in OWN_BODIES:
        reference = {"$ref": f"#/components/schemas/{route.endpoint}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    if route.endpoint == "props":
        name = {"type": "string", "maxLength": _MAX_QUERIED}
        operation["parameters"] = [{"name": "model", "in": "query", "schema": name}]
    if route.who is Who.PUBLIC:
        operation["security"] = []
    return operation


def describe_body(endpoint: str) -> Schema:
    """Return the schema of an endpoint's body: its fields, those it must have, and no others."""
    fields = FIELDS[endpoint]
    body: Schema = {
        "type": "object",
        "properties": {name: _describe_field(field) for name, field in sorted(fields.items())},
    }
    if required := [name for name, field in fields.items() if field.is_required]:
        body["required"] = required
    if "grammar" in fields and "json_schema" in fields:
        both = {"grammar": {"type": "string"}, "json_schema": {"type": "object"}}
        body["not"] = {"required": list(both), "properties": both}
    return body


def _describe_field(field: Field) -> Schema:
    """Return the schema of a field. Where one may be left out, null is the same."""
    schema = field.schema
    if field.is_required or field is IGNORED or schema.get("const", 0) is None:
        return schema
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}
