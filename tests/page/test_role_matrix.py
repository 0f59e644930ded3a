"""Each place of the ops port with each role, with and without the right to payloads: API, streams, pages and forms.

The places come from the OpenAPI document and from the table of pages. Requests that a role allows are refused for an
unknown parameter, so that none of them changes anything.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from itertools import product
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from bridge.app.operations.openapi import document
from bridge.app.operations.table import BY_NAME, OPERATIONS
from bridge.app.page.pages import PAGES
from bridge.app.page.site import ACTION
from bridge.app.state import trail
from bridge.ops.access import ROLES, Role
from bridge.ops.api import PREFIX
from bridge.ops.sessions import COOKIE
from tests.kit.waiting import TIMEOUT, eventually
from tests.page.shop import Shop
from tests.page.test_live import served

pytestmark = pytest.mark.asyncio(loop_scope="session")
CALLERS: tuple[tuple[Role, bool], ...] = tuple(product(ROLES, (False, True)))
OWN = {"Sec-Fetch-Site": "same-origin"}
ROUTES = [
    (method.upper(), path, shown["operationId"], shown["x-role"])
    for path, methods in document(OPERATIONS)["paths"].items()
    for method, shown in methods.items()
]
SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "instances.match": {"action": "terminate"},
    "erase": {"where": "false"},
}
"""Parameters that have a form."""
STREAMS = {"tap", "live"}
"""Streams, which are in no table of operations."""


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session:
        yield session


async def status_of(http: aiohttp.ClientSession, method: str, url: str, **given: Any) -> int:
    """Status of an answer; of a stream, without its events."""
    async with http.request(method, url, allow_redirects=False, **given) as response:
        if response.content_type != "text/event-stream":
            await response.read()
        return response.status


def may(role: Role, least: Role) -> bool:
    return ROLES.index(role) >= ROLES.index(least)


def denied(shop: Shop, action: str) -> list[tuple[str, str]]:
    """Callers, and their ways, whose denied change has a line in the audit, in order."""
    lines = trail(shop.daemon.daemon.loaded, None).read()
    return [(each["actor"], each["via"]) for each in lines if (each["action"], each["result"]) == (action, "denied")]


async def session(http: aiohttp.ClientSession, shop: Shop, role: Role, payloads: bool) -> dict[str, str]:
    form = {"token": shop.token(role, payloads)}
    async with http.post(f"{shop.url}/login", data=form, headers=OWN, allow_redirects=False) as response:
        assert response.status == 303
        return {"Cookie": f"{COOKIE}={response.cookies[COOKIE].value}"}


async def test_every_operation_is_described(shop: Shop) -> None:
    assert {id_ for _, _, id_, _ in ROUTES} == set(BY_NAME) | STREAMS | {"status"}
    daemon = shop.daemon.daemon
    served = {(each.method, PREFIX + each.path) for each in daemon.routes}
    served |= {("GET", PREFIX + each.path) for each in daemon.streams}
    assert served == {(method, path) for method, path, _, _ in ROUTES} | {("GET", f"{PREFIX}openapi.json")}


PRIVATE = {"payloads": True, "payload": True, "state": True, "where": "false", "dry_run": True}
"""Parameters that ask for payloads, or for a condition on them."""
NOT_PRIVATE = {("erase", "where"), ("dlq.edit", "dry_run")}
"""An erasure destroys what its condition tells; an edit tries a message of the caller."""


async def test_parameters_that_read_payloads_need_the_right(shop: Shop, http: aiohttp.ClientSession) -> None:
    tried = set()
    for operation in OPERATIONS:
        names = (PRIVATE.keys() & operation.parameters.model_fields.keys()) - {
            name for other, name in NOT_PRIVATE if other == operation.name
        }
        required = {name for name, each in operation.parameters.model_fields.items() if each.is_required()}
        for name in names:
            tried.add(operation.name)
            given: dict[str, Any] = {
                **dict.fromkeys(required, "none"),
                **SPECIAL.get(operation.name, {}),
                name: PRIVATE[name],
            }
            path = operation.path
            for part in required & set(re.findall(r"{(\w+)}", path)):
                path = path.replace(f"{{{part}}}", str(given.pop(part)))
            if operation.method == "GET":
                sent: dict[str, Any] = {"params": {key: str(value).lower() for key, value in given.items()}}
            else:
                sent = {"json": given}
            for payloads in (False, True):
                headers = {"Authorization": f"Bearer {shop.token('admin', payloads)}"}
                found = await status_of(http, operation.method, f"{shop.url}{PREFIX}{path}", headers=headers, **sent)
                assert (found == 403) == (not payloads), (operation.name, name, payloads, found)
    assert {"instances.list", "entities.list", "dlq.show", "instances.match", "instances.raise_by", "erase"} <= tried


async def test_the_api(shop: Shop, http: aiohttp.ClientSession) -> None:
    cookie = await session(http, shop, "admin", True)
    for method, path, id_, least in ROUTES:
        url = shop.url + path.replace("{", "").replace("}", "")
        given: dict[str, Any] = {"params": {"unheard_of": "1"}} if method == "GET" else {"json": {"unheard_of": 1}}
        before = len(denied(shop, id_))
        found = {}
        for role, payloads in CALLERS:
            headers = {"Authorization": f"Bearer {shop.token(role, payloads)}"}
            found[role, payloads] = await status_of(http, method, url, headers=headers, **given)
        assert found == {each: 422 if may(each[0], least) else 403 for each in CALLERS}, id_
        # A session is no token, whoever has it
        assert await status_of(http, method, url, headers=cookie | OWN, **given) == 401, id_
        assert await status_of(http, method, url, **given) == 401, id_
        if method == "POST":
            refused = [(f"{role}-{payloads}", "token") for role, payloads in CALLERS if not may(role, least)]
            assert denied(shop, id_)[before:] == refused + [("anonymous", "http")] * 2, id_


async def test_pages(shop: Shop, http: aiohttp.ClientSession) -> None:
    sessions = {each: await session(http, shop, *each) for each in CALLERS}
    for page in PAGES:
        url = shop.url + page.path.replace("{", "").replace("}", "")
        least: Role = "reader" if page.needs is None else BY_NAME[page.needs].role
        for (role, payloads), headers in sessions.items():
            found = await status_of(http, "GET", url, headers=headers)
            bearer = {"Authorization": f"Bearer {shop.token(role, payloads)}"}
            assert await status_of(http, "GET", url, headers=bearer) == found, page.path
            # A page of one thing may find that there is none
            assert found in ((200, 404) if may(role, least) else (403,)), (page.path, role, payloads)
        assert await status_of(http, "GET", url) == 401, page.path
    decisions = shop.daemon.daemon.decisions
    for stream in ("live", "tap"):
        for headers in (sessions["reader", False], sessions["admin", True]):
            await eventually(lambda: not decisions, "the end of the last tap")
            assert await status_of(http, "GET", f"{shop.url}/stream/{stream}", headers=headers) == 200
        assert await status_of(http, "GET", f"{shop.url}/stream/{stream}") == 401
    private: Mapping[str, str] = {"live": "tap", "tap": "options"}
    for stream, name in private.items():
        for payloads in (False, True):
            headers = sessions["admin", payloads]
            given = {name: '{"payload": true}'}
            await eventually(lambda: not decisions, "the end of the last tap")
            found = await status_of(http, "GET", f"{shop.url}/stream/{stream}", headers=headers, params=given)
            assert found == (200 if payloads else 403)


async def test_forms(shop: Shop, http: aiohttp.ClientSession) -> None:
    sessions = {each: await session(http, shop, *each) for each in CALLERS}
    for operation in OPERATIONS:
        url = f"{shop.url}{ACTION}{operation.name}"
        form = {"data": {"unheard_of": "1"}}
        before = len(denied(shop, operation.name))
        if not operation.changes:
            assert await status_of(http, "POST", url, headers=sessions["admin", True] | OWN, **form) == 404
            continue
        refused = []
        for (role, payloads), headers in sessions.items():
            found = await status_of(http, "POST", url, headers=headers | OWN, **form)
            assert found == (422 if may(role, operation.role) else 403), (operation.name, role)
            refused += [] if may(role, operation.role) else [(f"{role}-{payloads}", "page")]
        # A page of another site, with the session of a person
        foreign: dict[str, str]
        for foreign in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
            assert await status_of(http, "POST", url, headers=sessions["admin", True] | foreign, **form) == 403
            refused.append(("admin-True", "page"))
        assert await status_of(http, "POST", url, headers=OWN, **form) == 401
        assert denied(shop, operation.name)[before:] == [*refused, ("anonymous", "http")], operation.name


async def test_without_access_everybody_on_this_machine_reads(shop: Shop, http: aiohttp.ClientSession) -> None:
    async with served(shop) as web:
        for method, path, id_, least in ROUTES:
            url = web.url + path.replace("{", "").replace("}", "")
            given: dict[str, Any] = {"params": {"unheard_of": "1"}} if method == "GET" else {"json": {"unheard_of": 1}}
            assert await status_of(http, method, url, **given) == (422 if least == "reader" else 403), id_
            proxy = {"X-Forwarded-For": "203.0.113.1"}
            assert await status_of(http, method, url, headers=proxy, **given) == 401, id_
        for page in PAGES:
            least = "reader" if page.needs is None else BY_NAME[page.needs].role
            found = await status_of(http, "GET", web.url + page.path.replace("{", "").replace("}", ""))
            assert found in ((200, 404) if least == "reader" else (403,)), page.path
        for operation in OPERATIONS:
            if operation.changes:
                assert await status_of(http, "POST", f"{web.url}{ACTION}{operation.name}", headers=OWN, data={}) == 403
