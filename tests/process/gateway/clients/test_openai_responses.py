"""OpenAI's own client asks a gateway for responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pydantic

from tests.process.gateway.clients.gateways import ANSWER, MESSAGES, PARAMETERS, QUESTION

if TYPE_CHECKING:
    import openai

RESPONSE_TOOL: Any = {"type": "function", "name": "add", "strict": True, "parameters": PARAMETERS}


class Sum(pydantic.BaseModel):
    answer: int


class TestResponses:
    def test_whole(self, client: openai.OpenAI) -> None:
        answer = client.responses.create(model="demo", input=QUESTION, temperature=0)
        assert (answer.output_text, answer.status) == (ANSWER, "completed")
        assert answer.usage is not None
        assert answer.usage.output_tokens > 5

    def test_with_instructions_and_a_conversation(self, client: openai.OpenAI) -> None:
        turns: Any = [*MESSAGES, {"role": "assistant", "content": ANSWER}, *MESSAGES]
        answer = client.responses.create(model="demo", input=turns, instructions="Be brief.", max_output_tokens=20)
        assert answer.output_text

    def test_streamed(self, client: openai.OpenAI) -> None:
        events = list(client.responses.create(model="demo", input=QUESTION, temperature=0, stream=True))
        assert events[0].type == "response.created"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == ANSWER

    def test_gathered_by_the_client(self, client: openai.OpenAI) -> None:
        with client.responses.stream(model="demo", input=QUESTION, temperature=0) as stream:
            kinds = [event.type for event in stream]
            assert stream.get_final_response().output_text == ANSWER
        assert kinds.count("response.output_text.delta") > 5

    def test_a_value_of_a_type_whole_and_streamed(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": "demo", "input": QUESTION, "temperature": 0, "max_output_tokens": 60}
        assert client.responses.parse(**asked, text_format=Sum).output_parsed == Sum(answer=4)
        with client.responses.stream(**asked, text_format=Sum) as stream:
            assert stream.get_final_response().output_parsed == Sum(answer=4)

    def test_a_function_is_called_whole_and_streamed(self, client: openai.OpenAI) -> None:
        asked: Any = {"model": "demo", "input": QUESTION, "tools": [RESPONSE_TOOL], "tool_choice": "required"}
        whole: Any = client.responses.create(**asked, temperature=0, max_output_tokens=60)
        assert [(one.name, one.arguments) for one in whole.output] == [("add", '{"a": 2, "b": 2}')]
        with client.responses.stream(**asked, temperature=0, max_output_tokens=60) as stream:
            streamed: Any = stream.get_final_response()
        assert streamed.output[0].parsed_arguments == {"a": 2, "b": 2}

    def test_tokens_are_counted(self, client: openai.OpenAI) -> None:
        assert client.responses.input_tokens.count(model="demo", input="hello").input_tokens > 1
