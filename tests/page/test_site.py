"""The site without a browser: headers, forms, errors, roles. Real HTTP, a real daemon."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from bridge.app.page.pages import PAGES
from tests.kit.waiting import eventually
from tests.page.shop import Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")
SAME = {"Sec-Fetch-Site": "same-origin"}


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


def bearer(shop: Shop, *role: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {shop.token(*role)}"}


async def test_pages_have_a_strict_policy_and_are_kept_by_nobody(shop: Shop, http: aiohttp.ClientSession) -> None:
    async with http.get(shop.open) as response:
        text = await response.text()
        headers = response.headers
    assert response.status == 200
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[each] for each in ("script-src", "style-src", "connect-src", "form-action")} == {"'self'"}
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "<style" not in text
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", text)
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', text)


async def test_assets_are_kept_forever_under_the_name_of_their_content(shop: Shop, http: aiohttp.ClientSession) -> None:
    async with http.get(shop.open) as response:
        paths = re.findall(r'"(/assets/[^"]+)"', await response.text())
    assert len(paths) == 3
    for path in paths:
        async with http.get(shop.url + path) as response:  # without a token: they hold nothing
            assert response.status == 200
            assert "immutable" in response.headers["Cache-Control"]
    async with http.get(f"{shop.url}/assets/page.000000000000.css") as response:
        assert response.status == 404


async def test_the_first_paint_takes_less_than_100_kilobytes(shop: Shop, http: aiohttp.ClientSession) -> None:
    for page in PAGES:
        if "{" in page.path:
            continue
        async with http.get(shop.open + page.path) as response:
            body = await response.read()
        total = len(body)
        for path in re.findall(rb'"(/assets/[^"]+)"', body):
            async with http.get(shop.open + path.decode()) as asset:
                total += len(await asset.read())
        assert total < 100_000, page.path


async def test_without_a_token_the_answer_is_a_page_that_says_so(shop: Shop, http: aiohttp.ClientSession) -> None:
    async with http.get(shop.url) as response:
        assert response.status == 401
        assert response.content_type == "text/html"
        assert 'name="token"' in await response.text()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "HERE"}, 404),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 404),
    ],
)
async def test_forms_of_other_sites_are_refused(
    shop: Shop, http: aiohttp.ClientSession, headers: dict[str, str], status: int
) -> None:
    headers = {name: value.replace("HERE", shop.url) for name, value in headers.items()} | bearer(shop, "operator")
    sent = {"instance_id": "none"}
    async with http.post(f"{shop.url}/do/instances.suspend", data=sent, headers=headers) as response:
        assert response.status == status
        assert response.content_type == "text/html"


@pytest.mark.parametrize(("role", "status"), [("reader", 403), ("operator", 303), ("admin", 303)])
async def test_an_action_needs_its_role_and_returns_to_its_page(
    shop: Shop, http: aiohttp.ClientSession, role: str, status: int
) -> None:
    sent = {"instance_id": "approval-2", "back": "/?a=b", "idempotency-key": f"{role}-1", "event": role, "data": "1"}
    url, headers = f"{shop.url}/do/instances.raise", SAME | bearer(shop, role)
    flashes = []
    for _ in range(2):
        async with http.post(url, data=sent, headers=headers, allow_redirects=False) as response:
            assert response.status == status
            flashes += [response.cookies["bridge_flash"]] if status == 303 else []
            assert response.headers.get("Location") == ("/?a=b" if status == 303 else None)
    for flash in flashes[:1]:
        assert flash["httponly"]
        assert flash["samesite"] == "Strict"
        async with http.get(shop.open, cookies={"bridge_flash": flash.value}) as response:
            assert f"Event {role} raised to approval-2." in await response.text()
            assert response.cookies["bridge_flash"].value == ""
        # A form that is sent twice has one effect: the event that follows stands behind one of it
        await shop.client.raise_orchestration_event("approval-2", f"end-of-{role}")

        async def ended() -> list[str]:
            history = await shop.client.get_orchestration_history("approval-2")
            names = [each.name for each in history if "EventRaised" in type(each).__name__]
            return names if f"end-of-{role}" in names else []

        names = await eventually(ended, "the last event is in the history")
        assert names[: names.index(f"end-of-{role}")].count(role) == 1


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "/a\nb"])
async def test_an_action_returns_to_this_site_only(shop: Shop, http: aiohttp.ClientSession, back: str) -> None:
    sent, headers = {"instance_id": "approval-1", "back": back}, SAME | bearer(shop, "operator")
    url = f"{shop.url}/do/instances.resume"
    async with http.post(url, data=sent, headers=headers, allow_redirects=False) as response:
        assert response.headers["Location"] == "/"


@pytest.mark.parametrize(
    ("operation", "sent", "status"),
    [
        ("instances.show", {"instance_id": "approval-1"}, 404),
        ("nothing", {}, 404),
        ("instances.suspend", {}, 422),
        ("instances.suspend", {"instance_id": "approval-1", "other": "x"}, 422),
        ("instances.raise", {"instance_id": "approval-1", "event": "x", "data": "{"}, 422),
    ],
)
async def test_an_invalid_form_has_a_page_with_the_next_step(
    shop: Shop, http: aiohttp.ClientSession, operation: str, sent: dict[str, str], status: int
) -> None:
    headers = SAME | bearer(shop, "operator")
    async with http.post(f"{shop.url}/do/{operation}", data=sent, headers=headers) as response:
        assert response.status == status
        assert "<dt>Next</dt>" in await response.text()


async def test_a_body_that_is_no_form_is_refused(shop: Shop, http: aiohttp.ClientSession) -> None:
    headers = SAME | bearer(shop, "operator")
    async with http.post(f"{shop.url}/do/instances.suspend", json={"instance_id": "x"}, headers=headers) as response:
        assert response.status == 415


async def test_an_unknown_flash_or_theme_changes_nothing(shop: Shop, http: aiohttp.ClientSession) -> None:
    for cookies in ({"bridge_flash": "%%%", "bridge_theme": "x"}, {"bridge_flash": "_____w==", "bridge_theme": '"'}):
        async with http.get(shop.open, cookies=cookies) as response:
            assert response.status == 200
            assert 'data-theme="auto"' in await response.text()
    sent = {"theme": "dark", "back": "/"}
    async with http.post(f"{shop.open}/theme", data=sent, headers=SAME, allow_redirects=False) as response:
        assert response.cookies["bridge_theme"].value == "dark"
