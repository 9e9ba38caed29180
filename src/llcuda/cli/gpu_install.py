"""`llcuda gpu install`, `verify`, `rollback`, `rm`: add a CUDA backend to this installation, and take it out again."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from llcuda import settings
from llcuda.cli.arguments import add_command
from llcuda.cli.output import format_table, print_note, show
from llcuda.errors import BinaryError, UsageError

if TYPE_CHECKING:
    import argparse

    from llcuda.cli.arguments import Commands
    from llcuda.native import InstalledBundle

__all__ = ["add_parsers", "describe_proof", "to_json"]

_CONSENT = "AUTO_UPGRADE_GPU"


def add_parsers(actions: Commands) -> None:
    """Add the commands that change what is installed."""
    install = add_command(
        actions, run_install, name="install", summary="install a CUDA backend for this machine, and prove that it works"
    )
    install.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        help="a bundle, a folder or address with an index.json, or hf://datasets/OWNER/NAME (default: the releases)",
    )
    install.add_argument("--backend", metavar="NAME", help="cuda12 or cuda13 (default: what fits the GPUs)")
    install.add_argument("-y", "--yes", action="store_true", help=f"do not ask; {_CONSENT}=true says the same")
    install.add_argument("--force", action="store_true", help="install again what is installed already")
    verify = add_command(actions, run_verify, name="verify", summary="read every installed file and check its digest")
    rollback = add_command(
        actions, run_rollback, name="rollback", summary="go back to what was in use before the last install"
    )
    remove = add_command(actions, run_remove, name="rm", summary="remove an installed backend")
    remove.add_argument("profile", metavar="NAME", help="cuda12, cuda13 or whatever `llcuda gpu status` lists")
    for parser in (install, verify, rollback, remove):
        parser.add_argument("--json", action="store_true", help="print JSON")


def run_install(arguments: argparse.Namespace) -> int:
    """Say what would be installed, ask, install it, and print what was proved."""
    from llcuda.installer import BinaryInstaller  # noqa: PLC0415 - `--help` needs no installer

    installer = BinaryInstaller(source=arguments.source)
    plan = installer.plan(arguments.backend)
    print_note(f"This installs {plan}.")
    _require_consent(given=arguments.yes)
    installed = installer.install(plan, force=arguments.force)
    text = f"Installed {installed.profile} in {installed.folder}.\n{describe_proof(installed)}"
    show(to_json(installed), text, as_json=arguments.json)
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Print every problem; the exit code is 3 if there is one."""
    from llcuda.installer import BinaryInstaller  # noqa: PLC0415

    installer = BinaryInstaller()
    problems, count = installer.verify(), len(installer.list_installed())
    text = f"{count} installed, every SHA-256 right." if count else "Nothing is installed beside the package."
    if problems:
        text = format_table(("file", "problem", "try"), [(str(one.path), one.what, one.remedy) for one in problems])
    plain = [{**dataclasses.asdict(problem), "path": str(problem.path)} for problem in problems]
    show(plain, text, as_json=arguments.json)
    return BinaryError.exit_code if problems else 0


def run_rollback(arguments: argparse.Namespace) -> int:
    """Go back once, and print what is in use then."""
    from llcuda.installer import BinaryInstaller  # noqa: PLC0415

    return _print_left(BinaryInstaller().rollback(), as_json=arguments.json)


def run_remove(arguments: argparse.Namespace) -> int:
    """Remove one, and print what is left."""
    from llcuda.installer import BinaryInstaller  # noqa: PLC0415

    installer = BinaryInstaller()
    installer.remove(arguments.profile)
    return _print_left(installer.list_installed(), as_json=arguments.json)


def describe_proof(bundle: InstalledBundle) -> str:
    """Return in one sentence what was seen when the bundle was tried."""
    proof = bundle.proof
    if proof["device"] == "cpu":
        return f"Proved: the demo model answered right on the CPU, at {proof['tokens_per_sec']} tokens/s."
    ratio = proof["tokens_per_sec"] / proof["cpu_tokens_per_sec"]
    return (
        f"Proved: the demo model was on {' and '.join(proof['gpus'])} and answered right, at "
        f"{proof['tokens_per_sec']} tokens/s, {ratio:.2f} times the CPU. It is too small to show what a GPU is good at."
    )


def to_json(bundle: InstalledBundle) -> dict[str, Any]:
    """Return the bundle as plain data."""
    return {**dataclasses.asdict(bundle), "folder": str(bundle.folder)}


def _require_consent(*, given: bool) -> None:
    if given or settings.is_set(_CONSENT):
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask whether to install it", hint=f"Add --yes, or set {_CONSENT}=true.")
    print("Install it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise UsageError("nothing was installed, as you said", hint="Answer y, or add --yes.")


def _print_left(bundles: tuple[InstalledBundle, ...], *, as_json: bool) -> int:
    names = ", ".join(f"{bundle.profile} (installed {bundle.date})" for bundle in bundles)
    show([to_json(bundle) for bundle in bundles], f"In use: {names or 'what the package carries'}.", as_json=as_json)
    return 0
