"""Life of a message, live view, filters in the address, and hostile texts, on the pages of messages."""

from __future__ import annotations

import html
import re
from urllib.parse import quote

import aiohttp
import pytest
from playwright.async_api import Browser, expect

from bridge.app.page.pages import PAGES
from tests.page.browser import Scheme, opened, violations, width_of
from tests.page.shop import HOSTILE, Shop
from tests.page.test_actions import ask, shown

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def details(shop: Shop) -> dict[str, str]:
    """Address of a page of each kind with an id or a view of its own."""
    newest = (await ask(shop, "dead-letters:newest", routes="approve"))["dead_letters"][0]
    jobs = await ask(shop, "jobs")
    return {
        "group": f"/dead-letters?group={newest['group']}&check=1",
        "dead letter": f"/dead-letters/{quote(newest['id'], safe='')}",
        "message": "/messages/" + quote("orders/0@0", safe=""),
        "entity": "/entities/stock/shelf",
        "history": "/config?view=history",
        "candidate": "/config?view=candidate&plan=1",
        "own entities": "/entities?own=1",
        **({"job": f"/jobs/{jobs[0]['job']}"} if jobs else {}),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_of_one_thing_have_no_violation_of_accessibility(
    browser: Browser, shop: Shop, scheme: Scheme
) -> None:
    async with opened(browser, scheme=scheme, phone=scheme == "dark", token=shop.token("admin", True)) as page:
        for name, path in (await details(shop)).items():
            await page.goto(shop.url + path)
            for each in await page.locator("summary").all():
                await each.click()
            assert await violations(page) == [], name
            assert await width_of(page) == 0, name


async def test_a_decision_is_shown_condition_by_condition_with_the_right_to_payloads(
    shop: Shop, browser: Browser
) -> None:
    await shop.daemon.publish("orders", {"kind": "announced", "id": "early-1"}, "k")
    async with opened(browser, javascript=False, token=shop.token("reader", True)) as page:
        await page.goto(shop.url + "/waiting?prefix=order-early-1")
        await shown(page, page.locator("#early summary"), javascript=False)
        await page.locator("#early summary").first.click()
        await page.locator("#early .events a").first.click()
        rules = page.locator(".rules > li")
        await expect(rules).to_have_count(3)
        matched = page.locator(".rules > li.matched")
        await expect(matched).to_contain_text("announce")
        conditions = await matched.locator(".conditions li").all_inner_texts()
        assert [re.split(r"\s+", each, maxsplit=1) for each in conditions] == [
            ["holds", 'type: "announced" is announced'],
            ["holds", 'payload.id != ""'],
            ["holds", "has(payload.kind)"],
        ]
        await expect(matched.locator(".step a")).to_have_text("order-early-1")
        await expect(rules.first.locator(".conditions")).to_contain_text('does not hold type: "order" is announced')
        message = page.url
        await page.get_by_role("link", name="Release or drop it").click()
        assert "prefix=order-early-1" in page.url
    async with opened(browser, javascript=False, token=shop.token("reader")) as page:
        await page.goto(f"{shop.url}/messages?q=order-early-1")
        await expect(page.get_by_role("link", name="1 message waits for the start of this instance")).to_be_visible()
        await page.goto(message)
        await expect(page.locator(".rules")).not_to_contain_text("is announced")
        await expect(page.get_by_text("need the right to payloads")).to_be_visible()


async def test_a_message_is_found_by_any_id_and_leads_to_its_instance(browser: Browser, shop: Shop) -> None:
    async with opened(browser, javascript=False, token=shop.token("reader")) as page:
        await page.goto(f"{shop.url}/messages")
        await page.get_by_label("Message id, event id, position").fill("order-m1")
        await page.keyboard.press("Enter")
        await expect(page.locator(".way-instance a").first).to_have_text("order-m1")
        await expect(page.locator(".way-instance .badge")).to_have_text("completed")
        position = page.locator(".way-instance .events a")
        await position.click()
        await expect(page.locator(".answer")).to_contain_text("executed")
        await expect(page.locator(".answer")).to_contain_text("order-m1")
        await page.goto(f"{shop.url}/messages/nothing-like-this")
        await expect(page.locator("#life")).to_contain_text(
            "No engine, daemon or broker of this configuration knows it"
        )


async def test_the_live_view_shows_messages_as_they_are_settled(browser: Browser, shop: Shop) -> None:
    async with opened(browser) as page:
        await page.goto(f"{shop.open}/messages?source=orders&outcome=ignored")
        await expect(page.locator(".tap-state")).to_contain_text("settled")
        await shop.daemon.publish("orders", {"kind": "order", "id": "not-ignored"})
        await shop.daemon.publish("orders", {"kind": HOSTILE})
        row = page.locator("#tap tbody tr")
        await expect(row).to_have_count(1)
        await expect(row).to_contain_text("ignored")
        await row.locator("a").first.click()
        await expect(page.locator(".answer .badge")).to_have_text("ignored")


async def test_filters_stay_with_the_back_button_and_in_a_shared_link(browser: Browser, shop: Shop) -> None:
    async with opened(browser, token=shop.token("operator")) as page:
        await page.goto(f"{shop.url}/dead-letters")
        await page.get_by_label("Route").select_option("approve")
        await page.get_by_label("Written in the").select_option("7d")
        await page.get_by_role("button", name="Filter").click()
        await page.wait_for_url("**route=approve**")
        filtered = page.url
        assert "since=7d" in filtered
        await page.locator("#groups tbody a").first.click()
        assert "route=approve" in page.url
        await page.go_back()
        assert page.url == filtered
        await expect(page.get_by_label("Route")).to_have_value("approve")
    async with opened(browser, javascript=False, token=shop.token("reader")) as page:
        await page.goto(filtered)
        await expect(page.get_by_label("Route")).to_have_value("approve")
        await expect(page.get_by_label("Written in the")).to_have_value("7d")


async def test_the_keyboard_opens_and_sends_a_form(browser: Browser, shop: Shop) -> None:
    async with opened(browser, token=shop.token("operator")) as page:
        await page.goto(f"{shop.url}/dead-letters?route=approve")
        summary = page.locator("summary", has_text="Drop")
        await summary.focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.locator("form[action='/do/dlq.drop']").get_by_label("Reason")).to_be_focused()


