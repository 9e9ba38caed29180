"""Write the arguments of functions that the Berkeley Function Calling Leaderboard has models call.

pip download --no-deps bfcl-eval
python -m tools.schemas.function_schemas bfcl_eval-*.whl > tests/inputs/function_schemas.json

bfcl-eval is under the Apache License 2.0. Its descriptions are left out, and types are named as it does for OpenAI.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from zipfile import ZipFile

KEPT = 300
"""Of some 1100 that differ, evenly from all of its files."""
_TYPES = "bfcl_eval/constants/type_mappings.py"
_OTHER = "format_sensitivity"
_DOCUMENTS = ("bfcl_eval/data/BFCL_v4_", "bfcl_eval/data/multi_turn_func_doc/")


def find_functions(value: Any) -> list[dict[str, Any]]:
    """Return the functions in a line of its data."""
    if isinstance(value, list):
        return [function for item in value for function in find_functions(item)]
    if isinstance(value, dict) and "parameters" in value:
        return [value]
    return find_functions(value.get("function", [])) if isinstance(value, dict) else []


def to_json_schema(schema: dict[str, Any], types: dict[str, str]) -> dict[str, Any]:
    """Return the schema of arguments as an API takes it."""
    kept = {name: value for name, value in schema.items() if name not in {"description", "optional"}}
    if isinstance(kept.get("type"), str):
        kept["type"] = types.get(kept["type"], "string")
    if isinstance(kept.get("items"), dict):
        kept["items"] = to_json_schema(kept["items"], types)
    if isinstance(kept.get("properties"), dict):
        kept["properties"] = {name: to_json_schema(part, types) for name, part in kept["properties"].items()}
    return kept


def main(path: str) -> None:
    """Print them."""
    found: dict[str, str] = {}
    with ZipFile(path) as archive:
        types: dict[str, Any] = {}
        exec(archive.read(_TYPES), types)  # noqa: S102 - a table
        for name in sorted(name for name in archive.namelist() if name.startswith(_DOCUMENTS) and _OTHER not in name):
            for line in archive.read(name).decode().splitlines():
                for function in find_functions(json.loads(line)):
                    schema = to_json_schema(function["parameters"], types["GORILLA_TO_OPENAPI"])
                    found.setdefault(json.dumps(schema, ensure_ascii=False), function["name"])
    some = list(found.items())[:: max(1, len(found) // KEPT)]
    rows = [f"{json.dumps(f'bfcl {place} {name}')}: {schema}" for place, (schema, name) in enumerate(some)]
    sys.stdout.write("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
