"""The models that have a name of their own: ``registry.json``, and finding them in it."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from llcuda.models.names import DEMOS, HubName

if TYPE_CHECKING:
    from collections.abc import Iterable

# Models that are known to have a draft: a smaller model with the same vocabulary, tried together with this one.
_DRAFTS = {"demo": "demo-draft"}


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One model of the registry."""

    name: str
    repository: str
    file: str
    parameters: int
    """Approximate, from the model's card."""
    quantisation: str
    bytes: int
    """Approximate, of the file itself without a projector."""
    context: int
    """Tokens that the model was made for."""
    licence: str
    checked: str
    """Where repository and file were seen, or ``not checked``."""

    @property
    def short_name(self) -> str:
        """The name without its quantisation."""
        return self.name.removesuffix(f"-{self.quantisation}")

    @property
    def hub_name(self) -> HubName:
        """The file on the hub."""
        return HubName(self.repository, file=self.file)


@cache
def read_registry() -> tuple[RegistryEntry, ...]:
    """Return the entries in the order of the file."""
    text = Path(__file__).with_name("registry.json").read_text(encoding="utf-8")
    return tuple(RegistryEntry(**entry) for entry in json.loads(text)["models"])


def find_entry(name: str) -> RegistryEntry | None:
    """Return the entry of that name, whatever its capitals and with or without the quantisation, or None."""
    wanted = name.lower()
    short = [entry for entry in read_registry() if wanted == entry.short_name.lower()]
    return next((entry for entry in read_registry() if entry.name.lower() == wanted), next(iter(short), None))


def get_draft(name: str) -> str | None:
    """Return the name of the draft model that goes with the model of that name, or None if none is known."""
    return _DRAFTS.get(name.lower())


def suggest_names(name: str, others: Iterable[str] = ()) -> tuple[str, ...]:
    """Return up to three known names that are near ``name``, the nearest first."""
    known = {known.lower(): known for known in (*DEMOS, *(entry.name for entry in read_registry()), *others)}
    starting = sorted((key for key in known if name and key.startswith(name.lower())), key=len)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return tuple(dict.fromkeys(known[key] for key in (*starting, *near)))[:3]
