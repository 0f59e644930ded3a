"""Pages of instances and sagas in a browser: filters, one instance, actions, roles, hostile texts."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import aiohttp
import pytest
from playwright.async_api import Browser, expect

from bridge.app.page.visit import place
from tests.kit.waiting import eventually
from tests.page.browser import opened
from tests.page.shop import HOSTILE, Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_filters_are_in_the_address_and_survive_the_back_button(browser: Browser, shop: Shop) -> None:
    async with opened(browser) as page:
        await page.goto(f"{shop.open}/instances")
        await page.get_by_role("link", name=re.compile("^running")).click()
        await page.get_by_label("Id begins with").fill("approval-")
        await page.get_by_role("button", name="Filter").click()
        await page.wait_for_url("**/instances?*status=RUNNING*prefix=approval-*")
        await expect(page.locator("tbody tr")).to_have_count(2)
        shared = page.url
        await page.get_by_role("link", name="approval-1").click()
        await expect(page.locator("h1")).to_have_text("approval-1")
        await page.go_back()
        await expect(page.get_by_label("Id begins with")).to_have_value("approval-")
        await expect(page.locator("tbody tr")).to_have_count(2)
    async with opened(browser, javascript=False) as other:
        await other.goto(shared)
        await expect(other.locator("tbody tr")).to_have_count(2)
        await other.get_by_role("link", name="Clear").click()
        await expect(other.locator("tbody tr").nth(5)).to_be_visible()


async def test_a_list_has_parts(browser: Browser, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.app.page.instances.PART", 5)
    seen: list[str] = []
    async with opened(browser, javascript=False) as page:
        await page.goto(f"{shop.open}/instances?prefix=order-")
        while True:
            seen += await page.locator("tbody a").all_text_contents()
            if not await page.get_by_role("link", name="Next").count():
                break
            await page.get_by_role("link", name="Next").click()
        await page.get_by_role("link", name="First").click()
        assert await page.locator("tbody a").all_text_contents() == seen[:5]
    assert len(seen) == len(set(seen)) == 7


async def test_an_instance_is_acted_on_without_javascript(browser: Browser, shop: Shop) -> None:
    await shop.client.schedule_new_orchestration("approval", input=None, instance_id="acted-on")
    await shop.client.wait_for_orchestration_start("acted-on", timeout=60)
    async with opened(browser, javascript=False, token=shop.token("operator")) as page:
        await page.goto(f"{shop.url}/instances/acted-on?engine=default")
        await page.get_by_text("Suspend…").click()
        await page.locator("details[open]").get_by_label("Reason").fill("a look first")
        await page.get_by_role("button", name="Suspend").click()
        await page.wait_for_url("**/instances/acted-on?engine=default")
        await expect(page.get_by_role("status")).to_have_text("Done: suspend instances.")

        async def is_suspended() -> bool:
            return (await shop.client.find_instance("acted-on")).runtime_status.name == "SUSPENDED"

        await eventually(is_suspended)
        await page.goto(page.url)
        await expect(page.get_by_role("status")).to_have_count(0)
        await page.get_by_text("Resume…").click()
        await page.get_by_role("button", name="Resume").click()
        await page.get_by_text("Raise an event…").click()
        await page.get_by_label("Event", exact=True).fill("approved")
        await page.get_by_label("Data, as JSON").fill('{"by": "ada"}')
        await page.get_by_role("button", name="Raise an event").click()
        await expect(page.get_by_role("status")).to_have_text("Event approved raised to acted-on.")
        state = await shop.client.wait_for_orchestration_completion("acted-on", timeout=60)
        assert state.serialized_output == '{"by": "ada"}'


async def test_an_action_works_with_the_keyboard_only(browser: Browser, shop: Shop) -> None:
    await shop.client.schedule_new_orchestration("approval", input=None, instance_id="by-keys")
    await shop.client.wait_for_orchestration_start("by-keys", timeout=60)
    async with opened(browser, token=shop.token("operator")) as page:
        await page.goto(f"{shop.url}/instances/by-keys")
        summary = page.locator("summary", has_text="Terminate…")
        for _ in range(30):
            if await summary.evaluate("each => each === document.activeElement"):
                break
            await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.type("wrong order")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status").first).to_have_text("Done: terminate instances.")
        await shop.client.wait_for_orchestration_completion("by-keys", timeout=60)


@pytest.mark.parametrize(
    ("role", "running", "ended"),
    [
        ("reader", set(), set()),
        ("operator", {"Suspend…", "Raise an event…", "Terminate…"}, {"Restart…"}),
        ("admin", {"Suspend…", "Raise an event…", "Terminate…"}, {"Restart…", "Purge…"}),
    ],
)
async def test_actions_that_a_role_does_not_allow_are_absent(
    browser: Browser, shop: Shop, role: str, running: set[str], ended: set[str]
) -> None:
    async with opened(browser, token=shop.token(role)) as page:  # type: ignore[arg-type]  # a role
        for name, expected in (("approval-2", running), ("order-good", ended)):
            await page.goto(f"{shop.url}/instances/{name}")
            assert {*await page.locator(".act > summary").all_text_contents()} == expected
            assert await page.locator("form[action^='/do/']").count() == len(expected)


async def test_payloads_need_their_right(browser: Browser, shop: Shop) -> None:
    for token, base in ((shop.token("admin"), shop.url), (None, shop.open)):
        async with opened(browser, token=token) as page:
            await page.goto(f"{base}/instances/order-lost")
            text = await page.content()
            assert "compensation failed" in text
            assert "poor" not in text
            assert "the stock is locked" not in text
            await expect(page.locator("#saga")).to_contain_text("compensation failed")
            await expect(page.get_by_text("They need the right to payloads")).to_be_visible()
    async with opened(browser, token=shop.token("reader", True)) as page:
        await page.goto(f"{shop.url}/instances/order-lost")
        await page.locator("summary", has_text="Input").click()
        await expect(page.locator("pre").filter(has_text="poor unreleasable").first).to_be_visible()
        await expect(page.locator("#saga p.bad")).to_contain_text(
            "The compensation of step reserve has failed: ValueError: the stock is locked <b>until tomorrow</b>"
        )
        await expect(page.locator("#cause")).to_contain_text("the stock is locked <b>until tomorrow</b>")


async def test_hostile_texts_are_texts(browser: Browser, shop: Shop) -> None:
    """Ids, names, errors, inputs, custom statuses and parameters of the address."""
    async with opened(browser, token=shop.token("admin", True)) as page:
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        for path in (
            "/",
            "/instances",
            place("instances", f"broken-{HOSTILE}"),
            place("instances", f"delivery-{HOSTILE}"),
            place("instances", HOSTILE),
            place("instances") + "?prefix=" + place(HOSTILE)[1:],
            "/sagas?saga=" + place(HOSTILE)[1:] + "&step=" + place(HOSTILE)[1:],
        ):
            await page.goto(shop.url + path)
            assert await page.locator("script:not([src]), img, main [onerror]").count() == 0, path
            assert path == "/" or "?prefix" in path or HOSTILE[:16] in await page.locator("main").inner_text(), path
        await page.goto(shop.url + place("instances", f"delivery-{HOSTILE}"))
        await page.locator("#timeline p a.id").click()
        await expect(page.locator("h1")).to_have_text(f"delivery-{HOSTILE}-parcel")
        assert not dialogs


async def test_sagas_show_where_they_failed_and_what_could_not_be_undone(browser: Browser, shop: Shop) -> None:
    async with opened(browser, token=shop.token("reader")) as page:
        await page.goto(f"{shop.url}/sagas")
        await expect(page.locator("#now tbody tr")).to_have_count(1)
        await expect(page.locator("#now")).to_contain_text("order-undoing")
        await page.locator("#steps tr", has_text="compensation failed").get_by_role("link", name="charge").click()
        await page.wait_for_url("**/sagas?*step=charge*")
        await expect(page.locator("#list tbody tr")).to_have_count(1)
        await expect(page.locator("#list tbody")).to_contain_text("reserve: failed")
        await page.get_by_role("link", name="order-lost").click()
        await expect(page.locator("#saga")).to_contain_text("compensation failed")


async def test_pictures_are_files_without_scripts_and_links(shop: Shop) -> None:
    headers = {"Authorization": f"Bearer {shop.token('reader')}"}
    paths = (
        "/flow.svg",
        "/instances/order-lost/timeline.svg",
        place("instances", f"delivery-{HOSTILE}", "timeline.svg"),
    )
    async with aiohttp.ClientSession(headers=headers) as http:
        for path in paths:
            async with http.get(shop.url + path) as response:
                assert response.status == 200
                assert response.content_type == "image/svg+xml"
                assert response.headers["Content-Disposition"].startswith("attachment")
                drawn = ET.fromstring(await response.text())
            names = {element.tag.partition("}")[2] for element in drawn.iter()}
            assert names <= {"svg", "defs", "marker", "path", "rect", "g", "title", "text", "circle"}
            assert drawn.get("role") == "img"
