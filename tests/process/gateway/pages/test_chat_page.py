"""A conversation on the chat page, in a browser: the page as it was built, a real gateway, the demo model."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from llcuda.gateway.pages.chat_files import ARCHIVE_NAME
from llcuda.native import binaries_dir
from tests.browser import launch_browser, open_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response

KEY = "sk-user"
MENU = "Add files, prompts, tools or MCP Servers"
# What the page asks for to find out what there is: whether a key is needed, and whether the server runs tools.
EXPECTED = {(401, "GET", "/chat/props"), (403, "GET", "/chat/tools"), (403, "POST", "/chat/tools")}
# Its own words about these, and the browser's.
HARMLESS = re.compile(r"Failed to load resource|Error fetching server properties: ApiError: an API key is needed")

if os.environ.get("CI") != "true" and not (binaries_dir() / ARCHIVE_NAME).exists():
    pytest.skip("these binaries were built without npm", allow_module_level=True)


class Visit:
    """A page, and what went wrong on it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.failed: set[tuple[int, str, str]] = set()
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        page.on("response", self._note_response)
        page.on("request", self._note_request)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note_response(self, response: Response) -> None:
        if response.status >= 400:
            path = response.url.removeprefix(self.url).partition("?")[0]
            self.failed.add((response.status, response.request.method, path))

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(request.url)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not HARMLESS.search(message.text):
            self.complaints.append(message.text)

    def give_key(self, key: str) -> None:
        self.page.get_by_role("button", name="Enter API Key").click()
        self.page.locator("#api-key-input").fill(key)
        self.page.get_by_role("button", name="Save & Retry").click()

    def forbid_tools(self) -> None:
        """Untick the page's own tools, which a model as small as this one calls whatever it is asked."""
        self.page.get_by_role("button", name=MENU).click()
        self.page.get_by_role("menuitem", name="Tools").click()
        self.page.get_by_role("checkbox").first.click()
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Escape")

    def ask(self, text: str) -> None:
        box = self.page.get_by_placeholder("Type a message")
        box.fill(text)
        box.press("Enter")

    def check(self, *, expected: set[tuple[int, str, str]]) -> None:
        assert self.failed <= expected
        assert self.foreign == []
        assert self.complaints == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = open_page(browser)
    yield page
    page.context.close()


def config(*keys: KeyConfig) -> GatewayConfig:
    # The page leaves the temperature to the server.
    return GatewayConfig(models=(ModelConfig("demo", "demo", server_options={"temp": 0}),), port=0, keys=keys)


def test_a_conversation_with_a_key(page: Page) -> None:
    with Gateway(config(KeyConfig("user", KEY))) as gateway:
        visit = Visit(page, gateway.url)
        page.goto(f"{gateway.url}/chat")
        expect(page).to_have_url(re.compile(rf"^{re.escape(gateway.url)}/chat/"))
        visit.give_key("sk-wrong")
        expect(page.get_by_text("Invalid API key")).to_be_visible()
        page.locator("#api-key-input").fill(KEY)
        page.get_by_role("button", name="Save & Retry").click()
        visit.forbid_tools()
        visit.ask("What is 2+2?")
        expect(page.get_by_text("2 + 2 = 4.", exact=True)).to_be_visible()
        visit.ask("What is the capital of France?")
        expect(page.get_by_text("The capital of France is Paris.", exact=True)).to_be_visible()
        page.reload()
        expect(page.get_by_text("2 + 2 = 4.", exact=True)).to_be_visible()
        visit.check(expected=EXPECTED)


def test_without_keys_none_is_asked_for(page: Page) -> None:
    with Gateway(config()) as gateway:
        visit = Visit(page, gateway.url)
        page.goto(f"{gateway.url}/chat/")
        visit.forbid_tools()
        visit.ask("What is 2+2?")
        expect(page.get_by_text("2 + 2 = 4.", exact=True)).to_be_visible()
        visit.check(expected=EXPECTED - {(401, "GET", "/chat/props")})


def test_one_of_several_models_is_chosen(page: Page) -> None:
    models = tuple(ModelConfig(name, "demo", server_options={"temp": 0}) for name in ("first", "second"))
    with Gateway(GatewayConfig(models, port=0)) as gateway:
        visit = Visit(page, gateway.url)
        page.goto(f"{gateway.url}/chat/")
        page.get_by_role("button", name="first").click()
        page.get_by_role("option", name="second").click()
        visit.forbid_tools()
        with page.expect_request(f"{gateway.url}/chat/v1/chat/completions") as asked:
            visit.ask("What is 2+2?")
        assert (asked.value.post_data_json or {})["model"] == "second"
        expect(page.get_by_text("2 + 2 = 4.", exact=True)).to_be_visible()
        visit.check(expected=EXPECTED - {(401, "GET", "/chat/props")})


def test_an_error_of_the_gateway_is_shown_in_its_words(page: Page) -> None:
    with Gateway(config()) as gateway:
        visit = Visit(page, gateway.url)
        page.goto(f"{gateway.url}/chat/")
        visit.ask("word " * 2000)
        expect(page.get_by_text("exceeds the available context size").first).to_be_visible()
        assert (400, "POST", "/chat/v1/chat/completions") in visit.failed


def test_the_key_given_on_the_page_holds_in_the_chat_which_leads_back(page: Page) -> None:
    with Gateway(config(KeyConfig("user", KEY))) as gateway:
        visit = Visit(page, gateway.url)
        page.goto(gateway.url)
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Chat").click()
        expect(page).to_have_title("llcuda")
        visit.forbid_tools()
        visit.ask("What is 2+2?")
        expect(page.get_by_text("2 + 2 = 4.", exact=True)).to_be_visible()
        assert KEY not in page.evaluate("JSON.stringify({...localStorage}) + document.cookie")
        page.get_by_role("button", name="Status of the gateway").click()
        expect(page).to_have_url(f"{gateway.url}/")
        expect(page.get_by_role("heading", name="demo", exact=True)).to_be_visible()
        visit.check(expected={*EXPECTED, (401, "GET", "/api/status")} - {(401, "GET", "/chat/props")})


MARKUP = "Look: <img src=x onerror='window.ran = 1'><script>window.ran = 2</script><b onclick='window.ran = 3'>bold</b>"


def test_what_a_model_says_is_no_script(page: Page) -> None:
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": MARKUP}}]}
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    with Gateway(config()) as gateway:
        visit = Visit(page, gateway.url)
        page.route(
            "**/chat/v1/chat/completions",
            lambda route: route.fulfill(body=stream, content_type="text/event-stream"),
        )
        page.goto(f"{gateway.url}/chat/")
        visit.ask("What is 2+2?")
        said = page.get_by_text("Look:").last
        expect(said).to_be_visible()
        said.click()
        assert page.evaluate("window.ran") is None
        assert visit.foreign == []


def test_a_model_that_starts_when_it_is_asked_can_be_chatted_with(page: Page) -> None:
    model = ModelConfig("demo", "demo", on_demand=True, server_options={"temp": 0})
    with Gateway(GatewayConfig((model,), port=0)) as gateway:
        visit = Visit(page, gateway.url)
        page.goto(f"{gateway.url}/chat/")
        visit.forbid_tools()
        visit.ask("What is 2+2?")
        expect(page.get_by_text("2 + 2 = 4.", exact=True)).to_be_visible(timeout=60_000)
