"""Credentials and TLS, as arguments of the client."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import certifi
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.servicebus import TransportType, parse_connection_string
from azure.servicebus.aio import ServiceBusClient
from pydantic import SecretStr

from bridge.config.model.servicebus import ServiceBusBrokerConfig
from bridge.core.errors import BrokerError
from bridge.system.files import check_file
from bridge.system.tls import MAX_FILE


class NamespaceAccess:
    """Factory of the clients of one namespace. `namespace` is its full name."""

    def __init__(self, name: str, config: ServiceBusBrokerConfig, resolve: Callable[[str, str], Path]) -> None:
        """Read the settings of a namespace.

        resolve: from a field below `tls` and its value to a path. Raises: BrokerError for malformed settings.
        """
        self._config = config
        self._given: dict[str, Any] = {"retry_total": 0}
        if config.tls is not None and config.tls.ca is not None:
            try:
                self._given["ssl_context"] = ssl.create_default_context(
                    cafile=check_file(resolve("ca", config.tls.ca), MAX_FILE)
                )
            except (OSError, ssl.SSLError) as error:
                raise BrokerError(f"{name}: the file of `tls.ca` cannot be read: {error}") from error
        if config.endpoint is not None:
            self._given["custom_endpoint_address"] = config.endpoint
        self._given["transport_type"] = TransportType.AmqpOverWebsocket if config.websockets else TransportType.Amqp
        self._credential: Any = None
        if config.connection_string is not None:
            try:
                found = parse_connection_string(config.connection_string.get_secret_value())
            except ValueError as error:
                # The text of the error may quote the string
                raise BrokerError(
                    f"{name}: the connection string cannot be read ({type(error).__name__}); it is written "
                    "Endpoint=sb://HOST/;SharedAccessKeyName=NAME;SharedAccessKey=KEY"
                ) from None
            self.namespace = found.fully_qualified_namespace
        else:
            assert config.namespace is not None
            self.namespace = config.namespace

    def client(self) -> ServiceBusClient:
        """Create a client without retries of its own: the bridge replaces and counts failed parts."""
        config, given = self._config, self._given
        if "ssl_context" not in given:
            given = {**given, "ssl_context": public_authorities()}
        if config.connection_string is not None:
            return ServiceBusClient.from_connection_string(_of_all(config.connection_string), **given)
        if self._credential is None:
            self._credential = _credential(config)
        return ServiceBusClient(self.namespace, self._credential, **given)

    def administration(self, resolve: Callable[[str, str], Path]) -> Any:
        """Create a client for the settings of entities; None where there is none: an emulator, or a ready token."""
        from azure.servicebus.aio.management import ServiceBusAdministrationClient  # slow to import

        config, given = self._config, dict[str, Any](retry_total=0)
        if config.tls is not None and config.tls.ca is not None:
            given["connection_verify"] = str(resolve("ca", config.tls.ca))
        if config.connection_string is not None:
            text = _of_all(config.connection_string)
            if "usedevelopmentemulator=true" in text.replace(" ", "").lower():
                return None
            return ServiceBusAdministrationClient.from_connection_string(text, **given)
        if config.sas is not None and config.sas.signature is not None:
            return None
        if self._credential is None:
            self._credential = _credential(config)
        return ServiceBusAdministrationClient(self.namespace, self._credential, **given)

    async def close(self) -> None:
        """Close the credential. Idempotent."""
        credential, self._credential = self._credential, None
        if hasattr(credential, "close"):
            await credential.close()


@cache
def public_authorities() -> ssl.SSLContext:
    """Context of all connections without `tls.ca`, which nobody changes.

    It is the SDK's own, which the SDK would make again for each connection: that takes 20 ms of the event loop.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certifi.where())
    return context


def _of_all(connection_string: SecretStr) -> str:
    """Connection string without an entity's name: sources and targets name theirs, and the key decides."""
    parts = connection_string.get_secret_value().split(";")
    return ";".join(part for part in parts if not part.strip().lower().startswith("entitypath="))


def _credential(config: ServiceBusBrokerConfig) -> Any:
    sas = config.sas
    if sas is not None:
        if sas.signature is not None:
            return AzureSasCredential(sas.signature.get_secret_value())
        assert sas.name is not None
        assert sas.key is not None
        return AzureNamedKeyCredential(sas.name, sas.key.get_secret_value())
    from azure.identity import aio  # slow to import, and not needed with a key

    client: dict[str, Any] = {"client_id": config.client_id} if config.client_id else {}
    match config.credential:
        case "managed_identity":
            return aio.ManagedIdentityCredential(**client)
        case "workload_identity":
            return aio.WorkloadIdentityCredential(**client)
        case "environment":
            return aio.EnvironmentCredential()
        case "cli":
            return aio.AzureCliCredential()
        case "default":
            named = {"managed_identity_client_id": config.client_id, "workload_identity_client_id": config.client_id}
            return aio.DefaultAzureCredential(**(named if config.client_id else {}))
