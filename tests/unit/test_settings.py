"""Environment variables: read on demand, and refused where they make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from llcuda import settings
from llcuda.errors import UsageError

_NAME = "LLCUDA_TEST_SETTING"


@pytest.mark.parametrize("value", ["1", " Yes ", "on", "TRUE"])
def test_a_switch_says_yes(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(_NAME, value)
    assert settings.is_set(_NAME)


@pytest.mark.parametrize("value", ["0", "", "No", "off", "false"])
def test_a_switch_says_no(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(_NAME, value)
    assert not settings.is_set(_NAME)


def test_a_switch_that_says_neither_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_NAME, "perhaps")
    with pytest.raises(UsageError, match=_NAME):
        settings.is_set(_NAME)


def test_a_count_is_a_whole_number_or_none_or_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.get_count(_NAME) is None
    monkeypatch.setenv(_NAME, "-1")
    assert settings.get_count(_NAME) == -1
    monkeypatch.setenv(_NAME, "many")
    with pytest.raises(UsageError, match="many"):
        settings.get_count(_NAME)


@pytest.mark.parametrize("name", ["LLCUDA_OFFLINE", "HF_HUB_OFFLINE"])
def test_either_variable_forbids_downloads(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("LLCUDA_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert not settings.is_offline()
    monkeypatch.setenv(name, "1")
    assert settings.is_offline()


def test_the_home_is_the_one_that_was_chosen_or_in_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLCUDA_HOME", "/chosen")
    assert settings.models_dir() == Path("/chosen/models")
    monkeypatch.delenv("LLCUDA_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert settings.home_dir() == Path("/data/llcuda")


@pytest.mark.parametrize(("value", "seconds"), [("", None), ("5", 5.0), (" 0.25 ", 0.25), ("1e2", 100.0)])
def test_a_time_is_a_positive_number_of_seconds_or_none(
    monkeypatch: pytest.MonkeyPatch, value: str, seconds: float | None
) -> None:
    monkeypatch.setenv(_NAME, value)
    assert settings.get_seconds(_NAME) == seconds


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan", "5s", "1,5"])
def test_a_time_that_is_none_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(_NAME, value)
    with pytest.raises(UsageError, match=_NAME):
        settings.get_seconds(_NAME)
