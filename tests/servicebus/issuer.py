"""Issuer of bearer tokens like Microsoft Entra ID: credentials for clients, verification for the server."""

from __future__ import annotations

import time
import uuid
from types import TracebackType
from typing import Any

import jwt
from azure.core.credentials import AccessToken
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servicebus.server import LISTEN, MANAGE, SEND

AUDIENCE = "https://servicebus.azure.net"
SCOPE = "https://servicebus.azure.net/.default"
ISSUER = "https://sts.test/tenant"
SENDER, RECEIVER, OWNER = (
    "Azure Service Bus Data Sender",
    "Azure Service Bus Data Receiver",
    "Azure Service Bus Data Owner",
)
"""Data-plane roles of Service Bus."""

_RIGHTS = {
    SENDER: frozenset({SEND}),
    RECEIVER: frozenset({LISTEN}),
    OWNER: frozenset({SEND, LISTEN, MANAGE}),
}


class TokenIssuer:
    """Token issuer, given to a server as its `verifier`."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._assignments: list[tuple[str, str, str | None]] = []

    def assign(self, principal: str, role: str, entity: str | None = None) -> None:
        """Assign a role to a principal. entity: a queue or topic; None: the whole namespace."""
        self._assignments.append((principal, role, None if entity is None else entity.lower()))

    def token(self, principal: str, lifetime: float = 3600.0, audience: str = AUDIENCE) -> str:
        """Create a token. lifetime: in seconds."""
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": audience, "oid": principal, "iat": now, "exp": now + int(lifetime)}
        return jwt.encode({**claims, "jti": uuid.uuid4().hex}, self._key, algorithm="ES256")

    def credential(self, principal: str, lifetime: float = 3600.0) -> Credential:
        """Create a credential with the interface of azure-identity. lifetime: in seconds."""
        return Credential(self, principal, lifetime)

    def rights(self, token: str, entity: str) -> tuple[frozenset[str], float]:
        """Rights on the entity and end of the token, as `TokenVerifier.rights`.

        A valid token without a role on the entity gives no rights; the attach is then refused.
        """
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=["ES256"],
                audience=[AUDIENCE, f"{AUDIENCE}/"],
                issuer=ISSUER,
                options={"verify_exp": False},  # expiry is checked by the server's clock
            )
        except jwt.InvalidTokenError as problem:
            raise PermissionError(f"InvalidToken: {problem}") from None
        rights: set[str] = set()
        for principal, role, where in self._assignments:
            if principal == claims["oid"] and (where is None or entity == where or entity.startswith(f"{where}/")):
                rights |= _RIGHTS[role]
        return frozenset(rights), float(claims["exp"])


class Credential:
    """Credential for SDK clients. requests: the scopes that were requested."""

    def __init__(self, issuer: TokenIssuer, principal: str, lifetime: float) -> None:
        self._issuer, self._principal, self._lifetime = issuer, principal, lifetime
        self.requests: list[tuple[str, ...]] = []

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.requests.append(scopes)
        token = self._issuer.token(self._principal, self._lifetime)
        return AccessToken(token, int(time.time() + self._lifetime))

    async def close(self) -> None:
        """Close the credential; there are no resources to release."""

    async def __aenter__(self) -> Credential:
        return self

    async def __aexit__(
        self,
        type_: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()
