"""Kafka, on aiokafka. Needs the extra `kafka`."""

from bridge.brokers.kafka.broker import KafkaBroker
from bridge.brokers.kafka.consumer_options import KafkaConsumerOptions

__all__ = ["KafkaBroker", "KafkaConsumerOptions"]
