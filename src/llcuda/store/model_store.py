"""Models in the store: a manifest for each, and names that lead to it.

::

    models/
    ├── oci-layout, index.json     an OCI image layout, which skopeo and others read: names and their manifests
    ├── blobs/sha256/<64 hex>      files, manifests and configs
    ├── used/<64 hex>              when a manifest's model was last asked for: the time of an empty file
    ├── sets/<64 hex>/…            links to blobs under the names that a model in several files needs
    └── verified.json              digests of files that have not changed since they were hashed

A reader takes no lock: the index is replaced as a whole, and what it names is there before.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda import settings
from llcuda.errors import ModelError, ModelNotFoundError
from llcuda.store.atomic_files import place_file, reading, replace_link, writing
from llcuda.store.blobs import Blobs
from llcuda.store.layout import (
    INDEX,
    LAYOUT,
    MARKER,
    Layer,
    ModelFacts,
    digest_of,
    read_config,
    read_index,
    read_manifest,
    write_config,
    write_index,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Collected", "ModelStore", "StoredModel", "Usage"]

_GRACE = 3600.0
"""Seconds for which a file that no manifest names is kept: somebody may be about to name it."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the store."""

    digest: str
    """Of its manifest."""
    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    facts: ModelFacts
    last_used: float
    """Seconds since 1970; when it was taken in, if nobody has asked for it."""
    config: str
    """The digest of its config."""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(layer.bytes for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the store takes."""

    models: int
    files: int
    bytes: int
    """Of all files, each counted once."""
    shared_bytes: int
    """Of those that have another link, such as the file that was taken in, and free nothing if they are removed."""
    unnamed_bytes: int
    """Of those that no model names."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed."""

    models: tuple[str, ...]
    files: int
    bytes_freed: int


class ModelStore(Blobs):
    """The models under one folder, by name and by digest."""

    def __init__(self, root: Path | None = None) -> None:
        """Use ``root``, or the folder that the settings name. Nothing is created before something is added."""
        super().__init__(root or settings.models_dir())

    def tags(self) -> dict[str, str]:
        """Return the digest of each name's manifest. Raises ModelError if the index is damaged."""
        return {name: digest for name, (digest, _) in self._read_index().items()}

    def add(self, name: str, files: Mapping[str, str], facts: ModelFacts) -> StoredModel:
        """Let ``name`` lead to a model of these files, ``{file name: digest}``, which are in the store.

        If the name leads to the same files already, nothing changes. Raises ModelNotFoundError if a file is not here,
        and UsageError for a name that is a path.
        """
        with self._changing() as index:
            layers = tuple(Layer(digest, self.find(digest).stat().st_size, file) for file, digest in files.items())
            known = self._read_model(index[name][0]) if name in index else None
            if known is None or known.layers != layers:
                self._write_index({**index, name: self._write_model(layers, replace(facts, name=facts.name or name))})
        return self.get_model(name)

    def add_manifest(self, name: str, document: bytes, config: bytes) -> StoredModel:
        """Let ``name`` lead to the model of a manifest from elsewhere, whose files are here.

        Raises ModelError for what is no manifest, and ModelNotFoundError if a file is not here.
        """
        manifest = read_manifest(document)
        with self._changing() as index:
            for layer in manifest.layers:
                self.find(layer.digest)
            for one in (config, document):
                self.write(one, digest_of(one))
            self._write_index({**index, name: (digest_of(document), len(document))})
        return self.get_model(name)

    def tag(self, name: str, digest: str) -> None:
        """Let ``name`` lead to the model whose manifest has this digest too. Raises ModelNotFoundError."""
        with self._changing() as index:
            if digest not in (known for known, _ in index.values()):
                raise ModelNotFoundError(digest, "no manifest in the store has this digest")
            self._write_index({**index, name: (digest, self.path(digest).stat().st_size)})

    def get_model(self, name: str) -> StoredModel:
        """Return the model with this name, or whose manifest has this digest. Raises ModelNotFoundError."""
        index = self.tags()
        model = self._read_model(index.get(name, name)) if name in index or name in index.values() else None
        if model is None:
            raise ModelNotFoundError(name, "no model in the store has this name")
        return self._with_names(model, index)

    def get_link(self, name: str) -> str | None:
        """Return the digest of the first file of the model with this name, or None if it is not here."""
        with contextlib.suppress(ModelNotFoundError):
            first = self.get_model(name).layers[0].digest
            return first if self.get(first) else None
        return None

    def is_in(self, name: str) -> bool:
        """Tell whether all files of the model with this name, or whose manifest has this digest, are here."""
        with contextlib.suppress(ModelNotFoundError):
            return all(self.get(layer.digest) for layer in self.get_model(name).layers)
        return False

    def models(self) -> tuple[StoredModel, ...]:
        """Return every model, the last used first. One whose manifest is not here is left out."""
        index = self.tags()
        found = filter(None, map(self._read_model, dict.fromkeys(index.values())))
        return tuple(sorted((self._with_names(one, index) for one in found), key=lambda one: -one.last_used))

    def paths(self, model: StoredModel) -> tuple[Path, ...]:
        """Return where a model's files lie, several of them under the names that llama.cpp finds them by.

        Raises ModelNotFoundError if one is not here. The model counts as used.
        """
        blobs = [self.find(layer.digest) for layer in model.layers]
        self._touch(model.digest)
        if len(blobs) == 1:
            return tuple(blobs)
        folder = self._set_path(model.digest)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for layer, blob in zip(model.layers, blobs, strict=True):
                replace_link(folder / layer.file, Path("..", "..", "blobs", "sha256", blob.name))
        return tuple(folder / layer.file for layer in model.layers)

    def untag(self, name: str) -> int:
        """Forget a name, and remove what no other name leads to; return the bytes freed. Raises ModelNotFoundError."""
        with self._changing() as index:
            if name not in index:
                raise ModelNotFoundError(name, "no model in the store has this name")
            return sum(self._drop(index, [name]))

    def verify(self) -> Iterator[tuple[str, bool]]:
        """Read every file that has changed since it was last read, and yield its digest, and whether it is right."""
        for digest in self.list():
            yield digest, self.get(digest) is not None

    def usage(self) -> Usage:
        """Return what the store takes."""
        named, models = self._named(), self.models()
        with reading(self.root):
            sizes = {digest: path.stat() for digest, path in self.list().items()}
        return Usage(
            len(models), len(sizes), sum(status.st_size for status in sizes.values()),
            sum(status.st_size for status in sizes.values() if status.st_nlink > 1),
            sum(status.st_size for digest, status in sizes.items() if digest not in named),
        )  # fmt: skip

    def collect(self, most: int | None = None) -> Collected:
        """Remove files that no model names, and the models used longest ago until the rest takes ``most`` bytes.

        A model that is in use, in any process, stays; so does a file that came within the last hour. A download that
        nobody has gone on with for an hour is removed, too.
        """
        from llcuda.store.download import forget_abandoned  # noqa: PLC0415 - loaded only when needed

        removed: list[str] = []
        freed: list[int] = []
        with self._changing() as index:
            for model in reversed(self.models()) if most is not None else ():
                if self.usage().bytes <= (most or 0):
                    break
                if not any(self.is_held(layer.digest) for layer in model.layers):
                    removed += model.names
                    freed += self._drop(index, model.names)
            named, now = self._named(), time.time()
            old = {d for d, path in self.list().items() if d not in named and now - path.stat().st_ctime > _GRACE}
            freed += self._remove_files(old)
        partial = forget_abandoned(self.root / "downloads", age=_GRACE)
        return Collected(tuple(removed), len(freed), sum(freed) + partial)

    def _drop(self, index: dict[str, tuple[str, int]], names: Sequence[str]) -> list[int]:
        """Forget names, and remove what no other leads to; return what each file freed. The index is locked."""
        models = [(digest, self._read_model(digest)) for digest in {index[name][0] for name in names}]
        for name in names:
            del index[name]
        self._write_index(index)
        parts = {part for digest, model in models for part in (digest, *(self._parts(model) if model else ()))}
        for digest in {digest for digest, _ in models} - {digest for digest, _ in index.values()}:
            self._used_path(digest).unlink(missing_ok=True)
            shutil.rmtree(self._set_path(digest), ignore_errors=True)
        return self._remove_files(parts - self._named())

    def _parts(self, model: StoredModel) -> set[str]:
        """Return the digests of a model's files and its config."""
        return {model.config, *(layer.digest for layer in model.layers)}

    def _named(self) -> set[str]:
        """Return the digests of everything that a name leads to.

        Raises ModelError for a manifest that is damaged: nobody can say what it names, and so what may be removed.
        """
        named: set[str] = set()
        for name, digest in self.tags().items():
            model = self._read_model(digest)
            if model is None and self.path(digest).exists():
                raise ModelError(f"the manifest of {name} is damaged", hint=f"Forget it: llcuda storage rm {name}")
            named |= {digest, *(self._parts(model) if model else ())}
        return named

    def _remove_files(self, digests: set[str]) -> list[int]:
        freed = []
        for digest in digests:
            if not self.is_held(digest):
                with contextlib.suppress(ModelNotFoundError):
                    freed.append(self.remove(digest))
        return freed

    def _read_model(self, digest: str) -> StoredModel | None:
        """Return a model without its names, or None if its manifest is not here, or is damaged."""
        path, used = self.path(digest), self._used_path(digest)
        with reading(path):
            try:
                document = path.read_bytes()
                since = (used if used.exists() else path).stat().st_mtime
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            manifest = read_manifest(document)
        except ModelError:
            return None
        facts = self._read_facts(manifest.config)
        is_right = digest_of(document) == digest
        return StoredModel(digest, (), manifest.layers, facts, since, manifest.config) if is_right else None

    def _read_facts(self, config: str) -> ModelFacts:
        with reading(self.path(config)):
            try:
                return read_config(self.path(config).read_bytes())
            except (FileNotFoundError, ModelError):
                return ModelFacts()

    def _with_names(self, model: StoredModel, tags: Mapping[str, str]) -> StoredModel:
        return replace(model, names=tuple(name for name, digest in tags.items() if digest == model.digest))

    def _write_model(self, layers: tuple[Layer, ...], facts: ModelFacts) -> tuple[str, int]:
        config = write_config(facts, layers)
        manifest = write_manifest(config, layers)
        for document in (config, manifest):
            self.write(document, digest_of(document))
        return digest_of(manifest), len(manifest)

    def _set_path(self, digest: str) -> Path:
        return self.root / "sets" / digest.partition(":")[2]

    def _used_path(self, digest: str) -> Path:
        return self.root / "used" / digest.partition(":")[2]

    def _touch(self, digest: str) -> None:
        """Note that a model is used. A store that cannot be written to is no error."""
        with contextlib.suppress(OSError):
            path = self._used_path(digest)
            path.parent.mkdir(exist_ok=True)
            path.touch()

    def _read_index(self) -> dict[str, tuple[str, int]]:
        try:
            return read_index((self.root / INDEX).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise ModelError(f"{self.root / INDEX} cannot be read: {error.strerror}") from None
        except ModelError as error:
            raise ModelError(
                f"{self.root / INDEX} is damaged: {error.message}",
                hint="Remove it: `llcuda storage put` takes a file in again without reading it anew.",
            ) from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, tuple[str, int]]]:
        """Yield the index, which nobody else changes meanwhile."""
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / "index.lock").open("wb")
        with writing(self.root), lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read_index()

    def _write_index(self, index: Mapping[str, tuple[str, int]]) -> None:
        if not (self.root / MARKER).exists():
            with place_file(self.root / MARKER) as file:
                file.write(LAYOUT)
        with place_file(self.root / INDEX) as file:
            file.write(write_index(index))
