"""Configuration of the encryption of stored payloads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bridge.config.model.types import Model

_ADDRESS = r"^https://[A-Za-z0-9.-]+/secrets/[A-Za-z0-9-]+/[A-Za-z0-9]+$"


class EncryptionKeyConfig(Model):
    """A key of 32 random bytes in base64: `openssl rand -base64 32`."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = Field(
        description="Id of the key in files, messages and logs."
    )
    file: str | None = Field(None, min_length=1, description="File with the key, in one line.")
    vault: Annotated[str, StringConstraints(pattern=_ADDRESS)] | None = Field(
        None,
        description="Versioned secret of an Azure Key Vault with the key, instead of a file: "
        "`https://NAME.vault.azure.net/secrets/NAME/VERSION`; needs the extra `keyvault`.",
    )

    @model_validator(mode="after")
    def _check_place(self) -> EncryptionKeyConfig:
        if (self.file is None) == (self.vault is None):
            raise ValueError("name a `file` or a `vault`")
        return self


class EncryptionConfig(Model):
    """Encryption of stored payloads with AES-256-GCM. The first key encrypts, all keys decrypt."""

    keys: tuple[EncryptionKeyConfig, ...] = Field((), description="Keys; the first one encrypts.")
    provider: Annotated[str, StringConstraints(pattern=r"^[\w.]+:[\w.]+$")] | None = Field(
        None, description="`module:function` that returns the keys, instead of `keys`."
    )
    credential: Literal["default", "managed_identity", "workload_identity", "environment", "cli"] = Field(
        "default", description="Credential for keys in a Key Vault."
    )
    client_id: str | None = Field(None, description="Client id of a user-assigned identity.")
    active: bool = Field(True, description="false: new payloads are stored unencrypted, and the keys only decrypt.")

    accept_plain: bool = Field(
        True,
        description="false: stored payloads that are not encrypted cannot be read. Set it after `bridge "
        "engine reencrypt` has encrypted all of them; nobody can then add unencrypted ones to the "
        "file.",
    )

    @model_validator(mode="after")
    def _check_keys(self) -> EncryptionConfig:
        if bool(self.keys) == (self.provider is not None):
            raise ValueError("name `keys` or a `provider`")
        if not self.active and not self.accept_plain:
            raise ValueError("`active: false` stores payloads unencrypted, which `accept_plain: false` could not read")
        ids = [key.id for key in self.keys]
        for id_ in ids:
            if ids.count(id_) > 1:
                raise ValueError(f"two keys have the id {id_!r}")
        return self
