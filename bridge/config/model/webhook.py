"""Configuration of webhooks: receivers of published events over HTTP."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from bridge.config.model.tls import ProtectedTlsConfig
from bridge.config.model.types import Duration, Integer, Model, Size

_PREFIX = "whsec_"
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_URL = re.compile(r"[\x21-\x7e]+")
_OWN = frozenset({"authorization", "connection", "content-length", "content-type", "host", "transfer-encoding"})
"""Headers that a request gets by other settings."""


def _check_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not _URL.fullmatch(value):
        raise ValueError("a webhook is written https://HOST/PATH")
    if parts.username is not None or parts.fragment:
        raise ValueError("the URL has no credentials and no fragment; use `token` or `headers`")
    return value


def _check_secret(value: SecretStr) -> SecretStr:
    signing_key(value)
    return value


def signing_key(secret: SecretStr) -> bytes:
    """Bytes of a secret of Standard Webhooks. Raises: ValueError, without the secret."""
    prefix, found, text = secret.get_secret_value().partition(_PREFIX)
    try:
        key = base64.b64decode(text, validate=True) if found and not prefix else b""
    except binascii.Error:
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError(
            f"a secret is {_PREFIX} and 24 to 64 bytes in base64; create one with "
            f'`echo "{_PREFIX}$(openssl rand -base64 32)"`'
        )
    return key


def _check_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        lower = name.lower()
        if _HEADER.fullmatch(name) is None:
            raise ValueError(f"{name[:50]!r} is not the name of a header")
        if lower in _OWN or lower.startswith(("webhook-", "ce-")):
            raise ValueError(f"the bridge sets the header {lower} itself")
        if not value.get_secret_value().isprintable() or not value.get_secret_value().isascii():
            raise ValueError(f"the value of {name} has characters that a header cannot have")
    return headers


Secret = Annotated[SecretStr, AfterValidator(_check_secret)]


class WebhookTlsConfig(ProtectedTlsConfig):
    """TLS to the receiver, which is always verified."""


class WebhookRetryConfig(Model):
    """Repeated requests, after an answer 408, 429 or 5xx and after a failed connection."""

    attempts: Integer = Field(5, ge=1, le=100, description="Requests for one publish, the first included.")
    first: Duration = Field(0.5, gt=0, description="Longest pause before the second request; each later one doubles.")
    max: Duration = Field(30.0, gt=0, description="Longest pause. A pause is random between 0 and its limit.")
    max_retry_after: Duration = Field(
        600.0, ge=0, description="Longest time for which a header `Retry-After` stops all requests."
    )


class WebhookBrokerConfig(Model):
    """A receiver of events over HTTP. It is for targets: nothing can be read from it."""

    type: Literal["webhook"] = Field(description="Kind of broker.")
    url: Annotated[str, AfterValidator(_check_url)] = Field(description="URL that gets a POST for each event.")
    secret: Secret | None = Field(
        None, description="Secret of the signature by Standard Webhooks, `whsec_...`; null: no signature."
    )
    former_secret: Secret | None = Field(
        None, description="Secret that signs beside `secret` while the receiver changes to the new one."
    )
    token: SecretStr | None = Field(None, min_length=1, description="Token of the header `Authorization: Bearer`.")
    headers: Annotated[dict[str, SecretStr], AfterValidator(_check_headers)] = Field(
        default_factory=dict, description="Further headers of each request."
    )
    tls: WebhookTlsConfig | None = Field(None, description="TLS settings; null: the system's trusted authorities.")
    timeout: Duration = Field(10.0, gt=0, description="Deadline of one request.")
    concurrent: Integer = Field(8, ge=1, le=1000, description="Requests at the same time.")
    max_body: Size = Field(1048576, ge=1024, description="Bytes of the largest body; larger events are refused.")
    retry: WebhookRetryConfig = Field(WebhookRetryConfig(), description="Repeated requests.")

    @property
    def host(self) -> str:
        """Host and port, without path and query: these may be secret."""
        return urlsplit(self.url).netloc

    @property
    def is_https(self) -> bool:
        """True for a URL whose connection is encrypted."""
        return urlsplit(self.url).scheme == "https"

    @model_validator(mode="after")
    def _check(self) -> WebhookBrokerConfig:
        if self.former_secret is not None and self.secret is None:
            raise ValueError("`former_secret` needs `secret`")
        if self.token is not None and not self.token.get_secret_value().isprintable():
            raise ValueError("the token has characters that a header cannot have")
        return self
