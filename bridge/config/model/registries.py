"""Configuration of schema registries."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator

from bridge.config.model.tls import ProtectedTlsConfig
from bridge.config.model.types import Duration, Model, Size


class RegistryTlsConfig(ProtectedTlsConfig):
    """TLS to a schema registry. Without it, the system must trust the certificate of an `https` registry."""


class RegistryConfig(Model):
    """A Confluent-compatible schema registry, for the codecs `avro` and `protobuf`. Needs the extra `schemas`."""

    url: str = Field(pattern=r"^https?://[^\s,@]+$", description="Address of the registry, without credentials.")
    username: str | None = Field(
        None, min_length=1, description="User for basic authentication; the API key in Confluent Cloud."
    )
    password: SecretStr | None = Field(
        None, description="Password for basic authentication; the API secret in Confluent Cloud."
    )
    token: SecretStr | None = Field(None, description="Bearer token, instead of user and password.")
    logical_cluster: str | None = Field(None, description="`lsrc-` id of the registry, for a token of Confluent Cloud.")
    identity_pool: str | None = Field(None, description="Identity pool, for a token of Confluent Cloud.")
    tls: RegistryTlsConfig | None = Field(None, description="TLS settings; null: the system's trusted authorities.")
    timeout: Duration = Field(10.0, gt=0, description="Deadline of one request.")
    max_schema: Size = Field(1048576, description="Largest schema, including its references; larger ones are not used.")
    latest_for: Duration = Field(
        300.0, gt=0, description="Time that a target without `schemas.file` keeps the latest version."
    )

    @model_validator(mode="after")
    def _complete(self) -> RegistryConfig:
        if (self.username is None) != (self.password is None):
            raise ValueError("`username` and `password` need each other")
        if self.token is not None and self.username is not None:
            raise ValueError("write either `token`, or `username` and `password`")
        if self.token is None and (self.logical_cluster is not None or self.identity_pool is not None):
            raise ValueError("`logical_cluster` and `identity_pool` need a `token`")
        return self
