"""Sessions of browsers: an encrypted cookie, which every daemon with the same key accepts; checks against forgery."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from bridge.encryption import KEY_BYTES, Key, Keyring, Unsealable
from bridge.ops.access import ROLES, Caller, OpsAccess, Unauthenticated, digest
from bridge.ops.audit import Actor, Denied
from bridge.system.addresses import is_loopback

COOKIE: Final = "__Host-bridge-session"
"""Cookie of a session. A browser accepts this prefix with `Secure`, with the path `/` and without a domain only."""
LOGIN_COOKIE: Final = "__Host-bridge-login"
"""Cookie of a login at the identity provider that is under way."""
LOGIN_SECONDS = 600.0
"""Seconds for a login at the identity provider."""

_PLACES: Mapping[str, bytes] = {COOKIE: b"bridge.session", LOGIN_COOKIE: b"bridge.login"}
_LONGEST = 4096
"""Characters of the longest cookie: browsers store no longer one."""
_LOCAL_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]{0,4000}")
"""Path on this port, without a backslash, which browsers take for a slash."""


class BrowserSessions:
    """Sessions of browsers.

    A session has the digest of its static token, or the role that the identity provider named. It is stored in its
    cookie only.
    """

    def __init__(self, access: OpsAccess, keyring: Keyring, duration: float) -> None:
        """Create the sessions. duration: seconds from a login to the next."""
        self.access = access
        self._keyring = keyring
        self.duration = duration

    def of_token(self, token: str) -> tuple[Caller, str]:
        """Caller with a static token, and the cookie of its session. Raises: Unauthenticated."""
        found = None if self.access.tokens is None else self.access.tokens.find(token)
        if found is None:
            raise Unauthenticated("the token is unknown or has expired")
        return _of_page(found), self.seal(COOKIE, {"token": digest(token)}, self.duration)

    def of_claims(self, caller: Caller) -> tuple[Caller, str]:
        """Caller that the identity provider named, and the cookie of its session."""
        caller = _of_page(caller)
        content = {"name": caller.actor.name, "role": caller.role, "payloads": caller.payloads, "of": self._provider}
        return caller, self.seal(COOKIE, content, self.duration)

    async def caller(self, request: web.Request) -> Caller:
        """Caller of a page: by a token in the header `Authorization`, else by the cookie of a session.

        Raises: Unauthenticated, ProviderUnavailable; Denied for a change that another site requests.
        """
        if "Authorization" in request.headers or not self.access.is_configured:
            caller = await self.access.caller(request.headers, request.remote)
        else:
            caller = self._found(request.cookies.get(COOKIE))
        if request.method not in ("GET", "HEAD") and not is_same_origin(request.headers):
            raise Denied("another site has made this request; changes are made from the page itself", caller.actor)
        return caller

    def _found(self, cookie: str | None) -> Caller:
        content = None if cookie is None else self.open(COOKIE, cookie)
        found = None
        if content is not None and "token" in content:
            found = None if self.access.tokens is None else self.access.tokens.find_digest(str(content["token"]))
        elif content is not None and self._provider is not None and content.get("of") == self._provider:
            role = next(each for each in ROLES if each == content["role"])
            found = Caller(Actor(str(content["name"]), None, "page"), role, content["payloads"] is True)
        if found is None:
            raise Unauthenticated("log in: the session has ended, or there is none")
        return _of_page(found)

    @property
    def _provider(self) -> list[str] | None:
        """Identity of the provider. A session ends when the daemon uses another one."""
        settings = None if self.access.oidc is None else self.access.oidc.settings
        return None if settings is None or settings.login is None else [settings.issuer, settings.login.client_id]

    def seal(self, cookie: str, content: Mapping[str, Any], seconds: float) -> str:
        """Value of a cookie that is valid for a time."""
        text = json.dumps({**content, "until": time.time() + seconds}).encode()
        return base64.urlsafe_b64encode(self._keyring.seal(text, _PLACES[cookie])).decode().rstrip("=")

    def open(self, cookie: str, value: str) -> Mapping[str, Any] | None:
        """Content of a cookie; None if it is not valid, or no more."""
        if len(value) > _LONGEST:
            return None
        try:
            sealed = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
            content: Mapping[str, Any] = json.loads(self._keyring.open(sealed, _PLACES[cookie]))
        except (binascii.Error, ValueError, Unsealable):
            return None
        return content if content["until"] > time.time() else None


def random_keyring() -> Keyring:
    """Key of this process: its sessions hold here only, and end with it."""
    return Keyring([Key("process", os.urandom(KEY_BYTES))])


def set_cookie(response: web.StreamResponse, cookie: str, value: str, seconds: float) -> None:
    """Set a cookie that no script reads and that other sites do not send."""
    # A login cookie is read when the provider leads the browser back, which is a navigation from another site
    same_site = "Strict" if cookie == COOKIE else "Lax"
    response.set_cookie(cookie, value, max_age=int(seconds), path="/", secure=True, httponly=True, samesite=same_site)


def drop_cookie(response: web.StreamResponse, cookie: str) -> None:
    """Remove a cookie from the browser."""
    set_cookie(response, cookie, "", 0)


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """True if a page of this port has made a request, as its browser reports."""
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    # Browsers send it with each request that changes something, also those without Sec-Fetch-Site
    origin = headers.get("Origin", "")
    return "://" in origin and origin.partition("://")[2].lower() == headers.get("Host", "").lower()


def keeps_cookies(headers: Mapping[str, str]) -> bool:
    """False if the browser drops the cookies of a session: the page was opened over http, from another machine."""
    try:
        origin = urlsplit(headers.get("Origin", ""))
    except ValueError:
        return False
    return origin.scheme != "http" or is_loopback(origin.hostname or "")


def local_path(text: str) -> str:
    """Path on this port; `/` for any other address."""
    return text if _LOCAL_PATH.fullmatch(text) else "/"


def _of_page(caller: Caller) -> Caller:
    return Caller(Actor(caller.actor.name, None, "page"), caller.role, caller.payloads)
