"""Logins of browsers: form for a static token, login at the identity provider, logout."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from bridge.app import state
from bridge.app.page import actions
from bridge.config.source import Loaded
from bridge.ops.access import Caller, CallerRates, Unauthenticated
from bridge.ops.api import TooManyRequests
from bridge.ops.audit import AuditedChange, Denied, audited_async
from bridge.ops.connections import Handler
from bridge.ops.oidc_login import CALLBACK, OidcLogin, PendingLogin
from bridge.ops.sessions import (
    COOKIE,
    LOGIN_COOKIE,
    LOGIN_SECONDS,
    BrowserSessions,
    drop_cookie,
    is_same_origin,
    keeps_cookies,
    local_path,
    set_cookie,
)

LOGIN = "/login"
LOGOUT = "/logout"
PROVIDER = "/login/oidc"
"""Path that leads to the identity provider."""
RATE, BURST = 1.0, 20
"""Logins per second, and at once, from one address."""

Html = Callable[..., web.Response]
"""Callback that renders a template for a request."""


class Login:
    """Logins of one daemon."""

    def __init__(self, sessions: BrowserSessions, loaded: Callable[[], Loaded], html: Html) -> None:
        """Create the logins. loaded: returns the configuration in use."""
        self._sessions = sessions
        self._loaded = loaded
        self._html = html
        self._rate = CallerRates(RATE, BURST)
        oidc = sessions.access.oidc
        self._provider = None if oidc is None or oidc.settings.login is None else OidcLogin(oidc, oidc.settings.login)

    @property
    def is_offered(self) -> bool:
        """True if there is a way to log in."""
        return self._sessions.access.tokens is not None or self._provider is not None

    def add_to(self, app: web.Application, shown: Callable[[Handler], Handler]) -> None:
        """Serve the logins. shown: makes a handler whose errors are pages."""
        app.router.add_get(LOGIN, shown(self._form))
        app.router.add_post(LOGIN, shown(self._with_token))
        app.router.add_post(LOGOUT, shown(self._logout))
        app.router.add_get(PROVIDER, shown(self._at_provider))
        app.router.add_get(CALLBACK, shown(self._back))

    def page(self, request: web.Request, next_: str, why: str = "", status: int = 200) -> web.Response:
        """Page with the ways to log in. why: reason of a refusal."""
        access = self._sessions.access
        shown = self._html(
            request, "login.html", visit=None, page=None, why=why, next=next_,
            by_token=access.tokens is not None, provider=None if self._provider is None else PROVIDER,
        )  # fmt: skip
        shown.set_status(status)
        return shown

    async def _form(self, request: web.Request) -> web.StreamResponse:
        return self.page(request, local_path(request.query.get("next", "/")))

    async def _with_token(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        fields = await actions.fields_of(request)
        next_ = local_path(str(fields.get("next", "/")))
        if not keeps_cookies(request.headers):
            why = "this page was opened over http, where browsers keep no session; open it over https"
            return self.page(request, next_, why, 422)
        try:
            caller, cookie = self._sessions.of_token(str(fields.get("token", "")).strip())
        except Unauthenticated as error:
            return self.page(request, next_, str(error), 401)
        response = web.Response(status=303, headers={"Location": next_})
        return await self._begin(response, caller, cookie)

    async def _at_provider(self, request: web.Request) -> web.StreamResponse:
        self._pace(request)
        if self._provider is None:
            raise LookupError(
                "this daemon has no identity provider for browsers; configure `ops.http.access.oidc.login`"
            )
        address, login = await self._provider.begin(local_path(request.query.get("next", "/")))
        response = web.Response(status=303, headers={"Location": address})
        set_cookie(
            response, LOGIN_COOKIE, self._sessions.seal(LOGIN_COOKIE, login.to_dict(), LOGIN_SECONDS), LOGIN_SECONDS
        )
        return response

    async def _back(self, request: web.Request) -> web.StreamResponse:
        self._pace(request)
        kept = self._sessions.open(LOGIN_COOKIE, request.cookies.get(LOGIN_COOKIE, ""))
        if self._provider is None or kept is None:
            return self.page(request, "/", "the login took too long, or began in another browser; log in again", 401)
        login = PendingLogin(*(str(kept[name]) for name in ("state", "nonce", "verifier", "next")))
        try:
            caller, cookie = self._sessions.of_claims(await self._provider.end(login, request.query))
        except Unauthenticated as error:
            response = self.page(request, login.next, str(error), 401)
        else:
            # A redirect would still be a navigation from the provider's site, which sends no `Strict` cookie
            response = self._html(request, "logged_in.html", visit=None, page=None, next=local_path(login.next))
            await self._begin(response, caller, cookie)
        drop_cookie(response, LOGIN_COOKIE)
        return response

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        await actions.fields_of(request)
        response = web.Response(status=303, headers={"Location": LOGIN})
        drop_cookie(response, COOKIE)
        try:
            caller = await self._sessions.caller(request)
        except Unauthenticated:
            return response
        async with self._audited(caller, "session.end"):
            return response

    async def _begin(self, response: web.Response, caller: Caller, cookie: str) -> web.Response:
        async with self._audited(caller, "session.begin"):
            set_cookie(response, COOKIE, cookie, self._sessions.duration)
            return response

    def _audited(self, caller: Caller, action: str) -> Any:
        rights = {"role": caller.role, "payloads": caller.payloads}
        return audited_async(
            state.trail(self._loaded(), None), AuditedChange(caller.actor, action, caller.actor.name, rights)
        )

    def _admit(self, request: web.Request) -> None:
        """Refuse forms of other sites, and too many. Raises: Denied, TooManyRequests."""
        if not is_same_origin(request.headers):
            raise Denied("another site has made this request; use the form of the page itself")
        self._pace(request)

    def _pace(self, request: web.Request) -> None:
        seconds = self._rate.wait(request.remote or "?", time.monotonic())
        if seconds:
            raise TooManyRequests(seconds)
