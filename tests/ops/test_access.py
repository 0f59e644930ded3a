"""Tokens of an identity provider, against a real provider over HTTP: its discovery document and its keys."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from bridge.config.model.access import OidcConfig
from bridge.ops.access import (
    Caller,
    CallerRates,
    Oidc,
    OpsAccess,
    ProviderUnavailable,
    Unauthenticated,
    new_token,
    parse_tokens,
    token_line,
)
from tests.kit.oidc import Provider


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    await provider.start()
    yield provider
    await provider.stop()


def access(provider: Provider, **settings: Any) -> OpsAccess:
    return OpsAccess(oidc=Oidc(OidcConfig(issuer=provider.issuer, audience="bridge", **settings)))


async def caller(access: OpsAccess, token: str) -> Caller:
    return await access.caller({"Authorization": f"Bearer {token}"}, "203.0.113.9")


async def test_a_role_of_the_provider_is_a_role_here(provider: Provider) -> None:
    oidc = access(provider)
    found = await caller(oidc, provider.token(preferred_username="ada@example.com"))
    assert (found.actor.name, found.actor.via, found.role, found.payloads) == (
        "ada@example.com", "oidc", "operator", False,
    )  # fmt: skip
    found = await caller(oidc, provider.token(roles=["Bridge.Reader", "Bridge.Admin", "Bridge.Payloads", "Other"]))
    assert (found.actor.name, found.role, found.payloads) == ("u-1", "admin", True)
    assert provider.requests == 1, "the keys are kept"
    own = access(provider, roles_claim="scp", roles={"reader": ["look"]})
    assert (await caller(own, provider.token(scp="openid look"))).role == "reader"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"}, {"iss": "http://evil.example"}, {"exp": int(time.time()) - 3600}, {"exp": None},
        {"aud": None}, {"iss": None}, {"roles": []}, {"roles": None}, {"roles": ["Other"]}, {"roles": 7},
        {"roles": [["Bridge.Reader"], {"Bridge.Reader": 1}]},
        {"nbf": int(time.time()) + 3600},
    ],
)  # fmt: skip
async def test_claims_that_do_not_fit_are_refused(provider: Provider, claims: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await caller(access(provider), provider.token(**claims))


@pytest.mark.parametrize(("kids", "admitted"), [(("one",), True), ((None,), True), (("one", "two"), False)])
async def test_a_token_without_the_name_of_its_key(
    provider: Provider, kids: tuple[str | None, ...], admitted: bool
) -> None:
    """Providers with one key may leave its name out."""
    provider.kids = kids
    try:
        found = await caller(access(provider), provider.token(kid=None))
    except Unauthenticated:
        assert not admitted
    else:
        assert (found.role, admitted) == ("operator", True)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(Unauthenticated):
        await caller(access(provider), provider.token(key=other, kid=None))


@pytest.mark.parametrize(
    ("path", "audience"),
    [
        # Version 2 of Entra ID: the client id is the audience. Version 1: the issuer ends with a slash
        ("/8f2a11d0-tenant/v2.0", "6c8e1f40-client"),
        ("/8f2a11d0-tenant/", "api://durable-bridge"),
        ("/8f2a11d0-tenant/", "6c8e1f40-client"),
    ],
)
async def test_both_versions_of_tokens_of_entra_id(provider: Provider, path: str, audience: str) -> None:
    provider.path = path
    oidc = OpsAccess(oidc=Oidc(OidcConfig(issuer=provider.issuer, audience=audience)))
    found = await caller(oidc, provider.token(aud=audience, roles=["Bridge.Admin"], oid="o", tid="8f2a11d0-tenant"))
    assert found.role == "admin"
    for claims in (
        {"aud": audience, "iss": provider.issuer.rstrip("/") + ("" if path.endswith("/") else "/")},
        {"aud": audience, "iss": f"{provider.base}/another-tenant/v2.0"},
        {"aud": f"{audience}/"},
        {"aud": "00000003-0000-0000-c000-000000000000"},
    ):
        with pytest.raises(Unauthenticated):
            await caller(oidc, provider.token(**claims))


async def test_a_claim_that_is_too_long_for_a_token_is_named(provider: Provider) -> None:
    oidc = access(provider, roles_claim="groups", roles={"reader": ["g-1"]})
    assert (await caller(oidc, provider.token(groups=["g-1"]))).role == "reader"
    overage: dict[str, Any] = {
        "_claim_names": {"groups": "src1"},
        "_claim_sources": {"src1": {"endpoint": "https://graph.example"}},
    }
    with pytest.raises(Unauthenticated, match=r"left out the claim `groups`.*use app roles"):
        await caller(oidc, provider.token(**overage))
    # Another claim that is left out does not matter
    assert (await caller(access(provider), provider.token(**overage))).role == "operator"


async def test_clocks_that_differ_by_less_than_a_minute(provider: Provider) -> None:
    oidc, now = access(provider), int(time.time())
    good: tuple[dict[str, Any], ...] = ({"exp": now - 30}, {"nbf": now + 30}, {"iat": now + 30})
    for claims in good:
        assert (await caller(oidc, provider.token(**claims))).role == "operator"
    bad: tuple[dict[str, Any], ...] = ({"exp": now - 90}, {"nbf": now + 90})
    for claims in bad:
        with pytest.raises(Unauthenticated):
            await caller(oidc, provider.token(**claims))


async def test_a_new_key_of_the_provider_is_found_without_a_restart(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    oidc = access(provider)
    old = provider.token()
    assert (await caller(oidc, old)).role == "operator"
    provider.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    provider.kids = ("two",)
    assert (await caller(oidc, provider.token(kid="two"))).role == "operator"
    with pytest.raises(Unauthenticated):
        await caller(oidc, old)
    # Names that nobody knows do not make a request each
    before = provider.requests
    for number in range(20):
        with pytest.raises(Unauthenticated):
            await caller(oidc, provider.token(kid=f"unknown-{number}"))
    assert provider.requests == before
    monkeypatch.setattr("bridge.ops.access._AGAIN_SECONDS", 0.0)
    with pytest.raises(Unauthenticated):
        await caller(oidc, provider.token(kid="unknown"))
    assert provider.requests == before + 1


async def test_signatures_that_do_not_fit_are_refused(provider: Provider) -> None:
    oidc = access(provider)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for token in (
        provider.token(key=other),
        provider.token(key=ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
        provider.token(kid="unknown"),
        provider.token(key=b"x" * 64, algorithm="HS256"),
        jwt.encode({"sub": "u"}, None, "none", headers={"kid": "one"}),
        provider.token()[:-6] + "AAAAAA",
        "a.b.c",
        "..",
    ):
        with pytest.raises(Unauthenticated):
            await caller(oidc, token)


async def test_a_provider_that_is_away_is_named(provider: Provider) -> None:
    oidc = access(provider)
    token = provider.token()
    await provider.stop()
    with pytest.raises(ProviderUnavailable):
        await caller(oidc, token)


@pytest.mark.parametrize(
    ("remote", "admitted"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False),
     ("fe80::1", False), (None, False), ("", False)],
)  # fmt: skip
async def test_without_access_only_this_machine_is_admitted(remote: str | None, admitted: bool) -> None:
    try:
        found = await OpsAccess().caller({}, remote)
    except Unauthenticated:
        assert not admitted
    else:
        assert admitted
        assert (found.role, found.payloads) == ("reader", False)


NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=100)


@given(st.lists(st.tuples(NAMES, st.sampled_from(["reader", "operator", "admin"]), st.booleans()), max_size=5))
def test_lines_of_tokens_are_read_as_they_were_written(made: list[Any]) -> None:
    found = parse_tokens("\n".join(token_line(new_token(), *each) for each in made))
    assert [(each.name, each.role, each.payloads) for each in found.values()] == made


@given(st.text(max_size=200))
def test_a_file_of_tokens_is_valid_or_names_its_line(text: str) -> None:
    lines = [line.strip() for line in text.splitlines()]
    if all(not line or line.startswith("#") for line in lines):
        assert parse_tokens(text) == {}
    else:
        with pytest.raises(ValueError, match=r"^line [0-9]+ is no line"):
            parse_tokens(text)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=60))
def test_nobody_asks_more_often_than_allowed(asked: list[tuple[str, float]]) -> None:
    rate, now = CallerRates(2.0, 3), 0.0
    allowed: dict[str, list[float]] = {}
    for name, pause in asked:
        now += pause
        wait = rate.wait(name, now)
        if wait == 0.0:
            allowed.setdefault(name, []).append(now)
        else:
            assert 0 < wait <= 0.5
    for times in allowed.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= 3 + 2.0 * (times[last] - times[first]) + 1e-6
