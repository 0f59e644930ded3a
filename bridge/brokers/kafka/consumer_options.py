"""Options of a subscription that only Kafka has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KafkaConsumerOptions:
    """Options of a Kafka consumer.

    pattern: regular expression that selects the topics instead of `SubscribeOptions.topics`. instance_id: name that
    keeps this member's partitions over a restart. isolation: `read_committed` or `read_uncommitted`. on_out_of_range:
    `stop`, `earliest` or `latest`.
    """

    pattern: str | None = None
    instance_id: str | None = None
    isolation: str = "read_committed"
    on_out_of_range: str = "stop"
