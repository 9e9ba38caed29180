"""The store's documents: an OCI image layout, whose manifests are those of the CNCF's ModelPack.

Others write them too, so that each is read within bounds and checked field by field.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from llcuda.errors import ModelError, UsageError
from llcuda.store.digests import parse_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "DOCUMENT_TYPES", "INDEX", "LAYOUT", "MARKER", "Layer", "Manifest", "ModelFacts", "digest_of", "read_config",
    "read_index", "read_manifest", "write_config", "write_index", "write_manifest",
]  # fmt: skip

MARKER, LAYOUT = "oci-layout", b'{"imageLayoutVersion":"1.0.0"}'
INDEX = "index.json"
MAX_BYTES = 4 << 20
"""Of a document, as in OCI's distribution specification."""
MAX_LAYERS = 1024
"""Files of a model. Models are published in up to 200 parts."""

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
DOCUMENT_TYPES = (_MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json")
"""What a registry may call a manifest."""
_MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
_DOCKER_NAMES = {
    "application/vnd.docker.ai.gguf.v3": "model.gguf",
    "application/vnd.docker.ai.mmproj": "mmproj.gguf",
}
"""What files of Docker's artifacts are called, whose manifests do not say it."""
_OTHER_TYPES = re.compile(r"vnd\.cncf\.model\.(?!weight\.v)|vnd\.docker\.ai\.(?:license|chat)")
"""Of licences, pages, code, data and templates: the files that no weights are in."""
_TAG = "org.opencontainers.image.ref.name"
_FILE_NAMES = ("org.cncf.model.filepath", "org.opencontainers.image.title")
_FACTS = (("descriptor", ("name", "sourceURL", "createdAt")), ("config", ("architecture", "quantization", "paramSize")))


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a model."""

    digest: str
    bytes: int
    file: str
    """Its name; never a path."""
    is_weights: bool = True
    """Whether it is a part of the model or its projector, and not a licence or a page about it."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's config says of it; None for what is not known."""

    name: str | None = None
    source: str | None = None
    """Where it came from: a path, an address, or a name on the hub."""
    created: str | None = None
    """When it was taken in, as ``2026-11-30T12:00:00Z``."""
    architecture: str | None = None
    quantisation: str | None = None
    parameters: str | None = None
    """How many it has, as ``268000000``."""
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model: its files, and the digest of what is known of it."""

    layers: tuple[Layer, ...]
    config: str


def digest_of(document: bytes) -> str:
    """Return the digest of a document."""
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def write_config(facts: ModelFacts, layers: Sequence[Layer]) -> bytes:
    """Return the config of a model."""
    descriptor = {"name": facts.name, "sourceURL": facts.source, "createdAt": facts.created}
    config = {
        "architecture": facts.architecture, "format": "gguf", "quantization": facts.quantisation,
        "paramSize": facts.parameters,
    }  # fmt: skip
    licences = {"licenses": [facts.licence]} if facts.licence else {}
    return _encode({
        "descriptor": {**_known(descriptor), **licences},
        "config": _known(config),
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    })  # fmt: skip


def read_config(document: bytes) -> ModelFacts:
    """Return what a config says; nothing for what it does not say, or not as a text. Raises ModelError."""
    given = _decode(document, "config")
    said = {
        name: part[name]
        for section, names in _FACTS
        if type(part := given.get(section)) is dict
        for name in names
        if type(part.get(name)) is str
    }
    descriptor = given.get("descriptor")
    licences = descriptor.get("licenses") if type(descriptor) is dict else None
    licence = licences[0] if type(licences) is list and licences and type(licences[0]) is str else None
    return ModelFacts(
        said.get("name"), said.get("sourceURL"), said.get("createdAt"), said.get("architecture"),
        said.get("quantization"), said.get("paramSize"), licence,
    )  # fmt: skip


def write_manifest(config: bytes, layers: Sequence[Layer]) -> bytes:
    """Return the manifest of a model. Raises UsageError for a file's name that is a path."""
    for layer in layers:
        if not _is_file_name(layer.file):
            raise UsageError(f"{layer.file!r} is not the name of a file")
    return _encode({
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "artifactType": _MODEL_TYPE,
        "config": {"mediaType": _CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [
            {
                "mediaType": _WEIGHT_TYPE, "digest": layer.digest, "size": layer.bytes,
                "annotations": {_FILE_NAMES[0]: layer.file},
            }
            for layer in layers
        ],
    })  # fmt: skip


def read_manifest(document: bytes) -> Manifest:
    """Return a manifest, whoever wrote it: a layer without a name is called by its digest.

    Raises ModelError for what is none, for a digest that is none, and for two files of one name.
    """
    given = _decode(document, "manifest")
    layers, config = given.get("layers"), given.get("config")
    if type(layers) is not list or not 0 < len(layers) <= MAX_LAYERS:
        raise ModelError(f"the manifest names no files, or more than {MAX_LAYERS}")
    read = tuple(map(_read_layer, layers))
    if not any(layer.is_weights for layer in read):
        raise ModelError("the manifest names no weights")
    if len({layer.file for layer in read}) != len(read):
        raise ModelError("the manifest has two files of one name")
    return Manifest(read, _read_descriptor(config)[0])


def write_index(tags: Mapping[str, tuple[str, int]]) -> bytes:
    """Return the index of a layout: the digest and the size of each tag's manifest."""
    return _encode({
        "schemaVersion": 2,
        "mediaType": _INDEX_TYPE,
        "manifests": [
            {
                "mediaType": _MANIFEST_TYPE, "artifactType": _MODEL_TYPE, "digest": digest, "size": size,
                "annotations": {_TAG: tag},
            }
            for tag, (digest, size) in sorted(tags.items())
        ],
    })  # fmt: skip


def read_index(document: bytes) -> dict[str, tuple[str, int]]:
    """Return the tags of an index. A manifest without one is called by its digest. Raises ModelError."""
    manifests = _decode(document, "index").get("manifests")
    if type(manifests) is not list:
        raise ModelError("the index names no manifests")
    tags: dict[str, tuple[str, int]] = {}
    for given in manifests:
        digest, size = _read_descriptor(given)
        tag = _annotation(given, (_TAG,)) or digest
        tags[tag] = digest, size
    return tags


def _read_layer(given: Any) -> Layer:
    digest, size = _read_descriptor(given)
    kind = str(given.get("mediaType"))
    default = _DOCKER_NAMES.get(kind) or digest.replace(":", "-")
    file = PurePosixPath(_annotation(given, _FILE_NAMES) or default).name
    if not _is_file_name(file):
        raise ModelError(f"{file!r} in the manifest is not the name of a file")
    if ".weight.v1.tar" in kind:
        raise ModelError(
            f"{file!r} is packed as {kind}", hint="Push the model with its files as they are: as …weight.v1.raw."
        )
    return Layer(digest, size, file, _OTHER_TYPES.search(kind) is None)


def _is_file_name(text: str) -> bool:
    return text not in {"", ".", ".."} and "/" not in text and text.isprintable()


def _read_descriptor(given: Any) -> tuple[str, int]:
    digest, size = (given.get("digest"), given.get("size")) if type(given) is dict else (None, None)
    if type(digest) is not str or type(size) is not int or size < 0:
        raise ModelError("a document of the store names a file without its digest and size")
    try:
        return parse_digest(digest), size
    except UsageError as error:
        raise ModelError(f"a document of the store says: {error.message}") from None


def _annotation(given: dict[str, Any], names: Sequence[str]) -> str | None:
    annotations = given.get("annotations")
    found = (annotations.get(name) for name in names) if type(annotations) is dict else ()
    return next((text for text in found if type(text) is str and text), None)


def _known(fields: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value is not None}


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _decode(document: bytes, what: str) -> dict[str, Any]:
    if len(document) > MAX_BYTES:
        raise ModelError(f"the {what} has {len(document)} bytes, and may have {MAX_BYTES}")
    try:
        given = json.loads(document)
    except (ValueError, RecursionError):
        given = None
    if type(given) is not dict:
        raise ModelError(f"the {what} is no JSON object")
    return given
