"""Bundles that wish us ill: each is refused by name before anything runs, and nothing of it is left anywhere."""

from __future__ import annotations

import json
import resource
from typing import TYPE_CHECKING

import pytest

from llcuda.errors import ChecksumMismatchError, InstallError, LlcudaError, UsageError
from llcuda.installer import BinaryInstaller, install
from tests.inputs.bundles import LIBRARY, Draft, file, pack_members, write_bundle
from tests.inputs.hostile_bundles import list_hostile
from tests.standins.fake_t4 import T4, devices

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = list_hostile()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(install, "find_devices", lambda **_: devices(T4))
    monkeypatch.setattr(install, "_get_tag", lambda: "b11434")
    return tmp_path / "home"


def list_left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_there_are_sixty_and_more() -> None:
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused_and_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, name: str
) -> None:
    write, says = HOSTILE[name]
    write(tmp_path / "bundles")
    before = list_left(tmp_path)
    monkeypatch.setattr(install, "prove", lambda *_, **__: pytest.fail("it came as far as being run"))
    with pytest.raises(LlcudaError) as caught:
        BinaryInstaller(source=str(tmp_path / "bundles")).download_binary()
    assert isinstance(caught.value, InstallError | ChecksumMismatchError | UsageError)
    assert says in str(caught.value)
    assert caught.value.hint
    assert list_left(tmp_path) == before
    assert [path.name for path in home.rglob("*") if path.is_dir() and path.name.startswith(".install")] == []


def test_a_bomb_costs_neither_memory_nor_time(home: Path, tmp_path: Path) -> None:
    HOSTILE["a-bomb-after-the-end"][0](tmp_path / "bundles")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InstallError):
        BinaryInstaller(source=str(tmp_path / "bundles")).download_binary()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB
    assert not list_left(home)


def test_no_bit_of_a_mode_but_that_for_execution_comes_through(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del home
    seen = {}

    def look(folder: Path, **_: object) -> None:
        seen.update({path.name: path.stat().st_mode & 0o7777 for path in folder.iterdir()})
        raise InstallError("x", "enough seen")

    draft = Draft(files={LIBRARY: b"x", "tool": b"y"})
    record, *_ = draft.members()
    members = [record, file(LIBRARY, b"x", mode=0o6777), file("tool", b"y", mode=0o7000)]
    write_bundle(tmp_path / "bundles", draft, data=pack_members(members))
    monkeypatch.setattr(install, "prove", look)
    with pytest.raises(InstallError, match="enough seen"):
        BinaryInstaller(source=str(tmp_path / "bundles")).download_binary()
    assert seen == {"BUILD.json": 0o644, LIBRARY: 0o644, "tool": 0o755}


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"schema": 2}', '{"schema": 1, "active": [{"name": "../x"}], "before": []}', "[" * 100_000],
)
def test_a_damaged_record_says_which_file_to_remove(home: Path, text: str) -> None:
    installer = BinaryInstaller()
    installer.folder.mkdir(parents=True)
    (installer.folder / "active.json").write_text(text)
    for attempt in (installer.list_installed, installer.is_installed, installer.rollback, installer.verify):
        with pytest.raises(LlcudaError, match=r"active\.json") as caught:
            attempt()
        assert "Remove the file" in caught.value.hint
    assert home.is_dir()


def test_a_record_cannot_name_a_folder_elsewhere(home: Path) -> None:
    del home
    installer = BinaryInstaller()
    installer.folder.mkdir(parents=True)
    entry = {"name": "a/b", "profile": "cuda12", "sha256": "", "source": "", "date": "", "proof": {}}
    (installer.folder / "active.json").write_text(json.dumps({"schema": 1, "active": [entry], "before": []}))
    with pytest.raises(LlcudaError, match="not the name of a folder"):
        installer.list_installed()
