"""What is on this disk and what could be: list models, download one ahead of time, free its space."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llcuda import settings
from llcuda.errors import LlcudaError, ModelNotFoundError, UsageError
from llcuda.gguf import estimate_memory, read_gguf
from llcuda.models import hub_cache, names
from llcuda.models.file_names import choose_file, is_model, list_parts, parse_quantisation
from llcuda.models.registry import find_entry, read_registry, suggest_names
from llcuda.models.resolve import ModelFile, demo_path, is_local, pull_artifact, resolve_model
from llcuda.store import ModelStore, verify_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llcuda.gguf import MemoryEstimate


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One line of ``llcuda models list``."""

    name: str
    source: str
    """``demo``, ``registry``, ``hub``, or ``store``."""
    quantisation: str | None
    parameters: int | None
    bytes: int
    """Of the files on the disk, else about what a download takes."""
    on_disk: bool
    path: Path | None
    context: int | None = None
    """Tokens that the model was made for."""
    last_used: float | None = None
    """Seconds since 1970, for one on the disk: when it was last opened or asked for."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a model did."""

    name: str
    files: tuple[str, ...]
    bytes_freed: int


def list_models() -> tuple[ListedModel, ...]:
    """Return the demo models, the registry, and whatever else is on this disk, in this order."""
    listed = [*_list_demos(), *_list_registry()]
    taken = {model.path for model in listed}
    return (*listed, *(model for model in _list_cached() if model.path not in taken), *_list_store())


def inspect_model(name: str) -> ModelFile:
    """Return what is known of a model that is on this disk; nothing is downloaded.

    Raises ModelNotFoundError if it is not here.
    """
    parsed = names.parse_name(name, is_file=is_local(name))
    is_remote = isinstance(parsed, (names.UrlName, names.ArtifactName)) or _get_hub_name(parsed) is not None
    if is_remote and not _list_files(parsed):
        raise ModelNotFoundError(name, "it is not on this disk", hint=f"`llcuda models pull {name}` downloads it.")
    return resolve_model(name, progress=False)


def estimate_model(model: ModelFile, **options: Any) -> MemoryEstimate:
    """Return how much memory the model will need, with its projector if it has one.

    ``options`` are those of ``llcuda.gguf.estimate_memory``. Raises ModelFormatError if the projector's file is none.
    """
    return estimate_memory(model.info, mmproj=read_gguf(model.mmproj) if model.mmproj else None, **options)


def pull_model(name: str, *, progress: bool = True) -> ModelFile:
    """Have the model on this disk, compared with its digest if one is known, and return it.

    Raises what :func:`resolve_model` raises, and ChecksumMismatchError.
    """
    parsed = names.parse_name(name, is_file=is_local(name))
    if isinstance(parsed, names.ArtifactName) and not settings.is_offline() and not settings.is_frozen():
        pull_artifact(parsed, progress=progress)  # a tag may lead to another model by now
    model = resolve_model(name, progress=progress)
    if model.source in {"registry", "hub"}:
        for path in (*model.parts, *([model.mmproj] if model.mmproj else [])):
            if digest := hub_cache.cached_digest(path):
                verify_file(path, digest)
    elif model.digest:
        verify_file(model.parts[0], model.digest)
    return model


def remove_model(name: str) -> Removal:
    """Remove what is on this disk of a model, and return what that freed.

    Models inside the package and files given by their path are not removed: UsageError. Raises ModelNotFoundError
    if there is nothing to remove.
    """
    parsed = names.parse_name(name)
    if isinstance(parsed, (names.DemoName, names.PathName)):
        raise UsageError(f"{name} is not a downloaded model", hint="Remove a file of your own with rm.")
    found = _list_files(parsed)
    if not found:
        there = (model.name for model in list_models() if model.on_disk)
        raise ModelNotFoundError(name, "it is not on this disk", suggestions=suggest_names(name, there))
    if (hub := _get_hub_name(parsed)) and not ModelStore().is_in(name):
        freed = sum(hub_cache.remove_cached(hub.repository, file) for file in found)
    else:
        store = ModelStore()
        freed = sum(store.untag(known) if known in store.tags() else store.remove(known) for known in found)
    return Removal(name, tuple(found), freed)


