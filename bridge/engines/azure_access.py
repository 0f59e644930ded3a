"""Azure: credentials for the scheduler engine and for Key Vault, and encryption keys that are secrets of a vault.

Import this module on demand: the Azure libraries take a quarter of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import azure.identity
import azure.identity.aio
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from bridge.config.model.encryption import EncryptionConfig, EncryptionKeyConfig
from bridge.config.model.engines import SchedulerEngineConfig
from bridge.core.errors import EngineUnavailable

_CLASSES = {
    "default": "DefaultAzureCredential",
    "managed_identity": "ManagedIdentityCredential",
    "workload_identity": "WorkloadIdentityCredential",
    "environment": "EnvironmentCredential",
    "cli": "AzureCliCredential",
}

_RETRIES = 2
_CONNECT_SECONDS = 5
_READ_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Credentials:
    """Asynchronous credential for the client and synchronous one for the worker's threads, of the same identity."""

    asynchronous: Any
    synchronous: Any

    async def close(self) -> None:
        await self.asynchronous.close()
        self.synchronous.close()


def credential_kind(config: SchedulerEngineConfig, secure: bool) -> str:
    """Name of a credential, or `none`. `auto` means `none` when the endpoint is plain http or a token is given."""
    if config.credential != "auto":
        return config.credential
    return "default" if secure and config.token is None else "none"


def create_credentials(config: SchedulerEngineConfig, secure: bool) -> Credentials | None:
    """Create the credentials; None when none are configured.

    Raises: ValueError when the environment lacks a required setting.
    """
    chosen = credential_kind(config, secure)
    if chosen == "none":
        return None
    arguments = _arguments(chosen, config.client_id)
    return Credentials(
        asynchronous=getattr(azure.identity.aio, _CLASSES[chosen])(**arguments),
        synchronous=synchronous_credential(chosen, config.client_id),
    )


def synchronous_credential(kind: str, client_id: str | None) -> Any:
    """Create a credential for threads. Raises: ValueError when the environment lacks a required setting."""
    return getattr(azure.identity, _CLASSES[kind])(**_arguments(kind, client_id))


def _arguments(kind: str, client_id: str | None) -> dict[str, Any]:
    if client_id is None:
        return {}
    if kind == "default":
        return {"managed_identity_client_id": client_id, "workload_identity_client_id": client_id}
    return {"client_id": client_id} if kind in ("managed_identity", "workload_identity") else {}


def read_secrets(config: EncryptionConfig, keys: Sequence[EncryptionKeyConfig]) -> dict[str, bytes]:
    """Read the secrets of these keys, by id of the key. Blocks.

    Raises: VaultRefused (no such secret, no permission, no credential), EngineUnavailable (the vault does not answer).
    """
    from azure.keyvault.secrets import SecretClient  # of an extra

    with synchronous_credential(config.credential, config.client_id) as credential:
        found = {}
        for key in keys:
            assert key.vault is not None
            address = urlsplit(key.vault)
            name, version = address.path.split("/")[2:4]
            with SecretClient(
                f"https://{address.netloc}",
                credential,
                retry_total=_RETRIES,
                connection_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
            ) as client:
                found[key.id] = _value(client, key, name, version)
    return found


class VaultRefused(Exception):
    """Reason why a vault refused a secret, as a sentence."""


def _value(client: Any, key: EncryptionKeyConfig, name: str, version: str) -> bytes:
    try:
        value = client.get_secret(name, version).value
    except ClientAuthenticationError as error:
        raise VaultRefused(
            f"key {key.id!r}: {key.vault}: no token, or it is refused ({type(error).__name__})"
        ) from None
    except HttpResponseError as error:
        status = error.status_code or 0
        problem = f"key {key.id!r}: {key.vault}: the vault answers {status} {error.reason}"
        if status >= 500 or status == 429:
            raise EngineUnavailable(problem) from None
        raise VaultRefused(problem) from None
    except AzureError as error:
        raise EngineUnavailable(f"key {key.id!r}: {key.vault}: cannot be read ({type(error).__name__})") from None
    return (value or "").encode()
