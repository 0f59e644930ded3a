"""TLS of ports that the bridge serves."""

from __future__ import annotations

from pydantic import Field

from bridge.config.types import Model


class ServerTlsConfig(Model):
    """TLS of a port of ours. The files are read again when they change; connections that are open stay."""

    certificate: str = Field(min_length=1, description="File of the certificate and its chain, PEM.")
    key: str | None = Field(
        None, min_length=1, description="File of its key, PEM, without a password; null: in `certificate` too."
    )
    client_ca: str | None = Field(
        None,
        min_length=1,
        description="File of authorities, PEM, of which each client needs a certificate; null: none is asked for.",
    )
