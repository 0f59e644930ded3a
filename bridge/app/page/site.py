"""Site on the ops port: pages, forms, style sheet and script, with a strict content security policy."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from bridge.app.operations.table import BY_NAME
from bridge.app.page import actions
from bridge.app.page.formats import FILTERS
from bridge.app.page.login import Login
from bridge.app.page.visit import AllDaemons, Page, Picture, Visit, address, place, this_daemon
from bridge.config.source import Loaded
from bridge.core.bytetext import printable
from bridge.ops.access import Unauthenticated
from bridge.ops.api import LIVE, PROBLEM, ApiRoute, Authenticate, IdempotentAnswers, admitted, problems
from bridge.ops.audit import Denied
from bridge.ops.sessions import BrowserSessions, is_same_origin
from bridge.ops.web import STREAMS

ACTION = "/do/"
"""Path of forms, before the name of the operation."""
THEMES = ("auto", "light", "dark")
FLASH_COOKIE = "bridge_flash"
THEME_COOKIE = "bridge_theme"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Without a referrer, browsers would send the forms with `Origin: null`
    "Referrer-Policy": "same-origin",
    "Vary": "Cookie, Authorization",
}
_FOREVER = "public, max-age=31536000, immutable"
_LONGEST_FLASH = 500
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
NEXT: Mapping[str, str] = {
    "unauthenticated": "Send a token, or log in if this daemon offers it.",
    "denied": "Ask a person with that role, or use a token that has it.",
    "instance_not_found": "Look at the list: it may have been removed after its retention.",
    "unknown_name": "Go back to the list and choose one that exists.",
    "invalid_command": "Go back, change the value and send the form again.",
    "too_many_requests": "Wait a moment, then load the page again.",
    "engine_unavailable": "Run `bridge doctor --only engine`, then load the page again.",
    "engine_timeout": "The outcome is unknown: look at the page of the thing before you repeat the action.",
    "broker_unavailable": "Run `bridge doctor`, then load the page again.",
    "bug": "Read the log of the daemon.",
}
"""Next step by reason of a problem."""


class Site:
    """Pages of one daemon."""

    def __init__(
        self,
        pages: Sequence[Page],
        routes: Sequence[ApiRoute],
        loaded: Callable[[], Loaded],
        all_daemons: AllDaemons = this_daemon,
    ) -> None:
        """Create the site. routes: of the API. loaded: returns the configuration in use."""
        self._all_daemons = all_daemons
        self._pages = pages
        self._routes = {(route.method, route.path): route for route in routes}
        self._loaded = loaded
        self._answers = IdempotentAnswers()
        self._login: Login | None = None
        self._assets = _assets()
        self._environment = environment({name.partition(".")[2]: path for path, (name, _, _) in self._assets.items()})

    def add_to(self, app: web.Application, authenticate: Authenticate, sessions: BrowserSessions) -> None:
        """Serve the site and its logins on an application, for callers that `authenticate` admits."""
        self._login = Login(sessions, self._loaded, self._html)
        self._login.add_to(app, self._shown)
        for page in self._pages:
            path = page.path.replace("}", ":[^/]+}")
            app.router.add_get(path, self._shown(partial(self._page, page, authenticate)))
        app.router.add_post(ACTION + "{operation}", self._shown(partial(self._act, authenticate)))
        app.router.add_post("/theme", self._shown(_theme))
        app.router.add_get("/assets/{name}", self._asset)

    def _shown(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Handler whose errors are pages."""

        async def handle(request: web.Request) -> web.StreamResponse:
            response = await problems(request, handler)
            if isinstance(response, web.Response) and response.content_type == PROBLEM:
                response = self._problem(request, response)
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return handle

    async def _page(self, page: Page, authenticate: Authenticate, request: web.Request) -> web.StreamResponse:
        caller = await authenticate(request)
        query = {name: request.query[name] for name in request.query}
        path, parts = request.rel_url.raw_path, dict(request.match_info)
        visit = Visit(self._loaded(), caller, self._routes, path, parts, query, self._all_daemons)
        found = await page.read(visit)
        if isinstance(found, Picture):
            headers = {"Content-Disposition": f'attachment; filename="{found.name}.svg"'}
            return _response(found.svg, "image/svg+xml", headers)
        response = self._html(request, page.template, visit=visit, page=page, **found)
        if FLASH_COOKIE in request.cookies:
            response.del_cookie(FLASH_COOKIE)
        return response

    async def _act(self, authenticate: Authenticate, request: web.Request) -> web.StreamResponse:
        operation = BY_NAME.get(request.match_info["operation"])
        if operation is None or not operation.changes:
            raise LookupError("there is no such action")
        route = self._routes[operation.method, operation.path]
        caller = await admitted(request, route, {}, authenticate)
        fields = await actions.fields_of(request)
        given, key = actions.parameters(fields), actions.key_of(fields)
        if key is None:
            result = await route.answer(given, caller, None)
        else:
            digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
            result = await self._answers.run_once(
                (caller.actor.name, request.path, key), digest, lambda: route.answer(given, caller, key)
            )
        return _returned(request, actions.back_of(fields), actions.done(operation.name, result))

    def _problem(self, request: web.Request, response: web.Response) -> web.Response:
        assert isinstance(response.body, bytes)
        document = json.loads(response.body)
        if document["reason"] == Unauthenticated.reason and self._login is not None and self._login.is_offered:
            return self._login.page(request, request.path_qs if request.method == "GET" else "/", "", response.status)
        document["next"] = NEXT.get(document["reason"], "Go back, or start at the overview.")
        shown = self._html(request, "problem.html", visit=None, page=None, problem=document)
        shown.set_status(response.status)
        for name in ("Allow", "Retry-After", "WWW-Authenticate"):
            if name in response.headers:
                shown.headers[name] = response.headers[name]
        return shown

    def _html(self, request: web.Request, template: str, **given: Any) -> web.Response:
        visit: Visit | None = given["visit"]
        theme = request.cookies.get(THEME_COOKIE)
        text = self._environment.get_template(template).render(
            **given,
            menu=[each for each in self._pages if each.menu and _offered(each, visit)],
            theme=theme if theme in THEMES else THEMES[0],
            flash=_flash(request),
            here=request.rel_url.raw_path_qs,
        )
        return _response(text, "text/html", {"Cache-Control": "no-store"})

    async def _asset(self, request: web.Request) -> web.Response:
        found = self._assets.get(request.path)
        if found is None:
            raise web.HTTPNotFound
        _, kind, body = found
        return web.Response(body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": _FOREVER})


def environment(assets: Mapping[str, str]) -> Environment:
    """Templates. assets: paths by ending."""
    made = Environment(
        loader=PackageLoader("bridge.app.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= FILTERS
    made.globals |= {
        "address": address, "asset": assets, "place": place, "themes": THEMES,
        "new_key": lambda: secrets.token_urlsafe(16), "action_path": ACTION, "key_field": actions.KEY_FIELD,
        "back_field": actions.BACK, "stream": STREAMS + LIVE,
    }  # fmt: skip
    return made


def _finalize(value: Any) -> Any:
    """Text of a value in a template: without control characters, which could reorder or hide what stands there."""
    return "" if value is None else printable(value) if type(value) is str else value


def _offered(page: Page, visit: Visit | None) -> bool:
    return page.needs is None or (visit is not None and visit.can(page.needs))


def _assets() -> dict[str, tuple[str, str, bytes]]:
    """Style sheet and script by path: name, content type, content. The path changes with the content."""
    found = {}
    for file in sorted(files("bridge.app.page").joinpath("assets").iterdir(), key=lambda each: each.name):
        stem, _, ending = file.name.partition(".")
        body = file.read_bytes()
        digest = hashlib.sha256(body).hexdigest()[:12]
        found[f"/assets/{stem}.{digest}.{ending}"] = file.name, _TYPES[ending], body
    return found


def _response(text: str, kind: str, headers: Mapping[str, str]) -> web.Response:
    # Names of a broker or an engine may have lone surrogates, which UTF-8 has no form for
    body = text.encode("utf-8", "replace")
    return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)


async def _theme(request: web.Request) -> web.Response:
    if not is_same_origin(request.headers):
        raise Denied("another site has made this request; use the form of the page itself")
    fields = await actions.fields_of(request)
    response = _returned(request, actions.back_of(fields))
    theme = fields.get("theme")
    response.set_cookie(
        THEME_COOKIE, theme if theme in THEMES else THEMES[0], max_age=31_536_000, httponly=True, samesite="Strict",
        secure=request.secure,
    )  # fmt: skip
    return response


def _returned(request: web.Request, back: str, text: str = "") -> web.Response:
    """Redirect to a page of this site, which then shows the text once."""
    response = web.Response(status=303, headers={"Location": back, "Cache-Control": "no-store"})
    if text:
        value = base64.urlsafe_b64encode(text[:_LONGEST_FLASH].encode("utf-8", "replace")).decode()
        response.set_cookie(FLASH_COOKIE, value, max_age=60, httponly=True, samesite="Strict", secure=request.secure)
    return response


def _flash(request: web.Request) -> str:
    """Text of the last action; empty where there is none."""
    try:
        return base64.urlsafe_b64decode(request.cookies.get(FLASH_COOKIE, "")).decode()[:_LONGEST_FLASH]
    except ValueError:
        return ""
