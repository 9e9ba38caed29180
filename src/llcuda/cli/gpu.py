"""`llcuda gpu`: which GPUs there are, which backend fits them, what stands in their way, and what was installed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from llcuda.cli import gpu_install
from llcuda.cli.arguments import add_command
from llcuda.cli.output import format_table, show
from llcuda.cli.parser import add_commands
from llcuda.errors import NoDeviceError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from llcuda.cli.arguments import Commands
    from llcuda.devices import BackendChoice, Devices
    from llcuda.native import Backend, InstalledBundle

__all__ = ["add_parser", "format_backend"]

_HEADER = ("GPU", "name", "compute", "memory", "free", "use", "UUID")


def add_parser(commands: Commands) -> None:
    """Add the command and its own commands."""
    actions = add_commands(commands.add_parser("gpu", help="show the GPUs and what is used; install a CUDA backend"))
    status = add_command(actions, run_status, name="status", summary="show the GPUs, the backends, and what is chosen")
    status.add_argument("--device", default="auto", help="auto, cuda, cuda:N or cpu: what would be chosen for it")
    status.add_argument("--json", action="store_true", help="print JSON")
    gpu_install.add_parsers(actions)


def run_status(arguments: argparse.Namespace) -> int:
    """Print what the driver says and what an engine would choose; the exit code is 4 if a GPU was asked for in vain."""
    from llcuda.devices import choose_backend, find_devices  # noqa: PLC0415 - `--help` needs neither
    from llcuda.native import find_backends, read_installed  # noqa: PLC0415

    devices, backends, installed = find_devices(refresh=True), find_backends(), read_installed()
    choice = choose_backend(devices, backends, device=arguments.device)
    rest = [gpu_install.to_json(bundle) for bundle in installed]
    text = "\n".join([*_describe(devices, backends, choice), *_describe_installed(installed, backends)])
    show({**_to_json(devices, backends, choice), "installed": rest}, text, as_json=arguments.json)
    return NoDeviceError.exit_code if arguments.device.startswith("cuda") and choice.backend is None else 0


def format_backend(backend: Backend) -> str:
    """Return a backend for people: ``cuda12 (CUDA 12.9.86, driver 550.54.14 or newer)``."""
    return f"{backend.name} (CUDA {backend.toolkit}, driver {backend.driver_floor} or newer)"


def _describe(devices: Devices, backends: Sequence[Backend], choice: BackendChoice) -> Iterator[str]:
    if devices.gpus or devices.hidden:
        yield f"{format_table(_HEADER, _to_rows(devices, choice))}\n"
    yield f"driver:    {devices.driver or 'none'}{f', for CUDA up to {devices.cuda}' if devices.cuda else ''}"
    yield f"backends:  {', '.join(map(format_backend, backends)) or 'none in this installation'}"
    yield f"situation: {devices.detail}"
    yield f"choice:    {choice.sentence}"
    if choice.remedy:
        yield f"try:       {choice.remedy}"


def _describe_installed(installed: Sequence[InstalledBundle], backends: Sequence[Backend]) -> Iterator[str]:
    from llcuda.native import package_dir  # noqa: PLC0415

    libraries = {backend.library.parent for backend in backends}
    for bundle in installed:
        if not bundle.is_backend and package_dir().is_dir():
            use = "Not used: the package carries its own executables."
        elif bundle.is_backend and bundle.folder not in libraries:
            use = "Not used: it was made for another build of llama.cpp."
        else:
            use = gpu_install.describe_proof(bundle)
        yield f"installed: {bundle.profile} on {bundle.date} from {bundle.source}. {use}"


def _to_rows(devices: Devices, choice: BackendChoice) -> Iterator[tuple[str, ...]]:
    for gpu in (*devices.gpus, *devices.hidden):
        use = "used" if gpu in choice.gpus else "left out" if gpu in devices.gpus else "hidden"
        total = f"{gpu.memory_total_mib} MiB" if gpu.memory_total_mib else "-"
        free = "-" if gpu.memory_free_mib is None else f"{gpu.memory_free_mib} MiB"
        yield str(gpu.index), gpu.name, gpu.capability or "-", total, free, use, gpu.uuid


def _to_json(devices: Devices, backends: Sequence[Backend], choice: BackendChoice) -> dict[str, Any]:
    return {
        "devices": dataclasses.asdict(devices),
        "backends": [{**dataclasses.asdict(backend), "library": str(backend.library)} for backend in backends],
        "choice": {
            "code": choice.code,
            "backend": choice.backend.name if choice.backend else None,
            "gpus": [gpu.uuid for gpu in choice.gpus],
            "sentence": choice.sentence,
            "remedy": choice.remedy,
        },
    }
