"""What requests call a model that was not given a name, and the path that leads to one."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llcuda.models.names import HubName, PathName, UrlName, parse_name

__all__ = ["name_model", "place_model", "split_model"]

# A path, a URL and a repository have a slash before any equals sign.
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:-]*)=(.+)")
_ENDING = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)


def split_model(text: str) -> tuple[str, str]:
    """Return the name and the model of ``NAME=MODEL``; the name is empty if there is none."""
    match = _NAMED.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)


def name_model(model: str) -> str:
    """Return what requests call the model: the name of its file without the ending, or its own name.

    Raises UsageError for what cannot be the name of a model.
    """
    name = parse_name(model)
    if isinstance(name, PathName):
        return _ENDING.sub("", Path(name.path).name)
    if isinstance(name, UrlName):
        return _ENDING.sub("", Path(unquote(urlsplit(name.url).path)).name)
    if isinstance(name, HubName):
        return _ENDING.sub("", Path(name.file).name) if name.file else name.label
    return model


def place_model(model: str, folder: Path) -> str:
    """Return the model; a path that does not start at the root starts at ``folder``."""
    name = parse_name(model)
    return str(folder.absolute() / Path(name.path).expanduser()) if isinstance(name, PathName) else model
