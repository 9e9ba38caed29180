"""The store's documents, whoever wrote them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llcuda.errors import ModelError
from llcuda.store.layout import (
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

DIGEST = f"sha256:{'a' * 64}"
LAYERS = (Layer(DIGEST, 5, "m-00001-of-00002.gguf"), Layer(f"sha256:{'b' * 64}", 7, "m-00002-of-00002.gguf"))
FACTS = ModelFacts("mine", "https://x/y", "2026-11-30T12:00:00Z", "llama", "Q4_K_M", "268098176", "mit")


def test_what_is_written_is_read() -> None:
    config = write_config(FACTS, LAYERS)
    assert read_config(config) == FACTS
    manifest = read_manifest(write_manifest(config, LAYERS))
    assert (manifest.layers, manifest.config) == (LAYERS, digest_of(config))
    tags = {"b": (DIGEST, 5), "a/ü:c": (f"sha256:{'b' * 64}", 7)}
    assert read_index(write_index(tags)) == tags
    assert read_config(write_config(ModelFacts(), ())) == ModelFacts()


def test_a_manifest_is_one_of_modelpacks() -> None:
    config = write_config(FACTS, LAYERS)
    manifest = json.loads(write_manifest(config, LAYERS))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.cncf.model.weight.v1.raw"}
    assert json.loads(config)["modelfs"] == {"type": "layers", "diffIds": [layer.digest for layer in LAYERS]}


def manifest_of(*layers: Any) -> bytes:
    return json.dumps({"config": {"digest": DIGEST, "size": 1}, "layers": layers}).encode()


def layer(file: Any = None, digest: Any = DIGEST, size: Any = 1) -> dict[str, Any]:
    annotations = {} if file is None else {"annotations": {"org.opencontainers.image.title": file}}
    return {"digest": digest, "size": size, **annotations}


def test_anothers_manifest_is_read() -> None:
    (read,) = read_manifest(manifest_of(layer("sub/folder/x.gguf"))).layers
    assert read.file == "x.gguf"
    (read,) = read_manifest(manifest_of(layer())).layers
    assert read.file == DIGEST.replace(":", "-")
    given = {"manifests": [{"digest": DIGEST, "size": 1, "mediaType": "x"}]}
    assert read_index(json.dumps(given).encode()) == {DIGEST: (DIGEST, 1)}


@pytest.mark.parametrize(
    "document",
    [
        b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"layers": []}', b" " * (5 << 20), b"\xff",
        manifest_of(), manifest_of(1), manifest_of(*[layer()] * 2000), manifest_of(layer("a"), layer("b/a")),
        manifest_of(layer("..")), manifest_of(layer("a/..")), manifest_of(layer("\0")), manifest_of(layer("a\n")),
        manifest_of(layer(digest="sha256:../../etc/passwd")), manifest_of(layer(digest="sha512:" + "a" * 128)),
        manifest_of(layer(digest=5)), manifest_of(layer(size=-1)), manifest_of(layer(size="1")),
        manifest_of(layer(size=1.5)), manifest_of({"size": 1}), b'{"layers": [{}]}',
        json.dumps({"layers": [layer()]}).encode(), json.dumps({"config": [], "layers": [layer()]}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(document: bytes) -> None:
    with pytest.raises(ModelError):
        read_manifest(document)


@pytest.mark.parametrize(
    "document",
    [b"", b"5", b"{}", b'{"manifests": {}}', b'{"manifests": [5]}', b'{"manifests": [{"digest": "x", "size": 1}]}'],
)
def test_what_is_no_index_is_refused(document: bytes) -> None:
    with pytest.raises(ModelError):
        read_index(document)


@pytest.mark.parametrize(
    "document",
    [
        b"{}", b'{"descriptor": 5, "config": []}', b'{"descriptor": {"name": 5, "licenses": [5]}}',
        b'{"descriptor": {"licenses": "mit"}, "config": {"architecture": null}}',
    ],
)  # fmt: skip
def test_what_a_config_does_not_say_is_not_known(document: bytes) -> None:
    assert read_config(document) == ModelFacts()


def test_what_is_no_config_is_refused() -> None:
    with pytest.raises(ModelError):
        read_config(b"[]")
