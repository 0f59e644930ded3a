"""Configuration of large payloads, which lie beside the engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints, model_validator

from bridge.config.model.types import Model, Size
from bridge.sqlite_engine import defaults


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
    container: Annotated[str, StringConstraints(pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$")] = Field(
        "durabletask-payloads", description="Container of the payloads; made when it is missing."
    )
    credential: Literal["default", "managed_identity", "workload_identity", "environment", "cli"] = Field(
        "default", description="Credential for `account_url`."
    )
    client_id: str | None = Field(None, description="Client id of a user-assigned identity.")

    @model_validator(mode="after")
    def _check_account(self) -> BlobStoreConfig:
        if (self.account_url is None) == (self.connection_string is None):
            raise ValueError("name an `account_url` or a `connection_string`")
        if self.account_url is not None and not self.account_url.startswith("https://"):
            raise ValueError("`account_url` begins with https://; a credential is never sent over plain http")
        return self


StoreConfig = Annotated[FilesStoreConfig | BlobStoreConfig, Field(discriminator="type")]


class PayloadsConfig(Model):
    """Large payloads: inputs, events and results that lie beside the engine, with a reference in their place."""

    store: StoreConfig = Field(
        FilesStoreConfig(), description="Place of the payloads: `files` beside an embedded engine, or `blob` storage."
    )
    above: Size = Field(
        defaults.LARGE_PAYLOAD, ge=1024, description="Size as JSON above which a payload goes to the store."
    )
    max: Size = Field(
        defaults.MAX_PAYLOAD, ge=65536, description="Largest payload; a message with a larger one is dead-lettered."
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> PayloadsConfig:
        if self.above >= self.max:
            raise ValueError("`above` is smaller than `max`")
        return self
