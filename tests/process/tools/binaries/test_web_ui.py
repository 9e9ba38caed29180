"""Building the web UI, with an npm of our own that does in a moment what npm does in a minute."""

from __future__ import annotations

import json
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tools.binaries.errors import PreparationError
from tools.binaries.lock import TREE_PATH, read_lock
from tools.binaries.npm_packages import OTHERS
from tools.binaries.sbom import write_sbom
from tools.binaries.web_ui import LICENCES_NAME, build_web_ui, read_packages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Writes what it was asked into a log, and on `run build` what a build leaves behind.
NPM = """#!{python}
import json, os, pathlib, sys
with open({log!r}, "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "version":
    print('{{"node": "' + {version!r} + '"}}')
if sys.argv[1] == {failing!r}:
    sys.exit("npm error: " + "no network")
if sys.argv[1:] == ["run", "build"]:
    assert pathlib.Path("svelte.config.upstream.js").is_file() and pathlib.Path("vite.config.upstream.ts").is_file()
    assert "APP_NAME = 'llcuda'" in pathlib.Path("src/lib/constants/app.constants.ts").read_text()
    output = pathlib.Path(os.environ["LLAMA_UI_OUT_DIR"])
    for name in {files!r}:
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text({page!r} if name == "index.html" else os.environ["LLAMA_UI_VERSION"])
    for name in {packages!r}:
        folder = pathlib.Path("node_modules", name)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({{"name": name, "version": "1.2.3", "license": "MIT"}}))
    used = ["\\0" + str(pathlib.Path("node_modules/@scope/used/index.js").resolve()), "/elsewhere/page.ts"]
    pathlib.Path(os.environ["LLCUDA_WEB_UI_FILES"]).write_text(json.dumps(used))
"""
FILES = ("index.html", "build.json", "manifest.webmanifest", "sw.js", "_app/version.json")
PACKAGES = ("@scope/used", "@scope/unused", *OTHERS)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def put_npm(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what puts an npm on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "node").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(folder))

    def put(**facts: object) -> None:
        defaults = {"failing": "", "version": "20.19.0", "files": FILES, "page": "<p>", "packages": PACKAGES}
        python = sys.executable
        (folder / "npm").write_text(NPM.format(python=python, log=str(log), **{**defaults, **facts}))
        (folder / "npm").chmod(0o755)

    return put


def builds(log: Path) -> int:
    return log.read_text(encoding="utf-8").splitlines().count("run build")


def test_what_is_built_is_packed_with_its_packages_and_their_licences(
    put_npm: Callable[..., None], tmp_path: Path
) -> None:
    put_npm()
    archive = build_web_ui(read_lock(), tmp_path / "out")
    with zipfile.ZipFile(archive) as packed:
        assert set(packed.namelist()) == {*FILES, "licences.txt", "packages.json"}
        assert packed.read("build.json").decode() == read_lock().tag
        licences = packed.read(LICENCES_NAME).decode()
    names = {package["name"] for package in read_packages(archive)}
    assert names == {"@scope/used", *OTHERS, "nerdamer-prime", "big-integer", "decimal.js"}
    assert "\n@scope/used 1.2.3 (MIT)\n" in licences
    assert "This is free and unencumbered software" in licences
    # The sources and a gigabyte of packages are gone.
    assert {path.name for path in (tmp_path / "out").iterdir()} == {archive.name, "web_ui.key"}


def test_it_is_built_anew_when_something_has_changed_and_only_then(
    put_npm: Callable[..., None], log: Path, tmp_path: Path
) -> None:
    put_npm()
    first = build_web_ui(read_lock(), tmp_path / "out").read_bytes()
    assert (build_web_ui(read_lock(), tmp_path / "out").read_bytes(), builds(log)) == (first, 1)
    put_npm(version="22.12.0")
    assert (build_web_ui(read_lock(), tmp_path / "out").read_bytes(), builds(log)) == (first, 2)
    (tmp_path / "out" / "web_ui.zip").unlink()
    build_web_ui(read_lock(), tmp_path / "out")
    assert builds(log) == 3


@pytest.mark.parametrize("failing", ["version", "ci", "run"])
def test_an_npm_that_fails_is_heard(put_npm: Callable[..., None], tmp_path: Path, failing: str) -> None:
    put_npm(failing=failing)
    with pytest.raises(PreparationError, match=rf"(?s)`npm {failing}.*no network"):
        build_web_ui(read_lock(), tmp_path / "out")


def test_without_npm_there_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreparationError, match=r"no npm here; install Node\.js"):
        build_web_ui(read_lock(), tmp_path / "out")


@pytest.mark.parametrize("facts", [{"files": FILES[1:]}, {"page": '<script src="/_app/a.js">'}, {"packages": OTHERS}])
def test_a_build_that_is_not_whole_is_not_packed(
    put_npm: Callable[..., None], tmp_path: Path, facts: dict[str, object]
) -> None:
    put_npm(**facts)
    with pytest.raises(PreparationError):
        build_web_ui(read_lock(), tmp_path / "out")
    assert not (tmp_path / "out" / "web_ui.zip").exists()


def test_a_tree_without_the_sources_says_so(put_npm: Callable[..., None], tmp_path: Path) -> None:
    put_npm()
    with pytest.raises(PreparationError, match=r"fetch llama\.cpp's source again"):
        build_web_ui(read_lock(), tmp_path / "out", tree=tmp_path)


def test_the_bill_of_materials_has_the_packages(put_npm: Callable[..., None], tmp_path: Path) -> None:
    put_npm()
    packages = read_packages(build_web_ui(read_lock(), tmp_path / "out"))
    write_sbom(read_lock(), tree=TREE_PATH, output=tmp_path / "sbom.json", packages=packages)
    parts = json.loads((tmp_path / "sbom.json").read_text(encoding="utf-8"))["components"]
    (used,) = [part for part in parts if part["name"] == "@scope/used"]
    assert (used["purl"], used["version"]) == ("pkg:npm/%40scope/used@1.2.3", "1.2.3")
    assert {"nerdamer-prime", "llama.cpp"} <= {part["name"] for part in parts}


def test_what_is_no_archive_of_a_ui_says_so(tmp_path: Path) -> None:
    (tmp_path / "web_ui.zip").write_bytes(b"PK")
    with pytest.raises(PreparationError, match="not the archive of a web UI"):
        read_packages(tmp_path / "web_ui.zip")
