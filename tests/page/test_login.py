"""Logins of browsers over real HTTP: tokens, the identity provider, cookies, other sites, addresses of other sites."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from playwright.async_api import Browser

from bridge.app.page.login import BURST
from bridge.app.page.site import Site
from bridge.app.page.visit import Page, Visit
from bridge.app.state import trail
from bridge.config.model.access import AccessConfig, OidcConfig, OidcLoginConfig
from bridge.config.model.bridge import HttpConfig
from bridge.config.source import Loaded, load
from bridge.core.states import DaemonState
from bridge.encryption import Key, Keyring
from bridge.ops.access import Caller, Oidc, OpsAccess, TokenFile
from bridge.ops.api import ApiRoute
from bridge.ops.audit import Actor
from bridge.ops.health import Readiness
from bridge.ops.sessions import COOKIE, LOGIN_COOKIE, BrowserSessions
from bridge.ops.web import Web
from tests.app.project import write_project
from tests.app.test_api import Tokens
from tests.kit.oidc import Provider
from tests.kit.waiting import TIMEOUT
from tests.page.browser import opened

OWN = {"Sec-Fetch-Site": "same-origin"}
KEY = Key("k", b"k" * 32)


async def _metrics(*, openmetrics: bool) -> bytes:
    return b""


async def _status(given: Mapping[str, Any], caller: Caller, key: str | None) -> Any:
    return {"caller": caller.actor.name}


async def _read(visit: Visit) -> Mapping[str, Any]:
    return {"problem": {"title": "a page", "detail": "", "status": 200, "reason": "none", "next": ""}}


async def _refused(given: Mapping[str, Any], actor: Actor) -> None:
    return None


@asynccontextmanager
async def served(loaded: Loaded, access: OpsAccess, **settings: Any) -> AsyncIterator[str]:
    """Address of a daemon's pages. All share their key."""
    http = HttpConfig(port=0, access=AccessConfig(rate=10_000, burst=100_000), **settings)
    web = Web(
        http, lambda: Readiness(DaemonState.RUNNING, ()), _metrics, None,
        [ApiRoute("GET", "status", _status, _refused)], (), access, 1024,
        Site([Page("/", "problem.html", _read)], (), lambda: loaded), BrowserSessions(access, Keyring([KEY]), 3600),
    )  # fmt: skip
    await web.start()
    try:
        yield web.url
    finally:
        await web.stop()


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    return load([write_project(tmp_path)], environ={})


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens")


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session:
        yield session


def oidc(provider: Provider, url: str) -> OpsAccess:
    provider.redirect = f"{url}/login/callback"
    login = OidcLoginConfig(client_id=provider.client, url=url)
    return OpsAccess(oidc=Oidc(OidcConfig(issuer=provider.issuer, audience="api", login=login)))


def cookies(response: aiohttp.ClientResponse) -> SimpleCookie:
    found = SimpleCookie()
    for header in response.headers.getall("Set-Cookie", ()):
        found.load(header)
    return found


async def ask(
    http: aiohttp.ClientSession, method: str, url: str, cookie: str = "", headers: Mapping[str, str] = OWN, **form: str
) -> tuple[aiohttp.ClientResponse, str]:
    sent = {**headers, **({"Cookie": cookie} if cookie else {})}
    given: dict[str, Any] = {"data": form} if method == "POST" else {"params": form}
    async with http.request(method, url, headers=sent, allow_redirects=False, **given) as response:
        return response, await response.text()


async def log_in(http: aiohttp.ClientSession, url: str, token: str) -> str:
    response, text = await ask(http, "POST", f"{url}/login", token=token)
    assert response.status == 303, text
    return f"{COOKIE}={cookies(response)[COOKIE].value}"


async def test_a_token_opens_a_session_on_every_daemon(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession
) -> None:
    async with served(loaded, tokens.access) as url, served(loaded, OpsAccess(TokenFile(tokens.path))) as other:
        response, text = await ask(http, "GET", f"{url}/?a=%3Cb%3E")
        assert response.status == 401
        assert 'name="token"' in text
        assert 'value="/?a=%3Cb%3E"' in text
        response, _ = await ask(
            http, "POST", f"{url}/login", token=f" {tokens.tokens['operator', True]} ", next="/?a=%3Cb%3E"
        )
        assert (response.status, response.headers["Location"]) == (303, "/?a=%3Cb%3E")
        made = cookies(response)[COOKIE]
        assert (made["secure"], made["httponly"], made["samesite"], made["path"], made["domain"], made["max-age"]) == (
            True, True, "Strict", "/", "", "3600",
        )  # fmt: skip
        cookie = f"{COOKIE}={made.value}"
        for each in (url, other):
            response, text = await ask(http, "GET", f"{each}/", cookie)
            assert response.status == 200
            assert "operator-True · operator + payloads" in text
            assert "/logout" in text
        # The API takes tokens only: a page of another site could make a browser send its cookie
        response, _ = await ask(http, "GET", f"{url}/api/v1/status", cookie)
        assert response.status == 401
        response, _ = await ask(http, "POST", f"{url}/logout", cookie)
        assert (response.status, response.headers["Location"]) == (303, "/login")
        assert cookies(response)[COOKIE]["max-age"] == "0"
    assert [(line["actor"], line["via"], line["action"], line["filter"]) for line in trail(loaded, None).read()] == [
        ("operator-True", "page", "session.begin", {"role": "operator", "payloads": True}),
        ("operator-True", "page", "session.end", {"role": "operator", "payloads": True}),
    ]


