"""Encryption keys that are stored as secrets of an Azure Key Vault."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.keyvault.secrets import SecretClient

from bridge.config.model.encryption import EncryptionConfig, EncryptionKeyConfig
from bridge.core.errors import EngineUnavailable
from bridge.engines.credentials import synchronous

_RETRIES = 2
_CONNECT_SECONDS = 5
_READ_SECONDS = 10


def read(config: EncryptionConfig, keys: Sequence[EncryptionKeyConfig]) -> dict[str, bytes]:
    """Read the secrets of these keys, by id of the key. Blocks.

    Raises: VaultRefused (no such secret, no permission, no credential), EngineUnavailable (the vault does not answer).
    """
    with synchronous(config.credential, config.client_id) as credential:
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


def _value(client: SecretClient, key: EncryptionKeyConfig, name: str, version: str) -> bytes:
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
