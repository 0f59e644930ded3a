"""Reader and writer of the configuration file of the official Service Bus emulator; one file configures both
servers."""

from __future__ import annotations

import re
from typing import Any

from tests.servicebus.server.config import QueueConfig, SubscriptionConfig, TopicConfig
from tests.servicebus.server.entities.filters import (
    MATCH_ALL,
    CorrelationFilter,
    FalseFilter,
    Rule,
    SqlFilter,
    TrueFilter,
)

_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?")
_FOR_EVER = 10_000 * 86_400.0
"""Times to live above this limit, in seconds, mean none."""
_SYSTEM = ("CorrelationId", "MessageId", "To", "ReplyTo", "Label", "SessionId", "ReplyToSessionId", "ContentType")


def seconds(duration: str) -> float:
    """Parse an ISO 8601 duration into seconds. Raises: ValueError."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"{duration!r} is no ISO 8601 duration")
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return days * 86_400 + hours * 3_600 + minutes * 60 + rest


def iso(duration: float) -> str:
    """Format seconds as an ISO 8601 duration; whole seconds have no fraction, which the emulator rejects."""
    return f"PT{duration:g}S" if duration % 1 else f"PT{int(duration)}S"


def read(document: dict[str, Any]) -> tuple[tuple[QueueConfig, ...], tuple[TopicConfig, ...]]:
    """Return the queues and topics of all namespaces in the document."""
    namespaces = document["UserConfig"]["Namespaces"]
    queues = [_queue(one) for namespace in namespaces for one in namespace.get("Queues") or ()]
    topics = [_topic(one) for namespace in namespaces for one in namespace.get("Topics") or ()]
    return tuple(queues), tuple(topics)


def write(queues: tuple[QueueConfig, ...], topics: tuple[TopicConfig, ...]) -> dict[str, Any]:
    """Create the document from which `read` returns these queues and topics."""
    namespace = {
        "Name": "sbemulatorns",
        "Queues": [{"Name": queue.name, "Properties": _properties(queue)} for queue in queues],
        "Topics": [
            {
                "Name": topic.name,
                "Properties": _ttl_and_duplicates(topic.default_ttl, topic.duplicate_detection),
                "Subscriptions": [
                    {
                        "Name": one.name,
                        "Properties": _properties(one),
                        "Rules": [
                            {"Name": rule.name, "Properties": _rule_properties(rule)}
                            for rule in one.rules
                            if rule != MATCH_ALL  # the rule of a subscription without rules; it has no name here
                        ],
                    }
                    for one in topic.subscriptions
                ],
            }
            for topic in topics
        ],
    }
    return {"UserConfig": {"Namespaces": [namespace], "Logging": {"Type": "File"}}}


def _common(properties: dict[str, Any]) -> dict[str, Any]:
    ttl = seconds(properties.get("DefaultMessageTimeToLive", "P10675199D"))
    return {
        "lock_duration": seconds(properties.get("LockDuration", "PT1M")),
        "max_delivery_count": properties.get("MaxDeliveryCount", 10),
        "requires_session": properties.get("RequiresSession", False),
        "default_ttl": None if ttl >= _FOR_EVER else ttl,
        "dead_letter_on_expiration": properties.get("DeadLetteringOnMessageExpiration", False),
    }


def _window(properties: dict[str, Any]) -> float:
    if not properties.get("RequiresDuplicateDetection", False):
        return 0.0
    return seconds(properties.get("DuplicateDetectionHistoryTimeWindow", "PT10M"))


def _queue(entry: dict[str, Any]) -> QueueConfig:
    properties = entry.get("Properties") or {}
    return QueueConfig(entry["Name"], duplicate_detection=_window(properties), **_common(properties))


def _topic(entry: dict[str, Any]) -> TopicConfig:
    properties = entry.get("Properties") or {}
    subscriptions = tuple(_subscription(one) for one in entry.get("Subscriptions") or ())
    return TopicConfig(entry["Name"], subscriptions, _window(properties), _common(properties)["default_ttl"])


def _subscription(entry: dict[str, Any]) -> SubscriptionConfig:
    rules = tuple(_rule(one) for one in entry.get("Rules") or ()) or (MATCH_ALL,)
    return SubscriptionConfig(entry["Name"], rules=rules, **_common(entry.get("Properties") or {}))


def _rule(entry: dict[str, Any]) -> Rule:
    properties = entry.get("Properties") or {}
    if properties.get("FilterType") == "Correlation":
        given = properties["CorrelationFilter"]
        system = {name: given[name] for name in _SYSTEM if name in given}
        return Rule(entry["Name"], CorrelationFilter(system, given.get("Properties") or {}))
    if properties.get("FilterType") == "Sql":
        return Rule(entry["Name"], SqlFilter(properties["SqlFilter"]["SqlExpression"]))
    return Rule(entry["Name"], TrueFilter())


def _properties(one: QueueConfig | SubscriptionConfig) -> dict[str, Any]:
    return {
        "LockDuration": iso(one.lock_duration),
        "MaxDeliveryCount": one.max_delivery_count,
        "RequiresSession": one.requires_session,
        "DeadLetteringOnMessageExpiration": one.dead_letter_on_expiration,
        **(
            _ttl_and_duplicates(one.default_ttl, one.duplicate_detection)
            if isinstance(one, QueueConfig)
            else _ttl(one.default_ttl)
        ),
    }


def _ttl(ttl: float | None) -> dict[str, Any]:
    return {} if ttl is None else {"DefaultMessageTimeToLive": iso(ttl)}


def _ttl_and_duplicates(ttl: float | None, window: float) -> dict[str, Any]:
    properties = _ttl(ttl) | {"RequiresDuplicateDetection": window > 0}
    if window:
        properties["DuplicateDetectionHistoryTimeWindow"] = iso(window)
    return properties


def _rule_properties(rule: Rule) -> dict[str, Any]:
    if isinstance(rule.filter, CorrelationFilter):
        return {
            "FilterType": "Correlation",
            "CorrelationFilter": {**rule.filter.system, "Properties": rule.filter.properties},
        }
    if isinstance(rule.filter, TrueFilter | FalseFilter):
        expression = "1=1" if isinstance(rule.filter, TrueFilter) else "1=0"
    else:
        expression = rule.filter.expression  # type: ignore[attr-defined]
    return {"FilterType": "Sql", "SqlFilter": {"SqlExpression": expression}}
