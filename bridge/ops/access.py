"""Access to the API: roles, static tokens, and JSON Web Tokens of an identity provider."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import re
import secrets
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

import jwt

from bridge.config.model.access import OidcConfig
from bridge.core.errors import BridgeError, wire_name
from bridge.ops.audit import Actor
from bridge.system.addresses import is_loopback

_log = logging.getLogger("bridge.access")

Role = Literal["reader", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Roles, each with the rights of those before it."""

TOKEN_PREFIX = "bridge_"  # noqa: S105 - the beginning by which scanners find a token in a text
"""Beginning of a static token."""

_LINE = re.compile(r"(\S{1,100})\s+(reader|operator|admin)(\+payloads)?\s+([0-9a-f]{64})(?:\s+until\s+(\S+))?")
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key. Symmetric ones, and `none`, are refused."""
_LEEWAY = 60.0
"""Seconds by which the clocks of this machine and of the identity provider may differ."""
PROVIDER_SECONDS = 10.0
"""Seconds for an answer of the identity provider."""
_KEYS_SECONDS = 600.0
"""Seconds after which the provider's keys are read again."""
_AGAIN_SECONDS = 10.0
"""Least seconds between two reads of the keys because of a token that names an unknown one."""
LARGEST_DOCUMENT = 1024 * 1024
"""Bytes of the largest answer of the identity provider."""


@wire_name("bridge.ops.access.Unauthenticated")
class Unauthenticated(BridgeError):
    """The request has no valid token."""

    reason = "unauthenticated"


@wire_name("bridge.ops.access.ProviderUnavailable")
class ProviderUnavailable(BridgeError):
    """The identity provider does not answer, so that its tokens cannot be verified."""

    reason = "identity_provider_unavailable"


@dataclass(frozen=True, slots=True)
class Caller:
    """Caller of the API. payloads: it may read payloads."""

    actor: Actor
    role: Role
    payloads: bool

    def has(self, role: Role) -> bool:
        """True if the caller has the rights of a role."""
        return ROLES.index(self.role) >= ROLES.index(role)


ANONYMOUS = Caller(Actor("anonymous", None, "http"), "reader", False)
"""Caller on a loopback address where no access is configured."""


@dataclass(frozen=True, slots=True)
class _Token:
    name: str
    role: Role
    payloads: bool
    until: float | None


def new_token() -> str:
    """Random token of 256 bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """SHA-256 of a token, as the file of tokens has it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def token_line(token: str, name: str, role: Role, payloads: bool, until: datetime | None = None) -> str:
    """Line of the file of tokens, which has the SHA-256 of the token. Raises: ValueError for an invalid name."""
    line = f"{name} {role}{'+payloads' if payloads else ''} {digest(token)}"
    if until is not None:
        line += f" until {until.astimezone(UTC).isoformat(timespec='seconds').replace('+00:00', 'Z')}"
    if _LINE.fullmatch(line) is None:
        raise ValueError("a name has 1 to 100 characters, without spaces")
    return line