def _get_hub_name(parsed: names.ModelName) -> names.HubName | None:
    if isinstance(parsed, names.HubName):
        return parsed
    entry = find_entry(parsed.name) if isinstance(parsed, names.RegistryName) else None
    return entry.hub_name if entry else None


def _list_files(parsed: names.ModelName) -> list[str]:
    """Return what is on the disk of a model: names in a repository, or names and digests in the store."""
    store = ModelStore()
    match parsed:
        case names.DigestName():
            named = next((model.names for model in store.models() if model.digest == parsed.digest), ())
            return [*named] or [parsed.digest] if store.get(parsed.digest) else []
        case names.ArtifactName():
            return [parsed.text] if store.get_link(parsed.text) else []
        case names.UrlName():
            return [url for url in names.list_part_urls(parsed.url).values() if store.get_link(url)]
        case names.HubName() | names.RegistryName():
            name = parsed.label if isinstance(parsed, names.HubName) else parsed.name
            hub = _get_hub_name(parsed)
            return [name] if store.get_link(name) else _cached_files(hub) if hub else []
        case _:
            return []


def _cached_files(hub: names.HubName) -> list[str]:
    cached = hub_cache.list_cached(hub.repository, hub.revision)
    chosen = hub.file if hub.file in cached else choose_file(cached, hub.quantisation) if not hub.file else None
    if chosen is None:
        return []
    parts = [part for part in list_parts(chosen) if part in cached]
    # The projector goes with the last model of the repository.
    others = [file for file in cached if is_model(file) and file not in parts]
    return parts if others else [*parts, *(file for file in cached if not is_model(file))]


def _list_demos() -> Iterator[ListedModel]:
    for name in names.DEMOS:
        path = demo_path(name)
        if path.is_file():
            yield _describe(name, "demo", path)


def _list_registry() -> Iterator[ListedModel]:
    for entry in read_registry():
        path = hub_cache.list_cached(entry.repository).get(entry.file)
        yield ListedModel(
            entry.name, "registry", entry.quantisation, entry.parameters, path.stat().st_size if path else entry.bytes,
            path is not None, path, entry.context, path.stat().st_atime if path else None,
        )  # fmt: skip


def _list_cached() -> Iterator[ListedModel]:
    for repository in hub_cache.list_cached_repositories():
        cached = hub_cache.list_cached(repository)
        for first in sorted({list_parts(file)[0] for file in cached if is_model(file)}):
            parts = [cached[part] for part in list_parts(first) if part in cached]
            size, used = sum(part.stat().st_size for part in parts), max(part.stat().st_atime for part in parts)
            yield _describe(f"{repository}:{first}", "hub", cached.get(first), size=size, used=used)


def _list_store() -> Iterator[ListedModel]:
    store = ModelStore()
    for model in store.models():
        path = store.path(next(layer.digest for layer in model.layers if layer.is_weights))
        for name in model.names:
            yield _describe(name, "store", path if path.exists() else None, size=model.bytes, used=model.last_used)


def _describe(
    name: str, source: str, path: Path | None, *, size: int | None = None, used: float | None = None
) -> ListedModel:
    """Return a line of a model whose header says what it is, or cannot be read."""
    quantisation, parameters, context = parse_quantisation(name.rpartition(":")[2]), None, None
    with suppress(LlcudaError, OSError):
        if path is not None:
            info = read_gguf(path)
            quantisation, parameters, context = info.quantisation, info.parameters, info.context_length
            size = info.file_bytes if size is None else size
    return ListedModel(name, source, quantisation, parameters, size or 0, path is not None, path, context, used)
