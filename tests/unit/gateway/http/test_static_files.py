"""The files of the page: what is sent, with which headers, and that nothing else can be had."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from llcuda.gateway.http import static_files
from llcuda.gateway.http.connection import HttpExchange
from llcuda.gateway.http.routes import PAGES, ROUTES, Who
from llcuda.gateway.http.static_files import read_pages, serve_page

if TYPE_CHECKING:
    from llcuda.gateway.http.connection import Connection

FOLDER = Path(static_files.__file__).parents[1] / "pages"
SCRIPTS = sorted(FOLDER.glob("*.js"))


class Client:
    is_paused = is_gone = is_last = False

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data


def ask(path: str, **headers: str) -> tuple[str, bytes]:
    client = Client()
    exchange = HttpExchange(cast("Connection", client))
    exchange.headers = {"host": "localhost", **headers}
    exchange.read_head("GET", path, "1.1")
    asyncio.run(serve_page(exchange))
    head, _, body = client.sent.partition(b"\r\n\r\n")
    return head.decode(), body


def header(head: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", head.replace("\r", ""), re.MULTILINE)
    assert found, f"{name} is not in {head}"
    return found[1]


def test_every_file_of_the_folder_has_one_address_and_needs_no_key() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"}
    assert sorted(PAGES.values()) == sorted(files)
    assert all(ROUTES["GET", address].who is Who.PUBLIC for address in PAGES)


@pytest.mark.parametrize("address", PAGES)
def test_a_file_is_sent_as_it_is_with_its_type_and_the_policy(address: str) -> None:
    head, body = ask(address)
    assert head.startswith("HTTP/1.1 200 ")
    assert body == (FOLDER / PAGES[address]).read_bytes()
    assert header(head, "Content-Type").startswith(("text/", "image/svg+xml"))
    policy = header(head, "Content-Security-Policy").split("; ")
    assert policy[0] == "default-src 'self'"
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in " ".join(policy)
    assert header(head, "X-Content-Type-Options") == "nosniff"
    assert header(head, "Referrer-Policy") == "no-referrer"
    assert header(head, "Cache-Control") == "no-cache"


@pytest.mark.parametrize("known", ["{}", "W/{}", '"other", {}'])
def test_what_a_browser_has_is_not_sent_again(known: str) -> None:
    head, body = ask("/")
    again, nothing = ask("/", **{"if-none-match": known.format(header(head, "ETag"))})
    assert again.startswith("HTTP/1.1 304 ")
    assert (header(again, "ETag"), header(again, "Content-Length")) == (header(head, "ETag"), str(len(body)))
    assert nothing == b""


@pytest.mark.parametrize("known", ['"other"', "*", ""])
def test_what_a_browser_has_of_another_version_is_sent(known: str) -> None:
    assert ask("/", **{"if-none-match": known})[0].startswith("HTTP/1.1 200 ")


def test_files_that_differ_have_tags_that_differ() -> None:
    assert len({page.tag for page in read_pages().values()}) == len(PAGES)


def test_the_page_names_only_what_it_is_served_and_has_no_script_or_style_within() -> None:
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    named = {f"/{name}" for name in re.findall(r'(?:src|href)="([^#"]+)"', text)}
    assert named - {"/chat", "/metrics"} <= PAGES.keys()
    assert "/page/page.js" in named
    assert not re.search(r"<style|style=|<script(?![^>]* src=)| on[a-z]+=", text)


def test_every_label_and_every_reference_of_the_page_leads_to_an_element() -> None:
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    named = re.findall(r' (?:for="|aria-labelledby="|aria-describedby="|href="#)([\w -]+)"', text)
    assert {one for names in named for one in names.split()} <= set(ids)
    sought = {name for path in SCRIPTS for name in re.findall(r'find\("([^"]+)"\)', path.read_text(encoding="utf-8"))}
    assert sought <= set(ids)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_makes_no_markup_of_texts_and_imports_what_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|localStorage|cookie", text)
    assert {f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', text)} <= PAGES.keys()


def test_no_file_is_too_long() -> None:
    texts = [(FOLDER / name).read_text(encoding="utf-8") for name in PAGES.values()]
    assert all(len(text.splitlines()) <= 300 for text in texts)


def test_a_path_of_a_request_is_never_a_path_on_the_disk() -> None:
    tried: list[Any] = ["/page/../static.py", "/page/%2e%2e/static.py", "/pages/index.html", "/page/", "/index.html"]
    assert not [path for path in tried if ("GET", path) in ROUTES]
