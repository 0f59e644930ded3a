"""TLS and SASL on a test broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.core.errors import BrokerError, BrokerUnavailable
from tests.brokers.consumer import CAUSE, Assignments, numbered, numbers, take
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kafka.certificates import Authority
from tests.kafka.node import Node

pytestmark = [pytest.mark.prove, pytest.mark.timeout(120)]

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
HANDLER = (
    "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Node]:
    server = authority.issue("server")
    sasl = "listener.name.secure"
    node = Node(
        tmp_path_factory.mktemp("node") / "node",
        listeners={"PLAINTEXT": "PLAINTEXT", "SECURE": "SASL_SSL", "MUTUAL": "SSL", "OAUTH": "SASL_PLAINTEXT"},
        settings={
            "ssl.keystore.type": "PEM", "ssl.keystore.location": str(server),
            "ssl.truststore.type": "PEM", "ssl.truststore.location": str(authority.file),
            "listener.name.mutual.ssl.client.auth": "required",
            f"{sasl}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            f"{sasl}.plain.sasl.jaas.config": f'{PLAIN} required user_bridge="secret";',
            f"{sasl}.scram-sha-256.sasl.jaas.config": f"{SCRAM} required;",
            f"{sasl}.scram-sha-512.sasl.jaas.config": f"{SCRAM} required;",
            "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.oauth.connections.max.reauth.ms": "4000",
            "listener.name.oauth.oauthbearer.sasl.jaas.config": f'{OAUTH} required unsecuredLoginStringClaim_sub="x";',
            "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class": HANDLER,
        },
        format_arguments=(
            "--add-scram", "SCRAM-SHA-256=[name=bridge,password=secret]",
            "--add-scram", "SCRAM-SHA-512=[name=bridge,password=secret]",
        ),
    )  # fmt: skip
    node.start()
    yield node
    node.kill()


async def _works(harness: KafkaHarness, **config: Any) -> None:
    """Consume, dead-letter and publish a message."""
    topic = unique("secure")
    broker = await harness.broker(**config)
    await broker.publish(topic, numbered(3))
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    for delivery in await take(subscription, 3):
        await delivery.dead_letter(CAUSE)
    await subscription.flush()
    await harness.stop()


def _at(node: Node, listener: str) -> KafkaHarness:
    return KafkaHarness(f"127.0.0.1:{node.ports[listener]}")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_sasl_over_tls(node: Node, authority: Authority, mechanism: str) -> None:
    sasl = {"mechanism": mechanism, "username": "bridge", "password": "secret"}
    await _works(_at(node, "SECURE"), tls={"ca": str(authority.file)}, sasl=sasl)


async def test_client_certificates(node: Node, authority: Authority) -> None:
    certificate = authority.issue("client")
    await _works(_at(node, "MUTUAL"), tls={"ca": str(authority.file), "certificate": str(certificate)})


async def test_tokens_of_a_provider_of_one_s_own(node: Node) -> None:
    sasl = {"mechanism": "OAUTHBEARER", "token": "tests.brokers.kafka.tokens:unsigned"}
    await _works(_at(node, "OAUTH"), sasl=sasl)


@pytest.mark.parametrize(
    ("listener", "config", "what"),
    [
        ("SECURE", {"mechanism": "PLAIN", "password": "wrong"}, "the server refused the credentials"),
        ("SECURE", {"mechanism": "SCRAM-SHA-512", "password": "wrong"}, "the server refused the credentials"),
        ("MUTUAL", {"mechanism": "PLAIN", "password": "secret"}, "cannot connect"),
    ],
)
async def test_what_is_refused_is_told_in_seconds(
    node: Node, authority: Authority, listener: str, config: dict[str, str], what: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=what) as received:
        await _at(node, listener).broker(tls={"ca": str(authority.file)}, sasl={"username": "bridge", **config})
    assert time.monotonic() - begun < 5
    assert "wrong" not in str(received.value)


async def test_an_untrusted_certificate_is_told_in_seconds(node: Node, tmp_path: Path) -> None:
    other = Authority(tmp_path, "somebody else")
    begun = time.monotonic()
    sasl = {"mechanism": "PLAIN", "username": "bridge", "password": "secret"}
    with pytest.raises(BrokerUnavailable, match=r"certificate is not trusted.*set `tls.ca`"):
        await _at(node, "SECURE").broker(tls={"ca": str(other.file)}, sasl=sasl)
    assert time.monotonic() - begun < 5


async def test_a_provider_that_fails_is_told(node: Node) -> None:
    sasl = {"mechanism": "OAUTHBEARER", "token": "tests.brokers.kafka.tokens:failing"}
    with pytest.raises(BrokerUnavailable, match=r"the credential returned no token: LookupError$"):
        await _at(node, "OAUTH").broker(sasl=sasl)


async def test_a_certificate_that_cannot_be_read_is_named(node: Node, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="a certificate or key below `tls` cannot be read"):
        await _at(node, "MUTUAL").broker(tls={"ca": str(tmp_path / "nowhere.pem")})


async def test_sessions_that_the_server_ends_are_not_noticed(node: Node) -> None:
    """The client does not reauthenticate within a connection: the server closes it, and the client reconnects."""
    topic = unique("expires")
    broker = await _at(node, "OAUTH").broker(
        sasl={"mechanism": "OAUTHBEARER", "token": "tests.brokers.kafka.tokens:unsigned"}, commit_interval="200ms"
    )
    listener = Assignments()
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), listener)
    found: list[int] = []
    producers = set()
    begun = time.monotonic()
    while time.monotonic() - begun < 13:  # three session lifetimes
        await broker.publish(topic, numbered(5, len(found), b"k"))
        producers.add(broker._producer._current)
        for delivery in await take(subscription, 5):
            found += numbers([delivery])
            await delivery.complete()
        await asyncio.sleep(0.1)
    assert found == list(range(len(found)))
    assert listener.revoked_ever == []
    assert len(producers) == 1


async def test_tokens_for_msk_reach_the_server(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server accepts unsigned tokens only and refuses this one."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    sasl = {"mechanism": "OAUTHBEARER", "token": "aws-msk", "region": "eu-west-1"}
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="the server may have refused the token") as received:
        await _at(node, "OAUTH").broker(sasl=sasl)
    assert time.monotonic() - begun < 8
    assert "AKID" not in str(received.value)
