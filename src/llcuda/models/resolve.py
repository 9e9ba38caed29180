"""Turn the name of a model into a file on this disk, downloading it only if nothing here will do."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from llcuda import settings
from llcuda.errors import ChecksumMismatchError, DownloadError, ModelFormatError, ModelNotFoundError
from llcuda.gguf import GGUFInfo, combine_parts, read_gguf, require_magic
from llcuda.models import hub_cache, model_lock, names
from llcuda.models.file_names import choose_file, choose_projector, is_model, list_parts, parse_quantisation
from llcuda.models.registry import find_entry, suggest_names
from llcuda.models.stored import describe_facts, find_elsewhere
from llcuda.store import ModelFacts, ModelStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from llcuda.models.hub import HubFile

ModelSource = Literal["demo", "path", "store", "registry", "hub", "url"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model on this disk: where it is, where it came from, and what its header says."""

    path: Path
    """The file, or the first part."""
    mmproj: Path | None
    """The projector that lets a vision model see."""
    name: str
    """The name as it was given."""
    digest: str | None
    """``sha256:…`` if it is known without reading the whole file."""
    source: ModelSource
    info: GGUFInfo
    parts: tuple[Path, ...]
    """Every file that the model consists of, the projector apart."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every part, and the projector."""
        return (*self.parts, *([self.mmproj] if self.mmproj else []))

    def __repr__(self) -> str:
        """Return what it is, without its header."""
        return f"<ModelFile {self.name}: {self.info.architecture}, {self.info.quantisation}, {self.path}>"


def resolve_model(name: str | PathLike[str], *, progress: bool = True) -> ModelFile:
    """Return the model that ``name`` means.

    What is on this disk is used without a connection being opened; else the model is downloaded, with a bar on stderr
    if ``progress``. Raises ModelNotFoundError, ModelFormatError, DownloadError, ChecksumMismatchError, and UsageError
    for what cannot be a name.
    """
    text = os.fspath(name)
    if not settings.is_frozen():
        return _resolve(name, text, progress=progress)
    pinned = model_lock.find(text)
    model = _resolve(pinned.source, pinned.source, progress=progress)
    pinned.require(model.files)
    return dataclasses.replace(model, name=text)


def _resolve(name: str | PathLike[str], text: str, *, progress: bool) -> ModelFile:
    is_path = isinstance(name, os.PathLike)
    parsed = names.PathName(text) if is_path else names.parse_name(text, is_file=is_local(text))
    if isinstance(parsed, names.PathName):
        return _resolve_path(parsed, text)
    if isinstance(parsed, names.DemoName):
        return _describe(parsed.name, [demo_path(parsed.name)], source="demo")
    if stored := _find_stored(text, parsed):
        return stored
    try:
        return _resolve_elsewhere(parsed, text, progress=progress)
    except (ModelNotFoundError, DownloadError):
        if isinstance(parsed, (names.UrlName, names.ArtifactName)) or not _pull_from_remote(text, progress=progress):
            raise
    return _find_stored(text, parsed) or _resolve_elsewhere(parsed, text, progress=progress)


def _pull_from_remote(name: str, *, progress: bool) -> bool:
    """Have the model in the store from the remote that the settings name, and tell whether it has it."""
    urls = settings.storage_urls()
    if not urls or settings.is_offline():
        return False
    from llcuda.storage import open_remote, pull_blob, pull_model  # noqa: PLC0415 - loaded only when needed

    pull = pull_blob if re.match("sha256[:-]", name) else pull_model
    try:
        pull(ModelStore(), name, open_remote(urls), progress=progress)
    except ModelNotFoundError:
        return False
    return True


def pull_artifact(parsed: names.ArtifactName, *, progress: bool) -> None:
    """Have a model of a registry in the store, under the name that was given; what is here already is not fetched."""
    _refuse_offline(parsed.text)
    from llcuda.storage import open_remote, pull_model  # noqa: PLC0415 - loaded only when needed

    remote = open_remote(parsed.repository)
    pull_model(ModelStore(), parsed.reference, remote, stored_name=parsed.text, progress=progress)


