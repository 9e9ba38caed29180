"""The page at ``/`` in a real browser, in front of a real gateway: by mouse, by keyboard, and on a phone."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import expect

from llcuda.gateway import GatewayConfig, KeyConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.browser import launch_browser, open_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, FloatRect, Locator, Page, Request, Route
    from typing_extensions import Self

ADMIN, USER = "sk-admin", "sk-user"
KEYS = (KeyConfig("root", ADMIN, is_admin=True), KeyConfig("user", USER))
# The longest name that a model can have without a break in it, and then some.
LONG_NAME = "a-model-with-quite-a-long-name-that-does-not-fit-on-a-phone-Q4_K_M"
SECONDS: dict[str, list[float | None]] = {
    "tokens_per_second": [0.0] * 120, "first_token_ms": [None] * 120, "busy": [0] * 120, "waiting": [0] * 120,
}  # fmt: skip
UPGRADE = "**/api/admin/upgrade-gpu"
NO_OFFER = {
    "possible": False, "reason": "This machine has no NVIDIA GPU.", "backend": None, "download_bytes": None,
    "installed": None, "running": False,
}  # fmt: skip
OFFER = {**NO_OFFER, "possible": True, "reason": None, "backend": "cuda12", "download_bytes": 123_400_000}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    models = (
        ModelConfig("demo", "demo", workers=2, slots=2),
        ModelConfig(LONG_NAME, "demo", on_demand=True),
    )
    with pytest.MonkeyPatch.context() as patch:
        # The GPUs of this machine, where it has any, are out of sight.
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        with Gateway(GatewayConfig(models=models, port=0, keys=KEYS)) as gateway:
            yield gateway


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_browser() as browser:
        yield browser


@contextmanager
def visiting(
    browser: Browser, url: str, *, expected: str = "", offer: Any = NO_OFFER, **options: Any
) -> Iterator[Page]:
    """Open the page; at the end nothing was reported but the statuses that are ``expected``."""
    page = open_page(browser, **options)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.add_init_script("addEventListener('securitypolicyviolation', (it) => console.error(it.violatedDirective))")
    page.route(UPGRADE, lambda route: route.fulfill(json=offer))
    try:
        page.goto(url)
        yield page
        assert [problem for problem in problems if not (expected and re.search(expected, problem))] == []
    finally:
        page.context.close()


def sign_in(page: Page, key: str = ADMIN) -> None:
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="demo", exact=True)).to_be_visible()


def card(page: Page, name: str = "demo") -> Locator:
    return page.get_by_label(f"Model {name}", exact=True)


def result(page: Page) -> Locator:
    return card(page).locator(".result")


def pids(gateway: Gateway) -> set[int]:
    assert gateway._running is not None
    return {replica.pid for replica in gateway._running.models["demo"].fleet.replicas if replica.pid}


def ask(gateway: Gateway, **more: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "What is 2+2?"}], **more}
    headers = {"Authorization": f"Bearer {USER}"}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)


def tab_to(page: Page, target: Locator, limit: int = 60) -> None:
    """Press Tab until ``target`` has the focus, as who has no mouse does."""
    for _ in range(limit):
        if target.evaluate("node => node === document.activeElement"):
            return
        page.keyboard.press("Tab")
    pytest.fail("the keyboard does not lead there")


def test_a_link_on_another_site_leads_to_it(browser: Browser, gateway: Gateway) -> None:
    link = f"<a href={gateway.url}/>our models</a>"
    with visiting(browser, "about:blank", expected="status of 401") as page:
        page.route("http://elsewhere.example/", lambda route: route.fulfill(body=link, content_type="text/html"))
        page.goto("http://elsewhere.example/")
        page.get_by_role("link").click()
        expect(page.get_by_label("API key")).to_be_visible()


def test_it_asks_for_the_key_and_keeps_it_in_this_tab_alone(browser: Browser, gateway: Gateway) -> None:
    with visiting(browser, gateway.url, expected="status of 401") as page:
        expect(page.get_by_label("API key")).to_be_focused()
        expect(page.get_by_label("API key")).to_have_attribute("type", "password")
        assert page.locator("#content").is_hidden()
        page.keyboard.type("sk-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This key is not one of this gateway's.")
        page.keyboard.type("two words")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("no spaces")
        sign_in(page)
        assert page.evaluate("Object.values(sessionStorage)") == [ADMIN]
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert ADMIN not in page.content()
        page.reload()
        expect(card(page)).to_be_visible()
        page.get_by_role("button", name="Forget the key").click()
        expect(page.get_by_label("API key")).to_be_visible()
        assert page.evaluate("sessionStorage.length") == 0


def test_it_shows_the_workers_and_what_they_do(browser: Browser, gateway: Gateway) -> None:
    with visiting(browser, gateway.url, expected="status of 401") as page:
        sign_in(page)
        expect(page.get_by_role("status").first).to_have_text("2 of 2 workers ready")
        rows = page.get_by_role("table", name="Workers of demo").get_by_role("row")
        expect(rows).to_have_count(3)
        expect(rows.nth(1)).to_contain_text(re.compile("ready.*CPU.*0 of 4.*0 of 2 busy.*MB"))
        expect(page.locator("#gpu-state")).to_have_text("not in use")
        expect(page.locator("#gpu-reason")).to_contain_text("Using the CPU.")
        expect(card(page, LONG_NAME)).to_contain_text("starts when it is asked for")
        for name, target in {"Chat": "chat", "Metrics": "metrics", "Docs": "#docs"}.items():
            expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("href", target)


def test_the_charts_move_when_the_model_is_asked(browser: Browser, gateway: Gateway) -> None:
    with visiting(browser, gateway.url, expected="status of 401") as page:
        sign_in(page)
        tokens, first = page.locator(".tile").nth(0), page.locator(".tile").nth(1)
        expect(tokens.locator(".value")).to_have_text("0")
        assert ask(gateway).status_code == 200
        assert ask(gateway, stream=True).status_code == 200
        expect(tokens.locator(".value")).not_to_have_text("0")
        expect(first.locator(".value")).to_contain_text("ms")
        expect(tokens.locator("svg")).to_have_attribute("aria-label", re.compile(r"at most \d"))
        heights = "node => new Set(node.getAttribute('d').match(/ [\\d.]+(?= |$)/g)).size"
        assert tokens.locator("path.line").evaluate(heights) > 1


def test_a_choice_by_keyboard_starts_new_workers(browser: Browser, gateway: Gateway) -> None:
    before = pids(gateway)
    with visiting(browser, gateway.url, expected="status of 401") as page:
        sign_in(page)
        tab_to(page, card(page).get_by_role("radio", name="Automatic"))
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        cpu = card(page).get_by_role("radio", name="CPU", exact=False).last
        expect(cpu).to_be_checked()
        button = card(page).get_by_role("button", name="Apply and restart")
        tab_to(page, button, limit=2)
        outline = "node => getComputedStyle(node).outlineStyle + getComputedStyle(node).outlineWidth"
        assert button.evaluate(outline) == "solid2px"
        page.keyboard.press("Enter")
        expect(result(page)).to_have_text("Done: CPU.")
        assert result(page).get_attribute("role") == "status"
        expect(button).to_be_focused()
        expect(card(page)).to_contain_text("Using the CPU, as was asked for.")
        expect(card(page).get_by_role("row")).to_have_count(3)
    assert not pids(gateway) & before


def test_a_choice_by_click_starts_new_workers(browser: Browser, gateway: Gateway) -> None:
    before = pids(gateway)
    with visiting(browser, gateway.url, expected="status of 401") as page:
        sign_in(page)
        card(page).get_by_text("Automatic").click()
        card(page).get_by_role("button", name="Apply and restart").click()
        expect(result(page)).to_have_text("Done: Automatic.")
    assert not pids(gateway) & before


def test_a_choice_that_cannot_work_is_refused_in_words(browser: Browser, gateway: Gateway) -> None:
    before = pids(gateway)
    with visiting(browser, gateway.url, expected="status of 40[19]") as page:
        sign_in(page)
        held = card(page).get_by_role("radio", checked=True).get_attribute("value")
        layers = page.get_by_label("Layers of demo on the GPU")
        expect(layers).to_be_hidden()
        card(page).get_by_text("GPU and CPU").click()
        expect(layers).to_have_attribute("max", "4")
        layers.fill("2")
        page.keyboard.press("Enter")
        expect(result(page)).to_contain_text("GPU")
        expect(result(page)).to_have_attribute("data-kind", "bad")
        expect(card(page).get_by_role("radio", checked=True)).to_have_attribute("value", str(held))
    assert pids(gateway) == before


def test_who_is_no_administrator_sees_and_changes_nothing(browser: Browser, gateway: Gateway) -> None:
    with visiting(browser, gateway.url, expected="status of 401") as page:
        sign_in(page, USER)
        expect(card(page).get_by_role("radio").first).to_be_disabled()
        expect(card(page).get_by_role("button", name="Apply and restart")).to_be_hidden()
        expect(card(page)).to_contain_text("needs the key of an administrator")
        assert page.locator("#upgrade").is_hidden()


def test_the_metrics_are_shown_with_the_key(browser: Browser, gateway: Gateway) -> None:
    with visiting(browser, gateway.url, expected="status of 401") as page:
        sign_in(page)
        page.get_by_role("link", name="Metrics").click()
        expect(page.get_by_role("dialog", name="Metrics")).to_contain_text("llcuda_requests_total")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog", name="Metrics")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_and_can_be_read(browser: Browser, gateway: Gateway, *, width: int, scheme: Any) -> None:
    viewport: Any = {"width": width, "height": 740}
    with visiting(browser, gateway.url, expected="status of 401", viewport=viewport, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        sign_in(page)
        assert ask(gateway, model=LONG_NAME).status_code == 200
        expect(card(page, LONG_NAME).get_by_role("row")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (luminance(ground) < 0.1) is (scheme == "dark")
        assert min(contrasts(page).values()) >= 4.5, contrasts(page)


def contrasts(page: Page) -> dict[str, float]:
    """Return the contrast of every kind of text with what is behind it, as WCAG counts."""
    pairs = page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter((node) => node.checkVisibility()
          && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).map((node) => {
            let behind = node;
            while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
            return [node.tagName + '.' + node.className, getComputedStyle(node).color,
                    getComputedStyle(behind).backgroundColor];
          })"""
    )
    assert len(pairs) > 50
    return {name: contrast(luminance(text), luminance(behind)) for name, text, behind in pairs}


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_it_says_so_when_the_gateway_does_not_answer_and_goes_on_when_it_does(browser: Browser) -> None:
    config = GatewayConfig(models=(ModelConfig("demo", "demo"),), port=0)
    with Gateway(config) as first:
        port = first.port
        with visiting(browser, first.url, expected="ERR_CONNECTION") as page:
            expect(card(page)).to_be_visible()
            expect(card(page)).to_contain_text("open the link that llcuda serve shows in its terminal")
            chip = card(page).locator(".chip")
            assert look(chip)["color"] != look(page.locator(".muted").first)["color"]
            first.stop()
            summary = page.get_by_role("status").first
            expect(summary).to_contain_text(re.compile("The gateway does not answer.*shows how it was at .*:"))
            assert look(chip)["color"] == look(page.locator(".muted").first)["color"]
            assert look(card(page))["backgroundColor"] == look(page.locator("body"))["backgroundColor"]
            assert min(contrasts(page).values()) >= 4.5, contrasts(page)
            with Gateway(GatewayConfig(models=config.models, port=port)):
                expect(summary).to_have_text("1 of 1 worker ready")
                assert look(card(page))["backgroundColor"] != look(page.locator("body"))["backgroundColor"]


