"""Screenshots of the page in README.md and docs/page.md, from the shop of `bridge demo`: `make screenshots`."""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.async_api import Browser, expect

from tests.page.browser import Scheme, launched

DIRECTORY = Path(__file__).parents[1] / "images"
QUALITY = 80
"""Quality of WebP: 100 loses nothing."""
LARGEST = 150_000
"""Bytes of one picture."""


@dataclass(frozen=True, slots=True)
class Shop:
    """Open shop. order: id of the instance that its text proposes to look at."""

    url: str
    token: str
    order: str


@dataclass(frozen=True, slots=True)
class Shot:
    """Screenshot. name: of the file. links: texts or selectors to click after the path, one after the other."""

    name: str
    path: str
    height: int
    width: int = 1280
    scheme: Scheme = "light"
    links: Sequence[str] = ()


def shots(order: str) -> Sequence[Shot]:
    """Screenshots of a shop."""
    message = f"/messages/{quote(order, safe='')}"
    dead_letters = "/dead-letters?cause=no_route"
    return (
        Shot("overview", "/", 1290),
        Shot("overview-phone", "/", 700, 390, "dark"),
        Shot("message", message, 930, scheme="dark", links=(".events a",)),
        Shot("instance", f"/instances/{quote(order, safe='')}", 800),
        Shot("dead-letters", dead_letters, 680, links=("#groups tbody a", "text=Would a replay work now?")),
    )


@contextmanager
def opened_shop() -> Iterator[Shop]:
    """Shop of `bridge demo`, after its day."""
    command = [sys.executable, "-m", "bridge", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        text = ""
        while "Ctrl-C closes" not in text:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the shop did not open:\n{text}")
            text += line
        url, token, order = re.findall(r"(?:open: |token |Messages +type )([^\s,]+)", text)[:3]
        try:
            yield Shop(url.rstrip("/"), token, order)
        finally:
            process.terminate()
            process.stdout.read()


async def take(browser: Browser, shop: Shop, shot: Shot) -> bytes:
    """Picture as WebP."""
    context = await browser.new_context(
        color_scheme=shot.scheme,
        reduced_motion="reduce",
        viewport={"width": shot.width, "height": shot.height},
        extra_http_headers={"Authorization": f"Bearer {shop.token}"},
    )
    try:
        page = await context.new_page()
        await page.goto(shop.url + shot.path)
        for link in shot.links:
            await page.locator(link).first.click()
            await page.wait_for_load_state()
        await expect(page.locator("h1")).to_be_visible()
        session = await context.new_cdp_session(page)
        options: dict[str, Any] = {"format": "webp", "quality": QUALITY}
        return base64.b64decode((await session.send("Page.captureScreenshot", options))["data"])
    finally:
        await context.close()


async def take_all(shop: Shop) -> dict[str, bytes]:
    """All pictures by name."""
    async with launched() as browser:
        return {shot.name: await take(browser, shop, shot) for shot in shots(shop.order)}


def write(pictures: dict[str, bytes]) -> None:
    """Write the pictures below docs. One that is too large ends the program."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        if len(picture) > LARGEST:
            raise SystemExit(f"{name} has {len(picture):,} bytes, more than {LARGEST:,}: choose a smaller part")
        (DIRECTORY / f"{name}.webp").write_bytes(picture)
        sys.stdout.write(f"docs/images/{name}.webp: {len(picture):,} bytes\n")


if __name__ == "__main__":
    with opened_shop() as opened:
        found = asyncio.run(take_all(opened))
    write(found)
