"""vendor/patches: a short queue of unified diffs that mend llama.cpp, applied exactly where they say, or not at all.

Neither `patch` nor git is certain to be where a wheel is built, and `patch` tries other places for a hunk.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.binaries.errors import PreparationError

__all__ = ["Patch", "apply_patch", "read_patches"]

FILES = re.compile(r"^--- (?=a/)", re.MULTILINE)
HUNKS = re.compile(r"^(?=@@ )", re.MULTILINE)
RANGES = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch's file name and its text: a header, and a unified diff of paths below a/ and b/."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def header(self) -> str:
        return FILES.split(self.text)[0]

    @property
    def diff(self) -> str:
        return self.text.removeprefix(self.header)


def read_patches(folder: Path) -> tuple[Patch, ...]:
    """Return the queue in its order, which is that of the names; a folder that is not there is an empty one."""
    return tuple(Patch(path.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.patch")))


def apply_patch(patch: Patch, *, tree: Path) -> None:
    """Change the files under `tree`. Raises PreparationError if it touches another path, or a hunk does not match."""
    parts = FILES.split(patch.text)[1:]
    if not parts:
        raise PreparationError(f"{patch.name} holds no diff of a path below a/")
    for part in parts:
        head, *hunks = HUNKS.split(part)
        path = find_target(patch, head, tree=tree)
        lines = path.read_bytes().decode().split("\n")
        shift = 0
        for hunk in hunks:
            shift += apply_hunk(patch, hunk, lines=lines, shift=shift)
        path.write_bytes("\n".join(lines).encode())


def find_target(patch: Patch, head: str, *, tree: Path) -> Path:
    match = re.fullmatch(r"a/(\S+)\n\+\+\+ b/(\S+)\n", head)
    if match is None or match[1] != match[2]:
        raise PreparationError(f"{patch.name} does more than change a file: {head.strip()!r}")
    path = PurePosixPath(match[1])
    if path.is_absolute() or ".." in path.parts:
        raise PreparationError(f"{patch.name} names a path that leaves llama.cpp's source: {match[1]!r}")
    if not (tree / path).is_file():
        raise PreparationError(f"{patch.name} changes {path}, which is not there")
    return tree / path


def apply_hunk(patch: Patch, hunk: str, *, lines: list[str], shift: int) -> int:
    """Change `lines`, by whose growth so far the hunk's place is shifted; return by how many lines they grew."""
    head, *body = hunk.removesuffix("\n").split("\n")
    ranges = RANGES.match(head)
    old = [line[1:] for line in body if line[:1] in {" ", "-"}]
    new = [line[1:] for line in body if line[:1] in {" ", "+"}]
    if ranges is None or not old or (len(old), len(new)) != (int(ranges[2] or 1), int(ranges[3] or 1)):
        raise PreparationError(f"{patch.name} is damaged at {head!r}")
    first = int(ranges[1]) - 1 + shift
    if lines[first : first + len(old)] != old:
        raise PreparationError(
            f"{patch.name} does not fit this build of llama.cpp at {head!r}. "
            f"Make it anew against the build that vendor/llama.cpp.lock pins, or remove it if upstream has it"
        )
    lines[first : first + len(old)] = new
    return len(new) - len(old)