def look(node: Locator) -> dict[str, str]:
    """Return the styles that an element has."""
    styles: dict[str, str] = node.evaluate("node => ({...getComputedStyle(node)})")
    return styles


@pytest.fixture(scope="module")
def links() -> list[str]:
    return []


@pytest.fixture(scope="module")
def owned(links: list[str]) -> Iterator[Gateway]:
    """A gateway without keys, as ``llcuda serve`` starts it at a terminal."""
    with Gateway(GatewayConfig((ModelConfig("demo", "demo"),), port=0), on_link=links.append) as gateway:
        yield gateway


def test_the_owner_of_a_gateway_without_keys_changes_it_by_a_link_that_works_once(
    browser: Browser, owned: Gateway, links: list[str]
) -> None:
    (link,) = links
    key = link.partition("#key=")[2]
    with visiting(browser, link, expected="status of 409") as page:
        expect(card(page).get_by_role("radio").first).to_be_enabled()
        assert page.url == f"{owned.url}/"
        assert key not in page.content() + page.evaluate("JSON.stringify({...sessionStorage, ...localStorage})")
        card(page).get_by_role("group").get_by_text("CPU", exact=True).click()
        card(page).get_by_role("button", name="Apply and restart").click()
        expect(result(page)).to_have_text("Done: CPU.")
        page.reload()
        expect(card(page).get_by_role("radio").first).to_be_enabled()
    with visiting(browser, link, expected="status of 403") as page:
        expect(page.locator("#link-result")).to_contain_text("This link was opened before; the terminal")
        expect(card(page).get_by_role("radio").first).to_be_disabled()
        # In a tab that is open already.
        page.goto(links[1])
        expect(card(page).get_by_role("radio").first).to_be_enabled()
        assert page.url == f"{owned.url}/"
    assert len(links) == 2


