"""Models in a registry: what llcuda pushes others pull, what others push llcuda pulls, and both are answered from."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import bcrypt
import httpx
import modelpack_client as modelpack
import pytest

from llcuda.errors import ChecksumMismatchError, ModelError, ModelNotFoundError, StorageError
from llcuda.models import lock_model, pull_model, push_model, put_model, resolve_model
from llcuda.store import ModelStore, hash_file
from tests.process.storage.servers import find_port, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ASK = ["infer", "--temperature", "0", "What is 2+2?", "-m"]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    folder, port = tmp_path / "registry", find_port()
    folder.mkdir()
    with serve("registry", folder, port):
        yield f"127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LLCUDA_STORAGE_URL", raising=False)
    return tmp_path / "home"


@pytest.fixture
def demo() -> Path:
    return resolve_model("demo").path


def run(*words: str, home: Path, **environment: str) -> str:
    command = [sys.executable, "-m", "llcuda", *words]
    done = subprocess.run(
        command, env={**os.environ, "LLCUDA_HOME": str(home), **environment}, stdout=subprocess.PIPE, text=True,
        timeout=200, check=True,
    )  # fmt: skip
    return done.stdout


def push_document(host: str, document: dict[str, Any], blobs: list[bytes]) -> None:
    """Push a manifest and its blobs as any client would."""
    with httpx.Client(base_url=f"http://{host}/v2/x/y", trust_env=False) as client:
        for blob in blobs:
            address = client.post("/blobs/uploads/").headers["location"]
            digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
            assert client.put(f"{address}&digest={digest}", content=blob).status_code == 201
        body, kind = json.dumps(document).encode(), document["mediaType"]
        assert client.put("/manifests/v1", content=body, headers={"Content-Type": kind}).status_code == 201


def describe(media_type: str, blob: bytes, **annotations: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(blob), "annotations": annotations}


def test_what_is_pushed_is_pulled_elsewhere_and_answers(host: str, tmp_path: Path, demo: Path) -> None:
    put_model(demo, "mine")
    there = tmp_path / "elsewhere"
    name = f"oci://{host}/team/models:v1"
    pushed = push_model("mine", name, progress=False)
    assert run(*ASK, name, home=there) == "2 + 2 = 4.\n"
    assert ModelStore(there / "models").get_model(name).digest == pushed.digest
    assert run("models", "list", "--on-disk", "--json", home=there).count(name) == 1
    by_digest = f"oci://{host}/team/models@{pushed.digest}"
    assert run(*ASK, by_digest, home=there) == "2 + 2 = 4.\n"
    assert run(*ASK, name, home=there, LLCUDA_OFFLINE="1") == "2 + 2 = 4.\n"
    run("models", "rm", name, home=there)
    assert ModelStore(there / "models").tags().keys() == {by_digest}


def test_a_model_by_its_name_comes_from_the_remote_that_is_set(
    host: str, tmp_path: Path, *, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLCUDA_STORAGE_URL", f"oci://{host}/team/models")
    put_model(demo, "mine")
    push_model("mine", f"oci://{host}/team/models", progress=False)
    there = tmp_path / "elsewhere"
    assert run(*ASK, "mine", home=there) == "2 + 2 = 4.\n"
    assert run(*ASK, hash_file(demo), home=tmp_path / "third") == "2 + 2 = 4.\n"
    with pytest.raises(ModelNotFoundError):
        resolve_model("nobody-knows-this")


def test_a_tag_that_moves_is_pulled_anew_and_a_frozen_one_refused(
    host: str, tmp_path: Path, *, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"oci://{host}/team/models:v1"
    put_model(demo, "mine")
    push_model("mine", name, progress=False)
    first = pull_model(name, progress=False)
    lock_model(name, progress=False)
    put_model(resolve_model("demo-draft").path, "other")
    push_model("other", name, progress=False)
    assert resolve_model(name).digest == first.digest
    second = pull_model(name, progress=False)
    assert second.digest == hash_file(resolve_model("demo-draft").path)
    monkeypatch.setenv("LLCUDA_FROZEN", "1")
    with pytest.raises(ChecksumMismatchError, match="pins"):
        resolve_model(name)


def test_skopeo_reads_what_llcuda_pushes(host: str, tmp_path: Path, demo: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    put_model(demo, "mine")
    push_model("mine", f"oci://{host}/x/y:v1", progress=False)
    layout = tmp_path / "layout"
    copy = ["skopeo", "copy", "--insecure-policy"]
    subprocess.run(
        [*copy, "--src-tls-verify=false", f"docker://{host}/x/y:v1", f"oci:{layout}:v1"],
        check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    digest = hash_file(demo)
    assert hash_file(layout / "blobs" / "sha256" / digest[7:]) == digest
    # And back: what skopeo pushes is a model.
    subprocess.run(
        [*copy, "--dest-tls-verify=false", f"oci:{layout}:v1", f"docker://{host}/x/z:v2"],
        check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    assert run(*ASK, f"oci://{host}/x/z:v2", home=tmp_path / "elsewhere") == "2 + 2 = 4.\n"


def test_modelpack_client_reads_what_llcuda_pushes_and_writes_what_it_reads(
    host: str, tmp_path: Path, demo: Path
) -> None:
    put_model(demo, "mine")
    push_model("mine", f"oci://{host}/x/y:v1", progress=False)
    client = modelpack.ModelPackClient(insecure=True)
    pulled = client.pull(f"{host}/x/y:v1", str(tmp_path / "pulled"))
    assert [hash_file(file) for file in pulled.files] == [hash_file(demo)]
    model, card = tmp_path / "weights.gguf", tmp_path / "README.md"
    shutil.copy(demo, model)
    card.write_text("a model of sums")
    client.push(
        f"{host}/x/y:v2",
        layers=[
            modelpack.ModelLayer(str(model), artifact_path="weights.gguf"),
            modelpack.ModelLayer(
                str(card), media_type="application/vnd.cncf.model.doc.v1.raw", artifact_path="README.md"
            ),
        ],
        config=modelpack.ModelPackConfig(
            descriptor=modelpack.ModelDescriptor(name="sums"), config=modelpack.ModelTechnicalConfig(format="gguf")
        ),
    )
    name = f"oci://{host}/x/y:v2"
    assert run(*ASK, name, home=tmp_path / "elsewhere") == "2 + 2 = 4.\n"
    layers = ModelStore(tmp_path / "elsewhere" / "models").get_model(name).layers
    assert {layer.file: layer.is_weights for layer in layers} == {"weights.gguf": True, "README.md": False}


def test_dockers_artifacts_are_read(host: str, tmp_path: Path, demo: Path) -> None:
    weights, licence = demo.read_bytes(), b"do as you like"
    config = json.dumps({"config": {"format": "gguf", "quantization": "Q8_0", "parameters": "1.4 M"}}).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("application/vnd.docker.ai.model.config.v0.1+json", config),
        "layers": [
            describe("application/vnd.docker.ai.license", licence),
            describe("application/vnd.docker.ai.gguf.v3", weights),
        ],
    }
    push_document(host, document, [weights, licence, config])
    assert run(*ASK, f"oci://{host}/x/y:v1", home=tmp_path / "elsewhere") == "2 + 2 = 4.\n"
    model = ModelStore(tmp_path / "elsewhere" / "models").get_model(f"oci://{host}/x/y:v1")
    assert [layer.file for layer in model.layers if layer.is_weights] == ["model.gguf"]
    assert model.facts.quantisation == "Q8_0"


@pytest.mark.parametrize(
    ("media_type", "annotations"),
    [
        ("application/vnd.cncf.model.weight.v1.tar+gzip", {"org.cncf.model.filepath": "x.tar.gz"}),
        ("application/vnd.cncf.model.doc.v1.raw", {"org.cncf.model.filepath": "x.md"}),
        ("application/vnd.cncf.model.weight.v1.raw", {"org.cncf.model.filepath": ".."}),
        ("application/vnd.cncf.model.weight.v1.raw", {"org.cncf.model.filepath": "a\nb"}),
    ],
)
def test_what_cannot_be_a_model_is_refused(
    host: str, media_type: str, *, annotations: dict[str, str], home: Path
) -> None:
    config, blob = b"{}", b"GGUF"
    document = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("application/vnd.cncf.model.config.v1+json", config),
        "layers": [describe(media_type, blob, **annotations)],
    }  # fmt: skip
    push_document(host, document, [config, blob])
    with pytest.raises(ModelError):
        pull_model(f"oci://{host}/x/y:v1", progress=False)
    assert ModelStore().tags() == {}
    assert ModelStore().list() == {}
    assert {path.name for path in home.parent.iterdir()} <= {"home", "registry"}


def test_a_login_is_taken_from_where_docker_keeps_it(
    tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, port = tmp_path / "registry", find_port()
    folder.mkdir()
    secret = "a-secret-that-nobody-may-see"
    hashed = bcrypt.hashpw(secret.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"somebody:{hashed}\n")
    put_model(demo, "mine")
    name = f"oci://127.0.0.1:{port}/x/y:v1"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with serve("registry", folder, port):
        with pytest.raises(StorageError, match="login"):
            push_model("mine", name, progress=False)
        (tmp_path / "docker").mkdir()
        login = base64.b64encode(f"somebody:{secret}".encode()).decode()
        logins = {"auths": {f"127.0.0.1:{port}": {"auth": login}}}
        (tmp_path / "docker" / "config.json").write_text(json.dumps(logins))
        push_model("mine", name, progress=False)
        assert run(*ASK, name, home=tmp_path / "elsewhere") == "2 + 2 = 4.\n"
        logins["auths"][f"127.0.0.1:{port}"]["auth"] = base64.b64encode(b"somebody:wrong").decode()
        (tmp_path / "docker" / "config.json").write_text(json.dumps(logins))
        with pytest.raises(StorageError) as caught:
            pull_model(name, progress=False)
        assert secret not in str(caught.value)
