#!/usr/bin/env python3
"""Everything that puts binaries into the package: fetch, bump, build, stage, unstage, verify, pack.

It needs the standard library alone, and pyelftools to look into binaries; what it does is in tools/binaries. The
build itself calls `fetch`, `web-ui`, `record` and `sbom`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tools.binaries.build import PROFILES, WEB_UI, CudaBuild, build
from tools.binaries.bump import bump
from tools.binaries.bundle import STAGED, pack, stage, unstage, verify
from tools.binaries.errors import PreparationError
from tools.binaries.fetch import fetch
from tools.binaries.lock import ROOT, TREE_PATH, read_lock
from tools.binaries.records import list_toolkits, write_record
from tools.binaries.sbom import write_sbom
from tools.binaries.web_ui import ARCHIVE_NAME, build_web_ui, read_packages


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = parser().parse_args(arguments)
    try:
        print(options.run(options))
    except PreparationError as error:
        print(f"prepare_binaries.py: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("fetch", help="get llama.cpp's source, verify it and unpack it into vendor/llama.cpp")
    command.add_argument("--archive", type=Path, metavar="FILE", help="use this file instead of the network")
    command.set_defaults(run=run_fetch)

    command = commands.add_parser("bump", help="rewrite vendor/llama.cpp.lock for another upstream build")
    wanted = command.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--tag", dest="wanted", metavar="bNNNN", help="upstream's tag")
    wanted.add_argument("--version", dest="wanted", metavar="VERSION", help="the source package's version")
    command.add_argument("--archive", type=Path, metavar="FILE", help="use this file instead of the network")
    command.set_defaults(run=run_bump)

    command = commands.add_parser("build", help="build the binaries into a folder")
    command.add_argument("--profile", choices=PROFILES, default="native", help="CPU variants (default: %(default)s)")
    command.add_argument("--cuda", type=Path, metavar="TOOLKIT", help="add the CUDA backend that this toolkit compiles")
    command.add_argument(
        "--architectures",
        default="native",
        metavar="LIST",
        help="the backend's GPUs: native, release, or a list such as 75-real;90-virtual (default: %(default)s)",
    )
    command.add_argument("--cuda-jobs", type=int, metavar="N", help="how many of nvcc at once (default: --jobs)")
    command.add_argument("--jobs", type=int, metavar="N", help="how many compilers at once (default: ninja's)")
    command.add_argument("--build-dir", type=Path, metavar="DIR", help="where (default: build/PROFILE)")
    command.add_argument(
        "--web-ui",
        choices=WEB_UI,
        default="auto",
        help="the page /chat; auto: where npm can build it (default: %(default)s)",
    )
    command.set_defaults(run=run_build)

    command = commands.add_parser("stage", help="put built binaries into src/llcuda/binaries")
    command.add_argument(
        "--from",
        dest="sources",
        type=Path,
        action="append",
        metavar="DIR|BUNDLE",
        help="a build's install folder or a bundle; again for each CUDA backend (default: build/native/install)",
    )
    command.set_defaults(run=run_stage)

    command = commands.add_parser("unstage", help="remove them again")
    command.set_defaults(run=run_unstage)

    command = commands.add_parser("verify", help="check a binaries folder: hashes, libraries, execute bits, hardening")
    command.add_argument("directory", type=Path, nargs="?", default=STAGED, metavar="DIR")
    command.set_defaults(run=run_verify)

    command = commands.add_parser("pack", help="make a bundle of a binaries folder, and its entry in the index")
    command.add_argument("--from", dest="source", type=Path, metavar="DIR", default=STAGED)
    command.add_argument("--output", type=Path, metavar="DIR", default=ROOT / "dist")
    command.set_defaults(run=run_pack)

    command = commands.add_parser("web-ui", help="build the page /chat with npm (the build calls this)")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.set_defaults(run=run_web_ui)

    command = commands.add_parser("record", help="write BUILD.json into an installed folder (the build calls this)")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("--facts", type=Path, required=True, metavar="FILE")
    command.set_defaults(run=run_record)

    command = commands.add_parser("sbom", help="write the bill of materials (the build calls this)")
    command.add_argument("output", type=Path, metavar="FILE")
    command.add_argument("--toolkit", action="append", default=[], metavar="VERSION", help="a CUDA backend's toolkit")
    command.add_argument(
        "--web-ui", type=Path, default=STAGED / ARCHIVE_NAME, metavar="FILE", help="the page's archive"
    )
    command.set_defaults(run=run_sbom)
    return top


def run_fetch(options: argparse.Namespace) -> str:
    lock = read_lock()
    fetched = fetch(lock, archive=options.archive)
    return f"llama.cpp {lock.tag} {'was unpacked into' if fetched else 'is in'} vendor/llama.cpp"


def run_bump(options: argparse.Namespace) -> str:
    lock = bump(options.wanted, archive=options.archive)
    pinned = f"{lock.package} {lock.package_version} ({lock.tag})"
    return f"vendor/llama.cpp.lock pins {pinned}; now: python prepare_binaries.py fetch"


def run_build(options: argparse.Namespace) -> str:
    fetch(read_lock())
    cuda = CudaBuild(options.cuda, options.architectures, options.cuda_jobs) if options.cuda else None
    where = build(options.profile, cuda=cuda, jobs=options.jobs, build_dir=options.build_dir, web_ui=options.web_ui)
    return f"built: {where}"


def run_stage(options: argparse.Namespace) -> str:
    stage(*(options.sources or [ROOT / "build" / "native" / "install"]))
    return f"staged: {STAGED}"


def run_unstage(_: argparse.Namespace) -> str:
    return "removed" if unstage() else "nothing was staged"


def run_verify(options: argparse.Namespace) -> str:
    verify(options.directory)
    return f"{options.directory} is whole"


def run_pack(options: argparse.Namespace) -> str:
    return f"packed: {pack(options.source, output=options.output)}"


def run_web_ui(options: argparse.Namespace) -> str:
    return f"built: {build_web_ui(read_lock(), options.directory)}"


def run_record(options: argparse.Namespace) -> str:
    write_record(options.directory, facts=json.loads(options.facts.read_text(encoding="utf-8")))
    return f"recorded: {options.directory}"


def run_sbom(options: argparse.Namespace) -> str:
    packages = read_packages(options.web_ui) if options.web_ui.exists() else []
    toolkits = options.toolkit + list_toolkits(STAGED)
    write_sbom(read_lock(), tree=TREE_PATH, output=options.output, toolkits=toolkits, packages=packages)
    return f"written: {options.output}"


if __name__ == "__main__":
    sys.exit(main())
