"""Chromium, driven by Playwright: one browser in a test process, a context for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Literal

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.kit.waiting import TIMEOUT

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
expect.set_options(timeout=TIMEOUT * 1000)
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1360, "height": 900}
Scheme = Literal["light", "dark"]


class BrowserMissing(Exception):
    """Raised when this machine has no Chromium."""


def chromium() -> str:
    """Path of the browser: of CHROMIUM, or of the PATH. Raises: BrowserMissing."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise BrowserMissing("there is no chromium; install it (`apt-get install chromium`) or set CHROMIUM")
    return found


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """Browser with a profile of its own. Raises: BrowserMissing."""
    path = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser,
    *,
    javascript: bool = True,
    scheme: Scheme = "light",
    phone: bool = False,
    token: str | None = None,
) -> AsyncIterator[Page]:
    """Tab in a context without cookies. Errors of scripts and of the security policy fail the test."""
    context = await browser.new_context(
        java_script_enabled=javascript,
        color_scheme=scheme,
        reduced_motion="reduce",  # a transition would have colours of its own
        viewport=PHONE if phone else DESK,  # type: ignore[arg-type]  # its own type of dictionary
        extra_http_headers={} if token is None else {"Authorization": f"Bearer {token}"},
    )
    context.set_default_timeout(TIMEOUT * 1000)
    page = await context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if _is_error(message) else None)
    try:
        yield page
    finally:
        await context.close()
    assert not errors, errors


def _is_error(message: Any) -> bool:
    # Refusals and lost connections are what some tests ask for
    return message.type == "error" and not message.text.startswith("Failed to load resource")


_AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()


async def violations(page: Page) -> list[str]:
    """Violations of accessibility rules on a page, each with the elements that it concerns."""
    if await page.evaluate("typeof axe === 'undefined'"):
        await page.evaluate(_AXE)
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
        for each in found["violations"]
    ]


async def width_of(page: Page) -> int:
    """Pixels by which the document is wider than the window."""
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
