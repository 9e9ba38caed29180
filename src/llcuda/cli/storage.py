"""`llcuda storage`: the files of models on this disk, by name and by digest."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcuda.cli.arguments import add_command, read_bytes
from llcuda.cli.output import format_bytes, format_table, print_note, show
from llcuda.cli.parser import add_commands
from llcuda.errors import ChecksumMismatchError, UsageError
from llcuda.settings import storage_urls

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from llcuda.cli.arguments import Commands
    from llcuda.store import StoredModel

__all__ = ["add_parser"]

_SHOWN_DIGITS = 19
"""Of a digest in a table: enough to be told from others."""


def add_parser(commands: Commands) -> None:
    """Add the command and its own commands."""
    actions = add_commands(commands.add_parser("storage", help="keep models by digest, and give their space back"))
    summary = "take a model on this disk into the store, without a copy if the disk can"
    put = _add(actions, run_put, name="put", summary=summary)
    put.add_argument("file", help="a .gguf file, the first of several parts, a folder, or a name in the store")
    put.add_argument("--name", help="what it is called in the store (default: as the file)")
    put.add_argument("--copy", action="store_true", help="make a copy, which no other program can change in place")
    get = _add(actions, run_get, name="get", summary="write a model's file, or any file of the store by its digest")
    get.add_argument("-o", "--output", metavar="FILE", help="where to; a folder for several files")
    listing = _add(actions, run_list, name="list", summary="show the models in the store, the last used first")
    for action in (put, get, listing):
        action.add_argument(
            "--storage-url", metavar="URL", action="append",
            help="a remote: file, http(s), s3, gs, az or oci; repeat it for mirrors (default: $LLCUDA_STORAGE_URL)",
        )  # fmt: skip
    for action in (put, get):
        action.add_argument(
            "--limit-rate", metavar="SIZE", type=read_bytes, help="bytes a second at most, such as 10MB"
        )
    inspect = _add(actions, run_show, name="show", summary="show what is known of a model, and its files")
    remove = _add(actions, run_remove, name="rm", summary="forget a name, and remove what no other name leads to")
    for action in (get, inspect, remove):
        action.add_argument("model", help="a name in the store, or sha256:…")
    _add(actions, run_verify, name="verify", summary="read every file that has changed since it was last read")
    summary = "remove what no name leads to, and the models used longest ago"
    collect = _add(actions, run_collect, name="gc", summary=summary)
    collect.add_argument("--keep", metavar="SIZE", type=read_bytes, help="such as 20GB; without it no model is removed")
    _add(actions, run_usage, name="du", summary="show what the store takes")


def _add(
    actions: Commands, run: Callable[[argparse.Namespace], int], *, name: str, summary: str
) -> argparse.ArgumentParser:
    parser = add_command(actions, run, name=name, summary=summary)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run_put(arguments: argparse.Namespace) -> int:
    """Take the model in, unless it is, have it at the remote if there is one, and say what it is called."""
    from llcuda.models import put_model  # noqa: PLC0415 - `--help` needs no models
    from llcuda.storage import open_remote, push_model  # noqa: PLC0415
    from llcuda.store import ModelStore  # noqa: PLC0415

    urls = arguments.storage_url or storage_urls()
    remote = open_remote(urls) if urls else None
    store, name = ModelStore(), _to_name(arguments.file)
    is_stored = remote is not None and not Path(arguments.file).exists() and store.is_in(name)
    model = store.get_model(name) if is_stored else put_model(arguments.file, arguments.name, is_copied=arguments.copy)
    name = name if is_stored else arguments.name or model.names[0]
    if remote is not None:
        push_model(store, name, remote, bytes_per_second=arguments.limit_rate)
    where = f" at {remote.url}" if remote else ""
    show(_to_json(model), f"{name}, {format_bytes(model.bytes)}{where}: use it with -m {name}", as_json=arguments.json)
    return 0


def run_get(arguments: argparse.Namespace) -> int:
    """Have the files in the store, from the remote if they are only there, write them, and say where."""
    from llcuda.errors import ModelNotFoundError  # noqa: PLC0415
    from llcuda.storage import open_remote, pull_blob, pull_model  # noqa: PLC0415
    from llcuda.store import ModelStore  # noqa: PLC0415

    urls = arguments.storage_url or storage_urls()
    remote = open_remote(urls) if urls else None
    if remote is None and arguments.output is None:
        raise UsageError("without a remote there is nothing to get", hint="Say where to with -o, or add --storage-url.")
    store, name = ModelStore(), _to_name(arguments.model)
    is_digest = name.startswith("sha256:")
    if remote is not None and not store.is_in(name):
        if is_digest:
            pull_blob(store, name, remote, bytes_per_second=arguments.limit_rate)
        else:
            pull_model(store, name, remote, bytes_per_second=arguments.limit_rate)
    try:
        layers = {layer.file: layer.digest for layer in store.get_model(name).layers}
    except ModelNotFoundError:
        if not is_digest:
            raise
        layers = {name.replace(":", "-"): name}
    if arguments.output is None:
        paths = [str(store.find(digest)) for digest in layers.values()]
        show(paths, f"use it with -m {name}", as_json=arguments.json)
        return 0
    target = Path(arguments.output)
    if len(layers) > 1 and not target.is_dir():
        raise UsageError(f"the model has {len(layers)} files, and {target} is no folder")
    written = [target / file if target.is_dir() else target for file in layers]
    for path, digest in zip(written, layers.values(), strict=True):
        store.export(digest, path)
    show([str(path) for path in written], "\n".join(map(str, written)), as_json=arguments.json)
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Print the models, those of the remote if there is one."""
    from llcuda.storage import list_remote, open_remote  # noqa: PLC0415
    from llcuda.store import ModelStore  # noqa: PLC0415

    if urls := arguments.storage_url or storage_urls():
        remote = list_remote(open_remote(urls))
        rows = [(one.name, format_bytes(one.bytes), str(len(one.layers)), one.digest[:_SHOWN_DIGITS]) for one in remote]
        plain = [{**dataclasses.asdict(one), "bytes": one.bytes} for one in remote]
        show(plain, format_table(("name", "size", "files", "digest"), rows), as_json=arguments.json)
        return 0
    models = ModelStore().models()
    header = ("name", "size", "quantisation", "files", "last used", "digest")
    show([_to_json(model) for model in models], format_table(header, map(_to_row, models)), as_json=arguments.json)
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print what is known of a model."""
    from llcuda.store import ModelStore  # noqa: PLC0415

    model = ModelStore().get_model(_to_name(arguments.model))
    facts = {name: value for name, value in dataclasses.asdict(model.facts).items() if value is not None}
    rows = [("names", ", ".join(model.names)), ("digest", model.digest), *facts.items()]
    files = [(layer.file, format_bytes(layer.bytes), layer.digest) for layer in model.layers]
    text = "\n\n".join([format_table(("", model.names[0]), rows), format_table(("file", "size", "digest"), files)])
    show(_to_json(model), text, as_json=arguments.json)
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    """Forget the name, and say what that freed."""
    from llcuda.store import ModelStore  # noqa: PLC0415

    store, name = ModelStore(), _to_name(arguments.model)
    names = store.get_model(name).names if name not in store.tags() else (name,)
    freed = sum(store.untag(one) for one in names)
    show({"names": names, "bytes_freed": freed}, "\n".join(names), as_json=arguments.json)
    print_note(f"{format_bytes(freed)} freed")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Read what has changed, and say what is wrong. The exit code is that of a wrong digest if anything is."""
    from llcuda.store import ModelStore  # noqa: PLC0415

    checked = dict(ModelStore().verify())
    wrong = [digest for digest, is_right in checked.items() if not is_right]
    lines = [f"{digest} was changed, and is set aside" for digest in wrong]
    text = "\n".join([f"{len(checked)} files, {len(wrong)} wrong", *lines])
    show({"files": len(checked), "wrong": wrong}, text, as_json=arguments.json)
    return ChecksumMismatchError.exit_code if wrong else 0


