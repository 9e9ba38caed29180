"""What a model of real weights answers, through the engine, the gateway and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from operator import mul
from typing import TYPE_CHECKING, Any

import openai
import pytest

import llcuda
from llcuda.gateway import GatewayConfig, ModelConfig
from llcuda.gateway.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTING, COUNTED = "1, 2, 3, 4,", " 5, 6, 7"
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Egypt": "Cairo"}
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "country": {"type": "string", "maxLength": 30},
        "is_capital": {"type": "boolean"},
    },
    "required": ["name", "country", "is_capital"],
    "additionalProperties": False,
}


def ask_capital(country: str) -> str:
    return f"The capital of France is Paris. The capital of Spain is Madrid. The capital of {country} is"


@pytest.fixture(scope="module")
def engine(gemma: Path) -> Iterator[llcuda.InferenceEngine]:
    with llcuda.InferenceEngine() as started:
        started.load_model(gemma, chat_template="chatml", ctx_size=4096, device="cpu")
        yield started


@pytest.mark.parametrize(("country", "capital"), CAPITALS.items())
def test_it_completes_what_it_knows(engine: llcuda.InferenceEngine, country: str, capital: str) -> None:
    result = engine.infer(ask_capital(country), max_tokens=4, temperature=0, raw=True)
    assert result.text.strip().startswith(capital)


def test_a_stream_is_the_whole_answer_in_pieces(engine: llcuda.InferenceEngine) -> None:
    pieces = list(engine.infer_stream(COUNTING, max_tokens=8, temperature=0, raw=True))
    assert len(pieces) > 1
    assert "".join(pieces) == engine.infer(COUNTING, max_tokens=8, temperature=0, raw=True).text == COUNTED


def test_a_chat_takes_the_template_that_is_given(engine: llcuda.InferenceEngine) -> None:
    messages = [{"role": "user", "content": "Count on from this, please: 1, 2, 3, 4,"}]
    assert engine.client.apply_template(messages).startswith("<|im_start|>user\nCount on")
    result = engine.chat(messages, max_tokens=16, temperature=0)
    assert result.tokens_generated > 0
    assert result.prompt_tokens > len(COUNTING) // 2


def test_it_finds_again_what_stands_at_the_start_of_a_long_prompt(engine: llcuda.InferenceEngine) -> None:
    prompt = f"The pass key is 48213. Remember it. {FILLER * 100}What is the pass key? The pass key is"
    result = engine.infer(prompt, max_tokens=6, temperature=0, raw=True)
    assert result.prompt_tokens + result.cached_tokens > 2000
    assert result.text.strip().startswith("48213")


def test_a_schema_is_kept_and_filled_with_sense(engine: llcuda.InferenceEngine) -> None:
    result = engine.infer("The city of Berlin, as JSON: ", schema=CITY, max_tokens=100, temperature=0, raw=True)
    assert isinstance(result.value, dict)
    assert result.value["name"] == "Berlin"
    assert result.value["country"] == "Germany"
    assert set(result.value) == set(CITY["properties"])


def test_texts_of_one_meaning_are_nearer_to_each_other(gemma: Path) -> None:
    texts = ["The cat sat on the mat.", "A kitten lay on the rug.", "The stock market fell by two percent."]
    with llcuda.InferenceEngine() as engine:
        engine.load_model(gemma, embeddings=True, pooling="mean", device="cpu")
        cat, kitten, market = engine.embed(texts)
    near, far = sum(map(mul, cat, kitten)), sum(map(mul, cat, market))
    assert near > far + 0.1


def test_a_gateway_with_two_workers_answers_as_one_engine_does(gemma: Path) -> None:
    served = ModelConfig("gemma", str(gemma), workers=2, slots=2, device="cpu", threads=1)

    def complete(number: int) -> tuple[str, str]:
        country, capital = list(CAPITALS.items())[number % len(CAPITALS)]
        answer = client.completions.create(
            model="gemma", prompt=ask_capital(country), max_tokens=4, temperature=0, stream=number % 2 == 0
        )
        pieces = answer if isinstance(answer, openai.Stream) else [answer]
        return "".join(piece.choices[0].text for piece in pieces if piece.choices), capital

    with (
        Gateway(GatewayConfig(models=(served,), port=0)) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = list(threads.map(complete, range(16)))
    assert all(text.strip().startswith(capital) for text, capital in answers), answers


def test_the_command_line_reports_what_it_did(gemma: Path) -> None:
    command = [sys.executable, "-m", "llcuda", "infer", "-m", str(gemma), "-p", COUNTING, "--device", "cpu", "--json"]
    done = subprocess.run(
        [*command, "--max-tokens", "8", "--temperature", "0"], capture_output=True, text=True, timeout=120, check=True
    )
    report = json.loads(done.stdout)
    assert report["text"] == COUNTED
    assert report["tokens_generated"] == 8
