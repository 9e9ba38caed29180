"""The flags that several commands share, and what they become: server options and sampling options."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.cli.output import keep_saying
from llcuda.errors import UsageError
from llcuda.options import check_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llcuda.engine import InferenceEngine

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no public name

__all__ = [
    "add_command",
    "add_draft_flags",
    "add_file_flags",
    "add_frozen_flag",
    "add_model_flags",
    "add_prompt",
    "add_sampling_flags",
    "add_system_flag",
    "loaded_engine",
    "parse_value",
    "read_bytes",
    "read_prompt",
    "sampling_options",
]

_LOADING = ("ctx_size", "gpu_layers", "device", "require_gpu", "fallback", "draft", "draft_keep", "threads", "verbose")
_SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop_sequences")
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([kmgt]?)(i?)b?", re.IGNORECASE)


def add_command(
    commands: Commands, run: Callable[[argparse.Namespace], int], *, name: str, summary: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """Add a command that ``run`` carries out."""
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=epilog)
    parser.add_argument("--verbose", action="store_true", help="log what happens, and show tracebacks")
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """Add the prompt, which may stand alone, after ``--prompt``, or on stdin, and whether it is to be continued."""
    parser.add_argument("prompt", nargs="?", default=argparse.SUPPRESS, help="the prompt (default: what stdin holds)")
    parser.add_argument("-p", "--prompt", dest="prompt", help="the same; - reads it from stdin too")
    parser.add_argument("--raw", action="store_true", help="continue the text as it is, without the chat template")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a model and how llama-server loads it."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        "--model",
        required=True,
        help="demo, a path, a name from `llcuda models list`, repo:file on the hub, a URL, or sha256:…",
    )
    add_frozen_flag(group)
    group.add_argument("--ctx-size", type=int, metavar="N", help="context size in tokens (default: the model's)")
    group.add_argument(
        "--device",
        default="auto",
        metavar="auto|cuda|cuda:N|cpu",
        help="where it runs; auto takes a GPU that can be used, and says so if it takes the CPU (default: auto)",
    )
    group.add_argument("--require-gpu", action="store_true", help="fail if the GPU is not used")
    group.add_argument(
        "--fallback",
        choices=("auto", "error"),
        default="auto",
        help="if the memory does not suffice: try again with less, step by step, or fail (default: auto)",
    )
    group.add_argument("--gpu-layers", type=int, metavar="N", help="layers to keep on the GPU (default: what fits)")
    add_file_flags(group, dest="server_option")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: llama-server decides)")
    group.add_argument(
        "--server-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of llama-server, such as cache-type-k=q8_0; may be repeated",
    )


def add_frozen_flag(group: argparse._ActionsContainer) -> None:
    """Add ``--frozen``, which holds for everything that this process loads."""
    group.add_argument("--frozen", action=_Frozen, nargs=0, help="use only what llcuda.lock pins (LLCUDA_FROZEN=1)")


class _Frozen(argparse.Action):
    def __call__(self, *_: object) -> None:
        os.environ["LLCUDA_FROZEN"] = "1"


def read_bytes(text: str) -> int:
    """Return how many bytes ``20GB``, ``1.5 GiB`` or ``300`` are. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"{text!r} is not a size", hint="Write 20GB, 1.5GiB, or a number of bytes.")
    unit = found[2].lower()
    return int(float(found[1]) * (_BINARY_UNITS if found[3] else _UNITS)[unit])


def add_file_flags(group: argparse._ArgumentGroup, *, dest: str) -> None:
    """Add flags for what is given beside a model. Each stands for an option of llama-server's."""
    flag = partial(group.add_argument, dest=dest, action="append", default=argparse.SUPPRESS)
    flag("--lora", type="lora={}".format, metavar="FILE", help="an adapter to apply to the model")
    flag("--mmproj", type="mmproj={}".format, metavar="FILE", help="the projector, for images and audio")
    flag("--chat-template", type=_name_template, metavar="NAME|FILE", help="in place of the model's, such as chatml")


def _name_template(text: str) -> str:
    return f"chat-template-file={text}" if Path(text).is_file() else f"chat-template={text}"


def add_draft_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of speculative decoding, for the commands that generate text."""
    group = parser.add_argument_group("speculative decoding")
    group.add_argument(
        "--draft",
        metavar="MODEL|MODE|auto",
        help="draft tokens with a smaller model, or with an n-gram mode such as ngram-mod (default: off)",
    )
    group.add_argument("--draft-keep", action="store_true", help="keep the draft model even if memory runs out")


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose how tokens are sampled."""
    group = parser.add_argument_group("sampling")
    group.add_argument("-n", "--max-tokens", type=int, metavar="N", help="stop after N tokens")
    group.add_argument("--temperature", type=float, metavar="T", help="0 always takes the most likely token")
    group.add_argument("--top-p", type=float, metavar="P", help="sample from the tokens that make up this probability")
    group.add_argument("--top-k", type=int, metavar="K", help="sample from the K most likely tokens")
    group.add_argument("--min-p", type=float, metavar="P", help="leave out tokens below P times the likeliest")
    group.add_argument("--seed", type=int, metavar="N", help="seed of the random numbers")
    group.add_argument(
        "--stop", action="append", dest="stop_sequences", metavar="TEXT", help="stop at this text; may be repeated"
    )


def add_system_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--system``, the text that goes before the conversation."""
    parser.add_argument("-s", "--system", help="the system prompt")


def sampling_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the sampling options that were given."""
    given = {name: getattr(arguments, name) for name in _SAMPLING if getattr(arguments, name) is not None}
    check_options(given, chat=False)  # before a model is loaded
    return given


@contextmanager
def loaded_engine(arguments: argparse.Namespace, **server_options: Any) -> Iterator[InferenceEngine]:
    """Run an engine with the model that the flags name."""
    from llcuda.engine import InferenceEngine  # noqa: PLC0415 - `llcuda --help` needs no engine

    with InferenceEngine() as engine:
        # A download has a bar of its own.
        with keep_saying(f"{arguments.model} is being loaded", holds=lambda: engine.is_loading):
            named = {name: getattr(arguments, name) for name in _LOADING if hasattr(arguments, name)}
            given = dict(map(_parse_server_option, arguments.server_option))
            engine.load_model(arguments.model, **{**named, **server_options, **given})
        yield engine


def _parse_server_option(pair: str) -> tuple[str, Any]:
    name, separator, value = pair.lstrip("-").partition("=")
    if name in {"", "name"}:
        raise UsageError(f"--server-option {pair!r} has no name", hint="Write NAME=VALUE, such as cache-type-k=q8_0.")
    return name.replace("-", "_"), parse_value(value) if separator else True


def parse_value(text: str) -> Any:
    """Return a number, true or false as JSON writes them; everything else is text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text


def read_prompt(text: str | None) -> str:
    """Return the prompt, read from stdin if it is ``-`` or missing. Raises UsageError if nobody pipes one in."""
    if text not in {None, "-"}:
        return str(text)
    if sys.stdin is None or (text is None and sys.stdin.isatty()):
        raise UsageError("there is no prompt", hint='Write it at the end, in quotes: "What is 2+2?"')
    return sys.stdin.read()
