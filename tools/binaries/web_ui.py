"""Build llama.cpp's web UI with npm, as upstream does, and pack it into one file that the gateway serves.

The sources come from the vendored tree, the npm packages from the registry that npm is set up with: upstream's
package-lock.json pins each by its hash. Two files of tools/web_ui go around upstream's configuration, and a patch makes
it the gateway's own page.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from tools.binaries.errors import PreparationError
from tools.binaries.fetch import hash_tree
from tools.binaries.lock import ROOT, TREE_PATH, hash_file
from tools.binaries.npm_packages import describe_licences, find_packages, list_packages
from tools.binaries.patches import apply_patch, read_patches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tools.binaries.lock import Lock

__all__ = ["ARCHIVE_NAME", "LICENCES_NAME", "PACKAGES_NAME", "build_web_ui", "pack_files", "read_packages"]

ARCHIVE_NAME = "web_ui.zip"
LICENCES_NAME = "licences.txt"
PACKAGES_NAME = "packages.json"
KEY_NAME = "web_ui.key"
WRAPPERS = ROOT / "tools" / "web_ui"
WRAPPED = {"svelte.config.js": "svelte.config.upstream.js", "vite.config.ts": "vite.config.upstream.ts"}
# What the page does not do without. Upstream writes some of them after vite has ended, and says nothing where it fails.
REQUIRED = ("index.html", "build.json", "manifest.webmanifest", "sw.js", "_app/version.json")
EARLIEST = (1980, 1, 1, 0, 0, 0)
LAST_LINES = 20


def build_web_ui(lock: Lock, folder: Path, *, tree: Path = TREE_PATH) -> Path:
    """Build the UI and return its archive in `folder`; what was built there from the same sources is left as it is.

    Raises PreparationError where there is no npm, no network, or an npm that fails, with its last lines.
    """
    archive, stamp = folder / ARCHIVE_NAME, folder / KEY_NAME
    npm = find_npm()
    source = tree / "tools" / "ui"
    key = compute_key(lock, source=source, node=ask_version(npm))
    if archive.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == key:
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as temporary:
        files = run_build(npm, lock, source=source, work=Path(temporary).resolve())
        pack_files(files, Path(temporary) / ARCHIVE_NAME)
        (Path(temporary) / ARCHIVE_NAME).replace(archive)
    stamp.write_text(key, encoding="utf-8")
    return archive


def find_npm() -> str:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise PreparationError("there is no npm here; install Node.js 20.19 or newer")
    return npm


def ask_version(npm: str) -> str:
    return run_npm([npm, "version", "--json"], folder=ROOT)


def compute_key(lock: Lock, *, source: Path, node: str) -> str:
    """Return the hash of all that decides about the archive's bytes."""
    makers = [*WRAPPERS.iterdir(), Path(__file__), Path(__file__).with_name("npm_packages.py")]
    made_of = str(hash_tree(source)["sha256"])
    facts = [made_of, lock.tag, node, *(f"{path.name} {hash_file(path)}" for path in sorted(makers))]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def run_build(npm: str, lock: Lock, *, source: Path, work: Path) -> dict[str, bytes]:
    """Return the files of the UI, with the list of the npm packages in it and their licences."""
    sources, output, used = work / "ui", work / "dist", work / "files.json"
    copy_sources(source, sources)
    run_npm([npm, "ci", "--no-audit", "--no-fund"], folder=sources)
    variables = {
        "LLAMA_BUILD_NUMBER": lock.tag,
        "LLAMA_UI_OUT_DIR": str(output),
        "LLAMA_UI_VERSION": lock.tag,
        "LLCUDA_WEB_UI_FILES": str(used),
    }
    run_npm([npm, "run", "build"], folder=sources, variables=variables)
    files = read_output(output)
    packages = find_packages(json.loads(used.read_text(encoding="utf-8")), sources=sources)
    files[LICENCES_NAME] = describe_licences(packages).encode()
    files[PACKAGES_NAME] = (json.dumps(list_packages(packages), indent=1) + "\n").encode()
    return files


def copy_sources(source: Path, target: Path) -> None:
    """Copy the UI's sources, put our configuration around upstream's, and make it the gateway's own page."""
    if not (source / "package-lock.json").is_file():
        raise PreparationError(f"{source} has no sources of the web UI; fetch llama.cpp's source again")
    shutil.copytree(source, target)
    for name, kept in WRAPPED.items():
        (target / name).rename(target / kept)
    for path in WRAPPERS.glob("*.js"):
        shutil.copyfile(path, target / path.name)
    for patch in read_patches(WRAPPERS):
        apply_patch(patch, tree=target)


def read_output(output: Path) -> dict[str, bytes]:
    files = {
        path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()
    }
    missing = [name for name in REQUIRED if name not in files]
    if missing or b'"/_app/' in files["index.html"]:
        raise PreparationError(
            f"npm built a web UI that is not whole: {', '.join(missing) or 'index.html names absolute paths'}"
        )
    return files


def pack_files(files: Mapping[str, bytes], archive: Path) -> None:
    """Write an archive whose bytes depend on the files alone."""
    with zipfile.ZipFile(archive, "w") as packed:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=EARLIEST)
            entry.external_attr = 0o100644 << 16
            # 0.8 MB less than deflate, in a wheel that has a bound.
            packed.writestr(entry, files[name], compress_type=zipfile.ZIP_LZMA)
    archive.chmod(0o644)


def read_packages(archive: Path) -> list[dict[str, str]]:
    """Return the npm packages in a UI's archive. Raises PreparationError where it is not one."""
    try:
        with zipfile.ZipFile(archive) as packed:
            return list(json.loads(packed.read(PACKAGES_NAME)))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise PreparationError(
            f"{archive} is not the archive of a web UI ({error!r}). Build or stage again."
        ) from error


def run_npm(command: list[str], *, folder: Path, variables: Mapping[str, str] | None = None) -> str:
    environment = {**os.environ, "npm_config_update_notifier": "false", **(variables or {})}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-LAST_LINES:])
        raise PreparationError(f"`npm {' '.join(command[1:])}` failed with {done.returncode}:\n{last}")
    return done.stdout
