"""Settings of the access to the API on the ops port."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bridge.config.model.types import Integer, Model, Number


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


class AccessConfig(Model):
    """Access to the API. Without it: from this machine only, reading only, without payloads."""

    tokens: str | None = Field(
        None,
        min_length=1,
        description="File of static tokens, relative to this file: one line of `bridge tokens new` per token. Changes "
        "of the file take effect at once.",
    )
    oidc: OidcConfig | None = Field(None, description="OpenID Connect provider; null: none.")
    rate: Number = Field(20.0, gt=0, le=10_000, description="Requests per second and caller.")
    burst: Integer = Field(100, ge=1, le=100_000, description="Requests at once and caller.")