def run_collect(arguments: argparse.Namespace) -> int:
    """Remove what is not needed, and say what that freed."""
    from llcuda.store import ModelStore  # noqa: PLC0415

    collected = ModelStore().collect(arguments.keep)
    text = "\n".join(collected.models)
    show(dataclasses.asdict(collected), text, as_json=arguments.json)
    print_note(f"{collected.files} files removed, {format_bytes(collected.bytes_freed)} freed")
    return 0


def run_usage(arguments: argparse.Namespace) -> int:
    """Print what the store takes."""
    from llcuda.store import ModelStore  # noqa: PLC0415

    store = ModelStore()
    usage = store.usage()
    rows = [
        ("folder", str(store.root)),
        ("models", str(usage.models)),
        ("files", str(usage.files)),
        ("size", format_bytes(usage.bytes)),
        ("shared with files elsewhere", format_bytes(usage.shared_bytes)),
        ("without a name", format_bytes(usage.unnamed_bytes)),
    ]
    show({"folder": str(store.root), **dataclasses.asdict(usage)}, format_table(("", ""), rows), as_json=arguments.json)
    return 0


def _to_name(text: str) -> str:
    """Return a digest in its one form, and any other name as it is."""
    from llcuda.store import parse_digest  # noqa: PLC0415

    return parse_digest(text) if re.match("sha256[:-]", text) else text


def _to_json(model: StoredModel) -> dict[str, Any]:
    return {**dataclasses.asdict(model), "bytes": model.bytes}


def _to_row(model: StoredModel) -> tuple[str, ...]:
    return (
        ", ".join(model.names),
        format_bytes(model.bytes),
        model.facts.quantisation or "-",
        str(len(model.layers)),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(model.last_used)),
        model.digest[:_SHOWN_DIGITS],
    )
