"""Pages in a browser: with and without JavaScript, light and dark, on a phone, keyboard only, for screen readers."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from bridge.app.page.pages import PAGES
from bridge.app.page.visit import place
from tests.page.browser import Scheme, opened, violations, width_of
from tests.page.shop import HOSTILE, Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")
HOSTILE_ID = place("instances", f"broken-{HOSTILE}")
PATHS = (
    *(page.path for page in PAGES if page.template and "{" not in page.path),
    "/instances/order-lost",
    "/instances/delivery-1",
    "/instances/approval-1",
    HOSTILE_ID,
    "/instances/none",
)
"""Every page, and what it shows of one thing."""
SAID = """[...document.querySelectorAll("main h1, main h2, main th, main form, main summary")].map(
    each => each.tagName == "FORM" ? each.action : each.textContent)"""
"""Headings, columns, forms and actions of a page."""
NUMBER = """(() => {
    const all = document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']");
    const seen = [...all].filter(each => each.checkVisibility() && each.type != "hidden");
    seen.forEach((each, number) => each.dataset.number = number);
    return seen.length;
})()"""
"""Number what a person can use, in the order of the document."""
FOCUSED = """(() => {
    const style = getComputedStyle(document.activeElement);
    return [document.activeElement.dataset.number, style.outlineStyle != "none"];
})()"""
"""Number of the focused element, and whether the page shows that it is focused."""
MORE = 20
"""Parts of fields for a time, each of which the keyboard reaches."""
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_has_no_violation_of_accessibility(browser: Browser, shop: Shop, path: str) -> None:
    async with opened(browser, token=shop.token("admin", True)) as page:
        await page.goto(shop.url + path)
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            assert await violations(page) == [], scheme


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_says_the_same_without_javascript_and_fits_a_phone(
    browser: Browser, shop: Shop, path: str
) -> None:
    async with opened(browser, javascript=False, phone=True, token=shop.token("admin", True)) as page:
        await page.goto(shop.url + path)
        await expect(page.locator("h1")).to_be_visible()
        assert await width_of(page) == 0
        said = await page.evaluate(SAID)
    async with opened(browser, phone=True, token=shop.token("admin", True)) as page:
        await page.goto(shop.url + path)
        assert await page.evaluate(SAID) == said


@pytest.mark.parametrize("path", PATHS)
async def test_the_keyboard_reaches_everything_on_a_page(browser: Browser, shop: Shop, path: str) -> None:
    async with opened(browser, javascript=False, token=shop.token("admin", True)) as page:
        await page.goto(shop.url + path)
        everything = await page.evaluate(NUMBER)
        reached: list[tuple[str, bool]] = []
        for _ in range(everything + MORE):
            await page.keyboard.press("Tab")
            number, is_shown = await page.evaluate(FOCUSED)
            if not reached or reached[-1][0] != number:
                reached.append((number, is_shown))
        assert reached[:everything] == [(str(number), True) for number in range(everything)]


async def test_the_colours_change_without_javascript(browser: Browser, shop: Shop) -> None:
    async with opened(browser, javascript=False) as page:
        await page.goto(f"{shop.open}/?a=b")
        setup = "getComputedStyle(document.documentElement).backgroundColor"
        seen = [await page.evaluate(setup)]
        for _ in range(3):
            await page.locator(".theme button").click()
            await page.wait_for_url("**/?a=b")
            seen.append(await page.evaluate(setup))
        auto, light, dark, again = seen
        assert auto == light == again != dark


async def test_the_keyboard_reaches_content_and_navigation(browser: Browser, shop: Shop) -> None:
    async with opened(browser) as page:
        await page.goto(shop.open)
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await page.goto(shop.open)
        for each in ("Skip to content", "durable-bridge", "Overview"):
            await page.keyboard.press("Tab")
            await expect(page.get_by_role("link", name=each)).to_be_focused()


async def test_live_regions_follow_the_daemon_and_say_when_it_is_gone(browser: Browser, shop: Shop) -> None:
    async with opened(browser) as page:
        await page.goto(shop.open)
        await page.evaluate("document.querySelector('[data-live] h2').textContent = 'old'")
        await page.evaluate(
            f"import('{await page.locator('script').get_attribute('src')}').then(each => each.refresh())"
        )
        await expect(page.locator("[data-live] h2").first).not_to_have_text("old")
        await page.route("**/*", lambda route: route.abort())
        await page.evaluate(
            f"import('{await page.locator('script').get_attribute('src')}').then(each => each.refresh())"
        )
        await expect(page.get_by_text("No answer of the daemon")).to_be_visible()
        await page.unroute("**/*")
        await page.evaluate(
            f"import('{await page.locator('script').get_attribute('src')}').then(each => each.refresh())"
        )
        await expect(page.get_by_text("No answer of the daemon")).to_be_hidden()


@pytest.mark.parametrize("path", ["/dead-letters", "/audit"])
async def test_the_menu_is_whole_on_a_small_desk(browser: Browser, shop: Shop, path: str) -> None:
    async with opened(browser) as page:
        await page.set_viewport_size({"width": 1280, "height": 720})
        await page.goto(shop.url + path)
        await page.get_by_label("Token").fill(shop.token("admin", payloads=True))
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("button", name="Log out")).to_be_visible()
        hidden = await page.locator("header nav").evaluate("menu => menu.scrollWidth - menu.clientWidth")
        assert hidden <= 0, "the last entries of the menu are cut off"
