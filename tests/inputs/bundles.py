"""Bundles for tests: as `prepare_binaries.py pack` makes them, and each of the ways in which one can wish us ill."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import llcuda

if TYPE_CHECKING:
    from pathlib import Path

TAG = "b11434"
CUDA = {
    "driver_floor": "550.54.14",
    "compression": "size",
    "flash_attention": True,
    "cuda_graphs": True,
    "runtime": "static",
    "cublas": "libcublas.so.12",
}
LIBRARY = "libggml-cuda.so"
_COPIED = ("llama_cpp", "profile", "cpu_variants", "toolkit", "architectures", "date")


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Draft:
    """A bundle before it is written: its record, its members, and what the index says of it."""

    profile: str = "cuda12"
    files: dict[str, bytes] = field(default_factory=lambda: {LIBRARY: b"\x7fELF, or near enough"})
    record: dict[str, Any] = field(default_factory=dict)
    """Changes to the record."""
    entry: dict[str, Any] = field(default_factory=dict)
    """Changes to the entry in the index."""

    def make_record(self) -> dict[str, Any]:
        cuda = self.profile.startswith("cuda")
        return {
            "schema": 1,
            "llama_cpp": {"tag": TAG, "version": "0.6.0", "commit": TAG},
            "profile": self.profile,
            "compiler": "gcc 12",
            "flags": {},
            "cpu_variants": [],
            "cpu_features": [],
            "toolkit": "12.9.86" if cuda else None,
            "architectures": ["sm_75", "compute_90"] if cuda else [],
            "date": "2026-01-01T00:00:00Z",
            "cuda": CUDA if cuda else None,
            "files": {
                name: {"sha256": digest(data), "bytes": len(data), "executable": not name.endswith(".so")}
                for name, data in self.files.items()
            },
            **self.record,
        }

    def members(self) -> list[tuple[tarfile.TarInfo, bytes]]:
        """Return the files as they go into the archive: the record first."""
        record = json.dumps(self.make_record()).encode()
        return [file(name, data) for name, data in {"BUILD.json": record, **self.files}.items()]

    def make_entry(self, data: bytes, name: str) -> dict[str, Any]:
        record = self.make_record()
        return {
            "name": name,
            "version": llcuda.__version__,
            "sha256": digest(data),
            "bytes": len(data),
            "unpacked_bytes": sum(map(len, self.files.values())),
            **{key: record[key] for key in _COPIED},
            "driver_floor": (record["cuda"] or {}).get("driver_floor"),
            **self.entry,
        }


def file(name: str, data: bytes, **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    return member, data


def pack_members(members: list[tuple[tarfile.TarInfo, bytes]], *, format: int = tarfile.USTAR_FORMAT) -> bytes:  # noqa: A002
    """Return an archive of these members, whatever they are."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return gzip.compress(raw.getvalue(), mtime=0)


def write_bundle(folder: Path, draft: Draft, *, data: bytes | None = None) -> Path:
    """Write the bundle and a folder's index that lists it alone; ``data`` is another archive in its place."""
    folder.mkdir(parents=True, exist_ok=True)
    data = pack_members(draft.members()) if data is None else data
    path = folder / f"llcuda-{llcuda.__version__}-{draft.profile}-linux-x86_64.tar.gz"
    path.write_bytes(data)
    index = {"schema": 1, "bundles": [draft.make_entry(data, path.name)]}
    (folder / "index.json").write_text(json.dumps(index))
    return path
