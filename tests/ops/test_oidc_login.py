"""Logins of browsers at an identity provider, over real HTTP: state, nonce, PKCE, keys, refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import yarl
from cryptography.hazmat.primitives.asymmetric import rsa

from bridge.config.model.access import OidcConfig, OidcLoginConfig
from bridge.ops.access import Caller, Oidc, ProviderUnavailable, Unauthenticated
from bridge.ops.oidc_login import OidcLogin, PendingLogin
from tests.kit.oidc import Provider

URL = "https://bridge.example"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    await provider.start()
    provider.redirect = f"{URL}/login/callback"
    yield provider
    await provider.stop()


def logins(provider: Provider, **settings: Any) -> OidcLogin:
    login = OidcLoginConfig(client_id=provider.client, url=URL, client_secret=provider.secret, **settings)
    return OidcLogin(Oidc(OidcConfig(issuer=provider.issuer, audience="another", login=login)), login)


async def answer(login: OidcLogin) -> tuple[PendingLogin, dict[str, str]]:
    """Answer of the provider to a login, as the browser brings it back."""
    address, pending = await login.begin("/jobs")
    async with aiohttp.ClientSession() as http, http.get(address, allow_redirects=False) as response:
        assert response.status == 302, await response.text()
        return pending, dict(yarl.URL(response.headers["Location"]).query)


async def whole(login: OidcLogin) -> Caller:
    pending, found = await answer(login)
    assert pending.next == "/jobs"
    return await login.end(pending, found)


async def test_a_person_logs_in(provider: Provider) -> None:
    provider.claims = {"preferred_username": "ada@example.com", "roles": ["Bridge.Admin", "Bridge.Payloads"]}
    found = await whole(logins(provider))
    assert (found.actor.name, found.role, found.payloads) == ("ada@example.com", "admin", True)
    assert "client_secret" not in provider.exchanges[0]


@pytest.mark.parametrize("methods", [None, ["client_secret_basic"], ["client_secret_post"]])
async def test_an_application_with_a_secret(provider: Provider, methods: list[str] | None) -> None:
    provider.secret, provider.client, provider.methods = "s:e/c ret+%", "bridge app", methods
    assert (await whole(logins(provider))).role == "operator"


async def test_a_login_is_bound_to_its_browser(provider: Provider) -> None:
    login = logins(provider)
    mine, of_mine = await answer(login)
    _, of_other = await answer(login)
    # The answer to another person's login: its state is not that of this browser
    with pytest.raises(Unauthenticated, match="another login"):
        await login.end(mine, of_other)
    # Another person's code under this browser's state: PKCE refuses it at the provider
    with pytest.raises(Unauthenticated, match="does not accept"):
        await login.end(mine, {**of_mine, "code": of_other["code"]})
    assert (await login.end(mine, of_mine)).role == "operator"
    with pytest.raises(Unauthenticated, match="does not accept"):
        await login.end(mine, of_mine)  # the code was used


async def test_an_id_token_is_bound_to_its_login(provider: Provider) -> None:
    login = logins(provider)
    pending, found = await answer(login)
    with pytest.raises(Unauthenticated, match="another login"):
        await login.end(replace(pending, nonce="of another login"), found)
    provider.claims = {"nonce": None}
    pending, found = await answer(login)
    with pytest.raises(Unauthenticated, match="another login"):
        await login.end(pending, found)


@pytest.mark.parametrize(
    "claims",
    [{"aud": "another"}, {"iss": "https://evil.example"}, {"exp": 1}, {"exp": None}, {"roles": []}, {"roles": None}],
)
async def test_an_id_token_that_does_not_fit_is_refused(provider: Provider, claims: dict[str, Any]) -> None:
    provider.claims = claims
    with pytest.raises(Unauthenticated):
        await whole(logins(provider))


async def test_an_id_token_of_another_key_is_refused(provider: Provider) -> None:
    login = logins(provider)
    await whole(login)
    provider.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(Unauthenticated):
        await whole(login)


@pytest.mark.parametrize(
    "changed",
    [{"code": ""}, {"code": "x" * 5_000}, {"state": ""}, {"state": "é"}, {"iss": "https://evil.example"},
     {"code": "", "error": "access_denied", "error_description": "<script>"}],
)  # fmt: skip
async def test_an_answer_that_does_not_fit_is_refused(provider: Provider, changed: dict[str, str]) -> None:
    login = logins(provider)
    pending, found = await answer(login)
    with pytest.raises(Unauthenticated) as refused:
        await login.end(pending, {**found, **changed})
    assert "script" not in str(refused.value)
    assert provider.exchanges == []


@pytest.mark.parametrize("status", [500, 503, 307, 302])
async def test_a_provider_that_fails_is_named(provider: Provider, status: int) -> None:
    provider.broken = status
    with pytest.raises(ProviderUnavailable if status >= 500 else Unauthenticated):
        await whole(logins(provider))
    assert len(provider.exchanges) == 1, "code and verifier follow no redirect"


async def test_a_provider_that_is_away_is_named(provider: Provider) -> None:
    login = logins(provider)
    pending, found = await answer(login)
    await provider.stop()
    with pytest.raises(ProviderUnavailable):
        await login.end(pending, found)
    with pytest.raises(ProviderUnavailable):
        await logins(provider).begin("/")


async def test_a_description_of_another_issuer_is_refused(provider: Provider) -> None:
    login = OidcLoginConfig(client_id="bridge", url=URL)
    oidc = Oidc(OidcConfig(issuer=provider.issuer + "/", audience="x", login=login))
    with pytest.raises(ProviderUnavailable):
        await OidcLogin(oidc, login).begin("/")
