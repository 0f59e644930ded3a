"""Login of browsers at an OpenID Connect provider: authorization code with PKCE (RFC 7636), state and nonce."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import jwt

from bridge.config.model.access import OidcLoginConfig
from bridge.ops.access import LARGEST_DOCUMENT, PROVIDER_SECONDS, Caller, Oidc, ProviderUnavailable, Unauthenticated

CALLBACK = "/login/callback"
"""Path to which the provider leads the browser back."""
MOST_LOGINS = 8
"""Most answers of the provider that this process waits for at once."""

_CODE_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """Login that has begun; the browser keeps it in an encrypted cookie.

    state: binds the answer of the provider to this browser. nonce: binds the ID token to this login.
    verifier: of PKCE. next: path of the page after the login.
    """

    state: str
    nonce: str
    verifier: str
    next: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class OidcLogin:
    """Logins of browsers at one provider."""

    def __init__(self, oidc: Oidc, settings: OidcLoginConfig) -> None:
        self._oidc = oidc
        self._settings = settings
        self._redirect = settings.url.rstrip("/") + CALLBACK
        self._slots = asyncio.Semaphore(MOST_LOGINS)

    async def begin(self, next_: str) -> tuple[str, PendingLogin]:
        """Address at the provider, and the login that begins with it. Raises: ProviderUnavailable."""
        login = PendingLogin(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(32), next_)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(login.verifier.encode()).digest()).decode().rstrip("=")
        query = urlencode({
            "response_type": "code", "client_id": self._settings.client_id, "redirect_uri": self._redirect,
            "scope": " ".join(self._settings.scopes), "state": login.state, "nonce": login.nonce,
            "code_challenge": challenge, "code_challenge_method": "S256",
        })  # fmt: skip
        address = (await self._endpoint("authorization_endpoint"))[0]
        return f"{address}{'&' if urlsplit(address).query else '?'}{query}", login

    async def end(self, login: PendingLogin, answer: Mapping[str, str]) -> Caller:
        """Caller of a login. answer: query with which the provider has led the browser back.

        Raises: Unauthenticated, ProviderUnavailable.
        """
        if not hmac.compare_digest(answer.get("state", "").encode(), login.state.encode()):
            raise Unauthenticated("the answer of the identity provider belongs to another login; log in again")
        if answer.get("iss", self._oidc.settings.issuer) != self._oidc.settings.issuer:  # RFC 9207
            raise Unauthenticated("another identity provider has answered")
        code = answer.get("code", "")
        if not 0 < len(code) <= _CODE_LENGTH:
            # Its words (`error`, `error_description`) come from the address, so anybody can write them
            raise Unauthenticated("the identity provider has refused the login")
        address, description = await self._endpoint("token_endpoint")
        async with self._slots:
            return await asyncio.to_thread(self._exchange, address, description, code, login)

    async def _endpoint(self, name: str) -> tuple[str, Mapping[str, Any]]:
        """Address of the provider by its name in the description, and the description."""
        try:
            async with self._slots:
                description = await asyncio.to_thread(self._oidc.discovered)
            address = str(description[name])
            # The issuer decides about https: its own description must not lead away from it
            if urlsplit(address).scheme not in {"https", urlsplit(self._oidc.settings.issuer).scheme}:
                raise ValueError(name)
        except (OSError, HTTPException, ValueError, LookupError) as error:
            raise ProviderUnavailable(
                "the identity provider does not describe itself; see its discovery document"
            ) from (error)
        return address, description

    def _exchange(self, address: str, description: Mapping[str, Any], code: str, login: PendingLogin) -> Caller:
        """Take the ID token for a code, and verify it."""
        try:
            answer = _posted(address, *self._request(description, code, login))
            claims = self._oidc.verified(str(answer["id_token"]), self._settings.client_id)
        except urllib.error.HTTPError as error:
            if error.code >= 500:
                raise ProviderUnavailable(f"the identity provider has failed (HTTP {error.code})") from error
            raise Unauthenticated("the identity provider does not accept this login; log in again") from error
        except (OSError, HTTPException) as error:
            raise ProviderUnavailable("the identity provider does not answer") from error
        except (jwt.PyJWTError, ValueError, TypeError, LookupError) as error:
            raise Unauthenticated("the identity provider has sent no valid ID token") from error
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), login.nonce.encode()):
            raise Unauthenticated("the ID token belongs to another login; log in again")
        caller = self._oidc.caller_of(claims)
        if caller is None:
            raise Unauthenticated("the identity provider names no role of this bridge for you")
        return caller

    def _request(self, description: Mapping[str, Any], code: str, login: PendingLogin) -> tuple[dict[str, str], str]:
        """Form and `Authorization` header (empty: none) of the request for the ID token."""
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect,
            "client_id": self._settings.client_id, "code_verifier": login.verifier,
        }  # fmt: skip
        if self._settings.client_secret is None:
            return form, ""
        secret = self._settings.client_secret.get_secret_value()
        # `client_secret_basic` is the default of OpenID Connect Core, where the provider names no methods
        if "client_secret_basic" not in description.get(
            "token_endpoint_auth_methods_supported", ["client_secret_basic"]
        ):
            return {**form, "client_secret": secret}, ""
        pair = f"{quote(self._settings.client_id, safe='')}:{quote(secret, safe='')}"
        return form, f"Basic {base64.b64encode(pair.encode()).decode()}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that refuses redirects: code and secret go to the endpoint only."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _posted(address: str, form: Mapping[str, str], authorization: str) -> Mapping[str, Any]:
    """Answer to a form. Raises: OSError, HTTPException, ValueError."""
    headers = {"Accept": "application/json"} | ({"Authorization": authorization} if authorization else {})
    request = urllib.request.Request(address, urlencode(form).encode(), headers)  # noqa: S310 - http or https, see `_endpoint`
    with _OPENER.open(request, timeout=PROVIDER_SECONDS) as answer:
        found = json.loads(answer.read(LARGEST_DOCUMENT))
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found