def test_a_link_is_of_no_use_to_another_site(browser: Browser, owned: Gateway, links: list[str]) -> None:
    """Its page neither reads the answer nor brings its own link in, and its name is none of ours."""
    key = links[-1].partition("#key=")[2]
    ask = """async ([url, key]) => {
        const headers = { Authorization: `Bearer ${key}` };
        try { return (await fetch(url, { method: "POST", headers })).status; } catch { return "nothing"; }
    }"""
    with visiting(browser, "about:blank", expected="ERR_FAILED|CORS|status of 403") as page:
        page.route("http://elsewhere.example/", lambda route: route.fulfill(body="<p>", content_type="text/html"))
        page.goto("http://elsewhere.example/")
        assert page.evaluate(ask, [f"{owned.url}/api/owner", key]) == "nothing"
        page.goto(f"{owned.url}/#key=chosen-elsewhere")
        expect(page.locator("#link-result")).to_contain_text("This link is not one of this gateway's")
        assert page.evaluate("sessionStorage.length") == 0
    rebound = httpx.post(
        f"{owned.url}/api/owner", headers={"Host": "rebound.example", "Authorization": f"Bearer {key}"}, trust_env=False
    )
    assert rebound.status_code == 421


@contextmanager
def telling(page: Page, **changed: Any) -> Iterator[None]:
    """Let the status say something else besides what is."""

    def answer(route: Route) -> None:
        status = route.fetch().json()
        for name, value in changed.items():
            status[name].update(value)
        route.fulfill(json=status)

    page.route("**/api/status", answer)
    yield
    page.unroute_all(behavior="ignoreErrors")


