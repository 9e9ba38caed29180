"""`llcuda models`: what there is, what is on this disk, and what a file's header says."""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llcuda.cli.arguments import add_command, add_frozen_flag, read_bytes
from llcuda.cli.output import format_bytes, format_table, print_note, show
from llcuda.cli.parser import add_commands
from llcuda.errors import LlcudaError
from llcuda.settings import storage_urls

if TYPE_CHECKING:
    import argparse

    from llcuda.cli.arguments import Commands
    from llcuda.devices import Gpu
    from llcuda.gguf import MemoryEstimate
    from llcuda.models import ListedModel, ModelFile

__all__ = ["add_parser"]

_LEFT_OUT = {"tensors", "arrays"}
"""Of the header: thousands of names and numbers that nobody reads."""
_MIB = 1 << 20
_SHORT_CONTEXT = 4096
_COMPUTATION_BYTES = 256 * _MIB
"""About what computing takes, and an eighth of the file a short context, for a model whose header is not here."""


def add_parser(commands: Commands) -> None:
    """Add the command and its own commands."""
    actions = add_commands(commands.add_parser("models", help="list, download, inspect, share and remove models"))
    listing = add_command(actions, run_list, name="list", summary="show the models that are known and on this disk")
    listing.add_argument("--on-disk", action="store_true", help="only those that need no download")
    pull = add_command(actions, run_pull, name="pull", summary="download a model ahead of time, and verify it")
    add_frozen_flag(pull)
    push = add_command(actions, run_push, name="push", summary="have a model at a remote or in a registry")
    tag = add_command(actions, run_tag, name="tag", summary="give a model another name, in the store")
    inspect = add_command(actions, run_inspect, name="inspect", summary="show what a model's header says")
    _add_memory_flags(inspect)
    remove = add_command(actions, run_remove, name="rm", summary="remove a downloaded model from this disk")
    lock = add_command(actions, run_lock, name="lock", summary="pin a model's digests in llcuda.lock, for --frozen")
    quantize = add_command(actions, run_quantize, name="quantize", summary="make a smaller model, and store it")
    for action in (pull, push, tag, inspect, remove, quantize):
        action.add_argument("model", help="a name, a path, repo:file, an address, or sha256:…")
    push.add_argument(
        "to", nargs="*", metavar="URL", default=storage_urls(),
        help="oci://HOST/REPOSITORY:TAG, or the address of a remote (default: $LLCUDA_STORAGE_URL)",
    )  # fmt: skip
    push.add_argument("--limit-rate", metavar="SIZE", type=read_bytes, help="bytes a second at most, such as 10MB")
    tag.add_argument("name", help="the new name")
    lock.add_argument("model", nargs="+", help="what is named when a model is loaded")
    quantize.add_argument("quantisation", metavar="TYPE", help="such as Q4_K_M; llcuda-quantize --help lists them")
    quantize.add_argument("--name", help="what it is called in the store (default: the model's name and the type)")
    quantize.add_argument("--imatrix", metavar="FILE", help="an importance matrix, as llcuda-imatrix writes it")
    quantize.add_argument("--allow-requantize", action="store_true", help="also a model that is quantised already")
    quantize.add_argument("--threads", type=int, metavar="N", help="threads (default: the cores)")
    for action in (listing, pull, push, tag, inspect, remove, lock, quantize):
        action.add_argument("--json", action="store_true", help="print JSON")


def _add_memory_flags(parser: argparse.ArgumentParser) -> None:
    """Add what the need for memory depends on."""
    parser.add_argument("--ctx-size", type=int, metavar="N", help="tokens to plan for (default: the model's own)")
    for which, what in (("k", "keys"), ("v", "values")):
        summary = f"how {what} are kept: f16 (the default), q8_0, q4_0 …"
        parser.add_argument(f"--cache-type-{which}", default="f16", metavar="TYPE", help=summary)
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="sequences at a time (default: 1)")


