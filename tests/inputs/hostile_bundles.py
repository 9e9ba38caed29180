"""Sixty bundles and indexes that must leave nothing behind, each with words of the refusal."""

from __future__ import annotations

import gzip
import tarfile
from typing import TYPE_CHECKING, Any

from tests.inputs.bundles import LIBRARY, TAG, Draft, digest, file, pack_members, write_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = b"\x7fELF, or near enough"
BIG = 1 << 40


def list_hostile() -> dict[str, tuple[Callable[[Path], object], str]]:
    """Return by name what writes each into a folder, and what must be said of it."""
    return {
        **dict(_names()),
        **dict(_kinds()),
        **dict(_sizes()),
        **dict(_records()),
        **dict(_archives()),
        **dict(_indexes()),
    }


def _names() -> Iterator[Any]:
    bad = {
        "traversal": "../libggml-cuda.so",
        "deep-traversal": "a/../../b.so",
        "absolute": "/tmp/llcuda-hostile.so",
        "home": "~/evil.so",
        "dot": ".",
        "dot-dot": "..",
        "hidden": ".bashrc",
        "backslash": "..\\evil.so",
        "newline": "evil\n.so",
        "space": "evil .so",
        "nested": "sub/libggml-cuda.so",
        "not-ascii": "libggml-cudä.so",
        "the-record-again": "BUILD.json",
    }
    for label, name in bad.items():
        # Named by the record too, so that it is the name that is refused; and by the archive alone.
        record = {"files": {name: {"sha256": digest(BODY), "bytes": len(BODY), "executable": False}}}
        yield f"name-{label}", (_members([file(name, BODY)], record=record), "")
        yield f"smuggled-{label}", (_extra(file(name, BODY)), "")


def _kinds() -> Iterator[Any]:
    kinds: dict[str, dict[str, Any]] = {
        "symlink": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0},
        "hard-link": {"type": tarfile.LNKTYPE, "linkname": "BUILD.json", "size": 0},
        "character-device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "size": 0},
        "block-device": {"type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0, "size": 0},
        "fifo": {"type": tarfile.FIFOTYPE, "size": 0},
        "folder": {"type": tarfile.DIRTYPE, "size": 0},
        "contiguous": {"type": tarfile.CONTTYPE},
        "unknown": {"type": b"9"},
    }
    for label, changes in kinds.items():
        yield label, (_members([file(LIBRARY, b"" if changes.get("size") == 0 else BODY, **changes)]), "a plain file")
    yield (
        "pax-header",
        (_packed(format=tarfile.PAX_FORMAT, extra=file("b.so", b"", pax_headers={"comment": "x" * 9000})), ""),
    )
    yield "gnu-long-name", (_packed(format=tarfile.GNU_FORMAT, extra=file("l" * 300, b"")), "a plain file")


def _sizes() -> Iterator[Any]:
    yield "one-byte-more", (_members([file(LIBRARY, BODY + b"x")]), "bytes, its record says")
    yield "one-byte-less", (_members([file(LIBRARY, BODY[:-1])]), "bytes, its record says")
    yield "other-content", (_members([file(LIBRARY, BODY[::-1])]), "digest")
    yield "a-bomb", (_bomb, "")
    yield "a-bomb-after-the-end", (_trailing(bytes(64 << 20)), "follows its last file")
    yield "something-after-the-end", (_trailing(b"#!/bin/sh\n" + bytes(1000)), "follows its last file")
    yield "another-archive-after-the-end", (_appended, "follows its last file")
    yield "huge-size-in-the-header", (_huge_header, "")
    yield "twice", (_members([file(LIBRARY, BODY), file(LIBRARY, BODY)]), "twice")
    yield "one-missing", (_members([]), "not in it")
    yield "one-extra", (_extra(file("extra.so", BODY)), "not in its record")


def _records() -> Iterator[Any]:
    def entry(**changes: object) -> dict[str, Any]:
        return {"files": {LIBRARY: {"sha256": digest(BODY), "bytes": len(BODY), "executable": False, **changes}}}

    yield (
        "record-of-another-build",
        (
            _draft(
                record={"llama_cpp": {"tag": "b1", "version": "0", "commit": "b1"}}, entry={"llama_cpp": {"tag": TAG}}
            ),
            "different binaries",
        ),
    )
    yield (
        "record-of-another-profile",
        (_draft(record={"profile": "cuda13"}, entry={"profile": "cuda12"}), "different binaries"),
    )
    yield (
        "record-of-other-architectures",
        (_draft(record={"architectures": ["sm_50"]}, entry={"architectures": ["sm_75"]}), "different binaries"),
    )
    yield "record-without-files", (_draft(record={"files": {}}), "damaged")
    yield "record-of-another-schema", (_draft(record={"schema": 2}), "damaged")
    yield "record-that-is-a-list", (_raw_record(b"[]"), "damaged")
    yield "record-that-is-no-json", (_raw_record(b"\xff\xfe{"), "damaged")
    yield "record-of-many-levels", (_raw_record(b"[" * 100_000), "damaged")
    yield "record-of-two-megabytes", (_raw_record(b" " * (2 << 20)), "does not begin")
    yield "record-not-first", (_raw_members([file(LIBRARY, BODY)]), "does not begin")
    yield "record-with-a-negative-size", (_draft(record=entry(bytes=-1)), "damaged")
    yield "record-with-a-size-in-words", (_draft(record=entry(bytes="20")), "damaged")
    yield "record-with-a-size-beyond", (_draft(record=entry(bytes=BIG)), "announced")
    yield "record-with-no-digest", (_draft(record=entry(sha256="sha256:beef")), "damaged")
    yield "record-with-a-long-name", (_draft(record={"files": {"a" * 150: entry()["files"][LIBRARY]}}), "damaged")
    yield (
        "record-with-many-files",
        (_draft(record={"files": {f"{n}.so": entry()["files"][LIBRARY] for n in range(1000)}}), "damaged"),
    )


