"""The files of the chat page, read from an archive as the build packs it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import zipfile
from typing import TYPE_CHECKING

import pytest

from llcuda.errors import BinaryUnusableError
from llcuda.gateway.pages import chat_files
from llcuda.gateway.pages.chat_files import read_file, read_names
from tools.binaries.web_ui import pack_files

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = b"\n  import('./_app/immutable/bundle.js');\n"
PAGE = b"<!doctype html><div><script>%b</script></div>" % SCRIPT
FILES = {
    "index.html": PAGE,
    "_app/immutable/bundle.js": b"export {};" * 1000,
    "sw.js": b"self",
    "logo.svg": b"<svg/>",
    "other.bin": b"\0",
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    pack_files(FILES, tmp_path / "web_ui.zip")
    return tmp_path / "web_ui.zip"


def line(archive: Path, name: str, header: str) -> str:
    (found,) = [one for one in read_file(archive, name).lines if one.startswith(f"{header}: ")]
    return found.partition(": ")[2]


def test_every_file_comes_out_as_it_was_packed_with_gzip(archive: Path) -> None:
    assert read_names(archive) == set(FILES)
    for name, data in FILES.items():
        assert gzip.decompress(read_file(archive, name).packed) == data


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("sw.js", "text/javascript; charset=utf-8"),
        ("logo.svg", "image/svg+xml"),
        ("other.bin", "application/octet-stream"),
    ],
)
def test_the_type_of_a_file_follows_from_its_name(archive: Path, name: str, content_type: str) -> None:
    assert read_file(archive, name).content_type == content_type


def test_what_is_named_by_its_content_is_kept_and_all_else_asked_for_again(archive: Path) -> None:
    assert line(archive, "_app/immutable/bundle.js", "Cache-Control") == "public, max-age=31536000, immutable"
    assert {line(archive, name, "Cache-Control") for name in ("index.html", "sw.js")} == {"no-cache"}


def test_an_etag_is_of_the_content(archive: Path, tmp_path: Path) -> None:
    pack_files({**FILES, "sw.js": b"self;"}, tmp_path / "other.zip")
    before, after = ({name: read_file(one, name).etag for name in FILES} for one in (archive, tmp_path / "other.zip"))
    assert [name for name in FILES if before[name] != after[name]] == ["sw.js"]


def test_the_policy_lets_the_page_s_own_script_run_and_no_other_in_it(archive: Path) -> None:
    digest = base64.b64encode(hashlib.sha256(SCRIPT).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in line(archive, "index.html", "Content-Security-Policy")
    assert "script-src 'self';" in line(archive, "sw.js", "Content-Security-Policy")


@pytest.mark.parametrize("name", FILES)
def test_no_file_may_be_framed_or_reach_another_host(archive: Path, name: str) -> None:
    policy = dict(part.split(" ", 1) for part in line(archive, name, "Content-Security-Policy").split("; "))
    assert (policy["default-src"], policy["frame-ancestors"], policy["base-uri"]) == ("'none'", "'none'", "'none'")
    assert policy["connect-src"] == "'self'"
    assert not [sources for sources in policy.values() if "http" in sources or "*" in sources]
    assert "unsafe" not in policy["script-src"]


def test_a_damaged_archive_says_so(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[60:90] = bytes(30)
    archive.write_bytes(data)
    with pytest.raises(BinaryUnusableError, match="damaged"):
        read_file(archive, min(FILES))
    archive.write_bytes(data[:200])
    with pytest.raises(BinaryUnusableError, match="damaged"):
        read_names(archive)


def test_a_file_that_is_not_there_or_grew_too_large_is_not_read(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BinaryUnusableError, match=r"gone\.js"):
        read_file(archive, "gone.js")
    monkeypatch.setattr(chat_files, "MAX_FILE_BYTES", 9_999)
    with pytest.raises(BinaryUnusableError, match="larger than 9999"):
        read_file(archive, "_app/immutable/bundle.js")


def test_an_archive_depends_on_its_files_alone(archive: Path, tmp_path: Path) -> None:
    pack_files(dict(reversed(FILES.items())), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    with zipfile.ZipFile(archive) as packed:
        assert {entry.date_time for entry in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