def _resolve_artifact(parsed: names.ArtifactName, *, progress: bool) -> ModelFile:
    pull_artifact(parsed, progress=progress)
    found = _find_stored(parsed.text, parsed)
    if found is None:
        raise ModelNotFoundError(parsed.text, "its files were removed at this moment", hint="Try again.")
    return found


def _resolve_elsewhere(
    parsed: names.DigestName | names.HubName | names.UrlName | names.ArtifactName | names.RegistryName,
    text: str,
    *,
    progress: bool,
) -> ModelFile:
    match parsed:
        case names.ArtifactName():
            return _resolve_artifact(parsed, progress=progress)
        case names.DigestName():
            return _resolve_digest(parsed.digest)
        case names.HubName():
            return _resolve_hub(parsed, text, progress=progress)
        case names.UrlName():
            return _resolve_url(parsed, text, progress=progress)
        case names.RegistryName():
            return _resolve_registry(parsed, progress=progress)


def _find_stored(name: str, parsed: names.ModelName) -> ModelFile | None:
    """Return the model in the store that ``name`` is a name of, or the digest of a manifest; None if none is whole."""
    store = ModelStore()
    known = parsed.url if isinstance(parsed, names.UrlName) else name
    if isinstance(parsed, names.DigestName):
        known = parsed.digest
    if not store.is_in(known) or (isinstance(parsed, names.UrlName) and _find_url(parsed, store) is None):
        return None
    model = store.get_model(known)
    paths = {path.name if len(model.layers) > 1 else layer.file: path
             for layer, path in zip(model.layers, store.paths(model), strict=True) if layer.is_weights}  # fmt: skip
    parts = [path for file, path in paths.items() if is_model(file)] or list(paths.values())
    projector = choose_projector(paths, next(iter(paths)))
    source: ModelSource = "url" if isinstance(parsed, names.UrlName) else "store"
    return _describe(
        name, parts, source=source, mmproj=paths[projector] if projector else None,
        digest=next(layer.digest for layer in model.layers if layer.is_weights),
    )  # fmt: skip


def _resolve_digest(digest: str) -> ModelFile:
    """Return the model of one file with this digest: from the store, or as another program's cache has it."""
    store = ModelStore()
    path = store.get(digest)
    if path is None and (elsewhere := find_elsewhere(digest)):
        store.take_in(elsewhere, expected=digest)
        path = store.get(digest)
    return _describe(digest, [path or store.find(digest)], source="store", digest=digest)


def is_local(text: str) -> bool:
    """Return whether the text is the path of a file, or of a folder that holds a model."""
    try:
        path = Path(text)
        return path.is_file() or (path.is_dir() and any(path.glob("*.gguf")))
    except (OSError, ValueError):
        # A name too long for a path, or with a NUL in it.
        return False


def _describe(
    name: str, parts: Sequence[Path], *, source: ModelSource, mmproj: Path | None = None, digest: str | None = None
) -> ModelFile:
    info = combine_parts([_read(name, part) for part in parts])
    return ModelFile(parts[0], mmproj, name, digest, source, info, tuple(parts))


def _read(name: str, path: Path) -> GGUFInfo:
    try:
        return read_gguf(path)
    except PermissionError:
        raise ModelNotFoundError(
            name, f"{path} may not be read", hint=f"Give yourself the right to: chmod u+r {path}"
        ) from None
    except OSError as error:
        raise ModelNotFoundError(name, f"{path} cannot be opened: {error.strerror}") from None


def demo_path(name: str) -> Path:
    """Return where the package keeps the demo model of that name."""
    return Path(__file__).parent.parent / "models_data" / f"{name}.gguf"


def _resolve_path(parsed: names.PathName, name: str) -> ModelFile:
    # Path.expanduser raises for a user that is not there.
    path = Path(os.path.expanduser(parsed.path))  # noqa: PTH111
    if not _exists(path, name):
        raise ModelNotFoundError(name, f"there is no file {path}", suggestions=_suggest_paths(path))
    if path.is_dir():
        return _resolve_folder(path, name)
    parts = [path.with_name(part) for part in list_parts(path.name)]
    _require_parts(name, parts)
    return _describe(name, parts, source="path", mmproj=_find_projector(path))


