"""A browser for the tests that click, where this machine has one."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import Any, Iterator, Optional

# Of Debian, and of others. Playwright's own builds are looked for as well.
NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
)
WHY_NOT = "no Chromium on this machine (apt install chromium-headless-shell)"


def find_browser() -> Optional[str]:
    """The path of a browser that Playwright can drive; None if there is none."""
    for path in map(shutil.which, NAMES):
        if path:
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if own and os.path.exists(own) else None


@contextmanager
def open_browser(path: str) -> Iterator[Any]:
    """A Playwright browser without a window."""
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox refuses root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
