"""Settings of the access to the API on the ops port."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from bridge.config.model.types import Duration, Integer, Model, Number


class OidcLoginConfig(Model):
    """Login of browsers at the provider, by authorization code with PKCE."""

    client_id: str = Field(min_length=1, description="Client id of this application. The ID token is issued to it.")
    client_secret: SecretStr | None = Field(
        None, description="Secret of this application; null: a public client, for which PKCE alone stands."
    )
    url: str = Field(
        pattern=r"^https?://[^\s/@?#]+$",
        description="Address of the page as browsers see it, for example `https://bridge.example`. Register "
        "`/login/callback` below it as redirect address at the provider.",
    )
    scopes: tuple[str, ...] = Field(("openid", "profile", "email"), description="Scopes that are requested.")


class OidcConfig(Model):
    """Tokens of an OpenID Connect provider, for example Microsoft Entra ID."""

    issuer: str = Field(
        pattern=r"^https?://[^\s,@]+$",
        description="Issuer of the tokens (`iss`), for example `https://login.microsoftonline.com/TENANT/v2.0`.",
    )
    audience: str = Field(min_length=1, description="Audience of the tokens (`aud`): the id of this application.")
    jwks_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s,@]+$",
        description="Address of the provider's keys; null: as the issuer's `/.well-known/openid-configuration` states.",
    )
    roles_claim: str = Field("roles", min_length=1, description="Claim with the names of roles, as a list or a text.")
    roles: dict[Literal["reader", "operator", "admin"], tuple[str, ...]] = Field(
        {"reader": ("Bridge.Reader",), "operator": ("Bridge.Operator",), "admin": ("Bridge.Admin",)},
        description="Names in the claim for each role. The highest one holds.",
    )
    payloads: tuple[str, ...] = Field(
        ("Bridge.Payloads",), description="Names in the claim that also give the right to read payloads."
    )
    name_claims: tuple[str, ...] = Field(
        ("preferred_username", "email", "sub"),
        min_length=1,
        description="Claims for the name in the audit; the first that is present.",
    )
    login: OidcLoginConfig | None = Field(None, description="Login of browsers; null: none.")


class BrowserSessionsConfig(Model):
    """Sessions of browsers, in an encrypted cookie."""

    keys: tuple[str, ...] = Field(
        (),
        description="Files of keys, relative to this file, each with 32 random bytes in base64 (`openssl rand -base64 "
        "32`). The first one encrypts the cookies, all decrypt them. Daemons with the same keys accept each other's "
        "sessions. Empty: a random key; sessions then hold on one daemon, until it ends.",
    )
    duration: Duration = Field(28_800.0, ge=60, le=2_592_000, description="Time from a login to the next.")


class AccessConfig(Model):
    """Access to the API. Without it: from this machine only, reading only, without payloads."""

    tokens: str | None = Field(
        None,
        min_length=1,
        description="File of static tokens, relative to this file: one line of `bridge tokens new` per token. Changes "
        "of the file take effect at once.",
    )
    oidc: OidcConfig | None = Field(None, description="OpenID Connect provider; null: none.")
    sessions: BrowserSessionsConfig = Field(BrowserSessionsConfig(), description="Sessions of browsers.")
    rate: Number = Field(20.0, gt=0, le=10_000, description="Requests per second and caller.")
    burst: Integer = Field(100, ge=1, le=100_000, description="Requests at once and caller.")
