"""Options of a subscription that only Kafka has."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.brokers.base import SubscribeOptions


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

    @classmethod
    def of(cls, options: SubscribeOptions) -> KafkaConsumerOptions:
        """Kafka options of a subscription, or the defaults. Raises: TypeError for options of another broker."""
        consumer_options = options.broker_options
        if consumer_options is None:
            return cls()
        if not isinstance(consumer_options, cls):
            raise TypeError(f"{type(consumer_options).__name__} are not wishes that Kafka understands")
        return consumer_options
