"""The fields that the official clients send, of the versions that are installed: each has a row in our tables."""

from __future__ import annotations

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import input_token_count_params, response_create_params

from llcuda.gateway.api.field_tables import FIELDS

PARAMETERS = {
    "chat": chat_create_params.CompletionCreateParamsBase,
    "completions": completion_create_params.CompletionCreateParamsBase,
    "embeddings": embedding_create_params.EmbeddingCreateParams,
    "responses": response_create_params.ResponseCreateParamsBase,
    "responses_tokens": input_token_count_params.InputTokenCountParams,
    "messages": message_create_params.MessageCreateParamsBase,
    "messages_tokens": message_count_tokens_params.MessageCountTokensParams,
}


@pytest.mark.parametrize(("endpoint", "parameters"), PARAMETERS.items(), ids=PARAMETERS)
def test_every_field_of_the_official_clients_is_used_ignored_or_refused_with_a_reason(
    endpoint: str, parameters: type
) -> None:
    """A new release that adds a field fails here with its name: give it a row in field_tables.py."""
    assert sorted(parameters.__annotations__.keys() - FIELDS[endpoint].keys()) == []
    for name in parameters.__annotations__:
        schema = FIELDS[endpoint][name].schema
        assert "const" not in schema or schema["description"], f"{name} is refused without a reason"