def _archives() -> Iterator[Any]:
    whole = pack_members(Draft().members())
    for tenth in range(10):
        yield f"cut-at-{tenth}-tenths", (_data(whole[: len(whole) * tenth // 10]), "")
    yield "not-gzip", (_data(b"PK\x03\x04" + bytes(1000)), "damaged")
    yield "gzip-of-noise", (_data(gzip.compress(bytes(range(256)) * 8)), "")
    yield "wrong-checksum-of-gzip", (_data(whole[:-8] + bytes(8)), "")
    yield "empty", (_data(b""), "")


def _indexes() -> Iterator[Any]:
    yield "wrong-digest", (_draft(entry={"sha256": digest(b"another")}), "expected sha256:")
    yield "wrong-version", (_draft(entry={"version": "99.0"}), "99.0")
    yield (
        "wrong-build",
        (
            _draft(
                entry={"llama_cpp": {"tag": "b1"}}, record={"llama_cpp": {"tag": "b1", "version": "0", "commit": "b1"}}
            ),
            "b1",
        ),
    )
    yield "index-with-a-path", (_draft(entry={"name": "../../etc/passwd.tar.gz"}), "index cannot be used")
    yield "index-with-a-huge-size", (_draft(entry={"unpacked_bytes": BIG}), "index cannot be used")
    yield "index-with-a-negative-size", (_draft(entry={"bytes": -1}), "index cannot be used")
    yield "index-with-a-size-in-words", (_draft(entry={"bytes": True}), "index cannot be used")
    yield "index-with-no-digest", (_draft(entry={"sha256": "md5:0"}), "is not a digest")
    yield "index-with-less-than-there-is", (_draft(entry={"unpacked_bytes": 1}), "announced")
    yield "index-with-a-profile-that-is-a-path", (_draft(entry={"profile": "../cuda12"}), "index cannot be used")
    for label, text in {
        "empty": b"",
        "a-list": b"[]",
        "deep": b"[" * 100_000,
        "another-schema": b'{"schema": 9}',
        "huge": b" " * (2 << 20),
    }.items():
        yield f"index-that-is-{label}", (_index(text), "index cannot be used")


def _draft(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: write_bundle(folder, Draft(**changes))


def _data(data: bytes) -> Callable[[Path], object]:
    return lambda folder: write_bundle(folder, Draft(), data=data)


def _members(members: list[tuple[tarfile.TarInfo, bytes]], **changes: Any) -> Callable[[Path], object]:
    draft = Draft(**changes)
    return lambda folder: write_bundle(folder, draft, data=pack_members([draft.members()[0], *members]))


def _extra(member: tuple[tarfile.TarInfo, bytes]) -> Callable[[Path], object]:
    return _members([file(LIBRARY, BODY), member])


def _packed(*, format: int, extra: tuple[tarfile.TarInfo, bytes]) -> Callable[[Path], object]:  # noqa: A002
    return _data(pack_members([*Draft().members(), extra], format=format))


def _raw_members(members: list[tuple[tarfile.TarInfo, bytes]]) -> Callable[[Path], object]:
    return _data(pack_members(members))


def _raw_record(text: bytes) -> Callable[[Path], object]:
    return _raw_members([file("BUILD.json", text), file(LIBRARY, BODY)])


def _trailing(data: bytes) -> Callable[[Path], object]:
    raw = gzip.decompress(pack_members(Draft().members()))
    return _data(gzip.compress(raw + data))


def _appended(folder: Path) -> object:
    whole = pack_members(Draft().members())
    return write_bundle(folder, Draft(), data=whole + whole)


def _bomb(folder: Path) -> object:
    """Write a gigabyte of zeros that its record calls 20 bytes."""
    draft = Draft()
    header = file(LIBRARY, b"", size=1 << 30)[0].tobuf(tarfile.USTAR_FORMAT)
    raw = gzip.decompress(pack_members(draft.members()[:1]))[: -10240 % 10240 or None]
    start = raw.rstrip(b"\0")
    start += bytes(-len(start) % 512)
    return write_bundle(folder, draft, data=gzip.compress(start + header) + gzip.compress(bytes(64 << 20)))


def _huge_header(folder: Path) -> object:
    members = Draft().members()
    raw = bytearray(gzip.decompress(pack_members(members)))
    at = raw.index(LIBRARY.encode(), 512)
    header = file(LIBRARY, b"", size=BIG)[0].tobuf(tarfile.GNU_FORMAT)
    raw[at : at + 512] = header
    return write_bundle(folder, Draft(), data=gzip.compress(bytes(raw)))


def _index(text: bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> object:
        write_bundle(folder, Draft())
        return (folder / "index.json").write_bytes(text)

    return write