def test_what_was_sent_away_is_said_in_words(browser: Browser, gateway: Gateway) -> None:
    with visiting(browser, gateway.url, expected="status of 401") as page:
        sign_in(page)
        rejected = {"queue_full": 3, "model_not_found": 1, "invalid_json": 1, "no_tools": 9}
        with telling(page, counted={"rejected": rejected}):
            expect(page.locator("#rejected li")).to_have_text([
                "3 requests were sent away because the queue was full.",
                "1 request was sent away because there is no such model.",
                "1 request was sent away because of: invalid json.",
            ])
            expect(page.locator("#totals")).to_contain_text("Sent away5")


def measure(shown: Locator) -> FloatRect:
    box = shown.bounding_box()
    assert box is not None
    return box


def test_a_chart_shows_nothing_and_a_single_point_and_its_line_is_not_cut(browser: Browser, gateway: Gateway) -> None:
    with visiting(browser, gateway.url, expected="status of 401") as page:
        sign_in(page)
        tile = page.locator(".tile").nth(1)
        with telling(page, recent={"seconds": SECONDS}):
            nothing = "Time to first token: nothing in the last two minutes"
            expect(tile.locator("svg")).to_have_attribute("aria-label", nothing)
            expect(tile.locator(".most")).to_have_text("")
        height = measure(tile)["height"]
        with telling(page, recent={"seconds": {**SECONDS, "first_token_ms": [*[None] * 60, 250, *[None] * 59]}}):
            expect(tile.locator(".most")).to_have_text("max 250 ms")
            chart = measure(tile.locator("svg"))
            label = measure(tile.locator(".most"))
            assert label["y"] + label["height"] <= chart["y"]
            middle = [chart["x"] + chart["width"] * 60 / 119, chart["y"] + chart["height"] * 3 / 48 + 1]
            assert page.evaluate("([x, y]) => document.elementFromPoint(x, y).tagName", middle) == "path"
            assert measure(tile)["height"] == height


def test_a_worker_that_was_restarted_says_so_and_why(browser: Browser, gateway: Gateway) -> None:
    pid = min(pids(gateway))
    with visiting(browser, gateway.url, expected="status of 401") as page:
        sign_in(page)
        os.kill(pid, signal.SIGKILL)
        expect(card(page)).to_contain_text(re.compile(r"Worker demo\S+ was restarted: .*SIGKILL"))
        expect(page.get_by_role("status").first).to_have_text(re.compile(r"(\d) of \1 workers ready"))
        restarts = card(page).get_by_role("row").locator("[data-label=Restarts]").all_inner_texts()
        assert sorted(text.split()[-1] for text in restarts) == ["0", "1"]


