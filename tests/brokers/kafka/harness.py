"""Kafka brokers for tests."""

from __future__ import annotations

import uuid
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String

from bridge.brokers.kafka import KafkaBroker
from bridge.config.model.brokers import KafkaBrokerConfig
from tests.brokers.consumer import Capabilities
from tests.kit.waiting import eventually

NEVER = "1d"
"""Commit interval longer than any test: only flush, revoke and close commit."""

TOPICS = {"orders", "orders.dlq", "dead-orders-letters", "shared", "two", *(f"topic-{number}" for number in range(5))}
GROUPS = {"bridge", "operators", "a", "b", "late", "g"}
"""Topics and groups of the contract suites."""


def unique(name: str) -> str:
    """Return a name that no other test has."""
    return f"{name}-{uuid.uuid4().hex[:10]}"


async def delete_topics(admin: AIOKafkaAdminClient, *names: str) -> None:
    """Delete topics, and wait until they are gone."""

    async def are_gone() -> bool:
        return not set(names) & set(await admin.list_topics())

    await admin.delete_topics(list(names))
    await eventually(are_gone, poll=0.02)


class KafkaHarness:
    """Kafka cluster and brokers on it."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.capabilities = Capabilities()
        self._brokers: list[KafkaBroker] = []

    def config(self, **config: object) -> KafkaBrokerConfig:
        """Return settings for tests, overridden by `config`."""
        settings = {
            "type": "kafka", "bootstrap_servers": self.bootstrap, "create_topics": True, "commit_interval": NEVER,
            "session_timeout": "3s", "rebalance_timeout": "10s", "request_timeout": "10s", "metadata_max_age": "2s",
        }  # fmt: skip
        return KafkaBrokerConfig.model_validate(settings | config)

    async def broker(self, **config: object) -> KafkaBroker:
        """Start another broker. config: settings of `KafkaBrokerConfig`."""
        broker = KafkaBroker("kafka", self.config(**config), lambda field, value: Path(value))
        self._brokers.append(broker)
        await broker.start()
        return broker

    async def crash(self) -> None:
        """Drop the clients without a commit or a revocation; the clients still leave the group, which saves the session
        timeout."""
        brokers, self._brokers = self._brokers, []
        for broker in brokers:
            for subscription in tuple(broker._subscriptions):
                for task in subscription._tasks:
                    task.cancel()
                subscription._assignment._consumer._subscription._listener = None
                await subscription._consumer.stop()
                await subscription._fetcher.stop()
                for partition in subscription._assignment.partitions.values():
                    partition.revoked = True
                subscription._closed = True
                broker._subscriptions.discard(subscription)
            await broker.stop()

    async def create_topic(self, name: str, partitions: int, **settings: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            topic = NewTopic(name, partitions, 1, topic_configs={k.replace("_", "."): v for k, v in settings.items()})
            response = await admin.create_topics([topic])
            assert not any(code for _, code, *_ in response.topic_errors), response

            # A node lists the topic some time after the controller has created it
            async def is_listed() -> bool:
                return name in await admin.list_topics()

            await eventually(is_listed, poll=0.02)
        finally:
            await admin.close()

    async def clear(self) -> None:
        """Delete the topics and groups of the contract suites; the cluster may have others."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            topics = [topic for topic in await admin.list_topics() if topic in TOPICS]
            if topics:
                await delete_topics(admin, *topics)
            groups = [group for group, _ in await admin.list_consumer_groups() if group in GROUPS]
            if groups:
                node = await admin.find_coordinator(groups[0])
                await admin._send_request(_DeleteGroups(groups), node)
        finally:
            await admin.close()

    async def stop(self) -> None:
        for broker in self._brokers:
            await broker.stop()


class _DeleteGroupsResponse(Response):
    API_KEY = 42
    API_VERSION = 0
    SCHEMA = Schema(("throttle_time_ms", Int32), ("results", Array(("group", String("utf-8")), ("error_code", Int16))))


class _DeleteGroupsRequest(RequestStruct):
    API_KEY = 42
    API_VERSION = 0
    RESPONSE_TYPE = _DeleteGroupsResponse
    SCHEMA = Schema(("groups", Array(String("utf-8"))))


class _DeleteGroups(Request[_DeleteGroupsRequest]):
    API_KEY = 42

    def __init__(self, groups: list[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: type[_DeleteGroupsRequest]) -> _DeleteGroupsRequest:
        return request_struct_class(self._groups)
