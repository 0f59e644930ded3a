"""The walk that `bridge demo` proposes: each thing to type and to click is there, and does what the text says."""

from __future__ import annotations

import asyncio
import re
import signal

import pytest
from playwright.async_api import Browser, Page, expect

from demo.__main__ import VISIT
from tests.kit.processes import ModuleProcess
from tests.page.browser import opened

pytestmark = pytest.mark.asyncio(loop_scope="session")


def _until_open(running: ModuleProcess) -> str:
    text, line = "", running.read()
    while "Ctrl-C closes" not in line:
        assert line or running.runs, text
        text, line = f"{text}{line}\n", running.read()
    return text


def _close(running: ModuleProcess) -> int:
    running.signal(signal.SIGINT)
    while running.read():
        pass
    return running.process.wait()


async def test_a_stranger_can_do_what_the_shop_says(browser: Browser) -> None:
    with ModuleProcess("tests.demo.short_day") as running:
        text = await asyncio.to_thread(_until_open, running)
        url, token = re.findall(r"(?:open: |token )(\S+)", text)[:2]
        [order] = re.findall(r"Messages +type (\S+), click Find", text)
        async with opened(browser) as page:
            await page.goto(url)
            await page.get_by_label("Token").fill(token)
            await page.get_by_role("button", name="Log in").click()
            await expect(page.locator("h1")).to_have_text("Overview")
            await _message(page, order)
            await _instance(page, order)
            await _repair(page)
        assert await asyncio.to_thread(_close, running) == 0


async def _message(page: Page, order: str) -> None:
    await page.get_by_role("link", name="Messages", exact=True).click()
    await page.get_by_label("ordering key").fill(order)
    await page.get_by_role("button", name="Find").click()
    await page.locator(".events li", has_text="start").get_by_role("link").click()
    await expect(page.locator(".rules .matched").first).to_contain_text("start-order")
    await expect(page.locator(".conditions .good").first).to_have_text("holds")


async def _instance(page: Page, order: str) -> None:
    await page.get_by_role("link", name="Instances", exact=True).click()
    await page.get_by_label("Id begins with").fill(order)
    await page.get_by_role("button", name="Filter").click()
    await page.get_by_role("link", name=order, exact=True).click()
    await expect(page.locator(".timeline svg")).to_be_visible()


async def _repair(page: Page) -> None:
    cause = re.findall(r'example of "([^"]+)"', VISIT)[0]
    wrong, right = "twelve", re.findall(r'write (\S+) for "twelve"', VISIT)[0]
    await page.get_by_role("link", name="Dead letters", exact=True).click()
    await page.locator("#groups tr", has_text=cause).get_by_role("link").last.click()
    await page.get_by_text("Edit and replay…").click()
    body = page.get_by_label("Body of the replayed message")
    await body.fill((await body.input_value()).replace(f'"{wrong}"', right))
    await page.get_by_role("button", name="Edit and replay").click()
    await expect(page.get_by_role("status").filter(has_text="is submitted")).to_be_visible()
    await expect(page.locator("#facts-1 dd").first).to_contain_text("replayed")
    await expect(page.get_by_text("Open it again…")).to_be_visible()  # live: it can be replayed no more
    await page.get_by_role("link", name="Jobs", exact=True).click()
    await expect(page.locator("tbody tr").first).to_contain_text("1 succeeded")
