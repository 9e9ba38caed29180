"""Which npm packages went into the web UI, and under which licences."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools.binaries.errors import PreparationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Package", "describe_licences", "find_packages", "list_packages"]

# The last folder of packages in a path, and the package's own in it.
PACKAGE_FOLDER = re.compile(r"(.*/node_modules/(?:@[^/]+/)?[^/]+)/")
NOTICE = re.compile(r"(?:licen[cs]e|copying|notice)(?:[.-].*)?", re.IGNORECASE)
# In what is built without being a file of it: the service worker is put together by itself, and plugins write code.
OTHERS = (
    *("@tailwindcss/typography", "idb", "vite", "vite-plugin-pwa"),
    *("workbox-core", "workbox-expiration", "workbox-precaching", "workbox-routing", "workbox-strategies"),
)
VENDORED = "src/lib/vendors"  # what upstream keeps a copy of, with a licence in each folder
WORDINGS = {
    "MIT": "Permission is hereby granted, free of charge",
    "Unlicense": "This is free and unencumbered software released into the public domain",
}
RULE = "-" * 100


@dataclass(frozen=True, slots=True)
class Package:
    """What a package says about itself; one that upstream has a copy of has no version."""

    name: str
    version: str
    licence: str
    notices: tuple[str, ...]


def find_packages(files: Iterable[str], *, sources: Path) -> list[Package]:
    """Return the packages that these files are of, and those that are in every UI, each version once, by name.

    Raises PreparationError for one without a licence.
    """
    folders = {match[1] for file in files if (match := PACKAGE_FOLDER.match(file.lstrip("\0")))}
    folders |= {str(sources / "node_modules" / name) for name in OTHERS}
    packages = {read_package(sources / folder) for folder in folders}
    packages |= {read_vendored(folder) for folder in (sources / VENDORED).iterdir() if folder.is_dir()}
    return sorted(packages, key=lambda package: (package.name, package.version))


def read_package(folder: Path) -> Package:
    path = folder / "package.json"
    try:
        notices = read_notices(folder)
        data = json.loads(path.read_text(encoding="utf-8"))
        name, version = str(data["name"]), str(data["version"])
    except (OSError, ValueError, KeyError) as error:
        raise PreparationError(f"{path} does not say what it is: {error!r}") from error
    licence = str(data["license"]) if "license" in data else recognise_licence(notices, folder=folder)
    return Package(name, version, licence, notices or (f"{licence}, by {name_authors(data)}",))


def read_vendored(folder: Path) -> Package:
    notices = read_notices(folder)
    return Package(folder.name, "", recognise_licence(notices, folder=folder), notices)


def recognise_licence(notices: tuple[str, ...], *, folder: Path) -> str:
    """Return which licence a text is. Raises PreparationError for one that nobody has looked at yet."""
    for licence, words in WORDINGS.items():
        if any(words in " ".join(notice.split()) for notice in notices):
            return licence
    raise PreparationError(f"{folder} is under a licence that is not known here")


def read_notices(folder: Path) -> tuple[str, ...]:
    paths = sorted(path for path in folder.iterdir() if path.is_file() and NOTICE.fullmatch(path.name))
    return tuple(path.read_text(encoding="utf-8", errors="replace").strip() for path in paths)


def name_authors(data: dict[str, Any]) -> str:
    author = data.get("author") or (data.get("contributors") or ["its authors"])[0]
    return str(author.get("name", "its authors")) if isinstance(author, dict) else str(author)


def describe_licences(packages: Iterable[Package]) -> str:
    """Return all licences as one text."""
    parts = ["This page is llama.cpp's web UI (MIT). It contains these packages, under their own licences.\n"]
    for package in packages:
        text = "\n\n".join(package.notices)
        title = " ".join(filter(None, (package.name, package.version, f"({package.licence})")))
        parts.append(f"{RULE}\n{title}\n\n{text}\n")
    return "\n".join(parts)


def list_packages(packages: Iterable[Package]) -> list[dict[str, str]]:
    """Return what the bill of materials says of each."""
    return [{"name": one.name, "version": one.version, "licence": one.licence} for one in packages]