def run_list(arguments: argparse.Namespace) -> int:
    """Print the demo models, the registry, and what else is on this disk."""
    from llcuda.models import list_models  # noqa: PLC0415 - `--help` needs no models

    models = [model for model in list_models() if model.on_disk or not arguments.on_disk]
    free = _find_free_memory()
    fitting = [(model, need := _measure_need(model), _judge_fit(need, *free)) for model in models]
    plain = [{**_to_json(model), "needs_bytes": need, "fits": fit} for model, need, fit in fitting]
    header = ("name", "parameters", "quantisation", "size", "context", "on disk", "needs", "fits", "last used")
    show(plain, format_table(header, (_to_row(*row) for row in fitting)), as_json=arguments.json)
    return 0


def run_pull(arguments: argparse.Namespace) -> int:
    """Download the model unless it is here, compare it with its digest, and say where it is and how to use it."""
    from llcuda.models import pull_model  # noqa: PLC0415

    model = pull_model(arguments.model)
    text = f"{model.path}, {format_bytes(model.info.file_bytes)}: use it with -m {arguments.model}"
    show(_to_facts(model), text, as_json=arguments.json)
    return 0


def run_push(arguments: argparse.Namespace) -> int:
    """Have the model at the remote, and say how it is named from there."""
    from llcuda.models import push_model  # noqa: PLC0415

    to = arguments.to[0] if len(arguments.to) == 1 else arguments.to
    model = push_model(arguments.model, to, bytes_per_second=arguments.limit_rate)
    show(dataclasses.asdict(model), f"{model.digest}, {format_bytes(model.bytes)}, {to}", as_json=arguments.json)
    return 0


def run_tag(arguments: argparse.Namespace) -> int:
    """Give the model a name."""
    from llcuda.models import tag_model  # noqa: PLC0415

    model = tag_model(arguments.model, arguments.name)
    text = f"{arguments.name}, {format_bytes(model.bytes)}: use it with -m {arguments.name}"
    show(dataclasses.asdict(model), text, as_json=arguments.json)
    return 0


def run_lock(arguments: argparse.Namespace) -> int:
    """Pin the models, and say what is pinned."""
    from llcuda.models import lock_model  # noqa: PLC0415

    pinned = [lock_model(name) for name in arguments.model]
    rows = [(one.name, file, digest) for one in pinned for file, digest in one.files.items()]
    plain = [dataclasses.asdict(one) for one in pinned]
    show(plain, format_table(("name", "file", "digest"), rows), as_json=arguments.json)
    return 0


