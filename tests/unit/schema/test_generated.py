"""Schemas as pydantic, zod and a generator for TypeScript write them: accepted, or refused for a known reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from llcuda.errors import UsageError
from llcuda.schema import compile_schema
from tests.inputs.pydantic_schemas import make_pydantic_schemas

SCHEMAS: dict[str, dict[str, Any]] = {
    **json.loads((Path(__file__).parents[2] / "inputs" / "generated_schemas.json").read_text()),
    **make_pydantic_schemas(),
}


def test_generated_schemas_are_accepted_but_for_those_with_a_pattern_of_unicode_properties() -> None:
    reasons: dict[str, str] = {}
    for name, document in SCHEMAS.items():
        try:
            sent = compile_schema(document).constrain()
        except UsageError as error:  # noqa: PERF203
            reasons[name] = error.message
        else:
            Draft202012Validator.check_schema(sent)
    assert len(SCHEMAS) > 600
    assert all(" emoji " in name and r"bad escape \p" in reason for name, reason in reasons.items()), reasons
    assert len(reasons) < 0.03 * len(SCHEMAS)
