"""Push models of the store to a remote, and pull them from it: what is there already is not sent again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from llcuda.errors import ChecksumMismatchError, ModelNotFoundError
from llcuda.store import parse_digest
from llcuda.store.download import forget_partial, lock_partial
from llcuda.store.layout import MAX_BYTES, digest_of, read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from llcuda.storage.remote import Remote
    from llcuda.store import Layer, ModelStore, StoredModel

__all__ = ["RemoteModel", "list_remote", "pull_blob", "pull_model", "push_model"]

_NAMES = "names"


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model at a remote."""

    name: str
    digest: str
    """Of its manifest."""
    layers: tuple[Layer, ...]

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(layer.bytes for layer in self.layers)


def push_model(store: ModelStore, name: str, remote: Remote, *, progress: bool = True) -> StoredModel:
    """Have the model, whose name or manifest's digest this is, at the remote under each of its names; return it.

    The name comes last, so that whoever finds it finds its files. Raises ModelNotFoundError, and StorageError.
    """
    model = store.get_model(name)
    for digest in (*(layer.digest for layer in model.layers), model.config, model.digest):
        path = store.find(digest)
        # A server that was killed may have kept a part of it.
        if remote.find_bytes(_blob(digest)) != path.stat().st_size:
            remote.put(_blob(digest), path, is_shown=progress)
    document = store.find(model.digest).read_bytes()
    for one in [name] if name in model.names else model.names:
        remote.write(_name(one), document)
    return model


def pull_model(store: ModelStore, name: str, remote: Remote, *, progress: bool = True) -> StoredModel:
    """Have the model with this name at the remote in the store under the same name, and return it.

    Raises ModelNotFoundError if the remote has none, ChecksumMismatchError for a file that is another than its
    manifest says, ModelError for what is no manifest, and StorageError.
    """
    document = remote.read(_name(name), max_bytes=MAX_BYTES)
    if document is None:
        raise ModelNotFoundError(name, f"{remote.url} has no model of this name")
    manifest = read_manifest(document)
    for layer in manifest.layers:
        pull_blob(store, layer.digest, remote, progress=progress)
    config = remote.read(_blob(manifest.config), max_bytes=MAX_BYTES)
    if config is None:
        raise ModelNotFoundError(name, f"{remote.url} lacks a part of it, {manifest.config}")
    if digest_of(config) != manifest.config:
        raise ChecksumMismatchError(_blob(manifest.config), expected=manifest.config, actual=digest_of(config))
    return store.add_manifest(name, document, config)


def pull_blob(store: ModelStore, digest: str, remote: Remote, *, progress: bool = True) -> Path:
    """Have the file with this digest in the store, and return its path. Raises what :func:`pull_model` raises."""
    digest = parse_digest(digest)
    if known := store.get(digest):
        return known
    with lock_partial(store.root / "downloads", digest) as part:
        if known := store.get(digest):
            return known
        if remote.find_bytes(_blob(digest)) is None:
            raise ModelNotFoundError(digest, f"{remote.url} has no file with this digest")
        remote.fetch(_blob(digest), part, is_shown=progress)
        try:
            store.adopt(part, expected=digest)
        finally:
            forget_partial(part)
    return store.find(digest)


def list_remote(remote: Remote) -> tuple[RemoteModel, ...]:
    """Return the models of a remote, in the order of their names. Raises StorageError, and ModelError."""
    found = []
    for quoted in sorted(remote.list_names(_NAMES)):
        name = unquote(quoted)
        document = remote.read(_name(name), max_bytes=MAX_BYTES)
        if document is not None:
            found.append(RemoteModel(name, digest_of(document), read_manifest(document).layers))
    return tuple(found)


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _name(name: str) -> str:
    return f"{_NAMES}/{quote(name, safe='')}"
