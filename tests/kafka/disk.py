"""Write arbitrary bytes into the log of a real Kafka node.

A broker accepts only whole valid batches. Therefore the broker first gets one placeholder batch of the same size, with
as many records as the log has offsets; then its log file is overwritten. The index has no entry within the first batch
of a segment. The broker therefore locates batches by the headers on disk, as it does after disk corruption.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.kafka.batches import Log, batch, record
from tests.kafka.node import Node
from tests.kafka.produce import produce


async def place(nodes: Iterable[Node], topic: str, partition: int, log: Log) -> None:
    """Make the log the content of an empty partition on each node that has a replica."""
    nodes = list(nodes)
    data = b"".join(log.batches)
    await produce(nodes[0].bootstrap, topic, partition, _placeholder(log.end, len(data)))
    for node in nodes:
        overwrite(node, topic, partition, data)


def overwrite(node: Node, topic: str, partition: int, data: bytes, *, at: int = 0) -> None:
    """Overwrite bytes on the disk of a node, which may be running."""
    with segment(node, topic, partition).open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


def segment(node: Node, topic: str, partition: int) -> Path:
    """Return the file of the first segment of a partition."""
    return node.directory / "log" / f"{topic}-{partition}" / f"{0:020}.log"


def _placeholder(count: int, size: int) -> bytes:
    """Build a batch of `size` bytes with `count` records. Raises: ValueError when no such batch exists."""
    rest = [record(at, None) for at in range(1, count)]
    missing = size - len(batch([record(0, b""), *rest]))
    # The length in front of a field may grow by a byte and skip one size; another key reaches that size
    for key in (None, b"1"):
        for shorter in range(8):
            found = batch([record(0, bytes(max(missing - shorter, 0)), key), *rest])
            if len(found) == size:
                return found
    raise ValueError(f"no batch of {count} records has {size} bytes")
