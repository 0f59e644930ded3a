"""Kafka, on aiokafka. Needs the extra `kafka`."""

from bridge.brokers.kafka.broker import KafkaBroker
from bridge.brokers.kafka.wishes import KafkaConsumerOptions

__all__ = ["KafkaBroker", "KafkaConsumerOptions"]
