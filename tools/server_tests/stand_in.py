"""Stand where the tests start llama-server: be one, or a gateway in front of one, with a model that is here.

Its arguments are bare or gateway, the reranker's file, and those of llama-server.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import Any

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from llcuda.models import resolve_model
from llcuda.native import find_executable

_SHORT = {"-fa": "--flash-attn", "-ctk": "--cache-type-k", "-ctv": "--cache-type-v"}
_DOWNLOADED = {"hf_repo", "hf_file", "model_url", "mmproj_url"}
# What a gateway decides for itself.
_OWN = {"offline", "metrics", "slots", "no_slots", "no_ui", "kv_unified", "cors_origins"}
_FLAGS = {"cont_batching", "context_shift", "embedding", "jinja", "reranking", "swa_full", *_OWN - {"cors_origins"}}
_ALIASES = (
    "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "gpt-4", "gpt-4.1", "davinci-002", "text-embedding-3-small", "test",
    "claude-3-test",
)  # fmt: skip
"""What the tests call the model, which llama-server does not look at."""


def main(how: str, reranker: str, *arguments: str) -> None:
    """Serve until a signal comes."""
    options = _parse(arguments)
    is_of_a_model = bool(options.keys() & _DOWNLOADED)
    options = {name: value for name, value in options.items() if name not in _DOWNLOADED}
    model = reranker if "reranking" in options else str(resolve_model("demo").path)
    if how == "bare":
        server = str(find_executable("llama-server"))
        given = [part for name, value in options.items() for part in (_flag(name), value) if part is not None]
        os.execv(server, [server, *(("--model", model) if is_of_a_model else ()), *given])  # noqa: S606
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Gateway(_configure(model, options)):
        signal.pause()


def _parse(arguments: tuple[str, ...]) -> dict[str, str | None]:
    options: dict[str, str | None] = {}
    name = ""
    for argument in arguments:
        if re.match(r"--?[a-z]", argument):
            name = _SHORT.get(argument, argument).removeprefix("--").replace("-", "_")
            options[name] = None
        else:
            options[name] = argument
    return options


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _configure(model: str, options: dict[str, Any]) -> GatewayConfig:
    host, port, key = options.pop("host"), int(options.pop("port")), options.pop("api_key", None)
    slots, tokens = int(options.pop("parallel", 1)), options.pop("ctx_size", None)
    served = ModelConfig(
        options.pop("alias", "demo"), model, slots=slots, aliases=_ALIASES, threads=options.pop("threads", None),
        ctx_size=int(tokens) // slots if tokens else None,
        server_options={name: True if value is None else value for name, value in options.items() if name not in _OWN},
    )  # fmt: skip
    return GatewayConfig((served,), host=host, port=port, keys=(KeyConfig("tests", key),) if key else ())


if __name__ == "__main__":
    main(*sys.argv[1:])
