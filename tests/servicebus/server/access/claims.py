"""$cbs node: accept tokens and track their rights and expiry on a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.servicebus.server.access.keys import Grant, check, node_owner, path_of
from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.encoder import NULL
from tests.servicebus.server.errors import Refusal, not_found, refusal
from tests.servicebus.server.faults import Step
from tests.servicebus.server.requests import Request, answer

if TYPE_CHECKING:
    from tests.servicebus.server.link import Link
    from tests.servicebus.server.state import State

ACCEPTED = 202
SHARED_ACCESS, BEARER = "servicebus.windows.net:sastoken", "jwt"
SIGNATURE = "SharedAccessSignature "


class Claims:
    """Claims of one connection. ended: called when a token has expired."""

    def __init__(self, state: State, ended: Callable[[], None]) -> None:
        self._state, self._ended = state, ended
        self._grants: dict[str, Grant] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def demand(self, path: str, right: str) -> None:
        """Require the right on the entity.

        Raises: unauthorized-access when no claim of this connection gives the right.
        """
        if not self._state.keys and self._state.config.verifier is None:
            return
        key, now = node_owner(path), self._state.clock.now() / 1000
        if not any(g.covers(key) and right in g.rights and g.expires > now for g in self._grants.values()):
            raise refusal(
                "amqp:unauthorized-access",
                f"Unauthorized access. '{right}' claim(s) are required to perform this operation. Resource: '{path}'.",
            )

    def on_message(self, link: Link, raw: bytes, format_: int) -> bool:
        """Handle a put-token request."""
        request = Request(raw)
        try:
            if link.session.connection.strikes(Step.CLAIM, path_of(str(request.properties.get("name"))), link):
                return False
            self._put(request)
            status, text = ACCEPTED, "Accepted"
        except PermissionError as no:
            status, text = 401, str(no)
        except Refusal as no:
            status, text = no.status, no.description
        self._state.counters.claims += status == ACCEPTED
        self._state.counters.refused_claims += status != ACCEPTED
        properties = [("status-code", encoder.int32(status)), ("status-description", encoder.string(text))]
        answer(link, request, properties, NULL)
        return True

    def _put(self, request: Request) -> None:
        """Verify and store a token. Raises: PermissionError; Refusal when the request is not a put-token."""
        operation, kind, name = (request.properties.get(key) for key in ("operation", "type", "name"))
        if operation != "put-token" or not isinstance(request.body, str) or not isinstance(name, str):
            raise refusal("amqp:not-implemented", f"Operation {operation!r} is not known here.")
        path, now = node_owner(path_of(name)), self._state.clock.now() / 1000
        # The Python SDK labels every token a jwt; the prefix of the token decides
        if kind in (SHARED_ACCESS, BEARER) and request.body.startswith(SIGNATURE):
            grant = check(request.body, path, self._state.keys, now)
        elif kind == BEARER and self._state.config.verifier is not None:
            rights, expires = self._state.config.verifier.rights(request.body, path)
            if expires <= now:
                raise PermissionError("ExpiredToken: The token is expired.")
            grant = Grant(path, rights, expires)
        else:
            raise PermissionError(f"InvalidTokenType: Tokens of type {kind!r} are not taken.")
        if path and not self._state.namespace.has(path):
            # Checked after the token: an unauthenticated client must not learn names of entities
            raise not_found(name)
        self._keep(grant)

    def _keep(self, grant: Grant) -> None:
        old = self._timers.pop(grant.path, None)
        if old is not None:
            old.cancel()
        self._grants[grant.path] = grant
        # Called 0.1 s late, when the claim has certainly expired
        self._timers[grant.path] = self._state.clock.at(int(grant.expires * 1000) + 100, self._ended)
