"""`llcuda-client`: ask a server that runs already."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda import __version__
from llcuda.cli import run_guarded
from llcuda.cli.arguments import add_prompt, add_sampling_flags, add_system_flag, read_prompt, sampling_options
from llcuda.cli.output import keep_saying, print_json, print_pieces
from llcuda.cli.parser import Parser
from llcuda.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from llcuda.client import InferenceClient
    from llcuda.gateway import GrpcClient

__all__ = ["main"]

_EXAMPLES = """examples:

  llcuda-client "What is 2+2?"
  llcuda-client --url https://llm.example --api-key-file key.txt -m qwen "Hello"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="llcuda-client", description="Ask any llama-server or llcuda gateway.", epilog=_EXAMPLES
    )
    parser.add_argument("--version", action="version", version=f"llcuda {__version__}")
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    parser.add_argument("--host", default="localhost", help="where the server runs (default: localhost)")
    parser.add_argument("--port", type=int, help="the port it listens on (default: 8090, with --grpc 8091)")
    parser.add_argument("--grpc", action="store_true", help="speak the gateway's binary protocol")
    parser.add_argument("--url", help="its address, such as https://llm.example, in place of host and port")
    parser.add_argument("--api-key-file", metavar="FILE", help="a file that holds the key (default: $LLAMA_API_KEY)")
    parser.add_argument("-m", "--model", help="which of its models is to answer")
    add_prompt(parser)
    parser.add_argument("--json", action="store_true", help="print the answer with its figures as JSON")
    add_system_flag(parser)
    add_sampling_flags(parser)
    arguments = parser.parse_args(argv)
    return run_guarded(run, arguments)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print the answer as it is generated. The key is read from LLAMA_API_KEY, as llama-server's is."""
    options = sampling_options(arguments)
    options |= {name: value for name in ("system", "model", "raw") if (value := getattr(arguments, name))}
    prompt = read_prompt(arguments.prompt)
    with connect(arguments) as client, keep_saying("the answer is awaited") as stop_saying:
        if arguments.json:
            print_json(dataclasses.asdict(client.infer(prompt, **options)))
        else:
            print_pieces(client.infer_stream(prompt, **options), on_piece=stop_saying)
    return 0


def connect(arguments: argparse.Namespace) -> InferenceClient | GrpcClient:
    """Return the client that the flags ask for. Raises UsageError if it needs an extra that is not installed."""
    key = _read_key(arguments.api_key_file) if arguments.api_key_file else os.environ.get("LLAMA_API_KEY")
    if not arguments.grpc:
        from llcuda.client import InferenceClient  # noqa: PLC0415 - `--help` needs no client

        if arguments.url:
            return InferenceClient(url=arguments.url, api_key=key)
        return InferenceClient(arguments.host, arguments.port or 8090, api_key=key)
    if arguments.url:
        raise UsageError("--url is for HTTP", hint="With --grpc, give --host and --port.")
    try:
        from llcuda.gateway import GrpcClient  # noqa: PLC0415 - the extra
    except ModuleNotFoundError as error:
        raise UsageError(f"--grpc needs {error.name}", hint="pip install 'llcuda[gateway]'") from None
    return GrpcClient(arguments.host, arguments.port or 8091, api_key=key)


def _read_key(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"--api-key-file {path}: {error}", hint="Name a file that holds the key alone.") from None
