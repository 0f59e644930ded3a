"""TLS of ports that the bridge serves, and of its connections to others."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator

from bridge.config.model.types import Model


class ServerTlsConfig(Model):
    """TLS of a port that the bridge serves. Changed files are read again; open connections stay open."""

    certificate: str = Field(min_length=1, description="PEM file of the certificate and its chain.")
    key: str | None = Field(
        None, min_length=1, description="PEM file of the private key, without a password; null: `certificate` holds it."
    )
    client_ca: str | None = Field(
        None,
        min_length=1,
        description="PEM file of authorities; each client then needs a certificate of one of them. null: no "
        "client certificates.",
    )


class ClientTlsConfig(Model):
    """TLS to an engine, or to other daemons. The files are read once, at the start."""

    ca: str | None = Field(None, min_length=1, description="PEM file of the trusted authorities.")
    certificate: str | None = Field(None, min_length=1, description="PEM file of the client certificate and its chain.")
    key: str | None = Field(
        None, min_length=1, description="PEM file of the private key, without a password; null: `certificate` holds it."
    )

    @model_validator(mode="after")
    def _check(self) -> ClientTlsConfig:
        if self.key is not None and self.certificate is None:
            raise ValueError("`key` needs `certificate`")
        return self


class ProtectedTlsConfig(Model):
    """TLS with a client certificate whose private key may have a password."""

    ca: str | None = Field(None, min_length=1, description="PEM file of the trusted authorities.")
    certificate: str | None = Field(None, min_length=1, description="PEM file of the client certificate and its chain.")
    key: str | None = Field(
        None, min_length=1, description="PEM file of the private key; null: `certificate` holds it."
    )
    key_password: SecretStr | None = Field(None, description="Password of the private key.")
