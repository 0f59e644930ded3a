"""OpenID Connect provider over HTTP: discovery, keys, authorization code with PKCE, ID tokens.

It refuses what a provider must refuse: another redirect address, a code that was used, a wrong verifier or secret.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from functools import cache
from typing import Any
from urllib.parse import unquote, urlencode

import jwt
from aiohttp import BasicAuth, web
from cryptography.hazmat.primitives.asymmetric import rsa


@cache
def _first_key() -> rsa.RSAPrivateKey:
    """Key of every new provider: to generate one takes 50 ms."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Provider:
    """Identity provider with one key.

    redirect, client, secret: of the one registered application; a secret of None is a public client.
    claims: added to every token; None removes one. methods: `token_endpoint_auth_methods_supported`; None: not stated.
    lands: address to which browsers are led in place of `redirect`, as a proxy would do; empty: none.
    broken: status with which the token endpoint answers instead; 0: none.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self.lands = ""
        self.key = _first_key()
        self.base = ""
        """Address of the provider."""
        self.requests = 0
        self.redirect = ""
        self.client = "bridge"
        self.secret: str | None = None
        self.claims: dict[str, Any] = {}
        self.methods: list[str] | None = None
        self.broken = 0
        self.kids: tuple[str | None, ...] = ("one",)
        """Names under which the key is published; None: without a name."""
        self.path = ""
        """Path of the issuer, like `/TENANT/v2.0`."""
        self.exchanges: list[dict[str, str]] = []
        """Forms that the token endpoint has received."""
        self._codes: dict[str, dict[str, str]] = {}
        self._runner: web.AppRunner | None = None

    @property
    def issuer(self) -> str:
        """Name of the issuer, below which its description is."""
        return f"{self.base}{self.path}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/{tenant}/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/{tenant}/v2.0/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/keys", self._keys)
        app.router.add_get("/authorize", self._authorize)
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        self.base = f"http://{self._host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _discovery(self, _: web.Request) -> web.Response:
        methods = {} if self.methods is None else {"token_endpoint_auth_methods_supported": self.methods}
        return web.json_response({
            "issuer": self.issuer, "jwks_uri": f"{self.base}/keys", "token_endpoint": f"{self.base}/token",
            "authorization_endpoint": f"{self.base}/authorize", **methods,
        })  # fmt: skip

    async def _keys(self, _: web.Request) -> web.Response:
        self.requests += 1
        key = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        shown = {**key, "use": "sig", "alg": "RS256"}
        return web.json_response({"keys": [shown | ({} if each is None else {"kid": each}) for each in self.kids]})

    async def _authorize(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        if asked["client_id"] != self.client or asked["redirect_uri"] != self.redirect:
            return web.Response(status=400, text="another application")
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(8)
        self._codes[code] = asked
        raise web.HTTPFound(f"{self.lands or self.redirect}?{urlencode({'code': code, 'state': asked['state']})}")

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.exchanges.append(form)
        if self.broken:
            return web.Response(status=self.broken, headers={"Location": "/keys"})
        asked = self._codes.pop(form["code"], None)
        challenge = (
            base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        )
        if (
            asked is None
            or form["grant_type"] != "authorization_code"
            or form["redirect_uri"] != asked["redirect_uri"]
            or challenge != asked["code_challenge"]
            or not self._is_client(request, form)
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({
            "access_token": "opaque", "token_type": "Bearer",
            "id_token": self.token(**({"aud": self.client, "nonce": asked["nonce"]} | self.claims)),
        })  # fmt: skip

    def _is_client(self, request: web.Request, form: dict[str, str]) -> bool:
        if self.secret is None:
            return form["client_id"] == self.client and "Authorization" not in request.headers
        if self.methods is not None and "client_secret_basic" not in self.methods:
            return form.get("client_secret") == self.secret
        pair = BasicAuth.decode(request.headers["Authorization"])
        return (unquote(pair.login), unquote(pair.password)) == (self.client, self.secret)

    def token(self, key: Any = None, algorithm: str = "RS256", kid: str | None = "one", **claims: Any) -> str:
        now = int(time.time())
        body = {"iss": self.issuer, "aud": "bridge", "exp": now + 600, "sub": "u-1", "roles": ["Bridge.Operator"]}
        found = {name: value for name, value in (body | claims).items() if value is not None}
        return jwt.encode(
            found, self.key if key is None else key, algorithm, headers={} if kid is None else {"kid": kid}
        )
