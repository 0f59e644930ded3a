"""Authentication, and fast and clear reports of refused access."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from azure.identity import aio as identity

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.servicebus import ServiceBusBroker
from bridge.config.model.servicebus import ServiceBusBrokerConfig, ServiceBusSourceConfig, SessionsConfig
from bridge.core.errors import BrokerError, BrokerUnavailable, PublishFailed
from bridge.core.message import Message
from tests.brokers.consumer import Assignments, numbers, take
from tests.kafka.certificates import Authority
from tests.kit.waiting import eventually
from tests.servicebus.conftest import Serve, serve
from tests.servicebus.issuer import RECEIVER, SENDER, TokenIssuer
from tests.servicebus.server import LISTEN, SEND, AccessKey, QueueConfig, ServerConfig, ServiceBusServer

__all__ = ["serve"]

SECONDS = 10.0
"""Seconds within which a refusal must be reported."""

ROOT = AccessKey("root", "the-root-key")
SENDS = AccessKey("sends", "a", frozenset({SEND}))
LISTENS = AccessKey("listens", "b", frozenset({LISTEN}))
QUEUES = (QueueConfig("orders"),)
KEYS = (ROOT, SENDS, LISTENS)


def make(**config: Any) -> ServiceBusBroker:
    settings = ServiceBusBrokerConfig.model_validate({"type": "servicebus", **config})
    return ServiceBusBroker("bus", settings, lambda field, value: Path(value))


async def received(action: Callable[[], Awaitable[Any]]) -> str:
    with pytest.raises(BrokerError) as error:
        async with asyncio.timeout(SECONDS):
            await action()
    assert "the-root-key" not in str(error.value)
    return str(error.value)


async def test_refusals_are_said_within_seconds(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, keys=KEYS))
    cases = (
        (AccessKey("root", "wrong"), "orders", "refused the credentials"),
        (SENDS, "orders", "a right is missing"),
        (ROOT, "nowhere", "no queue nowhere in 127.0.0.1"),
    )
    for key, queue, text in cases:
        broker = make(connection_string=server.connection_string_with(key))
        await broker.start()
        options = SubscribeOptions((queue,), dead_letter=None)
        assert text in await received(lambda broker=broker, options=options: broker.subscribe(options, Assignments()))  # type: ignore[misc]
        await broker.stop()


async def test_an_unknown_entity_is_no_matter_of_credentials(serve: Serve) -> None:
    """The service checks the entity with the claim, and refuses an unknown entity with 404."""
    server = await serve(ServerConfig(QUEUES, keys=KEYS))
    for place in ({}, {"endpoint": f"localhost:{server.port}"}):
        broker = make(connection_string=server.connection_string_with(ROOT), **place)
        await broker.start()
        server.faults.add("claim", "reject", condition="amqp:not-found", times=1)
        options = SubscribeOptions(("orders",), dead_letter=None)
        assert "no queue orders in" in await received(
            lambda broker=broker, options=options: broker.subscribe(options, Assignments())  # type: ignore[misc]
        )
        server.faults.clear()
        server.faults.add("claim", "reject", condition="amqp:not-found", times=1)
        with pytest.raises(PublishFailed, match="no queue or topic orders in"):
            await broker.publish("orders", [Message(b"1")])
        server.faults.clear()
        await broker.stop()


async def test_refused_publishes_fail_at_once(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, keys=KEYS))
    for key, queue, text in (
        (LISTENS, "orders", "a right is missing"),
        (ROOT, "nowhere", "no queue or topic nowhere"),
    ):
        broker = make(connection_string=server.connection_string_with(key))
        await broker.start()
        with pytest.raises(PublishFailed, match=text):
            async with asyncio.timeout(SECONDS):
                await broker.publish(queue, [Message(b"1")])
        await broker.stop()


async def test_nobody_there_is_said(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES))
    text = server.connection_string
    await server.stop()
    broker = make(connection_string=text)
    await broker.start()
    await received(lambda: broker.subscribe(SubscribeOptions(("orders",), dead_letter=None), Assignments()))
    await broker.stop()


async def round_trip(broker: ServiceBusBroker) -> None:
    await broker.start()
    await broker.publish("orders", [Message(b"7")])
    subscription = await broker.subscribe(SubscribeOptions(("orders",), dead_letter=None), Assignments())
    [delivery] = await take(subscription, 1)
    assert numbers([delivery]) == [7]
    await delivery.complete()
    await broker.stop()


@pytest.fixture
async def secure(tmp_path: Path, serve: Serve) -> tuple[ServiceBusServer, TokenIssuer, Path]:
    """Server over TLS with keys and tokens, and the authority of its certificate."""
    authority = Authority(tmp_path)
    issuer = TokenIssuer()
    server = await serve(ServerConfig(QUEUES, keys=KEYS, verifier=issuer, certificate=authority.issue("server")))
    return server, issuer, authority.file


async def test_tls_and_shared_access(secure: tuple[ServiceBusServer, TokenIssuer, Path]) -> None:
    server, _, ca = secure
    place = {"namespace": "localhost.test", "endpoint": f"localhost:{server.port}", "tls": {"ca": str(ca)}}
    await round_trip(make(**place, sas={"name": "root", "key": "the-root-key"}))
    broker = make(**{**place, "tls": None}, sas={"name": "root", "key": "the-root-key"})
    await broker.start()
    text = await received(lambda: broker.subscribe(SubscribeOptions(("orders",), dead_letter=None), Assignments()))
    assert "tls.ca" in text
    await broker.stop()


async def test_tokens(secure: tuple[ServiceBusServer, TokenIssuer, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    server, issuer, ca = secure
    asked: dict[str, Any] = {}

    def credential(**given: Any) -> Any:
        asked.update(given)
        return issuer.credential("bridge")

    for kind in ("DefaultAzureCredential", "ManagedIdentityCredential", "WorkloadIdentityCredential"):
        monkeypatch.setattr(identity, kind, credential)
    place = {"namespace": "localhost.test", "endpoint": f"localhost:{server.port}", "tls": {"ca": str(ca)}}
    issuer.assign("bridge", RECEIVER, "orders")
    issuer.assign("bridge", SENDER, "orders")
    await round_trip(make(**place))
    await round_trip(make(**place, credential="managed_identity", client_id="c-1"))
    assert asked == {"client_id": "c-1"}
    await round_trip(make(**place, credential="workload_identity", client_id="c-2"))
    assert asked == {"client_id": "c-2"}


@pytest.mark.parametrize(
    "sessions",
    [None, SessionsConfig.model_validate({"concurrent": 1, "idle": "100ms", "turn": "3s"})],
    ids=["plain", "sessions"],
)
async def test_a_new_token_is_shown_while_nothing_is_read(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, sessions: SessionsConfig | None
) -> None:
    """No read and no lock renewal is due before the token expires."""
    authority, issuer = Authority(tmp_path), TokenIssuer()
    queue = QueueConfig("orders", lock_duration=300, requires_session=sessions is not None)
    config = ServerConfig((queue,), keys=KEYS, verifier=issuer, certificate=authority.issue("server"))
    server = await serve(config)
    monkeypatch.setattr(identity, "DefaultAzureCredential", lambda **given: issuer.credential("bridge", lifetime=15))
    issuer.assign("bridge", RECEIVER, "orders")
    issuer.assign("bridge", SENDER, "orders")
    place = {"endpoint": f"localhost:{server.port}", "tls": {"ca": str(authority.file)}}
    broker = make(namespace="localhost.test", **place)
    await broker.start()
    await broker.publish("orders", [Message(b"7", b"k") for _ in range(30)])
    options = SubscribeOptions(
        ("orders",), dead_letter=None, sessions=sessions, servicebus=ServiceBusSourceConfig(prefetch=5)
    )
    subscription = await broker.subscribe(options, Assignments())
    deliveries = await take(subscription, 1)
    claims = server.counters.claims
    await eventually(lambda: server.counters.claims >= claims + 2)
    assert (subscription.reconnects, subscription.stopped()) == (0, {})
    await deliveries[0].complete()
    assert server.counters.outcome("orders", "complete") == 1
    await broker.stop()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "needs `namespace` or `connection_string`"),
        ({"namespace": "a", "connection_string": "b"}, "and not both"),
        ({"namespace": "a b"}, "a namespace is written"),
        ({"namespace": "a", "sas": {"name": "n"}}, "needs `name` and `key`"),
        ({"namespace": "a", "sas": {"signature": "s"}, "client_id": "c"}, "`client_id` is for Entra ID"),
        ({"namespace": "a", "endpoint": "b"}, "HOST:PORT"),
    ],
)
def test_configurations_are_checked(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(**config)


def test_the_domain_may_be_left_out() -> None:
    assert ServiceBusBrokerConfig(type="servicebus", namespace="shop").namespace == "shop.servicebus.windows.net"
    assert ServiceBusBrokerConfig(type="servicebus", namespace="sb://x.y/").namespace == "x.y"


async def test_a_malformed_connection_string_is_not_quoted() -> None:
    with pytest.raises(BrokerError, match="cannot be read") as error:
        await make(connection_string="Endpoint=;secret").start()
    assert "secret" not in str(error.value)
    assert not isinstance(error.value, BrokerUnavailable)
