"""Let other people's clients and agents ask a gateway with the demo model, and print what each of them said.

    python -m tools.clients [--folder build/clients] [NAME ...]

They are installed into ``--folder`` with pip and npm, apart from llcuda's own environment: together they take 1 GB, and
their requirements are not those of the tests. A program ends with 0 if all went well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROGRAMS = Path(__file__).parent / "programs"
_PYTHON = ("instructor", "litellm", "llm", "openai-agents", "pydantic-ai-slim[openai]")
_NODE = ("ai", "@ai-sdk/anthropic", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@anthropic-ai/claude-code",
         "@openai/codex")  # fmt: skip
_KEY = "sk-client-0123456789"
_LONGEST = 280.0
# The prompts of agents are longer than what the demo model was made for, and it would go on for ever after them:
# token 2 ends a text.
_LONG = {"override_kv": "llama.context_length=int:65536", "n_predict": 150, "logit_bias": "2+12"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the programs that are named, or all, and return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/clients"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args(arguments)
    folder = given.folder.resolve()
    _install(folder)
    programs = [path for path in sorted(_PROGRAMS.glob("ask_*")) if not given.names or _name(path) in given.names]
    short = ModelConfig("demo", "demo", slots=2)
    long = ModelConfig("long", "demo", slots=1, ctx_size=65536, server_options=_LONG)
    with Gateway(GatewayConfig(models=(short, long), port=0, keys=(KeyConfig("client", _KEY),))) as gateway:
        return sum(not _run(program, folder, gateway.url) for program in programs)


def _name(program: Path) -> str:
    return program.stem.removeprefix("ask_")


def _install(folder: Path) -> None:
    if not (folder / "venv").exists():
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([folder / "venv/bin/python", "-m", "pip", "install", "--quiet", *_PYTHON], check=True)
    if not (folder / "node_modules").exists():
        (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", *_NODE], cwd=folder, check=True)
        # What npm may not run by itself.
        subprocess.run(["node", "install.cjs"], cwd=folder / "node_modules/@anthropic-ai/claude-code", check=True)


def _run(program: Path, folder: Path, url: str) -> bool:
    home = folder / "home"
    (home / ".codex").mkdir(parents=True, exist_ok=True)
    inside = folder / program.name
    inside.write_bytes(program.read_bytes())  # node looks for its packages beside the program
    environment = {
        "HOME": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LLCUDA_KEY": _KEY, "LLCUDA_URL": url,
        "LLM_USER_PATH": str(home / "llm"), "NO_PROXY": "127.0.0.1",
        "PATH": os.pathsep.join((str(folder / "venv/bin"), str(folder / "node_modules/.bin"), os.environ["PATH"])),
    }  # fmt: skip
    run = "node" if program.suffix == ".mjs" else "bash" if program.suffix == ".sh" else "python"
    done = subprocess.run(
        [run, str(inside)], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=_LONGEST, check=False,
    )  # fmt: skip
    verdict = "answered" if done.returncode == 0 else f"FAILED ({done.returncode})"
    sys.stdout.write(f"{_name(program)}: {verdict}\n{done.stdout}\n")
    sys.stdout.write(done.stderr if done.returncode else "")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
