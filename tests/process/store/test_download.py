"""Models from an address: a real server on loopback that cuts, stalls, lies and changes its mind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from llcuda.errors import (
    ChecksumMismatchError,
    DownloadError,
    LlcudaError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
)
from llcuda.models import inspect_model, list_models, pull_model, remove_model, resolve_model
from llcuda.models.names import UrlName
from llcuda.models.resolve import fetch_url
from llcuda.store import ModelStore, download
from tests.made_models.gguf_builder import STRING, U16, Tensor, small_model
from tests.processes import wait_until
from tests.standins.hub_server import Faults, Hub, Raw, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def model_bytes(name: str, *, part: tuple[int, int] | None = None) -> bytes:
    model = small_model()
    model.pairs[1] = ("general.name", STRING, name)
    model.tensors[0] = Tensor("token_embd.weight", (256, 20_000), 12)
    if part:
        model.pairs += [("split.no", U16, part[0]), ("split.count", U16, part[1])]
    return model.build()


# Two files of one length, as two versions of a model often are.
MODEL, CHANGED = model_bytes("first"), model_bytes("other")
DIGEST = f"sha256:{sha256(MODEL).hexdigest()}"
HALF = 3 << 19
"""1.5 MiB: the second piece that is read from the connection is incomplete."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("LLCUDA_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(download, "_FIRST_PAUSE", 0.01)
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[Hub]:
    with serve() as hub:
        hub.plain = {"m.gguf": MODEL, "changed": CHANGED}
        yield hub


def url(server: Hub, name: str = "m.gguf") -> str:
    return f"{server.url}/plain/{name}"


def get(server: Hub, name: str = "m.gguf") -> bytes:
    return resolve_model(url(server, name), progress=False).path.read_bytes()


def fail(server: Hub, name: str = "m.gguf") -> LlcudaError:
    with pytest.raises(LlcudaError) as caught:
        resolve_model(url(server, name), progress=False)
    # Whatever the server did, the store holds nothing that it should not.
    store = ModelStore()
    assert all(is_right for _, is_right in store.verify())
    assert store.tags() == {}
    return caught.value


def ranges(server: Hub) -> list[str | None]:
    return [headers.get("range") for headers in server.body_requests()]


def leftovers(home: Path) -> list[str]:
    return [path.name for path in (home / "models" / "downloads").iterdir() if path.suffix != ".lock"]


