"""A whole gateway asked by schemathesis, which makes requests of the OpenAPI document that it serves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.places import ROOT
from tests.standins.stub_engine import write_executable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="schemathesis needs Python 3.11")

# For a longer run by hand: LLCUDA_TEST_SCHEMATHESIS_EXAMPLES=500.
EXAMPLES = int(os.environ.get("LLCUDA_TEST_SCHEMATHESIS_EXAMPLES", "3"))
"""How many are made of each operation, beside those that cover its schema."""
KEY = "sk-user"
# The administrator's addresses refuse this key: they would start the workers anew again and again.
KEYS = (KeyConfig("user", KEY), KeyConfig("root", "sk-root", is_admin=True))


@pytest.fixture
def gateway(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("LLAMA_SERVER_PATH", str(write_executable(tmp_path / "stub" / "llama-server")))
    models = (ModelConfig("stub", str(tiny_model), server_options={"embeddings": True, "chat_template": "chatml"}),)
    with Gateway(GatewayConfig(models, port=0, keys=KEYS)) as gateway:
        yield gateway


# What the document leaves to llama-server, and its stand-in answers: one text, messages that are whole, no tools to
# choose from, and no JSON.
_WHOLE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"type": "string"}, "content": {"type": ["string", "null"]}},
}
_NARROW: dict[str, Any] = {
    "dimensions": {"type": "null"},
    "json_schema": {"type": "null"},
    "messages": {"type": "array", "minItems": 1, "items": _WHOLE},
    "model": {"enum": ["stub", None]},
    "n": {"enum": [1, None]},
    "n_cmpl": {"enum": [1, None]},
    "options": {"enum": [None, {}, {"temperature": 0}]},
    "prompt": {"type": "string"},
    "response_format": {"enum": [None, {"type": "text"}]},
    "text": {"enum": [None, {}, {"format": {"type": "text"}}]},
    "tool_choice": {"type": "null"},
}


_ENDLESS = "/chat/models/sse"


def write_document(gateway: Gateway, target: Path) -> dict[str, Any]:
    """Write the document with what is narrower here, and return it."""
    answer = httpx.get(f"{gateway.url}/openapi.json", trust_env=False)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    document: dict[str, Any] = answer.json()
    for schema in document["components"]["schemas"].values():
        fields = schema.get("properties", {})
        narrow = fields.keys() & _NARROW.keys() - ({"prompt"} if "input" in fields else set())
        fields.update({name: _NARROW[name] for name in narrow})
        if "options" in fields:  # Ollama's, which must name a model
            fields["model"] = {"enum": ["stub"]}
            fields.pop("format", None)  # a schema, which the stand-in does not hold to
            if "messages" in fields:
                fields["messages"] = {"type": "array", "minItems": 1, "items": {**_WHOLE, "required": ["role"]}}
            fields.update({name: {"type": "null"} for name in fields.keys() & {"dimensions", "tools", "images"}})
    target.write_text(json.dumps(document))
    return document


def find_repeated(document: dict[str, Any]) -> list[str]:
    """Return the addresses whose bodies have the same fields as those of another before them."""
    seen: set[frozenset[str]] = {frozenset()}
    repeated = []
    for path, operations in document["paths"].items():
        body = operations.get("post", {}).get("requestBody")
        name = body["content"]["application/json"]["schema"].get("$ref", "").rpartition("/")[2] if body else ""
        fields = frozenset(document["components"]["schemas"][name].get("properties", ())) if name else frozenset()
        if fields and fields in seen:
            repeated.append(path)
        seen.add(fields)
    return repeated


@pytest.mark.timeout(1800)
def test_nothing_that_the_document_says_is_wrong(gateway: Gateway, tmp_path: Path) -> None:
    document = write_document(gateway, tmp_path / "openapi.json")
    # 414 for a name that is too long for a target is a refusal like any other, and missing in its list.
    settings = '[checks.negative_data_rejection]\nexpected-statuses = ["4xx", "5xx"]\n'
    # Each field is covered once; the addresses that take it too are asked by chance.
    settings += f"[[operations]]\ninclude-path = {json.dumps(find_repeated(document))}\n"
    settings += "phases.coverage.enabled = false\n"
    (tmp_path / "schemathesis.toml").write_text(settings)
    options = {
        "--url": gateway.url,
        "--header": f"Authorization: Bearer {KEY}",
        "--phases": "coverage,fuzzing",
        "--generation-with-security-parameters": "false",
        "--generation-database": "none",
        "--max-examples": str(EXAMPLES),
        "--exclude-path": _ENDLESS,
        "--seed": "1",
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(tmp_path / "openapi.json"), "--continue-on-failure"]
    command += [part for pair in options.items() for part in pair]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tested = re.search(r"Tested: (\d+)", ended.stdout)
    generated = re.search(r"(\d+) generated", ended.stdout)
    assert tested
    assert generated
    methods = [method for operations in document["paths"].values() for method in operations if method != "parameters"]
    assert int(tested[1]) == len(methods) - 1
    assert int(generated[1]) > 1000
    print(f"{generated[1]} cases")  # noqa: T201 - for who runs it for longer
