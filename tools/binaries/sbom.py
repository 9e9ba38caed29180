"""The software bill of materials (CycloneDX 1.6) of what is compiled into the binaries, from the lock file."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tools.binaries.lock import Lock

__all__ = ["write_sbom"]

# Name, licence, a file of the vendored tree, and the pattern in it that states the version, where there is one.
BUNDLED = (
    ("cpp-httplib", "MIT", "vendor/cpp-httplib/httplib.h", r'CPPHTTPLIB_VERSION "([^"]+)"'),
    ("nlohmann-json", "MIT", "vendor/nlohmann/json.hpp", r"version (\d+\.\d+\.\d+)"),
    ("miniaudio", "MIT-0 OR Unlicense", "vendor/miniaudio/miniaudio.h", r"miniaudio - v(\S+)"),
    ("stb_image", "MIT OR Unlicense", "vendor/stb/stb_image.h", r"stb_image - v(\S+)"),
    ("subprocess.h", "Unlicense", "vendor/sheredom/subprocess.h", None),
    ("xxhash", "BSD-2-Clause", "vendor/hash/xxhash/xxhash.h", None),
    ("sha1", "LicenseRef-public-domain", "vendor/hash/sha1/sha1.c", None),
    ("sha256", "LicenseRef-public-domain", "vendor/hash/sha256/sha256.c", None),
    ("rotate-bits", "MIT", "vendor/hash/rotate-bits/rotate-bits.h", None),
    ("llamafile-sgemm", "MIT", "ggml/src/ggml-cpu/llamafile/sgemm.cpp", None),
)


def write_sbom(
    lock: Lock,
    *,
    tree: Path,
    output: Path,
    toolkits: Sequence[str] = (),
    packages: Sequence[Mapping[str, str]] = (),
) -> None:
    """Write the bill of materials to `output`; the same lock, CUDA toolkits and npm packages give the same bytes.

    A CUDA backend has its toolkit's runtime inside, the web UI the `packages`.
    """
    root = f"pkg:github/ggml-org/llama.cpp@{lock.tag}"
    parts = [component(tree, *entry) for entry in BUNDLED if (tree / entry[2]).exists()]
    parts += [cuda_runtime(version) for version in sorted(set(toolkits))]
    parts += [npm_package(**package) for package in packages]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "library", "name": "llcuda", "bom-ref": "llcuda"}},
        "components": [llama_cpp(lock, root), *parts],
        "dependencies": [
            {"ref": "llcuda", "dependsOn": [root]},
            {"ref": root, "dependsOn": [part["bom-ref"] for part in parts]},
        ],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def llama_cpp(lock: Lock, reference: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": reference,
        "name": "llama.cpp",
        "version": lock.tag,
        "purl": reference,
        "licenses": [{"license": {"id": str(lock.data["license"])}}],
        "externalReferences": [
            {
                "type": "source-distribution",
                "url": f"pkg:pypi/{lock.package}@{lock.package_version}",
                "hashes": [{"alg": "SHA-256", "content": lock.sha256}],
            }
        ],
        "pedigree": {
            "patches": [
                {
                    "type": "unofficial",
                    "diff": {"text": {"contentType": "text/plain", "content": patch.diff}},
                    "resolves": [{"type": "defect", "id": patch.name, "description": patch.header.strip()}],
                }
                for patch in lock.patches
            ]
        },
    }


def cuda_runtime(version: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"cuda-runtime/{version}",
        "name": "cuda-runtime",
        "version": version,
        "licenses": [{"expression": "LicenseRef-NVIDIA-CUDA-Toolkit-EULA"}],
    }


def npm_package(*, name: str, version: str, licence: str) -> dict[str, Any]:
    """Describe a package of the web UI; one without a version is a copy in llama.cpp's source."""
    reference = f"pkg:npm/{name.replace('@', '%40')}@{version}" if version else f"llama.cpp/tools/ui/{name}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": name,
        **({"version": version, "purl": reference} if version else {}),
        "licenses": [{"expression": licence}],
    }


def component(tree: Path, name: str, licence: str, path: str, pattern: str | None) -> dict[str, Any]:  # noqa: PLR0917
    found = re.search(pattern, (tree / path).read_text(encoding="utf-8", errors="replace")) if pattern else None
    return {
        "type": "library",
        "bom-ref": f"llama.cpp/{path}",
        "name": name,
        **({"version": found[1]} if found else {}),
        "licenses": [{"expression": licence}],
    }
