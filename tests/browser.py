"""A browser for tests of pages: Chromium without a window, ended with its test."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

PATIENCE_MS = 120_000
# The distribution's own; runners of CI have the other.
PLACES = (Path("/usr/bin/chromium"), Path("/usr/bin/google-chrome"))
# The gateway is on this machine; nothing else is to be asked, and there is neither a GPU nor a sandbox in a container.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> Path:
    """Return the program; where there is none, skip, and fail where CI says that all is there."""
    found = next((place for place in PLACES if place.exists()), None)
    if found is None:
        reason = f"there is neither {' nor '.join(map(str, PLACES))}: install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def open_page(browser: Browser, **options: Any) -> Page:
    """Return an empty page of a session of its own; what is done on it has the time that it takes."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    return context.new_page()


@contextmanager
def launch_browser() -> Iterator[Browser]:
    """Run Chromium until the block ends."""
    executable = find_chromium()
    expect.set_options(timeout=PATIENCE_MS)  # not 5 seconds
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()