class TestGoodServer:
    def test_the_file_lies_in_the_store_under_its_digest(self, server: Hub, home: Path) -> None:
        model = resolve_model(url(server), progress=False)
        assert (model.source, model.digest, model.info.name) == ("url", DIGEST, "first")
        assert model.path == ModelStore().get(DIGEST)
        assert model.path.read_bytes() == MODEL
        assert leftovers(home) == []

    def test_the_second_time_nothing_is_asked(self, server: Hub) -> None:
        get(server)
        server.requests.clear()
        assert get(server) == MODEL
        assert server.requests == []

    def test_a_model_here_is_used_offline_and_one_that_is_not_names_the_variable(
        self, server: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        get(server)
        monkeypatch.setenv("LLCUDA_OFFLINE", "1")
        assert get(server) == MODEL
        with pytest.raises(DownloadError, match="LLCUDA_OFFLINE"):
            resolve_model(url(server, "other.gguf"))

    def test_the_digest_in_the_name_is_required(self, server: Hub) -> None:
        assert resolve_model(f"{url(server)}#{DIGEST.replace(':', '=')}", progress=False).path.read_bytes() == MODEL

    def test_a_file_known_by_its_digest_is_not_downloaded_again(self, server: Hub) -> None:
        get(server)
        server.requests.clear()
        resolve_model(f"{url(server, 'elsewhere.gguf')}#{DIGEST.replace(':', '=')}", progress=False)
        assert resolve_model(DIGEST).path.read_bytes() == MODEL
        assert server.requests == []

    def test_redirects_are_followed(self, server: Hub) -> None:
        server.plain["moved.gguf"] = MODEL
        server.faults = Faults(redirect="/plain/moved.gguf")
        assert get(server) == MODEL

    def test_all_parts_of_a_split_model_get_the_names_they_need(self, server: Hub) -> None:
        parts = {f"big-0000{number}-of-00002.gguf": model_bytes("big", part=(number - 1, 2)) for number in (1, 2)}
        server.plain |= parts
        model = resolve_model(url(server, "big-00002-of-00002.gguf"), progress=False)
        assert [path.name for path in model.parts] == list(parts)
        assert [path.read_bytes() for path in model.parts] == list(parts.values())
        assert model.info.parameters == 2 * model_parameters()

    def test_a_missing_part_is_named(self, server: Hub) -> None:
        server.plain["big-00001-of-00002.gguf"] = model_bytes("big", part=(0, 2))
        with pytest.raises(DownloadError, match="big-00002-of-00002"):
            resolve_model(url(server, "big-00001-of-00002.gguf"), progress=False)

    def test_a_downloaded_file_is_listed_pulled_and_removed(self, server: Hub) -> None:
        name = url(server)
        pull_model(name, progress=False)
        (listed,) = (model for model in list_models() if model.source == "store")
        assert (listed.name, listed.bytes, listed.on_disk) == (name, len(MODEL), True)
        assert inspect_model(name).info.name == "first"
        assert len(MODEL) <= remove_model(name).bytes_freed < len(MODEL) + 2000
        with pytest.raises(ModelNotFoundError):
            inspect_model(name)

    def test_a_file_that_was_changed_is_kept_aside_and_downloaded_again(self, server: Hub) -> None:
        path = resolve_model(url(server), progress=False).path
        path.write_bytes(CHANGED)
        assert pull_model(url(server), progress=False).path.read_bytes() == MODEL
        (aside,) = (ModelStore().root / "quarantine").iterdir()
        assert aside.read_bytes() == CHANGED

    def test_two_threads_download_a_file_once(self, server: Hub) -> None:
        results: list[bytes] = []
        threads = [threading.Thread(target=lambda: results.append(get(server))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [MODEL] * 3
        assert server.bytes_sent == len(MODEL)


def model_parameters() -> int:
    return 256 * 20_000 + 256


class TestResuming:
    def test_a_cut_connection_goes_on_where_it_was_cut(self, server: Hub) -> None:
        server.faults = Faults(cut_after=HALF, cuts=1)
        assert get(server) == MODEL
        first, second = ranges(server)
        assert first is None
        assert second is not None
        assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= HALF

    def test_a_server_that_cuts_many_times_is_asked_until_the_file_is_whole(self, server: Hub) -> None:
        server.faults = Faults(cut_after=1 << 20, cuts=100)
        assert get(server) == MODEL

    def test_a_server_that_sends_nothing_new_is_given_up(self, server: Hub, home: Path) -> None:
        server.faults = Faults(cut_after=0, cuts=1000)
        assert isinstance(fail(server), DownloadError)
        assert len(server.body_requests()) == download.MAX_FUTILE_ATTEMPTS
        assert leftovers(home)

    def test_a_later_process_goes_on_where_the_last_one_stopped(self, server: Hub, home: Path) -> None:
        server.faults = Faults(stall_after=2 << 20, stalls=1)
        code = "import sys; from llcuda.models import resolve_model; resolve_model(sys.argv[1], progress=False)"
        with subprocess.Popen([sys.executable, "-c", code, url(server)], env=os.environ) as process:
            wait_until(lambda: any(path.stat().st_size == 2 << 20 for path in home.glob("models/downloads/*")))
            process.send_signal(signal.SIGKILL)
        assert ModelStore().list() == {}
        assert get(server) == MODEL
        assert ranges(server) == [None, f"bytes={2 << 20}-"]

    def test_a_file_that_changed_meanwhile_is_downloaded_anew(self, server: Hub) -> None:
        server.faults = Faults(cut_after=HALF, cuts=1, change_after=1)
        assert get(server) == CHANGED

    def test_a_server_that_ignores_the_condition_is_found_out_by_its_etag(self, server: Hub) -> None:
        server.faults = Faults(cut_after=HALF, cuts=1, change_after=1, ignore_if_range=True)
        assert get(server) == CHANGED

    def test_a_server_without_ranges_is_asked_from_the_start(self, server: Hub) -> None:
        server.faults = Faults(cut_after=HALF, cuts=1, ignore_range=True)
        assert get(server) == MODEL

    def test_without_a_validator_nothing_is_resumed(self, server: Hub) -> None:
        server.faults = Faults(cut_after=HALF, cuts=1, no_validator=True)
        assert get(server) == MODEL
        assert ranges(server) == [None, None]

    def test_a_range_that_starts_elsewhere_is_not_appended(self, server: Hub) -> None:
        server.faults = Faults(cut_after=HALF, cuts=1, wrong_range_start=True)
        assert get(server) == MODEL
        assert ranges(server)[-1] is None

    def test_a_range_that_is_refused_is_asked_from_the_start(self, server: Hub) -> None:
        server.faults = Faults(cut_after=HALF, cuts=1, range_status=416)
        assert get(server) == MODEL

    def test_a_server_that_stalls_is_asked_again(self, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        server.faults = Faults(stall_after=HALF, stalls=1)
        store = ModelStore()
        digest = fetch_url(UrlName(url(server)), store, progress=False, stall_timeout=2.0)
        assert digest == DIGEST
        assert len(server.body_requests()) == 2
        monkeypatch.undo()

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_passing_error_is_tried_again(self, server: Hub, status: int) -> None:
        server.faults = Faults(status=status, statuses=2)
        assert get(server) == MODEL

    @pytest.mark.parametrize("status", [500, 503])
    def test_a_lasting_error_is_reported(self, server: Hub, status: int) -> None:
        server.faults = Faults(status=status)
        assert f"HTTP {status}" in str(fail(server))


class TestLies:
    @pytest.mark.parametrize(("status", "word"), [(404, "Check the address"), (401, "login"), (403, "login")])
    def test_a_refusal_says_what_to_do(self, server: Hub, status: int, word: str) -> None:
        server.faults = Faults(status=status)
        error = fail(server)
        assert isinstance(error, DownloadError)
        assert (error.status, word in error.hint) == (status, True)
        assert len(server.requests) == 1

    def test_another_digest_than_the_names_is_an_error(self, server: Hub, home: Path) -> None:
        name = f"m.gguf#sha256={'0' * 64}"
        assert isinstance(fail(server, name), ChecksumMismatchError)
        assert leftovers(home) == []

    def test_a_web_page_is_no_model(self, server: Hub, home: Path) -> None:
        server.plain["m.gguf"] = b"<!doctype html><html>Please log in</html>"
        error = fail(server)
        assert isinstance(error, ModelFormatError)
        assert "web page" in error.hint
        assert error.path == url(server)
        assert leftovers(home) == []

    def test_an_empty_file_is_no_model(self, server: Hub) -> None:
        server.plain["m.gguf"] = b""
        assert isinstance(fail(server), ModelFormatError)

    def test_a_file_without_a_length_is_whole_if_its_header_says_so(self, server: Hub) -> None:
        server.faults = Faults(no_length=True)
        assert get(server) == MODEL

    def test_a_file_without_a_length_that_ends_early_is_refused(self, server: Hub) -> None:
        server.faults = Faults(no_length=True, cut_after=HALF, cuts=100)
        error = fail(server)
        assert isinstance(error, ModelFormatError)
        assert "incomplete" in str(error)

    def test_a_length_that_is_too_large_is_never_reached(self, server: Hub) -> None:
        server.faults = Faults(wrong_length=1000)
        assert isinstance(fail(server), DownloadError)

    def test_a_length_that_is_too_small_gives_no_model(self, server: Hub) -> None:
        server.faults = Faults(wrong_length=-1000)
        assert isinstance(fail(server), ModelFormatError)

    def test_an_encoded_body_is_refused(self, server: Hub) -> None:
        server.faults = Faults(encoding="gzip")
        assert "gzip" in str(fail(server))

    @pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x.gguf", "/plain/m.gguf"])
    def test_a_redirect_to_nowhere_good_is_an_error(self, server: Hub, target: str) -> None:
        server.faults = Faults(redirect=target)
        assert isinstance(fail(server), DownloadError)

    def test_more_than_the_disk_has_room_for_is_refused_before_it_is_downloaded(
        self, server: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.faults = Faults(wrong_length=1 << 50)
        error = fail(server)
        assert "free" in str(error)
        assert "LLCUDA_HOME" in error.hint
        monkeypatch.undo()

    def test_nobody_listening_is_an_error(self) -> None:
        with pytest.raises(DownloadError):
            resolve_model("http://127.0.0.1:9/m.gguf", progress=False)

    def test_a_home_that_cannot_be_written_is_an_error(
        self, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "occupied").write_bytes(b"")
        monkeypatch.setenv("LLCUDA_HOME", str(tmp_path / "occupied"))
        with pytest.raises(ModelError, match="cannot be written"):
            resolve_model(url(server), progress=False)

    def test_a_disk_that_fills_up_is_an_error_that_says_what_to_do(self, server: Hub) -> None:
        code = (
            "import resource, sys\n"
            "from llcuda.errors import ModelError\n"
            "from llcuda.models import resolve_model\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
            "try: resolve_model(sys.argv[1], progress=False)\n"
            "except ModelError as error: print(error.hint)\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, url(server)], capture_output=True, text=True, check=True, env=os.environ
        )
        assert "Free some space" in result.stdout
        assert ModelStore().list() == {}


ENDLESS = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
ZEROS = bytes(1 << 16)
FEW_BYTES = 16 << 20
"""What sockets may hold of an endless answer that nobody reads any more."""


def fail_early(server: Hub, home: Path, raw: Raw, *, kind: type[LlcudaError] = DownloadError) -> LlcudaError:
    """Return the error of an answer that must be left before its end, with nothing kept of it."""
    server.faults = Faults(raw=raw)
    error = fail(server)
    assert isinstance(error, kind)
    assert server.bytes_sent < FEW_BYTES
    assert leftovers(home) == []
    assert error.hint
    return error


class TestEndless:
    def test_what_is_no_model_is_left_at_its_first_bytes(self, server: Hub, home: Path) -> None:
        error = fail_early(server, home, Raw("m.gguf", ENDLESS + b"\r\n", ZEROS), kind=ModelFormatError)
        assert "GGUF" in str(error)

    def test_it_is_left_although_it_states_a_length(self, server: Hub, home: Path) -> None:
        head = ENDLESS + b'ETag: "x"\r\nContent-Length: 60000000\r\n\r\n<html>'
        error = fail_early(server, home, Raw("m.gguf", head, ZEROS), kind=ModelFormatError)
        assert "web page" in error.hint

    def test_a_model_without_a_length_has_a_bound(
        self, server: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "MAX_UNSTATED_BYTES", 1 << 20)
        fail_early(server, home, Raw("m.gguf", ENDLESS + b'ETag: "x"\r\n\r\nGGUF', ZEROS))

    def test_free_space_is_watched_while_it_is_written(
        self, server: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = iter([1 << 40, 1 << 40])
        usage = shutil.disk_usage(home.parent)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(free, 1 << 20)))
        error = fail_early(server, home, Raw("m.gguf", ENDLESS + b"\r\nGGUF", ZEROS))
        assert "free" in str(error)

    def test_what_can_be_resumed_is_kept_when_space_runs_out(
        self, server: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = iter([1 << 40, 1 << 40])
        usage = shutil.disk_usage(home.parent)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(free, 1 << 20)))
            assert "free" in str(fail(server))
        assert leftovers(home)
        assert get(server) == MODEL
        assert ranges(server)[-1] is not None

    def test_what_comes_too_slowly_is_given_up(self, server: Hub, home: Path) -> None:
        server.faults = Faults(raw=Raw("m.gguf", ENDLESS + b"\r\nGGUF", b"\0", pause=0.02))
        with pytest.raises(DownloadError, match="slow"):
            fetch_url(UrlName(url(server)), ModelStore(), progress=False, stall_timeout=0.2)
        assert leftovers(home) == []

    def test_a_redirect_is_followed_before_its_body_ends(self, server: Hub) -> None:
        head = b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: /plain/moved.gguf\r\n\r\n"
        server.faults = Faults(raw=Raw("/plain/m.gguf", head, ZEROS))
        server.plain["moved.gguf"] = MODEL
        assert get(server) == MODEL
        assert server.bytes_sent < FEW_BYTES

    def test_what_cannot_be_resumed_is_not_kept(self, server: Hub, home: Path) -> None:
        server.faults = Faults(cut_after=HALF, cuts=1000, no_validator=True)
        assert isinstance(fail(server), DownloadError)
        assert leftovers(home) == []


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: " + b"9" * 5000,
        b"Content-Length: " + b"9" * 19,
        b"Content-Length: 5\r\nContent-Length: 7",
        b"Content-Encoding: gzip",
        b"Content-Encoding: br, gzip\r\nContent-Length: 5",
    ],
)
def test_a_head_that_cannot_be_meant_is_an_error(server: Hub, home: Path, fields: bytes) -> None:
    fail_early(server, home, Raw("m.gguf", ENDLESS + fields + b"\r\n\r\nGGUF", ZEROS))


@pytest.mark.parametrize("given", [b"bytes 4-9/10", b"bytes 4-9/*", b"bytes 4-" + b"9" * 5000 + b"/*"])
def test_a_range_that_brings_more_than_it_says_is_an_error(server: Hub, home: Path, given: bytes) -> None:
    with download.lock_partial(home / "models" / "downloads", url(server)) as part:
        part.write_bytes(b"GGUF")
        part.with_suffix(".json").write_text('{"received": 4, "total": 10, "validator": "\\"x\\""}')
    head = b'HTTP/1.1 206 Partial\r\nConnection: close\r\nETag: "x"\r\nContent-Range: ' + given + b"\r\n\r\n"
    server.faults = Faults(raw=Raw("m.gguf", head, ZEROS))
    assert isinstance(fail(server), (DownloadError, ModelFormatError))
    assert server.bytes_sent < download.MAX_FUTILE_ATTEMPTS * FEW_BYTES
    assert leftovers(home) == []


@pytest.mark.parametrize("location", [b"http://[", b"//", b"http://", b"\xff\xfe://x", b"gopher://x", b"file:///x"])
def test_a_redirect_that_leads_nowhere_is_an_error(server: Hub, home: Path, location: bytes) -> None:
    head = b"HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    fail_early(server, home, Raw("m.gguf", head))


@pytest.mark.parametrize("note", [b"[" * 100_000, b'{"total": ' + b"9" * 5000 + b"}", b'{"total": "x"}'])
def test_a_damaged_note_of_a_partial_file_is_no_note(server: Hub, home: Path, note: bytes) -> None:
    with download.lock_partial(home / "models" / "downloads", url(server)) as part:
        part.write_bytes(b"GGUF")
        part.with_suffix(".json").write_bytes(note)
    assert get(server) == MODEL
