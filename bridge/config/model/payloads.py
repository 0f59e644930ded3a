"""Configuration of large payloads, which lie beside the engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints, model_validator

from bridge.config.model.types import Model, Size
from bridge.sqlite_engine import defaults

ContainerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$")]
AzureCredential = Literal["default", "managed_identity", "workload_identity", "environment", "cli"]


class FilesStoreConfig(Model):
    """Files in a directory beside the file of an embedded engine."""

    type: Literal["files"] = Field("files", description="Kind of store.")


class BlobStoreConfig(Model):
    """Container of Azure Blob Storage, in the form of the Durable Task SDK's payload store; needs the extra `blob`."""

    type: Literal["blob"] = Field(description="Kind of store.")
    account_url: str | None = Field(
        None, description="Address of the account, `https://NAME.blob.core.windows.net`; needs a `credential`."
    )
    connection_string: SecretStr | None = Field(
        None, description="Connection string of the account, instead of `account_url`."
    )
    container: ContainerName = Field(
        "durabletask-payloads", description="Container of the payloads; made when it is missing."
    )
    credential: AzureCredential = Field("default", description="Credential for `account_url`.")
    client_id: str | None = Field(None, description="Client id of a user-assigned identity.")

    @model_validator(mode="after")
    def _check_account(self) -> BlobStoreConfig:
        if (self.account_url is None) == (self.connection_string is None):
            raise ValueError("name an `account_url` or a `connection_string`")
        if self.account_url is not None and not self.account_url.startswith("https://"):
            raise ValueError("`account_url` begins with https://; a credential is never sent over plain http")
        return self


class EngineStoreConfig(Model):
    """The engine behind the endpoint: an embedded engine's `listen`, or `bridge engine`. It keeps files."""

    type: Literal["engine"] = Field(description="Kind of store.")


class PayloadsBase(Model):
    """Settings of large payloads that every engine has."""

    above: Size = Field(
        defaults.LARGE_PAYLOAD, ge=1024, description="Size as JSON above which a payload goes to the store."
    )
    max: Size = Field(
        defaults.MAX_PAYLOAD, ge=65536, description="Largest payload; a message with a larger one is dead-lettered."
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> PayloadsBase:
        if self.above >= self.max:
            raise ValueError("`above` is smaller than `max`")
        return self


class FilePayloadsConfig(PayloadsBase):
    """Large payloads beside an embedded engine: inputs, events and results, with a reference in their place."""

    store: FilesStoreConfig = Field(FilesStoreConfig(), description="Place of the payloads.")


class RemotePayloadsConfig(PayloadsBase):
    """Large payloads of a scheduler: inputs, events and results, with a reference in their place."""

    store: Annotated[BlobStoreConfig | EngineStoreConfig, Field(discriminator="type")] = Field(
        description="Place of the payloads: `blob` storage, which all machines reach, or files of the `engine` itself."
    )
