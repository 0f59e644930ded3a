"""Small Kafka protocol server for machines without Java: one node, in memory, in a thread of the test process, or in
a process of its own (`python -m`).

The server implements the API versions that aiokafka uses. It has no disk, no replication, no TLS and no SASL: the long
proofs need a real broker.
"""

from tests.kafka.server.server import ThreadedServer

__all__ = ["ThreadedServer"]
