"""Azure credentials for the scheduler engine, made only when the configuration asks for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import azure.identity
import azure.identity.aio

from bridge.config.engines import SchedulerEngineConfig

_CLASSES = {
    "default": "DefaultAzureCredential",
    "managed_identity": "ManagedIdentityCredential",
    "workload_identity": "WorkloadIdentityCredential",
    "environment": "EnvironmentCredential",
    "cli": "AzureCliCredential",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """The same identity twice: asynchronous for the client, synchronous for the worker's threads."""

    asynchronous: Any
    synchronous: Any

    async def close(self) -> None:
        await self.asynchronous.close()
        self.synchronous.close()


def kind(config: SchedulerEngineConfig, secure: bool) -> str:
    """`none` or the name of a credential. `auto` means none where the endpoint is plain http or a token is given."""
    if config.credential != "auto":
        return config.credential
    return "default" if secure and config.token is None else "none"


def create(config: SchedulerEngineConfig, secure: bool) -> Credentials | None:
    """None where no credential is wanted. Raises: ValueError when one lacks what it needs from its environment."""
    chosen = kind(config, secure)
    if chosen == "none":
        return None
    arguments: dict[str, Any] = {}
    if config.client_id is not None:
        if chosen == "default":
            arguments = {
                "managed_identity_client_id": config.client_id,
                "workload_identity_client_id": config.client_id,
            }
        elif chosen in ("managed_identity", "workload_identity"):
            arguments = {"client_id": config.client_id}
    name = _CLASSES[chosen]
    return Credentials(
        asynchronous=getattr(azure.identity.aio, name)(**arguments),
        synchronous=getattr(azure.identity, name)(**arguments),
    )
