"""Which bundle is for which machine, what an index may say, and how one record follows from another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import llcuda
from llcuda.devices import Gpu
from llcuda.errors import DriverTooOldError, InstallError, NoDeviceError, UnsupportedDeviceError, UsageError
from llcuda.installer.bundles import Bundle, choose_bundle, parse_index
from llcuda.installer.install import activate, deactivate, go_back, names_in_use, write_record
from llcuda.installer.sources import open_source
from llcuda.native import InstalledBundle, read_record
from tests.inputs.bundles import TAG, Draft
from tests.standins.fake_t4 import T4, devices

BLACKWELL = Gpu(index=0, name="RTX 5090", uuid="GPU-5090", capability="12.0", memory_total_mib=32768)
OLD = Gpu(index=0, name="Tesla K80", uuid="GPU-k80", capability="3.7", memory_total_mib=11441)


def bundle(profile: str = "cuda12", **changes: Any) -> Bundle:
    cuda = profile.startswith("cuda")
    facts: dict[str, Any] = {
        "name": f"{profile}.tar.gz",
        "version": llcuda.__version__,
        "sha256": "sha256:" + "a" * 64,
        "bytes": 100,
        "unpacked_bytes": 1000,
        "llama_cpp_tag": TAG,
        "profile": profile,
        "toolkit": {"cuda12": "12.9.86", "cuda13": "13.0.88"}.get(profile),
        "architectures": ("sm_75", "sm_90", "compute_90") if cuda else (),
        "driver_floor": {"cuda12": "550.54.14", "cuda13": "580.65.06"}.get(profile),
        **changes,
    }
    return Bundle(**facts)


ALL = (bundle("all"), bundle("cuda12"), bundle("cuda13"))


@pytest.mark.parametrize(
    ("found", "profile", "chosen"),
    [
        (devices(T4), None, "cuda13"),
        (devices(T4, driver="570.1", cuda="12.8"), None, "cuda12"),
        (devices(T4), "cuda12", "cuda12"),
        (devices(T4), "all", "all"),
        (devices(), "all", "all"),
        (devices(BLACKWELL, cuda="13.0"), None, "cuda13"),
    ],
)
def test_the_bundle_is_the_one_for_the_gpus_and_the_driver(found: Any, profile: str | None, chosen: str) -> None:
    picked, choice = choose_bundle(ALL, found, tag=TAG, profile=profile)
    assert picked.profile == chosen
    assert (choice is not None) == picked.is_backend


def test_where_there_are_no_executables_they_come_first() -> None:
    assert choose_bundle(ALL, devices(T4), tag=None)[0].profile == "all"


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (devices(), NoDeviceError),
        (devices(OLD), UnsupportedDeviceError),
        (devices(T4, driver="470.1", cuda="11.4"), DriverTooOldError),
    ],
)
def test_a_machine_that_no_backend_is_for_is_told_why(found: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        choose_bundle(ALL, found, tag=TAG)


@pytest.mark.parametrize(
    ("bundles", "profile"),
    [
        ((), None),
        ((bundle(version="99.0"),), None),
        ((bundle(llama_cpp_tag="b1"),), None),
        ((bundle("all"),), None),
        (ALL, "cuda11"),
    ],
)
def test_a_source_that_has_nothing_for_this_installation_says_what_it_has(
    bundles: tuple[Bundle, ...], profile: str | None
) -> None:
    with pytest.raises(InstallError, match=r"It has (nothing|.*llama.cpp b)") as caught:
        choose_bundle(bundles, devices(T4), tag=TAG, profile=profile)
    assert "pip install -U llcuda" in caught.value.hint


def test_the_index_that_pack_writes_is_read() -> None:
    entry = Draft().make_entry(b"data", "llcuda-0.1.0-cuda12-linux-x86_64.tar.gz")
    (read,) = parse_index(json.dumps({"schema": 1, "bundles": [entry]}).encode(), source="here")
    assert (read.profile, read.toolkit, read.architectures) == ("cuda12", "12.9.86", ("sm_75", "compute_90"))
    assert (read.bytes, read.driver_floor, read.llama_cpp_tag) == (4, "550.54.14", TAG)


@pytest.mark.parametrize("field", ["name", "version", "sha256", "bytes", "unpacked_bytes", "llama_cpp", "profile"])
def test_an_index_that_leaves_something_out_is_refused(field: str) -> None:
    entry = Draft().make_entry(b"data", "x.tar.gz")
    del entry[field]
    with pytest.raises(InstallError, match="index cannot be used"):
        parse_index(json.dumps({"schema": 1, "bundles": [entry]}).encode(), source="here")


def installed(name: str, profile: str = "cuda12", *, sha256: str = "") -> InstalledBundle:
    return InstalledBundle(name, profile, sha256 or name, "here", "2026-01-01", Path("/x") / name, {"device": "cuda"})


A, B, C, D = (installed(name) for name in "ABCD")
OTHER = installed("O", "cuda13")


def test_one_of_each_profile_is_in_use_and_two_times_before_are_kept() -> None:
    times = activate(activate(((),), A), OTHER)
    assert times == ((A, OTHER), (A,), ())
    assert activate(times, B) == ((OTHER, B), (A, OTHER), (A,))


def test_the_same_bytes_again_are_no_change_to_go_back_from() -> None:
    again = installed("A2", sha256="A")
    assert activate(((A,), ()), again) == ((again,), ())


def test_going_back_ends_at_nothing() -> None:
    assert go_back(((B,), (A,), ())) == ((A,), ())
    assert go_back(((A,),)) == ((),)


def test_what_is_removed_is_not_gone_back_to() -> None:
    assert deactivate(((B, OTHER), (A, OTHER), (A,)), "cuda12") == ((OTHER,), (OTHER,), ())


def test_the_folders_of_before_are_in_use_too() -> None:
    assert names_in_use(((B,), (A,), ())) == {"A", "B"}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    times = tuple(
        tuple(dataclasses.replace(one, folder=tmp_path / one.name) for one in bundles)
        for bundles in ((B, OTHER), (A,), ())
    )
    write_record(tmp_path, times)
    assert read_record(tmp_path) == times
    assert read_record(tmp_path / "nowhere") == ((),)


@pytest.mark.parametrize("source", ["ftp://x/y", "hf://x/y", "hf://datasets/", "hf://datasets/a/b/c", "/nonesuch"])
def test_what_is_no_source_is_a_usage_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    for name in ("LLCUDA_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError) as caught:
        open_source(source, downloads=tmp_path)
    assert caught.value.hint
