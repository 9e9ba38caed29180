"""`llcuda models`: what there is, what is on this disk, and what a file's header says."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from llcuda.cli.options import add_command
from llcuda.cli.output import format_bytes, print_json, print_note, print_table

if TYPE_CHECKING:
    import argparse

    from llcuda.cli.options import Commands
    from llcuda.models import ListedModel, ModelFile

__all__ = ["add_parser"]


def add_parser(commands: Commands) -> None:
    """Add the command and its own commands."""
    parser = commands.add_parser("models", help="list, download, inspect and remove models")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = add_command(actions, run_list, name="list", summary="show the models that are known and on this disk")
    listing.add_argument("--on-disk", action="store_true", help="only those that need no download")
    pull = add_command(actions, run_pull, name="pull", summary="download a model ahead of time, and verify it")
    inspect = add_command(actions, run_inspect, name="inspect", summary="show what a model's header says")
    remove = add_command(actions, run_remove, name="rm", summary="remove a downloaded model from this disk")
    for action in (pull, inspect, remove):
        action.add_argument("model", help="a name, a path, repo:file, a URL, or sha256:…")
    for action in (listing, pull, inspect, remove):
        action.add_argument("--json", action="store_true", help="print JSON")


def run_list(arguments: argparse.Namespace) -> int:
    """Print the demo models, the registry, and what else is on this disk."""
    from llcuda.models import list_models  # noqa: PLC0415 - `--help` needs no models

    models = [model for model in list_models() if model.on_disk or not arguments.on_disk]
    if arguments.json:
        print_json([_to_json(model) for model in models])
    else:
        print_table(("name", "parameters", "quantisation", "size", "on disk"), map(_to_row, models))
    return 0


def run_pull(arguments: argparse.Namespace) -> int:
    """Download the model unless it is here, compare it with its digest, and print where it is."""
    from llcuda.models import pull_model  # noqa: PLC0415

    _print_model(pull_model(arguments.model), as_json=arguments.json)
    return 0


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print what the header of a model on this disk says; nothing is downloaded."""
    from llcuda.models import inspect_model  # noqa: PLC0415

    _print_model(inspect_model(arguments.model), as_json=arguments.json)
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    """Remove the model and say what that freed."""
    from llcuda.models import remove_model  # noqa: PLC0415

    removal = remove_model(arguments.model)
    if arguments.json:
        print_json(dataclasses.asdict(removal))
    else:
        for file in removal.files:
            print(file)
        print_note(f"{format_bytes(removal.bytes_freed)} freed")
    return 0


def _to_json(model: ListedModel) -> dict[str, Any]:
    return {**dataclasses.asdict(model), "path": str(model.path) if model.path else None}


def _to_row(model: ListedModel) -> tuple[str, ...]:
    return (
        model.name,
        _format_parameters(model.parameters),
        model.quantisation or "-",
        format_bytes(model.bytes),
        "yes" if model.on_disk else "",
    )


def _format_parameters(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"  # noqa: PLR2004 - where M become B


def _print_model(model: ModelFile, *, as_json: bool) -> None:
    facts = {
        **dataclasses.asdict(model.info),
        "source": model.source,
        "digest": model.digest,
        "mmproj": str(model.mmproj) if model.mmproj else None,
        "files": [str(part) for part in model.parts],
    }
    if as_json:
        print_json(facts)
        return
    metadata = facts.pop("metadata")
    facts["parameters"] = f"{_format_parameters(model.info.parameters)} ({model.info.parameters})"
    facts["file_bytes"] = f"{format_bytes(model.info.file_bytes)} ({model.info.file_bytes})"
    rows = [(name.replace("_", " "), _to_text(value)) for name, value in facts.items() if value is not None]
    print_table(("", model.name), rows)
    print()
    print_table(("metadata", ""), [(name, _to_text(value)) for name, value in metadata.items()])


def _to_text(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("\n", "\\n")
