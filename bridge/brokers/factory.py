"""Brokers of a configuration: their implementations, and their meaning of the settings of sources and targets.

Outside of the brokers' own packages, only this module and `bridge.config` tell kinds of brokers apart. Client
libraries come with extras and are imported only when a broker is created.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridge.brokers.base import Broker, Delivery, SubscribeOptions, UnreadablePolicy
from bridge.brokers.local import LocalBroker
from bridge.brokers.local.diagnosis import diagnose as diagnose_local
from bridge.config.model.brokers import BrokerConfig, KafkaBrokerConfig, LocalBrokerConfig, TargetConfig
from bridge.config.model.servicebus import ServiceBusBrokerConfig, ServiceBusSourceConfig
from bridge.config.model.sources import DEAD_LETTER_TOPIC, KafkaSourceConfig, OnUnreadable, SourceConfig
from bridge.config.model.types import check_entity, check_topic
from bridge.config.model.webhook import WebhookBrokerConfig
from bridge.core.bytetext import text_of
from bridge.core.diagnosis import Examiner
from bridge.core.message import Message


def create(name: str, config: BrokerConfig, resolve: Callable[[str, str], Path]) -> Broker:
    """Create a broker, not started.

    resolve: from a field, `path` or one below `tls`, and its value to a path. Raises: ModuleNotFoundError when the
    client library is missing.
    """
    match config:
        case LocalBrokerConfig():
            return LocalBroker(name, resolve("path", config.path), config)
        case KafkaBrokerConfig():
            from bridge.brokers.kafka import KafkaBroker

            return KafkaBroker(name, config, resolve)
        case ServiceBusBrokerConfig():
            from bridge.brokers.servicebus import ServiceBusBroker

            return ServiceBusBroker(name, config, resolve)
        case WebhookBrokerConfig():
            from bridge.brokers.webhook import WebhookBroker

            return WebhookBroker(name, config, resolve)


async def diagnose(
    name: str,
    config: BrokerConfig,
    resolve: Callable[[str, str], Path],
    sources: Mapping[str, SourceConfig],
    targets: Mapping[str, TargetConfig],
    examiner: Examiner,
) -> Mapping[str, float]:
    """Check a broker for `bridge doctor`, and what these sources and targets need there. Nothing is changed.

    resolve: see `create`.
    Returns the seconds that the messages of each source are kept, where known. Raises: ModuleNotFoundError when the
    client library is missing.
    """
    match config:
        case LocalBrokerConfig():
            return await diagnose_local(name, config, resolve("path", config.path), sources, examiner)
        case KafkaBrokerConfig():
            from bridge.brokers.kafka.diagnosis import diagnose as diagnose_kafka

            return await diagnose_kafka(name, config, resolve, sources, targets, examiner)
        case ServiceBusBrokerConfig():
            from bridge.brokers.servicebus.diagnosis import diagnose as diagnose_servicebus

            return await diagnose_servicebus(name, config, resolve, sources, targets, examiner)
        case WebhookBrokerConfig():
            from bridge.brokers.webhook.diagnosis import diagnose as diagnose_webhook

            return await diagnose_webhook(name, config, resolve, examiner)


def extras_of(config: BrokerConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Extras of the package with the client libraries of a broker, each with the key that asks for it."""
    if isinstance(config, KafkaBrokerConfig | ServiceBusBrokerConfig):
        yield config.type, ("type",)
    if isinstance(config, KafkaBrokerConfig) and config.sasl is not None and config.sasl.token == "aws-msk":  # noqa: S105 - a kind of token
        yield "aws-msk", ("sasl", "token")


def server_of(config: BrokerConfig) -> dict[str, str]:
    """Server object of AsyncAPI: host and protocol. Of a connection string only the host is shown."""
    match config:
        case LocalBrokerConfig():
            return {"host": "localhost", "protocol": "durable-bridge-local"}
        case KafkaBrokerConfig():
            is_secure = config.tls is not None or config.sasl is not None
            return {"host": config.hosts[0], "protocol": "kafka-secure" if is_secure else "kafka"}
        case ServiceBusBrokerConfig():
            host = config.endpoint or config.namespace
            if host is None and config.connection_string is not None:
                found = re.search(r"Endpoint=sb://([^/;]+)", config.connection_string.get_secret_value(), re.IGNORECASE)
                host = None if found is None else found[1]
            return {"host": host or "servicebus.windows.net", "protocol": "amqp1"}
        case WebhookBrokerConfig():
            return {"host": config.host, "protocol": "https" if config.is_https else "http"}


def operation_bindings(config: BrokerConfig, source: SourceConfig) -> dict[str, Any]:
    """Bindings of AsyncAPI for the operation of a source; empty for a broker without any."""
    if not isinstance(config, KafkaBrokerConfig):
        return {}
    return {"kafka": {"groupId": {"type": "string", "enum": [source.group]}, "bindingVersion": "0.5.0"}}