def parse_tokens(text: str) -> dict[str, _Token]:
    """Tokens of a file by their SHA-256.

    Raises: ValueError with the number of the first line that is not valid.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        until = None
        if match is not None and match[5] is not None:
            try:
                until = datetime.fromisoformat(match[5]).timestamp()
            except ValueError:
                match = None
        if match is None:
            raise ValueError(
                f"line {number} is no line of `bridge tokens new`: NAME ROLE[+payloads] SHA256 [until TIME]"
            )
        role: Any = match[2]
        found[match[4]] = _Token(match[1], role, match[3] is not None, until)
    return found


class TokenFile:
    """File of static tokens, read again when it changes. A file that becomes invalid keeps the tokens before it."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises: OSError, ValueError."""
        self.path = path
        self._stamp = self._now()
        self._tokens = parse_tokens(path.read_text())
        self._problem = ""
        """Reason why the present file is not in use."""

    def find(self, token: str) -> Caller | None:
        """Caller with a token; None for an unknown or expired one."""
        return self.find_digest(digest(token))

    def find_digest(self, sha256: str) -> Caller | None:
        """Caller with the token of a SHA-256; None for an unknown or expired one."""
        self._reload()
        # The dictionary compares digests, not tokens: its timing says nothing about a token
        found = self._tokens.get(sha256)
        if found is None or (found.until is not None and found.until <= time.time()):
            return None
        return Caller(Actor(found.name, None, "token"), found.role, found.payloads)

    def _now(self) -> tuple[int, int, int]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _reload(self) -> None:
        try:
            stamp = self._now()
            if stamp == self._stamp:
                return
            self._tokens, self._stamp, self._problem = parse_tokens(self.path.read_text()), stamp, ""
            _log.info("the file of tokens has changed", extra={"action": "tokens", "file": str(self.path)})
        except (OSError, ValueError) as error:
            problem = (error.strerror or "it cannot be read") if isinstance(error, OSError) else str(error)
            if problem != self._problem:
                self._problem = problem
                what = "the changed file of tokens is not valid; the tokens before it stay in use"
                _log.error(what, extra={"action": "tokens", "file": str(self.path), "detail": problem})


class Oidc:
    """Verifier of JSON Web Tokens (RFC 7519) of an OpenID Connect provider."""

    def __init__(self, settings: OidcConfig) -> None:
        self.settings = settings
        self._keys: jwt.PyJWKClient | None = None
        self._discovered: Mapping[str, Any] | None = None
        self._read_again = -math.inf
        """Time of the last read of the keys for an unknown name."""

    async def find(self, token: str) -> Caller | None:
        """Caller with a token; None where the token is not valid, or names no role.

        Raises: ProviderUnavailable.
        """
        return await asyncio.to_thread(self._find, token)

    def _find(self, token: str) -> Caller | None:
        try:
            return self.caller_of(self.verified(token, self.settings.audience))
        except (jwt.PyJWTError, ValueError, TypeError):  # TypeError: an algorithm that the named key is not for
            return None

    def verified(self, token: str, audience: str) -> Mapping[str, Any]:
        """Claims of a token whose signature, issuer, audience and times are valid. Blocks.

        Raises: jwt.PyJWTError, ValueError, ProviderUnavailable.
        """
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                self._key_of(token),
                algorithms=_ALGORITHMS,
                audience=audience,
                issuer=self.settings.issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWKClientConnectionError, OSError) as error:
            raise ProviderUnavailable("the identity provider does not answer; static tokens still work") from error
        return claims

    def caller_of(self, claims: Mapping[str, Any]) -> Caller | None:
        """Caller with these claims; None where they name no role. Raises: Unauthenticated for a claim left out."""
        settings = self.settings
        given = claims.get(settings.roles_claim)
        # Entra ID leaves out `groups` of a person with more than 200 and names a place where to ask instead
        elsewhere = claims.get("_claim_names")
        if given is None and isinstance(elsewhere, dict) and settings.roles_claim in elsewhere:
            raise Unauthenticated(
                f"the identity provider has left out the claim `{settings.roles_claim}`: it is too long for a token; "
                "use app roles and the claim `roles`, or assign fewer groups to the application"
            )
        names = set(map(str, given) if isinstance(given, list) else str(given).split()) if given is not None else set()
        roles = [role for role in ROLES if names & set(settings.roles.get(role, ()))]
        if not roles:
            return None
        name = next((str(claims[each]) for each in settings.name_claims if claims.get(each)), "?")
        return Caller(Actor(name[:100], None, "oidc"), roles[-1], bool(names & set(settings.payloads)))

    def discovered(self) -> Mapping[str, Any]:
        """Description of the provider, by OpenID Connect Discovery 1.0. Blocks at the first call.

        Raises: OSError, ValueError.
        """
        if self._discovered is None:
            place = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            with urllib.request.urlopen(place, timeout=PROVIDER_SECONDS) as answer:  # noqa: S310 - the model admits http only
                found = json.loads(answer.read(LARGEST_DOCUMENT))
            if not isinstance(found, dict) or found.get("issuer") != self.settings.issuer:
                raise ValueError("the provider describes another issuer")
            self._discovered = found
        return self._discovered

    def _key_of(self, token: str) -> Any:
        """Key that a token names. Without a name, that of a provider with one key (OpenID Connect Core 1.0, 10.1)."""
        kid = jwt.get_unverified_header(token).get("kid")
        if kid is not None:
            return self._named_key(kid)
        keys = [each for each in self._client().get_jwk_set().keys if each.public_key_use in ("sig", None)]
        if len(keys) != 1:
            raise jwt.InvalidKeyError("the token names no key, and the provider has several")
        return keys[0].key

    def _named_key(self, kid: str) -> Any:
        """Key of a name. The provider's keys are read again for an unknown name, but not for each request."""
        client = self._client()
        found = client.match_kid(client.get_signing_keys(), kid)
        if found is None and time.monotonic() - self._read_again >= _AGAIN_SECONDS:
            self._read_again = time.monotonic()
            found = client.match_kid(client.get_signing_keys(refresh=True), kid)
        if found is None:
            raise jwt.InvalidKeyError("the provider has no key of this name")
        return found.key

    def _client(self) -> jwt.PyJWKClient:
        if self._keys is None:
            url = self.settings.jwks_url or str(self.discovered()["jwks_uri"])
            self._keys = jwt.PyJWKClient(url, lifespan=_KEYS_SECONDS, timeout=PROVIDER_SECONDS)
        return self._keys


