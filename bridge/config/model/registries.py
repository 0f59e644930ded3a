"""Configuration of schema registries."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator

from bridge.config.model.types import Duration, Model, Size


class RegistryTlsConfig(Model):
    """TLS to a schema registry. Without it, the system must trust the certificate of an `https` registry."""

    ca: str | None = Field(None, min_length=1, description="File of the authorities that are trusted, PEM.")
    certificate: str | None = Field(None, min_length=1, description="File of our certificate and its chain, PEM.")
    key: str | None = Field(None, min_length=1, description="File of its key, PEM; null: in `certificate` too.")
    key_password: SecretStr | None = Field(None, description="Password of the key.")


class RegistryConfig(Model):
    """A Confluent-compatible schema registry, for the codecs `avro` and `protobuf`. Needs the extra `schemas`."""

    url: str = Field(pattern=r"^https?://[^\s,@]+$", description="Its address; credentials do not belong here.")
    username: str | None = Field(None, min_length=1, description="For basic authentication; at Confluent, the key.")
    password: SecretStr | None = Field(None, description="For basic authentication; at Confluent, the secret.")
    token: SecretStr | None = Field(None, description="A bearer token, instead of user and password.")
    logical_cluster: str | None = Field(None, description="Confluent Cloud, with a token: the registry's `lsrc-` id.")
    identity_pool: str | None = Field(None, description="Confluent Cloud, with a token: the identity pool.")
    tls: RegistryTlsConfig | None = Field(None, description="TLS; null: what the system trusts.")
    timeout: Duration = Field(10.0, gt=0, description="Deadline of one request.")
    max_schema: Size = Field(1048576, description="Largest schema with its references; a larger one is not used.")
    latest_for: Duration = Field(
        300.0, gt=0, description="How long a target without `schema` keeps the latest version before it looks again."
    )

    @model_validator(mode="after")
    def _complete(self) -> RegistryConfig:
        if (self.username is None) != (self.password is None):
            raise ValueError("`username` and `password` go together")
        if self.token is not None and self.username is not None:
            raise ValueError("a `token` goes instead of `username` and `password`")
        if self.token is None and (self.logical_cluster is not None or self.identity_pool is not None):
            raise ValueError("`logical_cluster` and `identity_pool` go with a `token`")
        return self
