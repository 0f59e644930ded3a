"""A small Kafka-protocol server for machines without Java: one node, in memory, in a thread of the test process.

It speaks the versions that aiokafka asks for. No disk, no replication, no TLS or SASL: the proofs want a real broker.
"""

from tests.kafka.server.server import ThreadedServer

__all__ = ["ThreadedServer"]
