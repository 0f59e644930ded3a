"""An open page while its daemon works, dies, and returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, expect

from bridge.app.page.dead_letters import DEAD_LETTERS, Prompt
from bridge.app.page.pages import PAGES
from bridge.app.page.site import Site
from bridge.app.page.visit import Page, Visit
from bridge.config.model.access import AccessConfig
from bridge.config.model.bridge import HttpConfig
from bridge.ops.web import Web
from tests.page.browser import opened
from tests.page.shop import Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def served(shop: Shop, port: int = 0, pages: Sequence[Page] = PAGES) -> AsyncIterator[Web]:
    daemon = shop.daemon.daemon
    web = Web(
        HttpConfig(port=port, access=AccessConfig(rate=10_000, burst=100_000)),
        daemon.watch.health,
        daemon.watch.scrape,
        None,
        daemon.routes,
        daemon.streams,
        pages=Site(pages, daemon.routes, lambda: daemon.loaded),
    )
    await web.start()
    try:
        yield web
    finally:
        await web.stop()


async def test_an_open_page_changes_with_its_daemon_and_survives_it(browser: Browser, shop: Shop) -> None:
    async with opened(browser) as page:
        async with served(shop) as web:
            asked = asyncio.Event()
            page.on("request", lambda request: asked.set() if request.url.endswith("/stream/live") else None)
            await page.goto(web.url)
            await asyncio.wait_for(asked.wait(), 30)
            before = await page.locator("#sums").text_content()
            await shop.daemon.publish("orders", {"kind": "other"})
            changed = "before => document.getElementById('sums').textContent !== before"
            await page.wait_for_function(changed, arg=before, timeout=30_000)
            await expect(page.locator("#lost")).to_be_hidden()
            port = web.port
        lost = page.locator("#lost")
        await expect(lost).to_be_visible(timeout=30_000)
        await expect(lost).to_contain_text("No answer of the daemon since")
        async with served(shop, port):
            await expect(lost).to_be_hidden(timeout=30_000)


async def test_an_open_instance_shows_what_changes_no_count(browser: Browser, shop: Shop) -> None:
    async with opened(browser) as page:
        await page.goto(f"{shop.open}/instances/approval-1")
        await shop.client.raise_orchestration_event("approval-1", "note-of-a-person")
        await expect(page.locator("#history")).to_contain_text("note-of-a-person", timeout=30_000)


async def test_parts_of_an_open_page_appear_and_disappear(browser: Browser, shop: Shop) -> None:
    """The failure of an instance has a part of its own; a list of jobs and its actions come with the first job."""
    await shop.client.schedule_new_orchestration("approval", input={}, instance_id="live-later")
    await shop.client.wait_for_orchestration_start("live-later")
    async with opened(browser, token=shop.token("admin", True)) as page:
        await page.goto(f"{shop.url}/instances/live-later")
        await expect(page.locator("#timeline")).to_be_visible()
        await expect(page.locator("#saga")).to_have_count(0)
        await shop.client.terminate_orchestration("live-later")
        await shop.client.wait_for_orchestration_completion("live-later", timeout=60)
        await shop.client.purge_orchestration("live-later")
        await shop.client.schedule_new_orchestration("order", input={"id": "poor"}, instance_id="live-later")
        order = [("#cause", "#saga"), ("#saga", "#timeline")]
        for first, second in order:
            await expect(page.locator(f"{first} + {second}")).to_be_visible(timeout=30_000)
        await shop.client.wait_for_orchestration_completion("live-later", timeout=60)
        await shop.client.purge_orchestration("live-later")
        await shop.client.schedule_new_orchestration("approval", input={}, instance_id="live-later")
        for each in ("#cause", "#saga"):
            await expect(page.locator(each)).to_have_count(0, timeout=30_000)
        await expect(page.locator("#head + #actions + #timeline")).to_be_visible()
        await shop.client.terminate_orchestration("live-later")


async def test_an_open_page_says_when_its_thing_is_gone(browser: Browser, shop: Shop) -> None:
    await shop.client.schedule_new_orchestration("delivery", input={"id": "gone"}, instance_id="delivery-gone")
    await shop.client.wait_for_orchestration_completion("delivery-gone", timeout=60)
    async with opened(browser) as page:
        await page.goto(f"{shop.open}/instances/delivery-gone")
        await shop.client.purge_orchestration("delivery-gone")
        await expect(page.locator("#lost")).to_contain_text("The daemon answers 404 Not Found since", timeout=30_000)
        await expect(page.locator("#history")).to_be_visible()


async def test_dead_letters_that_are_not_read_yet_delay_no_page(browser: Browser, shop: Shop) -> None:
    read, reads = asyncio.Event(), 0

    async def slowly(visit: Visit) -> Mapping[str, Any]:
        nonlocal reads
        reads += 1
        await read.wait()
        found = await DEAD_LETTERS.read(visit)
        assert isinstance(found, Mapping)
        return found

    pages = [replace(page, read=Prompt(slowly, clock=0.01)) if page is DEAD_LETTERS else page for page in PAGES]
    async with served(shop, pages=pages) as web, opened(browser) as page:
        await page.goto(f"{web.url}/dead-letters")
        await expect(page.locator("h1 + span")).to_have_text("counting…")
        await expect(page.locator("#counting")).to_be_visible()
        assert reads == 1
        read.set()
        await expect(page.locator("#groups")).to_be_visible(timeout=30_000)
        await expect(page.locator("#counting")).to_have_count(0)


async def test_an_open_audit_shows_a_change_when_it_is_made(browser: Browser, shop: Shop) -> None:
    async with opened(browser, token=shop.token("admin", True)) as page:
        await page.goto(f"{shop.url}/audit?action=instances.raise")
        await expect(page.locator("#audit")).to_be_visible()
        assert "seen live" not in (await page.locator("#audit").text_content() or "")
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {shop.token('operator')}"}) as http:
            change = {"event": "note", "reason": "seen live"}
            async with http.post(f"{shop.url}/api/v1/instances/approval-1:raise", json=change) as response:
                assert response.status == 200, await response.text()
        row = page.locator("#audit tbody tr").first
        await expect(row).to_contain_text("seen live", timeout=30_000)
        await expect(row).to_contain_text("approval-1")
        await expect(row).to_contain_text("done")
