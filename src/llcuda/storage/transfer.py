"""Push models of the store to a remote, and pull them from it: what is there already is not sent again."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from llcuda.errors import ModelError, ModelNotFoundError, StorageError
from llcuda.storage.http_requests import HttpRequests
from llcuda.storage.pieces import RateLimit, Upload
from llcuda.storage.ranged_download import RangedDownload
from llcuda.store import parse_digest
from llcuda.store.download import forget_partial, lock_partial
from llcuda.store.layout import MAX_BYTES, digest_of, read_manifest
from llcuda.store.progress_bar import show_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from llcuda.storage.remote import Remote
    from llcuda.store import Layer, ModelStore, StoredModel

__all__ = ["RemoteModel", "fetch_in_parts", "list_remote", "pull_blob", "pull_model", "push_model"]


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


def push_model(
    store: ModelStore,
    name: str,
    remote: Remote,
    *,
    remote_name: str | None = None,
    progress: bool = True,
    bytes_per_second: int | None = None,
) -> StoredModel:
    """Have the model, whose name or manifest's digest this is, at the remote; return it.

    It is called ``remote_name`` there, else as here; a digest stands for each of the model's names. The name comes
    last, so that whoever finds it finds its files. Raises ModelNotFoundError, and StorageError.
    """
    model = store.get_model(name)
    remote_names = [remote_name] if remote_name else [name] if name in model.names else model.names
    for one in remote_names:
        remote.require_name(one)
    limit = RateLimit(bytes_per_second)
    for digest, label in {**{layer.digest: layer.file for layer in model.layers}, model.config: "config"}.items():
        path = store.find(digest)
        # A server that was killed may have kept a part of it.
        if remote.find_bytes(digest) != path.stat().st_size:
            with _count_bytes(label, path.stat().st_size, is_shown=progress) as on_bytes:
                remote.put(digest, Upload(path, limit=limit, on_bytes=on_bytes))
    document = store.find(model.digest).read_bytes()
    for one in remote_names:
        remote.write_manifest(one, document)
    return model


def pull_model(
    store: ModelStore,
    name: str,
    remote: Remote,
    *,
    stored_name: str | None = None,
    progress: bool = True,
    bytes_per_second: int | None = None,
) -> StoredModel:
    """Have the model with this name at the remote in the store, as ``stored_name`` or under the same name; return it.

    Raises ModelNotFoundError if the remote has none, ChecksumMismatchError for a file that is another than its
    manifest says, ModelError for what is no manifest, and StorageError.
    """
    document = remote.read_manifest(name, max_bytes=MAX_BYTES)
    if document is None:
        raise ModelNotFoundError(name, f"{remote.url} has no model of this name")
    manifest = read_manifest(document)
    limit = RateLimit(bytes_per_second)
    for layer in manifest.layers:
        _pull(store, layer.digest, remote, size=layer.bytes, label=layer.file, limit=limit, progress=progress)
    if (remote.find_bytes(manifest.config) or 0) > MAX_BYTES:
        raise ModelError(f"{remote.url}: the config of {name} has more than {MAX_BYTES} bytes")
    config = _pull(store, manifest.config, remote, size=None, label="config", limit=limit, progress=progress)
    return store.add_manifest(stored_name or name, document, config.read_bytes())


def pull_blob(
    store: ModelStore, digest: str, remote: Remote, *, progress: bool = True, bytes_per_second: int | None = None
) -> Path:
    """Have the file with this digest in the store, and return its path. Raises what :func:`pull_model` raises."""
    digest = parse_digest(digest)
    limit = RateLimit(bytes_per_second)
    return _pull(store, digest, remote, size=None, label=digest, limit=limit, progress=progress)


def fetch_in_parts(
    url: str, part: Path, *, size: int, expected: str, headers: Mapping[str, str], label: str, progress: bool = True
) -> str:
    """Download a file of ``size`` bytes to ``part``, a path of ``lock_partial``, over several connections.

    What is there already is not fetched again, unless the digest of the whole is not the ``expected`` one. Returns what
    it is, which the caller compares. Raises StorageError with the ``status`` of the server, and ModelError on a full
    disk.
    """
    read_range = partial(HttpRequests(headers=headers).read_range, url)
    with _count_bytes(label, size, is_shown=progress) as on_bytes:
        return RangedDownload(read_range, part, size, url=url, limit=RateLimit(), on_bytes=on_bytes).run(expected)


def list_remote(remote: Remote) -> tuple[RemoteModel, ...]:
    """Return the models of a remote, in the order of their names. What is no model is left out. Raises StorageError."""
    models = (_read_model(remote, name) for name in sorted(remote.list_names()))
    return tuple(model for model in models if model is not None)


def _read_model(remote: Remote, name: str) -> RemoteModel | None:
    try:
        document = remote.read_manifest(name, max_bytes=MAX_BYTES)
        return None if document is None else RemoteModel(name, digest_of(document), read_manifest(document).layers)
    except StorageError:
        raise
    except ModelError:
        return None


def _pull(
    store: ModelStore,
    digest: str,
    remote: Remote,
    *,
    size: int | None,
    label: str,
    limit: RateLimit,
    progress: bool,
) -> Path:
    """Have a file in the store: of two processes that want it one fetches it."""
    if known := store.get(digest):
        return known
    with lock_partial(store.root / "downloads", digest) as part:
        if known := store.get(digest):
            return known
        size = remote.find_bytes(digest) if size is None else size
        if size is None:
            raise ModelNotFoundError(digest, f"{remote.url} has no file with this digest")
        read_range, url = partial(remote.read_range, digest), f"{remote.url}/{digest}"
        with _count_bytes(label, size, is_shown=progress) as on_bytes:
            actual = RangedDownload(read_range, part, size, url=url, limit=limit, on_bytes=on_bytes).run(digest)
        try:
            store.adopt(part, expected=digest, digest=actual)
        finally:
            forget_partial(part)
    return store.find(digest)


@contextlib.contextmanager
def _count_bytes(label: str, size: int, *, is_shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield what tells a bar of bytes, from any thread."""
    lock = threading.Lock()
    with show_bar(label, size, is_shown=is_shown, delay=1.0) as bar:

        def on_bytes(count: int) -> None:
            with lock:
                bar.update(count)

        yield on_bytes
