"""Models from a hub on loopback: in good order, with every fault, and with ill will."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from llcuda.errors import (
    ChecksumMismatchError,
    DownloadError,
    LlcudaError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
)
from llcuda.models import (
    hub_cache,
    inspect_model,
    list_models,
    lock_model,
    pull_model,
    registry,
    remove_model,
    resolve_model,
)
from llcuda.models.registry import RegistryEntry
from tests.made_models.gguf_builder import STRING, U16, Tensor, small_model
from tests.processes import wait_until
from tests.standins.hub_server import COMMIT, Faults, Hub, Raw, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = "org/small-GGUF"


def model_bytes(name: str, *, part: tuple[int, int] | None = None, rows: int = 5) -> bytes:
    model = small_model()
    model.pairs[1] = ("general.name", STRING, name)
    model.tensors[0] = Tensor("token_embd.weight", (256, rows), 12)
    if part:
        model.pairs += [("split.no", U16, part[0]), ("split.count", U16, part[1])]
    return model.build()


Q4, Q8 = model_bytes("four"), model_bytes("eight")
PARTS = {f"big-Q5_K_M-0000{number + 1}-of-00003.gguf": model_bytes("big", part=(number, 3)) for number in range(3)}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as hub:
        for name, value in hub.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "LLCUDA_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        hub.repositories[REPO] = {"small-Q4_K_M.gguf": Q4, "small-Q8_0.gguf": Q8, "README.md": b"# small"}
        yield hub


def cache_files(tmp_path: Path) -> list[str]:
    blobs = (tmp_path / "hf" / "hub").glob("models--*/blobs/*")
    return sorted(path.name for path in blobs)


class TestDownload:
    def test_a_file_is_downloaded_into_the_hubs_cache_and_described(self, hub: Hub, tmp_path: Path) -> None:
        model = resolve_model(f"{REPO}:small-Q8_0.gguf", progress=False)
        assert model.path.read_bytes() == Q8
        assert tmp_path / "hf" / "hub" in model.path.parents
        assert (model.source, model.digest) == ("hub", f"sha256:{sha256(Q8).hexdigest()}")
        assert (model.info.name, model.mmproj, model.parts) == ("eight", None, (model.path,))
        assert len(hub.body_requests()) == 1

    @pytest.mark.parametrize(
        ("name", "content"), [(REPO, Q4), (f"{REPO}:q8_0", Q8), (f"{REPO}:SMALL-q8_0.GGUF", Q8), (f"{REPO}@main", Q4)]
    )
    @pytest.mark.usefixtures("hub")
    def test_the_right_file_is_chosen(self, name: str, content: bytes) -> None:
        assert resolve_model(name, progress=False).path.read_bytes() == content

    def test_a_web_address_of_the_hub_is_a_name_of_the_hub(self, hub: Hub) -> None:
        model = resolve_model(f"https://huggingface.co/{REPO}/resolve/main/small-Q8_0.gguf", progress=False)
        assert model.source == "hub"
        assert hub.requests

    @pytest.mark.parametrize("part", sorted(PARTS))
    def test_all_parts_of_a_split_model_are_downloaded(self, hub: Hub, part: str) -> None:
        hub.repositories[REPO] = dict(PARTS)
        model = resolve_model(f"{REPO}:{part}", progress=False)
        assert model.path.name == "big-Q5_K_M-00001-of-00003.gguf"
        assert [path.read_bytes() for path in model.parts] == list(PARTS.values())
        assert model.info.file_bytes == sum(map(len, PARTS.values()))
        assert {path.parent for path in model.parts} == {model.path.parent}

    def test_a_missing_part_is_named(self, hub: Hub) -> None:
        hub.repositories[REPO] = dict(list(PARTS.items())[:2])
        with pytest.raises(ModelNotFoundError, match="big-Q5_K_M-00003-of-00003"):
            resolve_model(REPO, progress=False)
        assert not hub.body_requests()

    def test_a_vision_model_comes_with_its_projector(self, hub: Hub) -> None:
        hub.repositories[REPO] |= {"mmproj-F16.gguf": model_bytes("clip"), "mmproj-F32.gguf": model_bytes("other")}
        model = resolve_model(REPO, progress=False)
        assert model.mmproj is not None
        assert model.mmproj.read_bytes() == model_bytes("clip")
        assert len(hub.body_requests()) == 2

    def test_a_registry_name_leads_to_its_file(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = RegistryEntry("small-Q4_K_M", REPO, "small-Q4_K_M.gguf", 1, "Q4_K_M", 1, 1, "MIT", "not checked")
        monkeypatch.setattr(registry, "read_registry", lambda: (entry,))
        model = resolve_model("SMALL-q4_k_m", progress=False)
        assert (model.source, model.name) == ("registry", "SMALL-q4_k_m")
        assert model.path.read_bytes() == Q4
        assert hub.requests

    def test_the_token_is_sent(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.faults = Faults(gated=True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        assert resolve_model(REPO, progress=False).path.read_bytes() == Q4
        assert {headers["authorization"] for _, _, headers in hub.requests} == {"Bearer hf_secret"}

    @pytest.mark.parametrize(("progress", "shown"), [("True", True), ("False", False)])
    def test_the_progress_bar_is_shown_on_a_terminal_where_it_is_wanted(
        self, hub: Hub, tmp_path: Path, progress: str, *, shown: bool
    ) -> None:
        code = f"from llcuda.models import resolve_model; resolve_model({REPO!r}, progress={progress})"
        terminal, stderr = pty.openpty()
        fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
        try:
            result = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, **hub.environment(tmp_path)},
                stdout=subprocess.PIPE,
                stderr=stderr,
                check=True,
            )
            os.write(stderr, b".")
            written = os.read(terminal, 100_000)
        finally:
            os.close(terminal)
            os.close(stderr)
        assert (b"small-Q4_K_M.gguf" in written) is shown
        assert result.stdout == b""


class TestOfflineFirst:
    @pytest.mark.parametrize("name", [REPO, f"{REPO}:Q4_K_M", f"{REPO}:small-Q4_K_M.gguf"])
    def test_what_is_on_the_disk_is_used_without_a_request(self, hub: Hub, name: str) -> None:
        resolve_model(f"{REPO}:Q4_K_M", progress=False)
        hub.requests.clear()
        assert resolve_model(name, progress=False).path.read_bytes() == Q4
        assert hub.requests == []

    def test_another_quantisation_on_the_disk_does_for_a_bare_repository(self, hub: Hub) -> None:
        resolve_model(f"{REPO}:Q8_0", progress=False)
        hub.requests.clear()
        assert resolve_model(REPO, progress=False).path.read_bytes() == Q8
        assert hub.requests == []

    def test_what_is_missing_is_still_downloaded(self, hub: Hub) -> None:
        resolve_model(f"{REPO}:Q8_0", progress=False)
        assert resolve_model(f"{REPO}:Q4_K_M", progress=False).path.read_bytes() == Q4
        assert len(hub.body_requests()) == 2

    def test_half_of_a_split_model_is_completed(self, hub: Hub) -> None:
        hub.repositories[REPO] = dict(PARTS)
        model = resolve_model(REPO, progress=False)
        model.parts[1].unlink()
        assert resolve_model(REPO, progress=False).parts == model.parts
        assert hub.requests

    @pytest.mark.parametrize("variable", ["LLCUDA_OFFLINE", "HF_HUB_OFFLINE"])
    def test_offline_uses_the_disk_and_names_the_variable_for_the_rest(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        resolve_model(f"{REPO}:Q4_K_M", progress=False)
        hub.requests.clear()
        monkeypatch.setenv(variable, "1")
        assert resolve_model(REPO, progress=False).path.read_bytes() == Q4
        with pytest.raises(DownloadError, match=variable) as caught:
            resolve_model(f"{REPO}:Q8_0", progress=False)
        assert variable in caught.value.hint
        assert hub.requests == []

    def test_a_model_on_the_disk_needs_no_huggingface_hub(self, hub: Hub, tmp_path: Path) -> None:
        resolve_model(REPO, progress=False)
        code = (
            "import sys; from llcuda.models import resolve_model; resolve_model(sys.argv[1]);"
            "print([name for name in ('huggingface_hub', 'requests', 'socket', 'ssl') if name in sys.modules])"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, REPO],
            env={**os.environ, **hub.environment(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == "[]"

    def test_a_changed_file_on_the_hub_does_not_replace_the_one_here(self, hub: Hub) -> None:
        resolve_model(REPO, progress=False)
        hub.repositories[REPO]["small-Q4_K_M.gguf"] = Q8
        assert resolve_model(REPO, progress=False).path.read_bytes() == Q4


class TestFaults:
    def fail(self, name: str) -> LlcudaError:
        with pytest.raises(LlcudaError) as caught:
            resolve_model(name, progress=False)
        return caught.value

    def test_a_connection_cut_half_way_is_resumed(self, hub: Hub) -> None:
        large = model_bytes("large", rows=100_000)
        hub.repositories[REPO] = {"large-Q4_K_M.gguf": large}
        hub.faults = Faults(cut_after=11 << 20, cuts=1)
        assert resolve_model(REPO, progress=False).path.read_bytes() == large
        first, second = (headers.get("range") for headers in hub.body_requests())
        assert first is None
        assert second is not None

    def test_a_later_process_goes_on_where_the_last_one_stopped(self, hub: Hub, tmp_path: Path) -> None:
        large = model_bytes("large", rows=20_000)
        hub.repositories[REPO] = {"large-Q4_K_M.gguf": large}
        hub.faults = Faults(stall_after=1 << 20, stalls=1)
        code = "import sys; from llcuda.models import resolve_model; resolve_model(sys.argv[1], progress=False)"
        with subprocess.Popen([sys.executable, "-c", code, REPO], env=os.environ) as process:
            parts = tmp_path / "hf" / "hub" / ".locks" / "llcuda"
            wait_until(lambda: any(path.stat().st_size == 1 << 20 for path in parts.glob("*")))
            process.kill()
        assert cache_files(tmp_path) == []
        assert resolve_model(REPO, progress=False).path.read_bytes() == large
        assert [headers.get("range") for headers in hub.body_requests()] == [None, f"bytes={1 << 20}-"]
        assert [path.suffix for path in parts.iterdir()] == [".lock"]

    def test_a_disk_without_links_has_the_file_itself(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(hub_cache, "replace_link", refuse)
        path = resolve_model(REPO, progress=False).path
        assert not path.is_symlink()
        assert path.read_bytes() == Q4
        assert hub.requests

    def test_wrong_bytes_are_an_error_and_leave_the_cache(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults = Faults(wrong_bytes=True)
        error = self.fail(REPO)
        assert isinstance(error, ChecksumMismatchError)
        assert error.expected == f"sha256:{sha256(Q4).hexdigest()}"
        assert cache_files(tmp_path) == []

        hub.faults = Faults()
        assert resolve_model(REPO, progress=False).path.read_bytes() == Q4

    def test_a_gated_repository_says_where_to_accept_and_what_to_set(self, hub: Hub) -> None:
        hub.faults = Faults(gated=True)
        error = self.fail(REPO)
        assert isinstance(error, DownloadError)
        assert error.status == 401
        assert "HF_TOKEN" in error.hint
        assert f"{hub.url}/{REPO}" in error.hint

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refusal_without_a_reason_names_the_token_too(self, hub: Hub, status: int) -> None:
        hub.faults = Faults(status=status)
        error = self.fail(REPO)
        assert isinstance(error, DownloadError)
        assert "HF_TOKEN" in error.hint

    @pytest.mark.usefixtures("hub")
    def test_a_repository_that_is_not_there_is_not_found(self) -> None:
        error = self.fail("org/none")
        assert isinstance(error, ModelNotFoundError)
        assert "no such repository" in str(error)

    @pytest.mark.parametrize(
        ("name", "near"), [(f"{REPO}:smal-Q8.gguf", "small-Q8_0.gguf"), (f"{REPO}:Q2_K", "small-Q")]
    )
    def test_a_file_that_is_not_there_suggests_near_ones(self, hub: Hub, name: str, near: str) -> None:
        error = self.fail(name)
        assert isinstance(error, ModelNotFoundError)
        assert any(near in suggestion for suggestion in error.suggestions)
        assert near in error.hint
        assert not hub.body_requests()

    def test_a_repository_without_gguf_files_says_so(self, hub: Hub) -> None:
        hub.repositories["org/plain"] = {"model.safetensors": b"x"}
        error = self.fail("org/plain")
        assert isinstance(error, ModelNotFoundError)
        assert "no .gguf file" in str(error)

    def test_a_hub_that_is_down_is_a_download_error(self, hub: Hub) -> None:
        hub.faults = Faults(status=500)
        error = self.fail(REPO)
        assert isinstance(error, DownloadError)
        assert error.status == 500

    def test_a_hub_that_is_not_there_is_a_download_error(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert isinstance(self.fail(REPO), DownloadError)
        assert hub.requests == []

    def test_a_file_that_is_no_gguf_is_a_format_error(self, hub: Hub) -> None:
        hub.repositories[REPO] = {"small-Q4_K_M.gguf": b"<html>"}
        assert isinstance(self.fail(REPO), ModelFormatError)

    def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_variable(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "occupied").write_bytes(b"")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "occupied"))
        error = self.fail(REPO)
        assert isinstance(error, ModelError)
        assert "HF_HOME" in error.hint
        assert hub.requests


def listing(**changes: object) -> dict[str, Any]:
    """Return what a hub says of the repository, with these changes to its only file."""
    digest = sha256(Q4).hexdigest()
    file = {"rfilename": "small-Q4_K_M.gguf", "size": len(Q4), "lfs": {"sha256": digest, "size": len(Q4)}}
    return {"id": REPO, "sha": COMMIT, "siblings": [{**file, **changes}]}


OUTSIDE = "../../../../outside"
BAD_NAMES: list[object] = [
    None, 1, [], {}, "/etc/x.gguf", f"{OUTSIDE}.gguf", "a/../b.gguf", "a//b.gguf", "a\\b.gguf", "a\0.gguf", "a\n.gguf",
    "\ud800.gguf", "./x.gguf", "..", "x" * 252 + ".gguf", "é" * 130 + ".gguf", "x/" * 600 + "x.gguf",
]  # fmt: skip
ANYTHING: list[Any] = [None, {}, "x", [None], [[]], ["x.gguf"], [{}]]
BAD_LISTINGS: list[object] = [
    [], 0, "x", True,
    {}, {"sha": COMMIT}, {"siblings": []}, {"sha": None, "siblings": []}, {"sha": [COMMIT], "siblings": []},
    *({"sha": sha, "siblings": []} for sha in (OUTSIDE, f"/{COMMIT}", COMMIT[:-1], COMMIT + "a", COMMIT + "\n", "")),
    *({"sha": COMMIT, "siblings": siblings} for siblings in ANYTHING),
    *(listing(size=size) for size in (*ANYTHING[1:], -1, "5", 1.5, True, 1 << 60)),
    *(listing(lfs={"sha256": digest}) for digest in (None, 1, "", OUTSIDE, "0" * 63, "g" * 64, "0" * 64 + "\n")),
    listing(lfs={"sha256": "0" * 10_000}),
    *(listing(lfs=large) for large in ANYTHING[1:]),
]  # fmt: skip
JSON_HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n"
BAD_TEXTS = [
    b"", b"<html>", b"{", b"\xff", b"[" * 200_000, b'{"a":' * 100_000, b'{"sha": ' + b"9" * 5000 + b"}",
    b'{"sha": 1e999999}',
]  # fmt: skip


class TestHostileHub:
    """Nothing that a hub says leads out of the cache, or makes anything but an error that llcuda foresaw."""

    def fail(self, tmp_path: Path) -> LlcudaError:
        with pytest.raises((DownloadError, ModelNotFoundError)) as caught:
            resolve_model(REPO, progress=False)
        assert caught.value.hint
        assert len(str(caught.value)) < 1000
        assert cache_files(tmp_path) == []
        assert {path.name for path in tmp_path.iterdir()} <= {"hf", "llcuda"}
        return caught.value

    @pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
    def test_a_name_that_is_none_is_refused(self, hub: Hub, tmp_path: Path, name: object) -> None:
        hub.faults = Faults(listing=listing(rfilename=name))
        self.fail(tmp_path)
        assert not hub.body_requests()

    @pytest.mark.parametrize("said", BAD_LISTINGS, ids=lambda said: repr(said)[:60])
    def test_a_listing_of_another_shape_is_refused(self, hub: Hub, tmp_path: Path, said: object) -> None:
        hub.faults = Faults(listing=said)
        self.fail(tmp_path)
        assert not hub.body_requests()

    @pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: repr(text[:20]))
    def test_what_is_not_json_is_refused(self, hub: Hub, tmp_path: Path, text: bytes) -> None:
        hub.faults = Faults(raw=Raw("/api/", JSON_HEAD + b"\r\n" + text))
        assert "cannot be used" in str(self.fail(tmp_path))

    @pytest.mark.parametrize("field", [b"", b"Content-Length: 99999999\r\n", b"Content-Encoding: gzip\r\n"])
    def test_a_listing_without_end_is_left(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, field: bytes
    ) -> None:
        monkeypatch.setattr("llcuda.models.hub._MAX_LISTING_BYTES", 1 << 20)
        hub.faults = Faults(raw=Raw("/api/", JSON_HEAD + field + b"\r\n[", b" " * (1 << 16)))
        self.fail(tmp_path)
        assert hub.bytes_sent < 16 << 20

    @pytest.mark.parametrize("value", [OUTSIDE, f'"{OUTSIDE}"', "/tmp/x", '"a\\b"', "W/x", "", '""'])
    @pytest.mark.parametrize("header", ["ETag", "X-Linked-ETag", "X-Repo-Commit", "X-Xet-Hash", "X-Linked-Size"])
    def test_no_header_leads_out_of_the_cache(self, hub: Hub, tmp_path: Path, *, header: str, value: str) -> None:
        hub.faults = Faults(file_headers={header: value})
        assert resolve_model(REPO, progress=False).path.read_bytes() == Q4
        assert cache_files(tmp_path) == [sha256(Q4).hexdigest()]
        assert {path.name for path in tmp_path.iterdir()} <= {"hf", "llcuda"}
        assert {path.name for path in (tmp_path / "hf" / "hub").iterdir()} == {".locks", "models--org--small-GGUF"}

    @pytest.mark.parametrize("header", ["X-Repo-Commit", "X-Linked-ETag"])
    def test_no_header_of_a_refusal_leads_out_of_the_cache(self, hub: Hub, tmp_path: Path, header: str) -> None:
        fields = f"X-Error-Code: EntryNotFound\r\n{header}: {OUTSIDE}\r\nContent-Length: 0"
        head = f"HTTP/1.1 404 Not Found\r\n{fields}\r\n\r\n"
        hub.faults = Faults(raw=Raw("/resolve/", head.encode()))
        assert isinstance(self.fail(tmp_path), ModelNotFoundError)

    @pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "//", "http://["])
    @pytest.mark.parametrize("path", ["/api/", "/resolve/"])
    def test_a_redirect_that_leads_nowhere_is_refused(
        self, hub: Hub, tmp_path: Path, *, path: str, location: str
    ) -> None:
        head = f"HTTP/1.1 307 Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        hub.faults = Faults(raw=Raw(path, head.encode()))
        assert "redirected" in str(self.fail(tmp_path))

    @pytest.mark.parametrize("digest", ["true", None])
    def test_a_file_without_end_is_left(self, hub: Hub, tmp_path: Path, digest: str | None) -> None:
        said = listing() if digest else listing(lfs=None)
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + Q4
        hub.faults = Faults(listing=said, raw=Raw("/resolve/", head, bytes(1 << 16)))
        assert "more than" in str(self.fail(tmp_path))
        assert hub.bytes_sent < 16 << 20

    def test_the_key_goes_to_no_other_server(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with serve() as other:
            other.plain["x.gguf"] = Q4
            head = f"HTTP/1.1 302 Found\r\nLocation: {other.url}/plain/x.gguf\r\nContent-Length: 0\r\n\r\n"
            hub.faults = Faults(raw=Raw("/resolve/", head.replace("127.0.0.1", "localhost").encode()))
            assert resolve_model(REPO, progress=False).path.read_bytes() == Q4
            assert all(headers["authorization"] == "Bearer hf_secret" for _, _, headers in hub.requests)
            assert ["authorization" in headers for _, _, headers in other.requests] == [False]


class TestManaging:
    def test_a_downloaded_model_is_listed_inspected_and_removed(self, hub: Hub, tmp_path: Path) -> None:
        name = f"{REPO}:small-Q4_K_M.gguf"
        pull_model(name, progress=False)
        listed = {model.name: model for model in list_models()}[name]
        assert (listed.source, listed.on_disk, listed.bytes, listed.quantisation) == ("hub", True, len(Q4), "Q4_K_M")
        assert inspect_model(REPO).info.name == "four"

        removal = remove_model(name)
        assert (removal.files, removal.bytes_freed) == (("small-Q4_K_M.gguf",), len(Q4))
        assert cache_files(tmp_path) == []
        assert name not in {model.name for model in list_models()}
        assert hub.requests

    def test_removing_one_quantisation_leaves_the_other(self, hub: Hub) -> None:
        for quantisation in ("Q4_K_M", "Q8_0"):
            resolve_model(f"{REPO}:{quantisation}", progress=False)
        assert remove_model(f"{REPO}:Q4_K_M").bytes_freed == len(Q4)
        hub.requests.clear()
        assert resolve_model(f"{REPO}:Q8_0", progress=False).path.read_bytes() == Q8
        assert hub.requests == []

    def test_the_projector_goes_with_the_last_model(self, hub: Hub, tmp_path: Path) -> None:
        projector = model_bytes("clip")
        hub.repositories[REPO]["mmproj-F16.gguf"] = projector
        for quantisation in ("Q4_K_M", "Q8_0"):
            resolve_model(f"{REPO}:{quantisation}", progress=False)
        assert remove_model(f"{REPO}:Q4_K_M").bytes_freed == len(Q4)
        assert remove_model(f"{REPO}:Q8_0").bytes_freed == len(Q8) + len(projector)
        assert cache_files(tmp_path) == []

    def test_a_file_that_two_commits_share_stays_until_both_are_removed(self, hub: Hub, tmp_path: Path) -> None:
        resolve_model(REPO, progress=False)
        snapshots = next((tmp_path / "hf" / "hub").glob("models--*/snapshots"))
        other = snapshots / ("f" * 40)
        other.mkdir()
        (other / "renamed.gguf").symlink_to((snapshots / COMMIT / "small-Q4_K_M.gguf").resolve())
        assert remove_model(f"{REPO}:small-Q4_K_M.gguf").bytes_freed == 0
        assert remove_model(f"{REPO}:renamed.gguf").bytes_freed == len(Q4)
        assert hub.requests

    @pytest.mark.usefixtures("hub")
    def test_what_is_not_on_the_disk_is_neither_inspected_nor_removed(self) -> None:
        for action in (inspect_model, remove_model):
            with pytest.raises(ModelNotFoundError, match="not on this disk"):
                action(REPO)

    def test_pulling_what_is_here_compares_it_with_its_digest(self, hub: Hub) -> None:
        path = resolve_model(REPO, progress=False).path.resolve()
        path.write_bytes(Q8)
        with pytest.raises(ChecksumMismatchError):
            pull_model(REPO, progress=False)
        assert hub.requests

    @pytest.mark.usefixtures("hub")
    def test_what_was_verified_is_remembered(self, tmp_path: Path) -> None:
        resolve_model(REPO, progress=False)
        remembered = json.loads((tmp_path / "llcuda" / "models" / "verified.json").read_text())
        assert [entry[0] for entry in remembered.values()] == [f"sha256:{sha256(Q4).hexdigest()}"]


class TestLargeFile:
    """A file that comes in parts over several connections; smaller ones do not."""

    @pytest.fixture(autouse=True)
    def large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llcuda.models.hub._LARGE_BYTES", 1)
        monkeypatch.setattr("llcuda.storage.ranged_download.CHUNK_BYTES", 100)
        monkeypatch.setattr("llcuda.storage.ranged_download._FIRST_PAUSE", 0.01)

    def test_it_comes_in_parts_and_whole(self, hub: Hub, tmp_path: Path) -> None:
        model = resolve_model(f"{REPO}:small-Q8_0.gguf", progress=False)
        assert model.path.read_bytes() == Q8
        assert model.digest == f"sha256:{sha256(Q8).hexdigest()}"
        ranges = {headers["range"] for headers in hub.body_requests()}
        assert ranges == {f"bytes={at}-{min(at + 100, len(Q8)) - 1}" for at in range(0, len(Q8), 100)}
        assert not list((tmp_path / "hf" / "hub" / ".locks" / "llcuda").glob("*[0-9a-f]"))

    def test_what_breaks_off_is_asked_for_again(self, hub: Hub) -> None:
        hub.faults = Faults(cut_after=10, cuts=5)
        assert resolve_model(REPO, progress=False).path.read_bytes() == Q4

    def test_another_file_than_the_hub_states_is_not_kept(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults = Faults(wrong_bytes=True)
        with pytest.raises(ChecksumMismatchError):
            resolve_model(REPO, progress=False)
        assert cache_files(tmp_path) == []

    @pytest.mark.parametrize(("status", "match"), [(401, "login"), (403, "login"), (404, "no such file")])
    def test_a_refusal_is_explained(self, hub: Hub, status: int, match: str) -> None:
        hub.faults = Faults(raw=Raw("/resolve/", f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()))
        with pytest.raises((DownloadError, ModelNotFoundError), match=match):
            resolve_model(REPO, progress=False)

    def test_the_server_that_it_is_sent_to_is_asked_at_once_and_without_the_token(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with serve() as other:
            other.plain["moved"] = Q4
            there = f"http://localhost:{other.port}/plain/moved"
            hub.faults = Faults(raw=Raw("/resolve/", f"HTTP/1.1 302 x\r\nLocation: {there}\r\n\r\n".encode()))
            assert resolve_model(f"{REPO}:small-Q4_K_M.gguf", progress=False).path.read_bytes() == Q4
            assert not [headers for _, _, headers in other.requests if "authorization" in headers]
            assert len(hub.body_requests()) <= 8 < len(other.requests)


def test_a_model_of_the_hub_is_pinned_with_its_commit(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pinned = lock_model(REPO, progress=False)
    assert pinned.source == f"{REPO}@{COMMIT}:small-Q4_K_M.gguf"
    hub.requests.clear()
    monkeypatch.setenv("LLCUDA_FROZEN", "1")
    assert resolve_model(REPO, progress=False).path.read_bytes() == Q4
    assert hub.requests == []
