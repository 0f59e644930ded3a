"""Sessions of browsers: their cookie, its end, and requests that other sites cause."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.config.model.access import OidcConfig, OidcLoginConfig
from bridge.encryption import Key, Keyring
from bridge.ops.access import Caller, Oidc, OpsAccess, TokenFile, Unauthenticated, new_token, token_line
from bridge.ops.audit import Actor, Denied
from bridge.ops.sessions import COOKIE, LOGIN_COOKIE, BrowserSessions, is_same_origin, keeps_cookies, local_path

KEYS = [Key(name, os.urandom(32)) for name in ("a", "b")]
OWN = {"Sec-Fetch-Site": "same-origin"}
ADA = Caller(Actor("ada", None, "oidc"), "operator", True)


def oidc(issuer: str = "https://login.example", client: str = "bridge") -> Oidc:
    login = OidcLoginConfig(client_id=client, url="https://bridge.example")
    return Oidc(OidcConfig(issuer=issuer, audience="api", login=login))


async def found(sessions: BrowserSessions, cookie: str | None, method: str = "GET", **headers: str) -> Caller:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if cookie is not None:
        sent["Cookie"] = f"{COOKIE}={cookie}"
    return await sessions.caller(make_mocked_request(method, "/", sent))


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, str]:
    token = new_token()
    path = tmp_path / "tokens"
    path.write_text(token_line(token, "ada", "operator", payloads=True) + "\n")
    return path, token


async def test_a_session_of_a_token_has_its_rights_while_it_is_there(file: tuple[Path, str]) -> None:
    path, token = file
    sessions = BrowserSessions(OpsAccess(TokenFile(path)), Keyring(KEYS), 3600)
    _, cookie = sessions.of_token(token)
    caller = await found(sessions, cookie)
    assert (caller.actor, caller.role, caller.payloads) == (Actor("ada", None, "page"), "operator", True)
    assert token not in cookie
    path.write_text(token_line(token, "ada", "reader", payloads=False) + "\n")
    assert (await found(sessions, cookie)).role == "reader"
    path.write_text("# revoked\n")
    with pytest.raises(Unauthenticated):
        await found(sessions, cookie)
    with pytest.raises(Unauthenticated):
        sessions.of_token(token)


async def test_daemons_with_the_same_keys_accept_each_others_sessions() -> None:
    access = OpsAccess(oidc=oidc())
    _, cookie = BrowserSessions(access, Keyring(KEYS[:1]), 3600).of_claims(ADA)
    for keys in (KEYS[:1], KEYS, KEYS[::-1]):
        caller = await found(BrowserSessions(access, Keyring(keys), 3600), cookie)
        assert (caller.actor, caller.role, caller.payloads) == (Actor("ada", None, "page"), "operator", True)
    with pytest.raises(Unauthenticated):
        await found(BrowserSessions(access, Keyring(KEYS[1:]), 3600), cookie)


@pytest.mark.parametrize("other", [oidc("https://evil.example"), oidc(client="another"), None])
async def test_a_session_ends_with_its_provider(other: Oidc | None, file: tuple[Path, str]) -> None:
    _, cookie = BrowserSessions(OpsAccess(oidc=oidc()), Keyring(KEYS), 3600).of_claims(ADA)
    with pytest.raises(Unauthenticated):
        await found(BrowserSessions(OpsAccess(TokenFile(file[0]), other), Keyring(KEYS), 3600), cookie)


async def test_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = BrowserSessions(OpsAccess(oidc=oidc()), Keyring(KEYS), 3600)
    _, cookie = sessions.of_claims(ADA)
    now = 0.0
    start = time.time()
    monkeypatch.setattr("bridge.ops.sessions.time.time", lambda: start + now)
    now = 3599
    assert (await found(sessions, cookie)).role == "operator"
    now = 3601
    with pytest.raises(Unauthenticated):
        await found(sessions, cookie)


def test_a_cookie_of_one_kind_is_none_of_the_other() -> None:
    sessions = BrowserSessions(OpsAccess(oidc=oidc()), Keyring(KEYS), 3600)
    _, cookie = sessions.of_claims(ADA)
    assert sessions.open(COOKIE, cookie) is not None
    assert sessions.open(LOGIN_COOKIE, cookie) is None
    assert sessions.open(COOKIE, sessions.seal(LOGIN_COOKIE, {"name": "ada"}, 60)) is None


_SESSIONS = BrowserSessions(OpsAccess(oidc=oidc()), Keyring(KEYS), 3600)
_COOKIE = _SESSIONS.of_claims(ADA)[1]


@given(st.text(max_size=300) | st.integers(0, len(_COOKIE) - 1).map(lambda at: _COOKIE[:at] + "A" + _COOKIE[at + 1 :]))
@example(_COOKIE[:-1])
@example("")
@example("A" * 5000)
def test_a_cookie_that_was_altered_is_none(cookie: str) -> None:
    if _SESSIONS.open(COOKIE, cookie) is not None:
        # The last character of base64 has bits that stand for nothing
        def plain(text: str) -> bytes:
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

        assert plain(cookie) == plain(_COOKIE)


SAME: list[Mapping[str, str]] = [
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "null", "Host": "bridge.example"},
    {"Origin": "https://bridge.example", "Host": "bridge.example"},
    {"Origin": "http://127.0.0.1:8099", "Host": "127.0.0.1:8099"},
    {"Origin": "https://Bridge.Example", "Host": "bridge.example"},
]
OTHER: list[Mapping[str, str]] = [
    {}, {"Host": "bridge.example"}, {"Origin": "", "Host": ""}, {"Origin": "null", "Host": "bridge.example"},
    {"Origin": "null", "Host": "null"}, {"Origin": "https://evil.example", "Host": "bridge.example"},
    {"Origin": "https://bridge.example.evil.example", "Host": "bridge.example"},
    {"Origin": "https://bridge.example:444", "Host": "bridge.example"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://bridge.example", "Host": "bridge.example"},
    {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": ""},
]  # fmt: skip


@pytest.mark.parametrize("headers", [*SAME, *OTHER])
async def test_changes_come_from_the_page_itself(headers: Mapping[str, str]) -> None:
    for method in ("GET", "HEAD"):  # a link of another site leads here, as every link does
        assert (await found(_SESSIONS, _COOKIE, method, **headers)).actor.name == "ada"
    assert is_same_origin(headers) is (headers in SAME)
    for method in ("POST", "PUT", "DELETE"):
        if headers in SAME:
            assert (await found(_SESSIONS, _COOKIE, method, **headers)).actor.name == "ada"
        else:
            with pytest.raises(Denied) as refused:
                await found(_SESSIONS, _COOKIE, method, **headers)
            assert refused.value.actor == Actor("ada", None, "page")


async def test_a_token_is_no_session(file: tuple[Path, str]) -> None:
    path, token = file
    sessions = BrowserSessions(OpsAccess(TokenFile(path)), Keyring(KEYS), 3600)
    with pytest.raises(Unauthenticated):
        await found(sessions, token)


async def test_a_token_goes_before_a_session(file: tuple[Path, str]) -> None:
    """A proxy or a program that states who asks is not overruled by a cookie."""
    path, token = file
    sessions = BrowserSessions(OpsAccess(TokenFile(path)), Keyring(KEYS), 3600)
    _, cookie = sessions.of_token(token)
    assert (await found(sessions, cookie, Authorization=f"Bearer {token}")).actor == Actor("ada", None, "token")
    with pytest.raises(Unauthenticated):
        await found(sessions, cookie, Authorization="Bearer another")
    with pytest.raises(Denied):
        await found(sessions, None, "POST", Authorization=f"Bearer {token}")


async def test_a_session_is_no_token(file: tuple[Path, str]) -> None:
    path, token = file
    access = OpsAccess(TokenFile(path))
    _, cookie = BrowserSessions(access, Keyring(KEYS), 3600).of_token(token)
    for headers in ({"Cookie": f"{COOKIE}={cookie}"}, {"Authorization": f"Bearer {cookie}"}):
        with pytest.raises(Unauthenticated):
            await access.caller(headers, "127.0.0.1")


@pytest.mark.parametrize(
    ("origin", "kept"),
    [("", True), ("null", True), ("https://bridge.example", True), ("http://127.0.0.1:8099", True),
     ("http://localhost", True), ("http://bridge.example", False), ("http://[", False)],
)  # fmt: skip
def test_plain_http_from_elsewhere_keeps_no_session(origin: str, kept: bool) -> None:
    assert keeps_cookies({"Origin": origin}) is kept


@pytest.mark.parametrize("path", ["/", "/jobs", "/instances?status=FAILED&q=a%2Fb", "/a//b"])
def test_pages_are_local(path: str) -> None:
    assert local_path(path) == path


@given(st.text(max_size=40) | st.text(alphabet="/\\:.a@\r\n\t ", max_size=8).map(lambda text: "/" + text))
@example("//evil.example")
@example("/\\evil.example")
@example("/\t/evil.example")
@example("https://evil.example")
@example("/x\r\nSet-Cookie: a=b")
def test_an_address_never_leads_to_another_site(text: str) -> None:
    path: Any = local_path(text)
    # Browsers drop tabs and line breaks, and take backslashes for slashes
    read = path.replace("\\", "/").translate({9: None, 10: None, 13: None})
    assert urlsplit(urljoin("https://bridge.example/login", read)).netloc == "bridge.example"
    assert "\r" not in path
    assert "\n" not in path
