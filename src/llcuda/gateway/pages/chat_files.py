"""The files of the chat page, out of the one archive that the build packs llama.cpp's web UI into."""

from __future__ import annotations

import base64
import gzip
import re
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from lzma import LZMAError
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from llcuda.errors import BinaryUnusableError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ARCHIVE_NAME", "PageFile", "read_file", "read_names"]

ARCHIVE_NAME = "web_ui.zip"
MAX_FILE_BYTES = 32 << 20
"""Of one file. The largest, the page's program, has 9 MB."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
# The names in this folder are made of what is in the files: another build has others.
_IMMUTABLE = "_app/immutable/"
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
# Nothing comes from elsewhere, and nothing goes there: a picture that an answer names would tell its server what was
# asked. Elements have styles of their own; what reads a PDF is a worker that the page makes itself.
_POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob: data:; font-src 'self' data:; worker-src 'self' blob:; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = (
    "Cross-Origin-Opener-Policy: same-origin",
    "Cross-Origin-Resource-Policy: same-origin",
    "Referrer-Policy: no-referrer",
    "Vary: Accept-Encoding",
    "Content-Encoding: gzip",
)
_DAMAGES = (OSError, EOFError, KeyError, RuntimeError, ValueError, LZMAError, zipfile.BadZipFile)
"""What reading a damaged archive ends in."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file as it is sent."""

    packed: bytes
    """With gzip."""
    content_type: str
    etag: str
    lines: tuple[str, ...]
    """Header lines that go with it."""


def read_names(archive: Path) -> frozenset[str]:
    """Return the names of an archive's files. Raises BinaryUnusableError if it is damaged."""
    try:
        with zipfile.ZipFile(archive) as packed:
            return frozenset(packed.namelist())
    except _DAMAGES as error:
        raise BinaryUnusableError(archive, f"it is damaged ({error!r})") from error


def read_file(archive: Path, name: str) -> PageFile:
    """Return one of them, which takes half a second for the largest. Raises BinaryUnusableError if it is damaged."""
    try:
        data = _unpack(archive, name)
    except _DAMAGES as error:
        raise BinaryUnusableError(archive, f"{name} in it is damaged ({error!r})") from error
    policy = _make_policy(name, data)
    etag = f'"{sha256(data).hexdigest()[:32]}"'
    caching = "public, max-age=31536000, immutable" if name.startswith(_IMMUTABLE) else "no-cache"
    return PageFile(
        packed=gzip.compress(data, 6, mtime=0),
        content_type=_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"),
        etag=etag,
        lines=(f"ETag: {etag}", f"Cache-Control: {caching}", f"Content-Security-Policy: {policy}", *_ALWAYS),
    )


def _unpack(archive: Path, name: str) -> bytes:
    with zipfile.ZipFile(archive) as packed, packed.open(name) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
    return data


def _make_policy(name: str, data: bytes) -> str:
    """Return the content security policy, which names the scripts that a page has in itself."""
    scripts = _INLINE_SCRIPT.findall(data) if name.endswith(".html") else []
    hashes = [f" 'sha256-{base64.b64encode(sha256(script).digest()).decode()}'" for script in scripts]
    return _POLICY.format(scripts="".join(hashes))