async def test_hostile_texts_are_texts(browser: Browser, shop: Shop) -> None:
    """Ids, keys, headers, errors and parameters of the address that are scripts and tags."""
    await ask(shop, "jobs")
    hostile = quote(HOSTILE, safe="")
    paths = [
        *(page.path for page in PAGES if "{" not in page.path and page.template),
        *(await details(shop)).values(),
        f"/messages/{hostile}", f"/messages?q={hostile}", f"/messages?source={hostile}&route={hostile}",
        f"/dead-letters?cause={hostile}", f"/dead-letters?group={hostile}", f"/dead-letters/{hostile}",
        f"/waiting?key={hostile}", f"/waiting?prefix={hostile}", f"/jobs?state={hostile}", f"/jobs/{hostile}",
        f"/audit?actor={hostile}&action={hostile}", f"/entities?entity={hostile}", f"/entities/{hostile}/{hostile}",
        f"/config?view={hostile}",
    ]  # fmt: skip
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {shop.token('admin', True)}"}) as http:
        seen = 0
        for path in paths:
            async with http.get(shop.url + path) as response:
                text = await response.text()
            assert response.status != 500, path
            assert "<script>" not in text, path
            assert "<img src=x" not in text, path
            seen += html.escape("<img src=x") in text
        assert seen >= 10
    async with opened(browser, token=shop.token("admin", True)) as page:
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        for path in ("/waiting", f"/messages/{hostile}", (await details(shop))["dead letter"]):
            await page.goto(shop.url + path)
            assert await page.locator("main script, main img").count() == 0
            assert await page.locator("body", has_text="<img src=x").count()
        assert dialogs == []
