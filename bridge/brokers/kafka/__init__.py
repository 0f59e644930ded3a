"""Kafka, on aiokafka. Needs the extra `kafka`."""

from bridge.brokers.kafka.broker import KafkaBroker as KafkaBroker