def run_quantize(arguments: argparse.Namespace) -> int:
    """Quantise the model, and say what the result is called."""
    from llcuda.models import quantise_model  # noqa: PLC0415

    model = quantise_model(
        arguments.model, arguments.quantisation, stored_as=arguments.name, imatrix=arguments.imatrix,
        is_requantised=arguments.allow_requantize, threads=arguments.threads,
    )  # fmt: skip
    name = arguments.name or model.names[-1]
    text = f"{name}, {format_bytes(model.bytes)}: use it with -m {name}"
    show(dataclasses.asdict(model), text, as_json=arguments.json)
    return 0


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print what the header of a model on this disk says, and the memory it will need; nothing is downloaded."""
    from llcuda.devices import find_devices  # noqa: PLC0415
    from llcuda.models import estimate_model, inspect_model  # noqa: PLC0415

    model = inspect_model(arguments.model)
    estimate = estimate_model(
        model,
        ctx_size=arguments.ctx_size,
        n_parallel=arguments.parallel,
        cache_type_k=arguments.cache_type_k,
        cache_type_v=arguments.cache_type_v,
    )
    gpus = [gpu for gpu in find_devices().gpus if gpu.memory_free_mib is not None]
    text = "\n\n".join([*_format_facts(model), format_table(("memory", ""), _to_memory_rows(estimate, gpus))])
    show({**_to_facts(model), "memory": _to_memory(estimate, gpus)}, text, as_json=arguments.json)
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    """Remove the model and say what that freed."""
    from llcuda.models import remove_model  # noqa: PLC0415

    removal = remove_model(arguments.model)
    show(dataclasses.asdict(removal), "\n".join(removal.files), as_json=arguments.json)
    print_note(f"{format_bytes(removal.bytes_freed)} freed")
    return 0


def _to_json(model: ListedModel) -> dict[str, Any]:
    return {**dataclasses.asdict(model), "path": str(model.path) if model.path else None}


def _find_free_memory() -> tuple[int, int]:
    """Return how many bytes are free on the GPUs together, and for the CPU."""
    from llcuda.devices import find_devices  # noqa: PLC0415
    from llcuda.server.free_memory import read_free_memory  # noqa: PLC0415

    return sum(gpu.memory_free_mib or 0 for gpu in find_devices().gpus) * _MIB, (read_free_memory() or 0) * _MIB


def _measure_need(model: ListedModel) -> int:
    """Return the memory that the model takes with a short context: what its header says, or what its size suggests."""
    from llcuda.models import estimate_model, inspect_model  # noqa: PLC0415

    if model.on_disk:
        with suppress(LlcudaError):
            return estimate_model(inspect_model(model.name), ctx_size=_SHORT_CONTEXT).total_bytes
    return model.bytes + model.bytes // 8 + _COMPUTATION_BYTES


def _judge_fit(need: int, gpus: int, cpu: int) -> str:
    """Return whether a model fits this machine: on its GPUs, or partly there, or on the CPU if it has no GPU."""
    if need <= (gpus or cpu):
        return "yes"
    return "partly" if gpus and need <= gpus + cpu else "no"


def _to_row(model: ListedModel, need: int, fit: str) -> tuple[str, ...]:
    return (
        model.name,
        _format_parameters(model.parameters),
        model.quantisation or "-",
        format_bytes(model.bytes),
        str(model.context or "-"),
        "yes" if model.on_disk else "",
        format_bytes(need),
        fit,
        time.strftime("%Y-%m-%d %H:%M", time.localtime(model.last_used)) if model.last_used else "",
    )


def _format_parameters(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"  # noqa: PLR2004 - where M become B


def _fits(estimate: MemoryEstimate, gpu: Gpu) -> bool:
    return estimate.gpu_bytes <= (gpu.memory_free_mib or 0) * _MIB


def _to_memory(estimate: MemoryEstimate, gpus: list[Gpu]) -> dict[str, Any]:
    return {
        **dataclasses.asdict(estimate),
        "total_bytes": estimate.total_bytes,
        "gpus": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "free_bytes": (gpu.memory_free_mib or 0) * _MIB,
                "fits": _fits(estimate, gpu),
            }
            for gpu in gpus
        ],
    }


def _to_memory_rows(estimate: MemoryEstimate, gpus: list[Gpu]) -> list[tuple[str, str]]:
    rows = [
        ("weights", format_bytes(estimate.weights_bytes)),
        (f"KV cache at {estimate.ctx_size} tokens", format_bytes(estimate.kv_bytes)),
        ("computation", format_bytes(estimate.compute_bytes)),
        *([("projector", format_bytes(estimate.projector_bytes))] if estimate.projector_bytes else []),
        ("total", format_bytes(estimate.total_bytes)),
        ("on one GPU", format_bytes(estimate.gpu_bytes)),
    ]
    for gpu in gpus:
        free = format_bytes((gpu.memory_free_mib or 0) * _MIB)
        rows.append((f"fits GPU {gpu.index} ({gpu.name})", f"{'yes' if _fits(estimate, gpu) else 'no'}, {free} free"))
    return rows


def _to_facts(model: ModelFile) -> dict[str, Any]:
    info = model.info
    return {
        **{each.name: getattr(info, each.name) for each in dataclasses.fields(info) if each.name not in _LEFT_OUT},
        "source": model.source,
        "digest": model.digest,
        "mmproj": str(model.mmproj) if model.mmproj else None,
        "files": [str(part) for part in model.parts],
    }


def _format_facts(model: ModelFile) -> tuple[str, str]:
    facts = _to_facts(model)
    metadata = facts.pop("metadata")
    facts["parameters"] = f"{_format_parameters(model.info.parameters)} ({model.info.parameters})"
    facts["file_bytes"] = f"{format_bytes(model.info.file_bytes)} ({model.info.file_bytes})"
    rows = [(name.replace("_", " "), _to_text(value)) for name, value in facts.items() if value is not None]
    header = [(name, _to_text(value)) for name, value in metadata.items()]
    return format_table(("", model.name), rows), format_table(("metadata", ""), header)


def _to_text(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("\n", "\\n")
