"""Move the pin: rewrite vendor/llama.cpp.lock for another upstream build."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from tools.binaries.errors import PreparationError
from tools.binaries.fetch import download, hash_tree, unpack
from tools.binaries.lock import LOCK_PATH, ROOT, Lock, hash_file, read_lock, write_lock

__all__ = ["bump", "parse_tag"]


def parse_tag(text: str) -> tuple[str, str]:
    """Return upstream's tag and the source package's version for `b11434`, `11434` or `11434.0.0`."""
    match = re.fullmatch(r"b?(\d+)(\.\d+\.\d+)?", text)
    if match is None:
        raise PreparationError(
            f"{text!r} is neither an upstream tag (b11434) nor a version of the source package (11434.0.0)"
        )
    return f"b{match[1]}", f"{match[1]}{match[2] or '.0.0'}"


def bump(wanted: str, *, archive: Path | None = None, lock_path: Path = LOCK_PATH) -> Lock:
    """Rewrite the lock file for `wanted` from its source package, downloaded or given; leave the tree alone."""
    tag, version = parse_tag(wanted)
    old = read_lock(lock_path)
    with tempfile.TemporaryDirectory(prefix=".bump-", dir=ROOT / "vendor") as temporary:
        folder = Path(temporary)
        source = archive or download(f"{old.package}=={version}", sha256=None, folder=folder)
        unpack(old, source, folder=folder / "tree")
        data: dict[str, Any] = {
            **old.data,
            "tag": tag,
            "version": read_version(folder / "tree"),
            "source": {
                **old.data["source"],
                "version": version,
                "sha256": hash_file(source),
                "bytes": source.stat().st_size,
            },
            "tree": hash_tree(folder / "tree"),
        }
    write_lock(data, lock_path)
    return read_lock(lock_path)


def read_version(tree: Path) -> str:
    text = (tree / "CMakeLists.txt").read_text(encoding="utf-8")
    found = [re.search(rf"set\(LLAMA_VERSION_{part}\s+(\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    if not all(found):
        raise PreparationError(
            "upstream states its version in a new way: read_version() in tools/binaries/bump.py must learn it"
        )
    return ".".join(match[1] for match in found if match)
