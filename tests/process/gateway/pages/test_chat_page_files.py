"""The addresses of the chat page, on a gateway whose model nobody asks."""

from __future__ import annotations

import gzip
import logging
import random
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig, running
from llcuda.gateway.gateway import Gateway
from tools.binaries.web_ui import pack_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-user"
FILES = {
    "index.html": b"<script>1</script>" * 100,
    "_app/immutable/bundle.js": b"export {};" * 10_000,
    "large.bin": random.Random(1).randbytes(1 << 20),
}


@contextmanager
def serving(archive: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[httpx.Client]:
    monkeypatch.setattr(running, "ARCHIVE_NAME", str(archive))
    models = (ModelConfig("demo", "demo", on_demand=True),)
    with (
        Gateway(GatewayConfig(models=models, port=0, keys=(KeyConfig("user", KEY),), **options)) as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=120) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    archive = tmp_path_factory.mktemp("page") / "web_ui.zip"
    pack_files(FILES, archive)
    with pytest.MonkeyPatch.context() as patch, serving(archive, patch) as client:
        yield client


def test_the_folder_is_led_to_and_needs_no_key(client: httpx.Client) -> None:
    first = client.get("/chat")
    assert (first.status_code, first.headers["location"]) == (308, "chat/")
    assert first.next_request is not None
    page = client.send(first.next_request)
    assert (page.status_code, page.content) == (200, FILES["index.html"])
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("accepted", ["gzip", "br, GZIP;q=0.5", "deflate,gzip ; q=1"])
def test_a_file_comes_with_gzip(client: httpx.Client, name: str, accepted: str) -> None:
    response = client.get(f"/chat/{name}", headers={"Accept-Encoding": accepted})
    assert (response.status_code, response.content) == (200, FILES[name])
    assert (response.headers["content-encoding"], response.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert int(response.headers["content-length"]) == response.num_bytes_downloaded


@pytest.mark.parametrize("accepted", ["", "identity", "gzip; q=0", "gzip;q=0.000", "x-gzip", "br"])
def test_whoever_takes_no_gzip_is_told_that_there_is_nothing_else(client: httpx.Client, accepted: str) -> None:
    response = client.get("/chat/", headers={"Accept-Encoding": accepted})
    assert (response.status_code, response.json()["error"]["code"]) == (406, "gzip_only")


def test_a_large_file_is_the_last_of_its_connection(client: httpx.Client) -> None:
    """Where it is cut, what follows would be taken for the rest of it."""
    head = f"GET /chat/large.bin HTTP/1.1\r\nHost: {client.base_url.netloc.decode()}\r\nAccept-Encoding: gzip\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=120) as connection:
        connection.sendall(head.encode() * 3)
        received = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    lines, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in lines
    assert gzip.decompress(body) == FILES["large.bin"]


def test_what_has_not_changed_is_not_sent_again(client: httpx.Client) -> None:
    whole = client.get("/chat/")
    for known in (whole.headers["etag"], f'"other", W/{whole.headers["etag"]}'):
        again = client.get("/chat/", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        # What the whole answer would have, as HTTP wants it; the connection goes on.
        assert again.headers["content-length"] == whole.headers["content-length"]
    assert client.get("/chat/", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/chat/nothing.js", "/chat/../pyproject.toml", "/chat/%2e%2e/BUILD.json"),
        *("/chat//index.html", "/chat/_app/", "/chats"),
    ],
)
def test_there_is_no_other_file(client: httpx.Client, path: str) -> None:
    url = client.base_url.copy_with(raw_path=path.encode())
    response = client.get(url)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_a_file_is_only_got(client: httpx.Client) -> None:
    response = client.post("/chat/index.html", json={})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/v1/models", "/slots"])
def test_what_the_page_asks_needs_the_key_that_it_needs_elsewhere(client: httpx.Client, path: str) -> None:
    assert client.get(f"/chat{path}").status_code == 401
    key = {"Authorization": f"Bearer {KEY}"}
    here, there = (client.get(address, headers=key) for address in (f"/chat{path}", path))
    assert (here.status_code, here.content) == (there.status_code, there.content)


def test_a_question_of_the_page_is_checked_as_every_other(client: httpx.Client) -> None:
    assert client.post("/chat/v1/chat/completions", json={}).status_code == 401
    response = client.post("/chat/v1/chat/completions", json={"modle": 1}, headers={"Authorization": f"Bearer {KEY}"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "modle")


def test_the_page_is_told_that_there_are_no_tools_and_no_answers_to_take_up(client: httpx.Client) -> None:
    tools = client.get("/chat/tools")
    assert (tools.status_code, tools.json()["error"]["code"]) == (403, "no_tools")
    asked = {"conversation_ids": ["a"]}
    assert client.post("/chat/v1/streams/lookup", json=asked).status_code == 401
    response = client.post("/chat/v1/streams/lookup", json=asked, headers={"Authorization": f"Bearer {KEY}"})
    assert (response.status_code, response.json()) == (200, [])


def test_a_build_without_the_page_says_why_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "none.zip", monkeypatch) as client:
        for path in ("/chat", "/chat/", "/chat/index.html"):
            error = client.get(path).json()["error"]
            assert error["code"] == "no_chat_page"
            assert "npm" in error["message"]


def test_a_page_that_cannot_be_read_does_not_hinder_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "web_ui.zip").write_bytes(b"PK")
    with caplog.at_level(logging.WARNING), serving(tmp_path / "web_ui.zip", monkeypatch) as client:
        response = client.get("/chat/")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "chat_page_unusable")
        assert client.get("/health").status_code == 200
    assert "web_ui.zip" in caplog.text


def test_a_file_that_is_damaged_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "web_ui.zip"
    pack_files(FILES, archive)
    data = bytearray(archive.read_bytes())
    start = data.index(b"bundle.js") + 20
    data[start : start + 20] = bytes(20)
    archive.write_bytes(data)
    with serving(archive, monkeypatch) as client:
        response = client.get("/chat/_app/immutable/bundle.js")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "chat_page_unusable")
        assert client.get("/chat/").status_code == 200
