"""TLS of ports that the bridge serves, and of connections to engines."""

from __future__ import annotations

from pydantic import Field, model_validator

from bridge.config.model.types import Model


class ServerTlsConfig(Model):
    """TLS of a port that the bridge serves. Changed files are read again; open connections stay open."""

    certificate: str = Field(min_length=1, description="File of the certificate and its chain, PEM.")
    key: str | None = Field(
        None, min_length=1, description="File of its key, PEM, without a password; null: in `certificate` too."
    )
    client_ca: str | None = Field(
        None,
        min_length=1,
        description="File of authorities, PEM, of which each client needs a certificate; null: none is asked for.",
    )


class ClientTlsConfig(Model):
    """TLS to an engine. The files are read once, at the start."""

    ca: str | None = Field(None, min_length=1, description="File of the authorities that are trusted, PEM.")
    certificate: str | None = Field(None, min_length=1, description="File of our certificate and its chain, PEM.")
    key: str | None = Field(
        None, min_length=1, description="File of its key, PEM, without a password; null: in `certificate` too."
    )

    @model_validator(mode="after")
    def _check(self) -> ClientTlsConfig:
        if self.key is not None and self.certificate is None:
            raise ValueError("`key` is of a `certificate`, which is missing")
        return self
