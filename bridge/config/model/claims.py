"""Configuration of claim checks: payloads that lie elsewhere, with a reference in the message."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bridge.config.model.payloads import AzureCredential, ContainerName
from bridge.config.model.types import Duration, Model, Size

AttributeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,20}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[!-9;-~]{1,200}$")]


class ClaimCheckConfig(Model):
    """References to payloads that lie elsewhere, and the places from which they are fetched."""

    attribute: AttributeName = Field(
        "dataref", description="CloudEvents extension with the reference, unless `header` or `path` is set."
    )
    header: HeaderName | None = Field(None, description="Header with the reference.")
    path: Annotated[str, StringConstraints(pattern=r"^payload(\.[A-Za-z_][A-Za-z0-9_]*)+$")] | None = Field(
        None, description="Member of a JSON body with the reference, like `payload.ref`."
    )
    allow: tuple[str, ...] = Field(
        min_length=1,
        description="Prefixes of allowed references, each with a slash at its end: `https://HOST/PATH/`, "
        "`file:///PATH/`, or `http://127.0.0.1:PORT/` of this machine.",
    )
    digest: HeaderName | None = Field(
        None, description="Header or CloudEvents extension with the SHA-256 of the payload, as hexadecimal digits."
    )
    private: bool = Field(False, description="Connect to hosts with private addresses.")
    timeout: Duration = Field(
        30.0, gt=0, le=600, description="Longest time of one fetch; afterwards the source is held."
    )

    @model_validator(mode="after")
    def _check_place(self) -> ClaimCheckConfig:
        if self.header is not None and self.path is not None:
            raise ValueError("name either a `header` or a `path`")
        return self


class TargetFilesConfig(Model):
    """Directory for the payloads of a target."""

    type: Literal["files"] = Field(description="Kind of store.")
    directory: str = Field(min_length=1, description="Directory of the payloads, relative to the configuration file.")


class TargetBlobConfig(Model):
    """Container of Azure Blob Storage for the payloads of a target; needs the extra `blob`."""

    type: Literal["blob"] = Field(description="Kind of store.")
    account_url: Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9.-]+(:[0-9]+)?/?$")] = Field(
        description="Address of the account, `https://NAME.blob.core.windows.net`."
    )
    container: ContainerName = Field(description="Container of the payloads; made when it is missing.")
    credential: AzureCredential = Field("default", description="Credential of the account.")
    client_id: str | None = Field(None, description="Client id of a user-assigned identity.")


class TargetClaimConfig(Model):
    """Large payloads of a target go to a store, and its messages have a reference to them."""

    store: Annotated[TargetFilesConfig | TargetBlobConfig, Field(discriminator="type")] = Field(
        description="Place of the payloads: `files` of a directory, or `blob` storage."
    )
    above: Size = Field(262144, ge=1024, description="Size of a body above which its payload goes to the store.")
    attribute: AttributeName = Field("dataref", description="CloudEvents extension with the reference.")
    header: HeaderName = Field("dataref", description="Header with the reference, for `json`, `text` and `bytes`.")