class CallerRates:
    """Rate limit of each caller: a token bucket. per_second: requests; burst: requests at once."""

    MOST = 10_000
    """Most callers that are remembered; the one that asked longest ago is forgotten."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._left: dict[str, tuple[float, float]] = {}
        """Requests left, and the time at which they were counted, by caller in the order of their last request."""

    def wait(self, name: str, now: float) -> float:
        """Seconds until a caller may ask again; 0.0 if it may ask now, which counts."""
        left, since = self._left.pop(name, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._per_second)
        allowed = left >= 1.0
        self._left[name] = (left - 1.0 if allowed else left, now)
        if len(self._left) > self.MOST:
            del self._left[next(iter(self._left))]
        return 0.0 if allowed else (1.0 - left) / self._per_second


@dataclass(frozen=True, slots=True)
class OpsAccess:
    """Access to the ops port: its ways to authenticate. Without any: from loopback, reading, without payloads."""

    tokens: TokenFile | None = None
    oidc: Oidc | None = None

    @property
    def is_configured(self) -> bool:
        return self.tokens is not None or self.oidc is not None

    async def caller(self, headers: Mapping[str, str], remote: str | None) -> Caller:
        """Caller of a request. remote: address of the peer.

        Raises: Unauthenticated, ProviderUnavailable.
        """
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if not self.is_configured:
            if scheme:
                raise Unauthenticated("this daemon accepts no tokens; configure `ops.http.access`")
            if not _is_local(remote) or any(name in headers for name in _FORWARDED):
                raise Unauthenticated("without `ops.http.access` only this machine has access, and no proxy")
            return ANONYMOUS
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("send a token: `Authorization: Bearer TOKEN`")
        token = token.strip()
        found = None if self.tokens is None else self.tokens.find(token)
        if found is None and self.oidc is not None and token.count(".") == 2:
            found = await self.oidc.find(token)
        if found is None:
            raise Unauthenticated("the token is unknown, has expired, or names no role")
        return found


_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
"""Headers of a proxy, whose own address says nothing about the caller."""


def _is_local(remote: str | None) -> bool:
    """True for a peer on this machine, also where an IPv6 socket reports its IPv4 address."""
    return remote is not None and is_loopback(remote.removeprefix("::ffff:"))