def messaging_system(config: BrokerConfig) -> str:
    """Value of `messaging.system` in spans, by OpenTelemetry's conventions."""
    return "durable_bridge" if isinstance(config, LocalBrokerConfig) else config.type


def span_attributes(config: BrokerConfig) -> Callable[[Delivery], Iterable[tuple[str, int]]]:
    """Function that yields the attributes of a delivery's span that only this broker has."""
    match config:
        case KafkaBrokerConfig():
            return lambda delivery: [("messaging.kafka.offset", delivery.position.offset)]
        case ServiceBusBrokerConfig():
            return lambda delivery: [("messaging.servicebus.message.delivery_count", delivery.attempt)]
        case LocalBrokerConfig() | WebhookBrokerConfig():
            return lambda _: ()


def is_cluster(config: BrokerConfig) -> bool:
    """True for a broker that several entries of `brokers` may name, each with addresses of its own."""
    return isinstance(config, KafkaBrokerConfig)


def rebalances_groups(config: BrokerConfig) -> bool:
    """True for a broker that moves partitions of a whole group when one of its members joins or leaves."""
    return isinstance(config, KafkaBrokerConfig)


def subscribe_options(broker: BrokerConfig, source: SourceConfig) -> SubscribeOptions:
    """Subscription options of a source."""
    match broker:
        case LocalBrokerConfig():
            return SubscribeOptions(
                _local_topics(source),
                source.subscription or source.group,
                source.start,
                source.dead_letter or DEAD_LETTER_TOPIC,
                unreadable=_unreadable(source, stops=True),
            )
        case KafkaBrokerConfig():
            return SubscribeOptions(
                source.topics,
                source.group,
                source.start,
                source.dead_letter or DEAD_LETTER_TOPIC,
                unreadable=_unreadable(source, stops=True),
                kafka=source.kafka or KafkaSourceConfig(),
            )
        case ServiceBusBrokerConfig():
            settings = source.servicebus or ServiceBusSourceConfig()
            return SubscribeOptions(
                source.origins,
                dead_letter=source.dead_letter,
                unreadable=_unreadable(source, stops=False),
                max_hold=settings.max_hold,
                prefetch_bytes=source.limits.max_in_flight_bytes,
                sessions=source.sessions,
                servicebus=settings,
            )
        case WebhookBrokerConfig():
            raise AssertionError("`bridge check` refuses sources on a webhook")


def _unreadable(source: SourceConfig, *, stops: bool) -> UnreadablePolicy:
    """Treatment of messages that cannot be parsed. stops: the broker has partitions that can be stopped.

    Messages behind one with an unknown key may have the same key: order and quarantine by key stop there.
    """
    if source.on_unreadable is not None:
        return UnreadablePolicy(source.on_unreadable, source.on_unreadable)
    by_key = source.ordering not in ("partition", "none") or source.quarantine is not None
    stop: OnUnreadable = "stop_partition" if stops and by_key else "dead_letter"
    # An ordering expression has no value for an unreadable message, whatever its message key
    return UnreadablePolicy(stop if source.ordering not in ("key", "partition", "none") else "dead_letter", stop)


def _local_topics(source: SourceConfig) -> tuple[str, ...]:
    """Local topics of a source, also of one that a test moves from another broker to a local one.

    A subscription becomes a group of its topic.
    """
    if source.topics or (entity := source.queue or source.topic) is None:
        return source.topics
    return (entity if source.sub_queue is None else DEAD_LETTER_TOPIC.replace("{topic}", entity),)


def has_amqp_headers(broker: BrokerConfig | None, source: SourceConfig) -> bool:
    """Return whether header values of the source's messages are in the encoding of AMQP.

    broker: broker of the source; None if the configuration has none of its name.
    """
    if not isinstance(broker, KafkaBrokerConfig):
        return False
    wanted = source.kafka.amqp_headers if source.kafka is not None else None
    return broker.is_event_hubs if wanted is None else wanted


def check_destination(broker: BrokerConfig, name: str) -> None:
    """Check the name of a topic or queue to publish to. Raises: ValueError."""
    if isinstance(broker, WebhookBrokerConfig):
        raise ValueError("a webhook has no topics: workflows publish to it through a target")
    check_entity(name) if isinstance(broker, ServiceBusBrokerConfig) else check_topic(name)


def message_shape(config: TargetConfig) -> Callable[[Message], Message]:
    """Function that a target applies to a message before its broker gets it."""
    settings = config.servicebus
    if settings is None:
        return lambda message: message

    def shape(message: Message) -> Message:
        changes: dict[str, Any] = {}
        if settings.key != "session":
            changes["key"] = None
            if settings.key == "partition" and message.partition_key is None and message.key is not None:
                changes["partition_key"] = text_of(message.key)
        if message.time_to_live is None:
            changes["time_to_live"] = settings.time_to_live
        return replace(message, **changes)

    return shape
