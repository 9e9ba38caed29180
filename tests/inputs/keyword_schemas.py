"""For each keyword of a JSON schema, one that only this keyword makes narrower than it would be without."""

from __future__ import annotations

from typing import Any

__all__ = ["KEYWORD_SCHEMAS"]

_A_AND_B = {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}}
_NULLS = {"type": "array", "items": {"type": ["null", "boolean"]}}

KEYWORD_SCHEMAS: dict[str, dict[str, Any]] = {
    "type": {"type": ["string", "null"]},
    "enum": {"enum": ["a", 1, None]},
    "const": {"const": {"a": [1]}},
    "$ref": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
    "$anchor": {"$ref": "#a", "$defs": {"a": {"$anchor": "a", "type": "null"}}},
    "allOf": {"allOf": [_A_AND_B, {"required": ["a"]}, {"properties": {"a": {"const": None}}}]},
    "anyOf": {**_A_AND_B, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    "not": {"not": {"type": "string"}},
    "if": {**_A_AND_B, "if": {"required": ["a"]}, "then": {"required": ["b"]}},
    "nullable": {"type": "boolean", "nullable": True},
    "properties": {"properties": {"a": {"type": "integer"}, "b": True, "c": False}},
    "patternProperties": {"patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False},
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "integer"}},
    "required": {**_A_AND_B, "required": ["a"]},
    "propertyNames": {"propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
    "dependentRequired": {**_A_AND_B, "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {**_A_AND_B, "dependentSchemas": {"a": {"required": ["b"]}}},
    "dependencies": {**_A_AND_B, "dependencies": {"a": ["b"]}},
    "unevaluatedProperties": {**_A_AND_B, "unevaluatedProperties": False},
    "minProperties": {**_A_AND_B, "minProperties": 1},
    "maxProperties": {**_A_AND_B, "maxProperties": 1},
    "prefixItems": {"prefixItems": [{"type": "null"}, {"type": "boolean"}]},
    "items": {"prefixItems": [{"type": "null"}], "items": {"type": "boolean"}},
    "additionalItems": {"items": [{"type": "null"}], "additionalItems": False},
    "contains": {**_NULLS, "contains": {"const": True}},
    "minContains": {**_NULLS, "contains": {"const": True}, "minContains": 2},
    "maxContains": {**_NULLS, "contains": {"const": True}, "maxContains": 1},
    "unevaluatedItems": {"prefixItems": [{"type": "null"}], "unevaluatedItems": False},
    "minItems": {**_NULLS, "minItems": 2},
    "maxItems": {**_NULLS, "maxItems": 1},
    "uniqueItems": {**_NULLS, "uniqueItems": True},
    "minLength": {"type": "string", "minLength": 2},
    "maxLength": {"type": "string", "maxLength": 1},
    "pattern": {"type": "string", "pattern": r'\d{2}.[^\s"]\w"'},
    "format": {"type": "string", "format": "email"},
    "minimum": {"type": "integer", "minimum": 100},
    "maximum": {"type": "integer", "maximum": -3},
    "exclusiveMinimum": {"type": "integer", "exclusiveMinimum": 15, "maximum": 1234},
    "exclusiveMaximum": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "multipleOf": {"type": "integer", "multipleOf": 3},
    "$dynamicRef": {"$dynamicRef": "#a"},
    "$dynamicAnchor": {"$dynamicAnchor": "a"},
    "$recursiveRef": {"$recursiveRef": "#"},
}
