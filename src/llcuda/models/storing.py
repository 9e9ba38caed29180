"""Models into the store, under names of their own, and from there to remotes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llcuda.errors import ModelNotFoundError, UsageError
from llcuda.models import hub_cache, model_lock, names
from llcuda.models.file_names import strip_suffixes
from llcuda.models.resolve import resolve_model
from llcuda.models.stored import describe_facts
from llcuda.store import ModelStore, get_digest
from llcuda.store.progress_bar import show_bar
from llcuda.store.references import split_reference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from llcuda.models.model_lock import PinnedModel
    from llcuda.models.resolve import ModelFile
    from llcuda.store import StoredModel

__all__ = ["check_stored_name", "lock_model", "push_model", "put_model", "tag_model"]

_MAX_ATTEMPTS = 5


def check_stored_name(name: str) -> None:
    """Raise UsageError for a name that always means another kind of model."""
    if isinstance(names.parse_name(name), (names.DemoName, names.PathName, names.DigestName)):
        raise UsageError(f"{name!r} cannot be the name of a model in the store", hint="Choose another name.")


def put_model(
    path: str | PathLike[str], name: str | None = None, *, is_copied: bool = False, progress: bool = True
) -> StoredModel:
    """Take a model on this disk into the store, all its parts and its projector, and return it.

    It takes no space of its own if the disk can clone or link files; ``is_copied`` makes a copy, which nobody else
    changes. The ``name`` is that of the file if it is left out. A terminal shows a bar if ``progress``. Raises what
    :func:`resolve_model` raises, UsageError for a name that means another kind of model, and ModelError if the store
    cannot be written.
    """
    model = resolve_model(Path(path), progress=False)
    return _store_model(model, name or strip_suffixes(model.path.name), is_copied=is_copied, progress=progress)


def tag_model(name: str, new: str, *, progress: bool = True) -> StoredModel:
    """Give a model another name, and return it. A model that is not in the store is taken in, without a copy.

    Raises what :func:`resolve_model` raises, and UsageError for a name that means another kind of model.
    """
    check_stored_name(new)
    store = ModelStore()
    if store.is_in(name):
        store.tag(new, store.get_model(name).digest)
        return store.get_model(new)
    return _store_model(resolve_model(name, progress=progress), new, is_copied=False, progress=progress)


def push_model(
    name: str, url: str | Sequence[str], *, progress: bool = True, bytes_per_second: int | None = None
) -> StoredModel:
    """Have a model at a remote, and return it.

    ``url`` is the address of a remote, of several, or of one model in a registry: ``oci://HOST/REPOSITORY:TAG``. A
    model that is not in the store is taken in under its name. Raises what :func:`resolve_model` raises, UsageError,
    and StorageError.
    """
    from llcuda import storage  # noqa: PLC0415 - loaded only when needed

    remote_name = None
    if isinstance(url, str) and url.startswith(("oci://", "oci+http://")):
        url, remote_name = split_reference(url)
    remote, store = storage.open_remote(url), ModelStore()
    if not store.is_in(name):
        model = resolve_model(name, progress=progress)
        name = strip_suffixes(model.path.name) if model.source == "path" else name
        _store_model(model, name, is_copied=False, progress=progress)
    return storage.push_model(
        store, name, remote, remote_name=remote_name, progress=progress, bytes_per_second=bytes_per_second
    )


def lock_model(name: str, *, progress: bool = True) -> PinnedModel:
    """Pin a model in ``llcuda.lock`` in the current folder, and return what is pinned.

    Raises what :func:`resolve_model` raises, and ModelError if the file cannot be written.
    """
    model = resolve_model(name, progress=progress)
    # A branch of the hub moves; a commit does not.
    source = (hub_cache.find_name(model.path) if model.source in {"registry", "hub"} else None) or name
    return model_lock.pin(name, source, {path.name: get_digest(path) for path in model.files})


def _store_model(model: ModelFile, name: str, *, is_copied: bool, progress: bool) -> StoredModel:
    check_stored_name(name)
    store = ModelStore()
    for attempt in range(_MAX_ATTEMPTS):
        with show_bar(name, sum(file.stat().st_size for file in model.files), is_shown=progress, delay=1.0) as bar:
            taken = {file.name: store.take_in(file, is_copied=is_copied, on_bytes=bar.update) for file in model.files}
        digests = {file: one.digest for file, one in taken.items()}
        try:
            source = model.path.name if model.source == "path" else model.name
            return store.add(name, digests, describe_facts(model.info, source=source))
        except ModelNotFoundError:
            # Another process has removed one of them at this moment.
            if attempt + 1 == _MAX_ATTEMPTS:
                raise
    raise AssertionError
