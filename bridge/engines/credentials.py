"""Azure credentials for the scheduler engine and for Key Vault, created only when the configuration needs one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import azure.identity
import azure.identity.aio

from bridge.config.model.engines import SchedulerEngineConfig

_CLASSES = {
    "default": "DefaultAzureCredential",
    "managed_identity": "ManagedIdentityCredential",
    "workload_identity": "WorkloadIdentityCredential",
    "environment": "EnvironmentCredential",
    "cli": "AzureCliCredential",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Asynchronous credential for the client and synchronous one for the worker's threads, of the same identity."""

    asynchronous: Any
    synchronous: Any

    async def close(self) -> None:
        await self.asynchronous.close()
        self.synchronous.close()


def kind(config: SchedulerEngineConfig, secure: bool) -> str:
    """Name of a credential, or `none`. `auto` means `none` when the endpoint is plain http or a token is given."""
    if config.credential != "auto":
        return config.credential
    return "default" if secure and config.token is None else "none"


def create(config: SchedulerEngineConfig, secure: bool) -> Credentials | None:
    """Create the credentials; None when none are configured.

    Raises: ValueError when the environment lacks a required setting.
    """
    chosen = kind(config, secure)
    if chosen == "none":
        return None
    arguments = _arguments(chosen, config.client_id)
    return Credentials(
        asynchronous=getattr(azure.identity.aio, _CLASSES[chosen])(**arguments),
        synchronous=synchronous(chosen, config.client_id),
    )


def synchronous(kind: str, client_id: str | None) -> Any:
    """Create a credential for threads. Raises: ValueError when the environment lacks a required setting."""
    return getattr(azure.identity, _CLASSES[kind])(**_arguments(kind, client_id))


def _arguments(kind: str, client_id: str | None) -> dict[str, Any]:
    if client_id is None:
        return {}
    if kind == "default":
        return {"managed_identity_client_id": client_id, "workload_identity_client_id": client_id}
    return {"client_id": client_id} if kind in ("managed_identity", "workload_identity") else {}
