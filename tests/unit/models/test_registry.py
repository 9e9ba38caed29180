"""The registry's form, finding and suggesting names, and the table in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from llcuda.models.file_names import PREFERENCE, parse_quantisation
from llcuda.models.names import HubName, RegistryName, parse_name
from llcuda.models.registry import RegistryEntry, find_entry, read_registry, suggest_names

ENTRIES = read_registry()
DOCUMENT = Path(__file__).parents[3] / "docs" / "models.md"


def test_there_are_at_least_twenty_five_models_of_every_size() -> None:
    sizes = [entry.parameters / 1e9 for entry in ENTRIES]
    assert len(ENTRIES) >= 25
    assert min(sizes) < 0.5
    assert 25 < max(sizes) < 31


def test_names_are_unique_whatever_their_capitals() -> None:
    assert len({entry.name.lower() for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_has_a_sensible_form(entry: RegistryEntry) -> None:
    assert isinstance(parse_name(entry.name), RegistryName)
    assert parse_name(entry.hub_name.label) == HubName(entry.repository, file=entry.file)
    assert entry.name.endswith(f"-{entry.quantisation}")
    assert entry.quantisation in PREFERENCE
    # Phi 3's publisher writes q4 for Q4_K_M.
    assert parse_quantisation(entry.file) in {entry.quantisation, "Q4"}
    bits = entry.bytes * 8 / entry.parameters
    assert 3 < bits < 10, "size and parameters do not go together"
    assert 2048 <= entry.context <= 1_048_576
    assert entry.licence
    assert entry.checked == "not checked" or entry.checked.startswith("address")


def test_the_contracts_name_leads_to_the_contracts_file() -> None:
    entry = find_entry("gemma-3-1b-Q4_K_M")
    assert entry is not None
    assert entry.hub_name.label == "unsloth/gemma-3-1b-it-GGUF:gemma-3-1b-it-Q4_K_M.gguf"


@pytest.mark.parametrize("name", ["GEMMA-3-1B-q4_k_m", "gemma-3-1b", "Gemma-3-1B"])
def test_capitals_and_a_missing_quantisation_do_not_matter(name: str) -> None:
    entry = find_entry(name)
    assert entry is not None
    assert entry.name == "gemma-3-1b-Q4_K_M"


@pytest.mark.parametrize("name", ["", "gemma", "no such model"])
def test_a_name_that_is_in_no_entry_finds_none(name: str) -> None:
    assert find_entry(name) is None


@pytest.mark.parametrize(
    ("name", "near"), [("gema-3-1b", "gemma-3-1b-Q4_K_M"), ("demmo", "demo"), ("qwen3.5-4", "qwen3.5-4b-Q4_K_M")]
)
def test_a_wrong_name_suggests_the_near_one_first(name: str, near: str) -> None:
    assert suggest_names(name)[0] == near


def test_other_names_are_suggested_too() -> None:
    assert suggest_names("my-modle", ["my-model"]) == ("my-model",)


def test_nothing_is_suggested_for_what_is_near_nothing() -> None:
    assert suggest_names("zzzzzzzzzzzzzzz") == ()


def format_table() -> str:
    head = "| Name | Parameters | Size | Context | Licence | Repository and file |\n" + "| --- " * 6 + "|\n"
    return head + "".join(f"{format_row(entry)}\n" for entry in ENTRIES)


def format_row(entry: RegistryEntry) -> str:
    mark = " (not checked)" if entry.checked == "not checked" else ""
    cells = (
        f"`{entry.name}`",
        f"{entry.parameters / 1e9:.3g}B",
        f"{entry.bytes / 1e9:.2f} GB",
        f"{entry.context:,}",
        entry.licence,
        f"`{entry.repository}:{entry.file}`{mark}",
    )
    assert not any("|" in cell for cell in cells)
    return f"| {' | '.join(cells)} |"


def test_the_documentations_table_is_the_registry() -> None:
    assert format_table() in DOCUMENT.read_text(encoding="utf-8"), "put in what format_table() returns"