@pytest.mark.parametrize("key", [ADMIN, USER])
def test_what_is_to_be_done_is_told_to_who_can_do_it_in_the_words_of_the_page(
    browser: Browser, gateway: Gateway, *, key: str
) -> None:
    def answer(route: Route) -> None:
        told = route.fetch().json()
        told["devices"]["remedy"] = 'Update the NVIDIA driver to 550 or newer, or use device="cpu".'
        route.fulfill(json=told)

    with visiting(browser, gateway.url, expected="status of 401") as page:
        page.route("**/api/capabilities", answer)
        sign_in(page, key)
        expect(page.locator("#gpu-reason")).not_to_be_empty()
        remedy = page.locator("#gpu-remedy")
        expect(remedy).to_have_text("Update the NVIDIA driver to 550 or newer, or use “CPU”.")
        assert remedy.is_visible() is (key == ADMIN)


class Upgrade:
    """A stand-in for what installs the GPU's backend: its events, each sent when ``go_on`` is called."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self.bodies: list[Any] = []
        self._gates = [threading.Event() for _ in events]
        self._open = iter(self._gates)
        upgrade = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                upgrade.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for gate, event in zip(upgrade._gates, events, strict=True):
                    gate.wait(120)
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def go_on(self) -> None:
        next(self._open).set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for gate in self._gates:
            gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take_over(self, page: Page) -> None:
        address = f"http://127.0.0.1:{self._server.server_port}/"
        page.route(
            UPGRADE,
            lambda route: route.continue_(url=address) if route.request.method == "POST" else route.fallback(),
        )


def test_the_gpu_is_enabled_after_a_question_and_its_progress_is_seen(browser: Browser, gateway: Gateway) -> None:
    steps = (
        {"step": "download", "done": 61_700_000, "total": 123_400_000, "message": "downloading"},
        {"step": "prove", "done": 0, "total": None, "message": "proving"},
        {"step": "done", "result": {"backend": "cuda12"}},
    )
    with visiting(browser, gateway.url, expected="status of 401", offer=OFFER) as page, Upgrade(*steps) as upgrade:
        upgrade.take_over(page)
        sign_in(page)
        button = page.get_by_role("button", name="Enable GPU (123 MB)")
        tab_to(page, button)
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Enable the GPU?")
        expect(dialog).to_contain_text("downloads 123 MB")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(button).to_be_focused()
        assert upgrade.bodies == []
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Download and enable").click()
        upgrade.go_on()
        expect(page.locator("#upgrade-step")).to_have_text("Downloading: 62 MB of 123 MB")
        bar = page.get_by_role("progressbar", name="Downloading")
        assert bar.evaluate("node => node.position") == pytest.approx(0.5)
        upgrade.go_on()
        expect(page.locator("#upgrade-step")).to_have_text("Trying it on this GPU")
        assert page.get_by_role("progressbar").evaluate("node => node.position") == -1
        upgrade.go_on()
        expect(page.locator("#upgrade-result")).to_have_text("The GPU is enabled.")
        expect(page.get_by_role("progressbar")).to_be_hidden()
        assert upgrade.bodies == [{"consent": True}]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (
            {"step": "failed", "message": "It computed nonsense.", "hint": "Update the driver.", "rolled_back": True},
            "It computed nonsense. Update the driver. Everything is as it was before.",
        ),
        ({"step": "prove", "done": 0, "total": None, "message": ""}, "The gateway broke off before it was done."),
    ],
)
def test_an_installation_that_fails_says_why(
    browser: Browser, gateway: Gateway, *, last: dict[str, Any], expected: str
) -> None:
    with visiting(browser, gateway.url, expected="status of 401", offer=OFFER) as page, Upgrade(last) as upgrade:
        upgrade.take_over(page)
        sign_in(page)
        page.get_by_role("button", name="Enable GPU").click()
        page.get_by_role("button", name="Download and enable").click()
        upgrade.go_on()
        expect(page.locator("#upgrade-result")).to_have_text(expected)
        expect(page.get_by_role("button", name="Enable GPU")).to_be_focused()


def test_a_tab_that_is_not_seen_asks_nothing(browser: Browser, gateway: Gateway) -> None:
    with visiting(browser, gateway.url, expected="status of 401") as page:
        asked: list[str] = []
        under_way: set[Request] = set()
        # Playwright marks what it calls, and a builtin cannot be marked.
        page.on("request", lambda request: under_way.add(request))  # noqa: PLW0108
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda request: under_way.discard(request))  # noqa: PLW0108
        sign_in(page)
        page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
        page.wait_for_timeout(1500)
        while under_way:
            page.wait_for_timeout(100)
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(2500)
        assert asked == []
        with page.expect_request("**"):
            page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
