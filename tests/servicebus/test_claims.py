"""Access with keys and tokens, expiry of claims, and TLS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.servicebus import ServiceBusMessage, TransportType
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusConnectionError,
)

from tests.kafka.certificates import Authority
from tests.kit.waiting import eventually
from tests.servicebus.addresses import AMQPS, own_address
from tests.servicebus.conftest import Serve
from tests.servicebus.issuer import OWNER, RECEIVER, SENDER, TokenIssuer
from tests.servicebus.sdk import Client, body, send, take
from tests.servicebus.server import (
    LISTEN,
    SEND,
    AccessKey,
    QueueConfig,
    ServerConfig,
    ServiceBusServer,
    SubscriptionConfig,
    TopicConfig,
)

ROOT = AccessKey("root", "the-root-key")
SENDS = AccessKey("sends", "a", frozenset({SEND}))
LISTENS = AccessKey("listens", "b", frozenset({LISTEN}))
OF_ORDERS = AccessKey("of-orders", "c", entity="orders")
KEYS = (ROOT, SENDS, LISTENS, OF_ORDERS)
QUEUES = (QueueConfig("orders"), QueueConfig("orders-old"))
TOPICS = (TopicConfig("events", (SubscriptionConfig("all"),)),)


def _client(server: ServiceBusServer, key: AccessKey) -> ServiceBusClient:
    return Client.from_connection_string(server.connection_string_with(key), retry_total=0)


async def test_a_key_opens_what_it_has_rights_on(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, TOPICS, keys=KEYS))
    async with _client(server, ROOT) as client:
        await send(client, "orders", ["1"])
        async with client.get_subscription_receiver("events", "all"):
            pass
    async with _client(server, SENDS) as client:
        await send(client, "orders", ["2"])
        with pytest.raises(ServiceBusAuthorizationError, match="'Listen' claim"):
            async with client.get_queue_receiver("orders"):
                pass
    async with _client(server, LISTENS) as client, client.get_queue_receiver("orders") as receiver:
        for message in await take(receiver, 2):
            await receiver.complete_message(message)
        with pytest.raises(ServiceBusAuthorizationError, match="'Send' claim"):
            await send(client, "orders", ["3"])
    assert server.counters.refused_claims == 0


async def test_a_wrong_key_a_wrong_name_and_a_foreign_entity_are_unauthenticated(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, keys=KEYS))
    for key in (AccessKey("root", "wrong"), AccessKey("unknown", "the-root-key")):
        async with _client(server, key) as client:
            with pytest.raises(ServiceBusAuthenticationError):
                await send(client, "orders", ["never"])
    async with _client(server, OF_ORDERS) as client:
        await send(client, "orders", ["yes"])
        with pytest.raises(ServiceBusAuthenticationError):
            await send(client, "orders-old", ["never"])
    assert server.counters.refused_claims == 3
    assert len(server.queue("orders")) == 1


async def test_a_ready_made_signature_works_until_it_ends(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, keys=KEYS))
    address = f"sb://{server.address}/orders"
    good, over = AccessKey.token(ROOT, address, 60), AccessKey.token(ROOT, address, -60)
    base = f"Endpoint=sb://{server.address};UseDevelopmentEmulator=true;SharedAccessSignature="
    async with Client.from_connection_string(base + good, retry_total=0) as client:
        await send(client, "orders", ["yes"])
    async with Client.from_connection_string(base + over, retry_total=0) as client:
        with pytest.raises(ServiceBusAuthenticationError):
            await send(client, "orders", ["never"])


async def test_an_expired_signature_is_one_by_the_servers_clock(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, keys=KEYS, clock_skew=7_200))
    async with _client(server, ROOT) as client:
        with pytest.raises(ServiceBusAuthenticationError):
            await send(client, "orders", ["never"])


@pytest.fixture
def tls(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


async def _tls_server(serve: Serve, authority: Authority, **details: Any) -> ServiceBusServer:
    return await serve(ServerConfig(QUEUES, TOPICS, certificate=authority.issue("server"), **details))


def _tls_client(
    server: ServiceBusServer, credential: Any, authority: Authority | None, retries: int = 0
) -> ServiceBusClient:
    return Client(
        "ns.servicebus.windows.net",
        credential,
        custom_endpoint_address=f"sb://{server.address}",
        connection_verify=str(authority.file) if authority else None,
        transport_type=TransportType.Amqp,
        retry_total=retries,
    )


async def test_bearer_tokens_give_what_roles_say_over_tls(serve: Serve, tls: Authority) -> None:
    issuer = TokenIssuer()
    issuer.assign("sender", SENDER, "orders")
    issuer.assign("receiver", RECEIVER)
    issuer.assign("owner", OWNER)
    server = await _tls_server(serve, tls, verifier=issuer)
    sending, receiving = issuer.credential("sender"), issuer.credential("receiver")
    async with _tls_client(server, sending, tls) as client:
        await send(client, "orders", ["1"])
        with pytest.raises(ServiceBusAuthorizationError, match="'Send' claim"):
            await send(client, "orders-old", ["never"])
    assert set(sending.requests) == {("https://servicebus.azure.net//.default",)}
    async with _tls_client(server, receiving, tls) as client, client.get_queue_receiver("orders") as receiver:
        [message] = await take(receiver, 1)
        assert body(message) == "1"
        await receiver.complete_message(message)
    async with _tls_client(server, issuer.credential("nobody"), tls) as client:
        with pytest.raises(ServiceBusAuthorizationError):
            await send(client, "orders", ["never"])
    async with _tls_client(server, TokenIssuer().credential("owner"), tls) as client:
        # The SDK reports this class where a custom endpoint is given; the cause is specific
        with pytest.raises(ServiceBusConnectionError) as caught:
            await send(client, "orders", ["never"])
        assert "401" in str(caught.value.__context__)


async def test_a_namespace_on_its_own_port_is_the_whole_truth(serve: Serve, tls: Authority) -> None:
    """Without a custom endpoint the SDK connects to port 5671, over TLS, whatever port the endpoint names."""
    issuer = TokenIssuer()
    issuer.assign("owner", OWNER)
    address = own_address()
    certificate = tls.issue("namespace", address)
    server = await serve(
        ServerConfig(QUEUES, host=address, port=AMQPS, certificate=certificate, verifier=issuer, keys=KEYS)
    )

    def connect(credential: Any) -> ServiceBusClient:
        return Client(address, credential, connection_verify=str(tls.file), retry_total=0)

    async with connect(issuer.credential("owner")) as client:
        await send(client, "orders", ["1"])
    async with connect(TokenIssuer().credential("owner")) as client:
        with pytest.raises(ServiceBusAuthenticationError):
            await send(client, "orders", ["never"])
    by_key = Client.from_connection_string(
        server.connection_string_with(ROOT), connection_verify=str(tls.file), retry_total=0
    )
    async with by_key as client:
        await send(client, "orders", ["2"])
    assert len(server.queue("orders")) == 2


async def test_keys_work_over_tls_and_a_strange_certificate_does_not(serve: Serve, tls: Authority) -> None:
    server = await _tls_server(serve, tls, keys=KEYS)
    async with _tls_client(server, AzureNamedKeyCredential(ROOT.name, ROOT.key), tls) as client:
        await send(client, "orders", ["1"])
    signature = AzureSasCredential(ROOT.token("sb://ns.servicebus.windows.net/orders", 60))
    async with _tls_client(server, signature, tls) as client:
        await send(client, "orders", ["2"])
    async with _tls_client(server, AzureNamedKeyCredential(ROOT.name, ROOT.key), None) as client:
        with pytest.raises(ServiceBusConnectionError):
            await send(client, "orders", ["never"])
    assert len(server.queue("orders")) == 2
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection("127.0.0.1", server.port, ssl=ssl.create_default_context())


async def test_a_link_ends_with_its_token(serve: Serve, tls: Authority) -> None:
    issuer = TokenIssuer()
    issuer.assign("owner", OWNER)
    server = await _tls_server(serve, tls, verifier=issuer)
    async with (
        _tls_client(server, issuer.credential("owner", lifetime=3), tls, retries=2) as client,
        client.get_queue_sender("orders") as sender,
    ):
        await sender.send_messages(ServiceBusMessage("in time"))
        await eventually(lambda: server.counters.detaches["orders"] == 1)
        await sender.send_messages(ServiceBusMessage("on a new link with a new token"))
        assert server.counters.attaches["orders"] == 2
    assert len(server.queue("orders")) == 2
