"""The button of the page at ``/`` that enables the GPU, pressed in a real browser: a real gateway installs for real."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from llcuda.gateway import GatewayConfig, ModelConfig
from llcuda.gateway.gateway import Gateway
from tests.browser import launch_browser
from tests.process.gateway.pages.test_page import KEYS, UPGRADE, card, sign_in, visiting
from tests.standins.hub_server import serve

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("upgradable")
def test_the_gpu_is_enabled_from_the_page(bundle: Path) -> None:
    with serve() as server, launch_browser() as browser:
        server.plain.update({path.name: path.read_bytes() for path in bundle.parent.iterdir()})
        config = GatewayConfig((ModelConfig("demo", "demo"),), port=0, keys=KEYS, gpu_bundle=f"{server.url}/plain")
        with Gateway(config) as gateway, visiting(browser, gateway.url, expected="status of 401") as page:
            page.unroute(UPGRADE)  # the gateway itself is asked
            sign_in(page)
            expect(page.locator("#gpu-state")).to_have_text("not in use")
            page.get_by_role("button", name=re.compile(r"Enable GPU \(\d")).click()
            page.get_by_role("button", name="Download and enable").click()
            expect(page.locator("#upgrade-result")).to_have_text("The GPU is enabled.", timeout=60_000)
            expect(page.locator("#gpu-state")).to_have_text(re.compile("^in use"))
            expect(card(page).get_by_role("row").nth(1)).to_contain_text("Tesla T4")
