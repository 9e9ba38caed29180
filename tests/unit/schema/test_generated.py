"""Schemas as other people's programs write them: accepted, or refused for a known reason."""

from __future__ import annotations

from jsonschema import Draft202012Validator

from llcuda.errors import UsageError
from llcuda.schema import compile_schema
from tests.inputs.schema_corpus import make_corpus


def test_generated_schemas_are_accepted_but_for_those_with_a_pattern_of_unicode_properties() -> None:
    corpus, reasons = make_corpus(), {}
    for name, document in corpus.items():
        try:
            sent = compile_schema(document).constrain()
        except UsageError as error:  # noqa: PERF203
            reasons[name] = error.message
        else:
            Draft202012Validator.check_schema(sent)
    assert {name.split()[0] for name in corpus} == {"bfcl", "fastapi", "pydantic", "typescript", "zod"}
    assert len(corpus) > 900
    assert all(" emoji " in name and r"bad escape \p" in reason for name, reason in reasons.items()), reasons
    assert len(reasons) < 0.03 * len(corpus)
