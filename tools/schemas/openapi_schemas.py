"""Write the schemas of bodies in the OpenAPI documents that FastAPI makes of the types in ``tests.inputs``.

pip install fastapi && python -m tools.schemas.openapi_schemas > tests/inputs/openapi_schemas.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pydantic
from fastapi import FastAPI  # type: ignore[import-not-found, unused-ignore]

from tests.inputs.pydantic_schemas import TYPES


def describe(kind: Any) -> dict[str, Any]:
    """Return the schema of a body, with the components that it refers to."""
    model: Any = pydantic.create_model("Model", value=(kind, ...), other=(list[kind], []))

    def take(body: Any) -> None:
        """Take it."""

    take.__annotations__["body"] = model
    app = FastAPI()
    app.post("/")(take)
    document = app.openapi()
    body = document["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    kept = {name: one for name, one in document["components"]["schemas"].items() if "Validation" not in name}
    return {**body, "components": {"schemas": kept}}


def main() -> None:
    """Print them."""
    kinds = [(f"fastapi {place} {getattr(kind, '__name__', kind)!s:.40}", kind) for place, kind in enumerate(TYPES)]
    rows = [f"{json.dumps(name)}: {json.dumps(describe(kind), ensure_ascii=False)}" for name, kind in kinds]
    sys.stdout.write("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