async def test_what_is_no_token_opens_nothing(loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession) -> None:
    async with served(loaded, tokens.access) as url:
        cookie = await log_in(http, url, tokens.tokens["reader", False])
        for token in ("", "x", "bridge_" + "A" * 43, cookie.partition("=")[2], "é\0<script>", "a" * 900):
            response, text = await ask(http, "POST", f"{url}/login", token=token)
            assert response.status == 401
            assert "Set-Cookie" not in response.headers
            assert "<script>" not in text
        response, _ = await ask(http, "POST", f"{url}/login", token="a" * 2_000)
        assert response.status == 413


FOREIGN: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"}, {},
    {"Origin": "https://evil.example"}, {"Origin": "null"},
]  # fmt: skip


@pytest.mark.parametrize("headers", FOREIGN)
async def test_other_sites_log_nobody_in_or_out(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    async with served(loaded, tokens.access) as url:
        cookie = await log_in(http, url, tokens.tokens["reader", False])
        for path in ("login", "logout", "theme"):
            token = tokens.tokens["admin", True]
            response, _ = await ask(http, "POST", f"{url}/{path}", cookie, headers, token=token, theme="dark")
            assert response.status == 403, path
            assert "Set-Cookie" not in response.headers


ELSEWHERE = [
    "//evil.example",
    "https://evil.example",
    "/\\evil.example",
    "/\t/evil.example",
    "/x\r\nSet-Cookie: a=b",
    "",
]


@pytest.mark.parametrize("next_", ELSEWHERE)
async def test_no_login_leads_elsewhere(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession, provider: Provider, next_: str
) -> None:
    async with served(loaded, tokens.access) as url:
        response, text = await ask(http, "GET", f"{url}/login?next={quote(next_)}")
        assert 'name="next" value="/"' in text
        response, _ = await ask(http, "POST", f"{url}/login", token=tokens.tokens["reader", False], next=next_)
        assert response.headers["Location"] == "/"
        assert list(cookies(response)) == [COOKIE]
        for path in ("logout", "theme"):
            response, _ = await ask(http, "POST", f"{url}/{path}", back=next_, theme="dark")
            assert response.headers["Location"] in ("/", "/login")
    async with served(loaded, oidc(provider, "http://127.0.0.1:1")) as url:
        _, text = await through_provider(http, url, f"/login/oidc?next={quote(next_)}")
        assert 'content="0; url=/"' in text


async def through_provider(
    http: aiohttp.ClientSession, url: str, path: str, end: str | None = None
) -> tuple[aiohttp.ClientResponse, str]:
    """Login at the provider, as a browser takes it. end: address of the daemon to which the provider leads back."""
    response, _ = await ask(http, "GET", url + path)
    assert response.status == 303
    kept = cookies(response)[LOGIN_COOKIE]
    # `Strict` would withhold it when the provider leads the browser back
    assert (kept["secure"], kept["httponly"], kept["samesite"], kept["path"]) == (True, True, "Lax", "/")
    async with http.get(response.headers["Location"], allow_redirects=False) as answer:
        assert answer.status == 302, await answer.text()
        query = answer.headers["Location"].partition("?")[2]
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    return await ask(http, "GET", f"{end or url}/login/callback?{query}", f"{LOGIN_COOKIE}={kept.value}", cross)


async def test_the_identity_provider_opens_a_session(
    loaded: Loaded, http: aiohttp.ClientSession, provider: Provider
) -> None:
    provider.claims = {"preferred_username": "ada@example.com"}
    access = oidc(provider, "https://bridge.example")
    async with served(loaded, access) as url, served(loaded, access) as other:
        _, text = await ask(http, "GET", f"{url}/?q=1")
        assert 'href="/login/oidc?next=%2F%3Fq%3D1"' in text
        assert 'name="token"' not in text
        # A load balancer may lead the answer to another daemon
        response, text = await through_provider(http, url, "/login/oidc?next=%2F%3Fq%3D1", other)
        assert response.status == 200
        assert 'content="0; url=/?q=1"' in text
        made = cookies(response)
        assert (made[COOKIE]["samesite"], made[COOKIE]["secure"], made[COOKIE]["httponly"]) == ("Strict", True, True)
        assert made[LOGIN_COOKIE]["max-age"] == "0"
        response, text = await ask(http, "GET", f"{url}/", f"{COOKIE}={made[COOKIE].value}")
        assert response.status == 200
        assert "ada@example.com · operator" in text
    [line] = trail(loaded, None).read()
    assert (line["actor"], line["via"], line["action"]) == ("ada@example.com", "page", "session.begin")


async def test_a_login_that_was_not_begun_here_opens_nothing(
    loaded: Loaded, http: aiohttp.ClientSession, provider: Provider
) -> None:
    async with served(loaded, oidc(provider, "https://bridge.example")) as url:
        provider.claims = {"roles": []}
        response, text = await through_provider(http, url, "/login/oidc")
        assert response.status == 401
        assert "no role of this bridge" in text
        session = BrowserSessions(OpsAccess(), Keyring([KEY]), 60).seal(COOKIE, {"state": "s"}, 60)
        for cookie in ("", f"{LOGIN_COOKIE}=x", f"{LOGIN_COOKIE}={session}"):
            response, text = await ask(http, "GET", f"{url}/login/callback?code=c&state=s", cookie)
            assert response.status == 401
            assert COOKIE not in cookies(response)
        await provider.stop()
    async with served(loaded, oidc(provider, "https://bridge.example")) as url:
        response, text = await ask(http, "GET", f"{url}/login/oidc")
        assert response.status == 503
        assert "identity_provider_unavailable" in text


async def test_without_logins_the_page_says_so(loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession) -> None:
    async with served(loaded, OpsAccess()) as url:
        assert (await ask(http, "GET", f"{url}/"))[0].status == 200
        assert "has no logins" in (await ask(http, "GET", f"{url}/login"))[1]
        response, _ = await ask(http, "POST", f"{url}/login", token=tokens.tokens["admin", True])
        assert response.status == 401
        assert (await ask(http, "GET", f"{url}/login/oidc"))[0].status == 404
        # A cookie of a daemon with tokens has no rights here, and a proxy has none at all
        response, _ = await ask(http, "GET", f"{url}/", headers={"X-Forwarded-For": "203.0.113.1"})
        assert response.status == 401


async def test_plain_http_from_elsewhere_is_explained(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession
) -> None:
    async with served(loaded, tokens.access, allowed_hosts=("bridge.example",)) as url:
        headers = {"Host": "bridge.example", "Origin": "http://bridge.example"}
        response, text = await ask(http, "POST", f"{url}/login", headers=headers, token=tokens.tokens["reader", False])
        assert response.status == 422
        assert "https" in text


async def test_logins_are_limited(loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession) -> None:
    async with served(loaded, tokens.access) as url:
        found = [(await ask(http, "POST", f"{url}/login", token="x"))[0].status for _ in range(BURST + 5)]
        assert found[:BURST] == [401] * BURST
        assert 429 in found


@pytest.mark.parametrize("path", ["/login", "/login?next=%2F%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/"])
async def test_pages_of_logins_cannot_be_framed_or_scripted(
    loaded: Loaded, tokens: Tokens, http: aiohttp.ClientSession, path: str
) -> None:
    async with served(loaded, tokens.access) as url:
        response, text = await ask(http, "GET", url + path)
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Frame-Options"] == "DENY"
        assert response.headers["Cache-Control"] == "no-store"
        assert "<script>" not in text


@pytest.mark.asyncio(loop_scope="session")
async def test_a_person_logs_in_and_out(loaded: Loaded, tokens: Tokens, browser: Browser) -> None:
    """Chromium keeps a `Secure` cookie of this machine, also over http, and sends it back."""
    async with served(loaded, tokens.access) as url, opened(browser, javascript=False) as page:
        await page.goto(f"{url}/?x=1")
        await page.get_by_label("Token").fill(tokens.tokens["operator", False])
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"{url}/?x=1")
        assert "operator-False" in await page.inner_text(".who")
        await page.get_by_role("button", name="Log out").click()
        await page.wait_for_url(f"{url}/login")
        await page.goto(f"{url}/")
        assert await page.get_by_label("Token").is_visible()


@pytest.mark.asyncio(loop_scope="session")
async def test_a_person_comes_back_from_the_provider(loaded: Loaded, browser: Browser) -> None:
    """The provider's site is another one: `localhost`. Chromium sends its cookies as it does from there."""
    provider = Provider("localhost")
    await provider.start()
    try:
        access = oidc(provider, "https://bridge.example")
        async with served(loaded, access) as url, opened(browser, javascript=False) as page:
            provider.lands = f"{url}/login/callback"
            await page.goto(f"{url}/?x=1")
            await page.get_by_role("link", name="Log in at the identity provider").click()
            await page.wait_for_url(f"{url}/?x=1")
            assert "u-1" in await page.inner_text(".who")
    finally:
        await provider.stop()