def _exists(path: Path, name: str) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ModelNotFoundError(name, f"{path} cannot be opened: {error.strerror}", hint="Check the path.") from None
    return True


def _resolve_folder(folder: Path, name: str) -> ModelFile:
    chosen = choose_file(path.name for path in folder.iterdir())
    if chosen is None:
        raise ModelNotFoundError(name, "the folder holds no .gguf file", hint="Give the path of a .gguf file.")
    return _resolve_path(names.PathName(str(folder / chosen)), name)


def _suggest_paths(path: Path) -> tuple[str, ...]:
    there = {file.name: file for file in path.parent.glob("*.gguf")}
    return tuple(str(there[near]) for near in difflib.get_close_matches(path.name, there, n=3))


def _require_parts(name: str, parts: Sequence[Path]) -> None:
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise ModelNotFoundError(
            name,
            f"the part {missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else ""),
            hint="All parts of a split model lie in one folder: download those that are missing.",
        )


def _find_projector(model: Path) -> Path | None:
    """Return the projector beside the model, if it is certain to be that model's.

    It is if the folder holds a single model, or if the projector's name contains the model's.
    """
    there = [path.name for path in model.parent.glob("*.gguf")]
    models = {list_parts(file)[0] for file in there if is_model(file)}
    own = [file for file in there if len(models) == 1 or _base(model.name) in file.lower()]
    chosen = choose_projector(own, model.name)
    return model.parent / chosen if chosen else None


def _base(file: str) -> str:
    """Return the file's name in small letters without its quantisation and what follows."""
    stem = list_parts(file)[0].lower().removesuffix(".gguf")
    label = (parse_quantisation(file) or "").lower()
    return stem[: stem.rindex(label)].rstrip("-._").removesuffix("-ud") if label and label in stem else stem


def _resolve_registry(parsed: names.RegistryName, *, progress: bool) -> ModelFile:
    entry = find_entry(parsed.name)
    if entry:
        return _resolve_hub(entry.hub_name, parsed.name, progress=progress, source="registry")
    raise ModelNotFoundError(
        parsed.name, "no model has this name", suggestions=suggest_names(parsed.name, ModelStore().tags())
    )


def _resolve_hub(parsed: names.HubName, name: str, *, progress: bool, source: ModelSource = "hub") -> ModelFile:
    cached = hub_cache.list_cached(parsed.repository, parsed.revision)
    chosen = _choose(parsed, cached)
    if chosen is None or any(part not in cached for part in list_parts(chosen)):
        _refuse_offline(name)
        cached = _download(parsed, name, progress=progress)
        chosen = next(iter(cached))
    parts = [cached[part] for part in list_parts(chosen)]
    projector = choose_projector(cached, chosen)
    mmproj = cached[projector] if projector else None
    return _describe(name, parts, source=source, mmproj=mmproj, digest=hub_cache.cached_digest(parts[0]))


def _choose(parsed: names.HubName, there: Mapping[str, object]) -> str | None:
    if parsed.file:
        first = list_parts(parsed.file)[0]
        # Publishers have changed the capitals of their files' names.
        return first if first in there else next((file for file in there if file.lower() == first.lower()), None)
    return choose_file(there, parsed.quantisation)


def _download(parsed: names.HubName, name: str, *, progress: bool) -> dict[str, Path]:
    """Download the model's parts and its projector, and return their paths by name, the first part first."""
    from llcuda.models.hub import fetch_file, list_files  # noqa: PLC0415 - loaded only when needed

    there = list_files(parsed)
    chosen = _choose(parsed, there)
    if chosen is None:
        raise _nothing_fits(parsed, name, there)
    parts = list_parts(chosen)
    missing = next((part for part in parts if part not in there), None)
    if missing:
        raise ModelNotFoundError(name, f"the repository lacks the part {missing}")
    projector = choose_projector(there, chosen)
    wanted = [*parts, projector] if projector else parts
    return {file: fetch_file(parsed, there[file], progress=progress) for file in wanted}


