"""`llcuda serve`: one address in front of several llama-servers."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llcuda.cli.arguments import add_command, add_file_flags, add_frozen_flag
from llcuda.cli.output import keep_saying, print_json, print_note
from llcuda.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Container

    from llcuda.cli.arguments import Commands
    from llcuda.fleet.model_config import ModelConfig
    from llcuda.gateway.config.configuration import GatewayConfig
    from llcuda.gateway.config.serve_options import Option
    from llcuda.gateway.gateway import Gateway

__all__ = ["add_parser", "describe"]

_EPILOG = """every flag but --check, --json, --access-log and --frozen is also a variable, LLCUDA_SERVE_WORKERS for
--workers, and every flag but these and --config a key of the file, workers; a flag wins over a variable, and that over
the file. One more key is read from LLCUDA_SERVE_API_KEY: it is no flag, because every user of a machine can read a
command line. SIGHUP reads the file again, but ends a gateway that was started at a terminal, without nohup.
docs/serve-options.md says more."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    from llcuda.gateway.config.serve_options import OPTIONS  # noqa: PLC0415 - one row is flag, variable and key

    parser = add_command(
        commands, run, name="serve", summary="answer OpenAI's API with one or several models", epilog=_EPILOG
    )
    # `--api-key KEY`, which is no flag, would be taken for `--api-key-file`, and the key be printed as a file's name.
    parser.allow_abbrev = False
    parser.add_argument("--config", metavar="FILE", help="read what is not said here from this TOML file")
    parser.add_argument("--check", action="store_true", help="start nothing: print what holds, as such a file")
    parser.add_argument("--json", action="store_true", help="with --check, print JSON")
    add_frozen_flag(parser)
    parser.add_argument("--access-log", action="store_true", help="print a line for each request")
    for title in dict.fromkeys(option.group for option in OPTIONS):
        group = parser.add_argument_group(title)
        for option in OPTIONS:
            if option.group == title:
                group.add_argument(*filter(None, (option.short, option.flag)), **_to_argument(option))
            if option.group == title and option.kind == "server_options":
                add_file_flags(group, dest=option.name)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it, or print the configuration."""
    from llcuda.gateway.config.reading import make_config, read_config, read_given  # noqa: PLC0415

    if arguments.json and not arguments.check:
        raise UsageError("--json goes with --check", hint="Add --check, or leave --json out.")
    flags = vars(arguments)
    given = read_given(flags, environment=os.environ)
    config = make_config(given)
    if arguments.check:
        from llcuda.gateway.config.plain_config import format_toml, to_plain  # noqa: PLC0415

        if arguments.json:
            print_json(to_plain(given, config))
        else:
            print(format_toml(given, config))
        return 0
    if arguments.access_log:
        access = logging.getLogger("llcuda.access")
        access.addHandler(logging.StreamHandler())
        access.setLevel(logging.INFO)
    _share_heaps()
    # Of a file or a journal, it is not certain who reads it.
    gateway = _import_gateway()(config, on_link=_show_link if sys.stderr.isatty() else None)
    names = ", ".join(model.name for model in config.models if not model.on_demand)
    print_note(f"llcuda: loading {names or 'nothing yet'}")
    with keep_saying(f"{names} is being loaded") as stop_saying:

        def announce(url: str) -> None:
            stop_saying()
            _announce(config, gateway, url=url)

        gateway.run(on_ready=announce, read_config=lambda: read_config(flags, environment=os.environ))
    return 0


def _announce(config: GatewayConfig, gateway: Gateway, *, url: str) -> None:
    by_grpc = "" if config.grpc_port is None else f" and by gRPC on port {gateway.grpc_port}"
    key = " with a key" if config.keys else ""
    notes = [f"  {sentence}" for sentence in gateway.notes]
    addresses = f"  page {url}/   chat {url}/chat   OpenAI's API {url}/v1{key}"
    example = f'  try: llcuda-client --url {url} {_choose_model(config, gateway.without_chat)}"What is 2+2?"'
    print_note("\n".join([describe(config, url + by_grpc), *notes, addresses, example]))


def _choose_model(config: GatewayConfig, without_chat: Container[str]) -> str:
    """Return what the client is to be told for a model to answer: nothing if the first one can."""
    chatting = [model.name for model in config.models if model.name not in without_chat]
    if not chatting:
        return "--raw "
    return "" if chatting[0] == config.models[0].name else f"--model {chatting[0]} "


def _show_link(link: str) -> None:
    print_note(f"  to change settings on the page, open this link, which works once: {link}")


def _share_heaps() -> None:
    """Let the threads of this process share two heaps, as far as its C library is glibc.

    With one for nearly each thread the gateway grew from 73 to 95 MiB in half an hour of everything at once
    (benchmarks/soak.py), though it held no more objects.
    """
    arena_max = -8  # M_ARENA_MAX of <malloc.h>
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(arena_max, 2)


def describe(config: GatewayConfig, url: str) -> str:
    """Return in one line what is served, where and with what."""
    if len(config.models) == 1:
        (model,) = config.models
        return f"llcuda serves {model.name} on {url} with {_describe_workers(model)}; Ctrl-C ends it"
    models = " and ".join(f"{model.name} ({_describe_workers(model)})" for model in config.models)
    return f"llcuda serves {models} on {url}; Ctrl-C ends it"


def _describe_workers(model: ModelConfig) -> str:
    started = ", on demand" if model.on_demand else ""
    here = "1 worker" if model.workers == 1 else f"{model.workers} workers"
    there = ", ".join(remote.url for remote in model.remotes)
    if not there:
        return here + started
    return f"{here} and {there}{started}" if model.workers else f"the workers at {there}{started}"


def _to_argument(option: Option) -> dict[str, Any]:
    """Return how argparse takes the option: as it was typed, for the same parsing as of a variable's text."""
    default = "" if option.default in {None, False, ()} else f" (default: {_format_default(option.default)})"
    argument: dict[str, Any] = {"dest": option.name, "default": None, "help": option.summary + default}
    if option.kind == "switch":
        return {**argument, "action": argparse.BooleanOptionalAction}
    if option.kind in {"list", "server_options"}:
        argument["action"] = "append"
    return {**argument, "metavar": option.placeholder}


def _format_default(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _import_gateway() -> type[Gateway]:
    try:
        from llcuda.gateway.gateway import Gateway  # noqa: PLC0415 - it needs the extra; `--check` and `--help` do not
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "llcuda":
            raise
        raise UsageError(
            f"llcuda serve needs {error.name}, which is not installed", hint="pip install 'llcuda[gateway]'"
        ) from None
    return Gateway
