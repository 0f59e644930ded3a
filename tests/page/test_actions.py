"""Actions of people on dead letters, waiting messages and jobs, in a browser with and without JavaScript."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.kit.waiting import eventually
from tests.page.browser import opened, violations
from tests.page.shop import Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ask(shop: Shop, path: str, **query: str) -> Any:
    """Answer of the API to an admin."""
    headers = {"Authorization": f"Bearer {shop.token('admin', True)}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{shop.url}/api/v1/{path}", params=query) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.json()


async def dead_lettered(shop: Shop, count: int, *bodies: Any) -> list[dict[str, Any]]:
    """Dead letters of new messages for instances that do not exist; the newest first."""
    before = {each["id"] for each in (await ask(shop, "dead-letters:newest", limit="1000"))["dead_letters"]}
    for body in bodies:
        await shop.daemon.publish("approvals", body)

    async def new() -> list[dict[str, Any]]:
        found = (await ask(shop, "dead-letters:newest", limit="1000"))["dead_letters"]
        found = [each for each in found if each["id"] not in before]
        return found if len(found) == count else []

    found: list[dict[str, Any]] = await eventually(new, f"{count} new dead letters")
    return found


async def shown(page: Page, locator: Locator, javascript: bool) -> None:
    """Return when a part of the page is there: by itself, or without JavaScript after loading it again."""
    if javascript:
        await expect(locator.first).to_be_visible(timeout=30_000)
        return

    async def there() -> bool:
        await page.reload()
        return await locator.count() > 0

    await eventually(there, str(locator))


async def press(page: Page, button: Locator) -> None:
    """Send a form, and return when its answer is there: a page that is loading cannot be loaded again."""
    async with page.expect_navigation():
        await button.click()


@pytest.mark.parametrize("javascript", [True, False])
async def test_a_group_is_tried_and_replayed_to_its_end(browser: Browser, shop: Shop, javascript: bool) -> None:
    """From the list to the group, dry run before and after the cause is gone, replay, job, outcome."""
    name = f"group-{javascript}".lower()
    found = await dead_lettered(shop, 3, *({"late": f"{name}-{number}"} for number in range(3)))
    [group] = {each["group"] for each in found}
    async with opened(browser, javascript=javascript, token=shop.token("operator")) as page:
        await page.goto(f"{shop.url}/dead-letters?route=late")
        await page.locator(f"a[href*='group={group}']").first.click()
        await expect(page.locator("#group")).to_contain_text("instance_not_found")
        await page.get_by_role("link", name="Would a replay work now?").click()
        await expect(page.get_by_text("0 of 3 that were tried would succeed")).to_be_visible()
        for number in range(3):
            id_ = f"late-{name}-{number}"
            await shop.client.schedule_new_orchestration("approval", input=None, instance_id=id_)
        await page.get_by_role("link", name="Would a replay work now?").click()
        await expect(page.get_by_text("3 of 3 that were tried would succeed")).to_be_visible()
        await page.locator("summary", has_text="Replay 3").click()
        form = page.locator("form[action='/do/dlq.replay']")
        await form.get_by_label("100", exact=True).check()
        await form.get_by_label("Reason, for the audit").fill("the instances are there now")
        await press(page, form.get_by_role("button", name="Replay 3"))
        await expect(page.get_by_text("is submitted")).to_be_visible()
        assert f"group={group}" in page.url
        await shown(page, page.locator("#jobs tr", has_text="done").filter(has_text="3 succeeded"), javascript)
        await expect(page.locator("#jobs")).to_contain_text("the instances are there now")
        await shown(page, page.locator("#group", has_text="no open dead letters"), javascript)
        await expect(page.locator("#head")).to_contain_text("0 open")
        await expect(page.locator("#actions summary")).to_have_count(0)
        await page.locator("#jobs a").first.click()
        await expect(page.locator("#items tbody tr")).to_have_count(3)
        await page.locator("#items a").first.click()
        await expect(page.locator(".badge", has_text="replayed").first).to_be_visible()
    for number in range(3):
        await shop.client.wait_for_orchestration_completion(f"late-{name}-{number}", timeout=60)
    [line, *_] = reversed(await ask(shop, "audit", action="dlq.replay"))
    assert (line["actor"], line["result"], line["reason"]) == (
        "operator-False", "done", "the instances are there now",
    )  # fmt: skip
    assert line["filter"]["causes"] == [group]


async def test_a_job_whose_items_fail_says_so_beside_its_state(browser: Browser, shop: Shop) -> None:
    [found] = await dead_lettered(shop, 1, {"late": "never"})
    async with opened(browser, token=shop.token("operator")) as page:
        await page.goto(f"{shop.url}/dead-letters/{quote(found['id'], safe='')}")
        await page.locator("summary", has_text="Replay").first.click()
        form = page.locator("form[action='/do/dlq.replay']")
        await form.get_by_label("Reason, for the audit").fill("it fails again")
        await press(page, form.get_by_role("button", name="Replay"))
        await page.goto(f"{shop.url}/jobs")
        state = page.locator("tr", has_text="it fails again").locator("td").nth(1)
        await expect(state).to_contain_text("1 failed")


async def test_a_body_is_edited_and_replayed(browser: Browser, shop: Shop) -> None:
    await shop.client.schedule_new_orchestration("approval", input=None, instance_id="late-edited")
    [found] = await dead_lettered(shop, 1, {"late": "typo"})
    async with opened(browser, token=shop.token("operator", True)) as page:
        await page.goto(f"{shop.url}/dead-letters/{quote(found['id'], safe='')}")
        await page.locator("summary", has_text="Edit and replay").click()
        field = page.get_by_label("Body of the replayed message")
        assert json.loads(await field.input_value()) == {"late": "typo"}
        await field.fill('{"late":\n "edited"}')
        await press(page, page.get_by_role("button", name="Edit and replay"))
        await expect(page.get_by_text("is submitted")).to_be_visible()
        await expect(page.locator(".badge", has_text="replayed").first).to_be_visible(timeout=30_000)
    state = await shop.client.wait_for_orchestration_completion("late-edited", timeout=60)
    assert "edited" in state.serialized_output


async def test_a_drop_needs_a_reason_and_can_be_taken_back(browser: Browser, shop: Shop) -> None:
    [found] = await dead_lettered(shop, 1, {"late": "dropped"})
    async with opened(browser, javascript=False, token=shop.token("operator")) as page:
        place = f"{shop.url}/dead-letters/{quote(found['id'], safe='')}"
        await page.goto(place)
        await page.locator("summary", has_text="Drop").click()
        await press(page, page.get_by_role("button", name="Drop"))
        await expect(page.get_by_text("`reason`").or_(page.get_by_text("parameter reason"))).to_be_visible()
        await page.go_back()
        await page.locator("summary", has_text="Drop").click()
        await page.locator("form[action='/do/dlq.drop']").get_by_label("Reason").fill("a test")
        await press(page, page.get_by_role("button", name="Drop"))
        await shown(page, page.locator(".facts .badge", has_text="dropped"), javascript=False)
        await page.locator("summary", has_text="Open it again").click()
        await press(page, page.get_by_role("button", name="Open it again"))
        await shown(page, page.locator(".facts .badge", has_text="open"), javascript=False)


async def test_an_early_message_and_a_key_are_dropped_and_released(browser: Browser, shop: Shop) -> None:
    await shop.daemon.publish("orders", {"kind": "announced", "id": "nobody"})
    await shop.daemon.publish("keyed", {"id": 7}, "stuck")
    async with opened(browser, javascript=False, token=shop.token("admin")) as page:
        await page.goto(f"{shop.url}/waiting?prefix=order-nobody")
        row = page.locator("#early tr", has_text="order-nobody")
        await shown(page, row, javascript=False)
        await press(page, row.get_by_role("button", name="Try now"))
        await expect(page.get_by_text("Done: release early.")).to_be_visible()
        await row.locator("summary", has_text="Drop").click()
        await row.get_by_label("write no dead letters").check()
        await press(page, row.get_by_role("button", name="Drop"))
        await expect(page.get_by_text("No message waits for an instance with this filter")).to_be_visible()
        assert page.url.endswith("/waiting?prefix=order-nobody")

        await page.goto(f"{shop.url}/waiting?key=stuck")
        row = page.locator("#quarantined tr", has_text="stuck")
        await shown(page, row, javascript=False)
        await row.locator("summary", has_text="Drop").click()
        await row.get_by_label("write no dead letters").check()
        await press(page, row.get_by_role("button", name="Drop"))
        await expect(page.get_by_text("No key is in quarantine with this filter")).to_be_visible()


async def test_an_entity_gets_a_signal(browser: Browser, shop: Shop) -> None:
    async with opened(browser, javascript=False, token=shop.token("operator", True)) as page:
        await page.goto(f"{shop.url}/entities/stock/new")
        await expect(page.get_by_text("no entity stock@new exists")).to_be_visible()
        await page.goto(f"{shop.url}/entities/stock/shelf")
        before = int(await page.locator("#entity pre").inner_text())
        await page.locator("summary", has_text="Signal").click()
        await page.get_by_label("Operation").fill("receive")
        await page.get_by_label("Input, as JSON").fill("4")
        await press(page, page.get_by_role("button", name="Signal"))
        await shown(page, page.locator("#entity pre", has_text=str(before + 4)), javascript=False)


@pytest.mark.parametrize(
    "path", ["/dead-letters?route=approve", "/waiting", "/jobs", "/config", "/entities/stock/shelf"]
)
async def test_a_reader_gets_no_form_that_changes_something(shop: Shop, path: str) -> None:
    async with aiohttp.ClientSession() as http:
        for role, offered in (("reader", False), ("admin", True)):
            headers = {"Authorization": f"Bearer {shop.token(role)}"}  # type: ignore[arg-type]  # a role
            async with http.get(shop.url + path, headers=headers) as response:
                text = await response.text()
                assert response.status == 200
                assert ("/do/" in text) is (offered and path != "/jobs"), path


async def test_a_source_is_paused_and_a_limit_ended_on_the_overview(browser: Browser, shop: Shop) -> None:
    headers = {"Authorization": f"Bearer {shop.token('operator')}"}
    sent = {"rate": 5.0, "seconds": 600.0}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{shop.url}/api/v1/limits/deliver:set", json=sent) as response,
    ):
        assert response.status == 200, await response.text()
    async with opened(browser, token=shop.token("operator")) as page:
        await page.goto(f"{shop.url}/")
        limit = page.locator("#limits tr", has_text="deliver")
        await expect(limit).to_contain_text("5/s")
        assert await violations(page) == []
        await limit.get_by_role("button", name="End").click()
        await expect(page.locator("#limits")).to_have_count(0)
        source = page.locator("#sums tr", has_text="approvals")
        await source.locator("summary", has_text="Pause").click()
        await source.get_by_label("Reason").fill("a look at the page")
        await source.get_by_role("button", name="Pause").click()
        await expect(page.get_by_text("Source approvals is paused.")).to_be_visible()
        await expect(source.locator(".badge").first).to_have_text("paused")
        await source.get_by_role("button", name="Resume").click()
        await expect(source.locator(".badge").first).not_to_have_text("paused")
    async with opened(browser, token=shop.token("reader")) as page:
        await page.goto(f"{shop.url}/")
        await expect(page.locator("#sums form")).to_have_count(0)