def _nothing_fits(parsed: names.HubName, name: str, there: Mapping[str, HubFile]) -> ModelNotFoundError:
    models = sorted({list_parts(file)[0] for file in there if is_model(file)})
    if not models:
        return ModelNotFoundError(
            name, "the repository holds no .gguf file", hint="Look for a repository whose name ends in -GGUF."
        )
    wanted = parsed.file or parsed.quantisation or ""
    near = difflib.get_close_matches(wanted, models, n=3, cutoff=0.3) or models[:3]
    reason = f"the repository has no {'file' if parsed.file else 'quantisation'} {wanted}"
    return ModelNotFoundError(name, reason, suggestions=[f"{parsed.repository}:{file}" for file in near])


def _resolve_url(parsed: names.UrlName, name: str, *, progress: bool) -> ModelFile:
    store = ModelStore()
    urls = names.list_part_urls(parsed.url)
    if len(urls) == 1:
        digest = fetch_url(parsed, store, progress=progress)
        return _describe(name, [store.path(digest)], source="url", digest=digest)
    digests = {part: fetch_url(names.UrlName(url), store, progress=progress) for part, url in urls.items()}
    # llama.cpp finds the parts by their names, which blobs do not have.
    first, *others = urls.values()
    model = store.add(first, digests, ModelFacts(source=first))
    for url in others:
        store.untag(url)
    return _describe(name, store.paths(model), source="url", digest=model.layers[0].digest)


def fetch_url(parsed: names.UrlName, store: ModelStore, *, progress: bool, **options: Any) -> str:
    """Have the file of an address in the store, once it is seen to be a whole GGUF file, and return its digest.

    What was downloaded before, by this process or another, is resumed if the server says that the file is the same. Two
    processes do not download the same file twice. ``options`` are those of ``Download``. Raises DownloadError,
    ModelFormatError, ChecksumMismatchError if its digest is not the one in the name, and ModelError on a full disk.
    """
    if known := _find_url(parsed, store):
        return known
    _refuse_offline(parsed.url)
    from llcuda.store.download import Download, forget_partial, lock_partial  # noqa: PLC0415 - only when needed

    with lock_partial(store.root / "downloads", parsed.url) as part:
        if known := _find_url(parsed, store):
            return known
        check = partial(require_magic, name=parsed.url)
        Download(parsed.url, part, check_start=check, shown=progress, **options).run()
        try:
            digest = _adopt(parsed, part, store)
        except (ModelFormatError, ChecksumMismatchError):
            forget_partial(part)
            raise
        forget_partial(part)
    return digest


def _find_url(parsed: names.UrlName, store: ModelStore) -> str | None:
    known = parsed.digest if parsed.digest and store.get(parsed.digest) else store.get_link(parsed.url)
    return known if parsed.digest in {None, known} else None


def _adopt(parsed: names.UrlName, part: Path, store: ModelStore) -> str:
    try:
        read_gguf(part)
        digest = store.adopt(part, expected=parsed.digest)
    except ModelFormatError as error:
        raise ModelFormatError(parsed.url, error.reason, offset=error.offset, hint=error.hint) from None
    except ChecksumMismatchError as error:
        raise ChecksumMismatchError(parsed.url, expected=error.expected, actual=error.actual) from None
    file = unquote(urlsplit(parsed.url).path).rpartition("/")[2]
    info = read_gguf(store.path(digest))
    store.add(parsed.url, {file: digest}, describe_facts(info, source=parsed.url))
    return digest


def _refuse_offline(name: str) -> None:
    """Raise DownloadError, with the variable's name, if downloads are forbidden."""
    if not settings.is_offline():
        return
    variable = "LLCUDA_OFFLINE" if settings.is_set("LLCUDA_OFFLINE") else "HF_HUB_OFFLINE"
    raise DownloadError(
        name, f"{variable} is set, and it is not on this disk", hint=f"Unset {variable}, or name a model that is here."
    )
