"""Commits of a group's positions to the broker: gathered, with a time limit, never for a revoked partition."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from aiokafka.structs import OffsetAndMetadata

from bridge.brokers.kafka.connection import Connection
from bridge.brokers.kafka.partition import KafkaPartition
from bridge.core.errors import BrokerError, BrokerUnavailable, PartitionRevoked

_log = logging.getLogger(__name__)

METADATA_LIMIT = 4000
"""Longest text; brokers refuse more than 4096 bytes (`offset.metadata.max.bytes`)."""

_PREFIX = "bridge1:"
_STAMP_BYTES = 8
_RAW_LIMIT = (METADATA_LIMIT - len(_PREFIX)) * 3 // 4 - _STAMP_BYTES
_FARTHEST = 1 << 20


def encode_metadata(base: int, done: Sequence[int], stamp: int = 0) -> str:
    """Completed offsets above a committed position, as the metadata of its commit.

    done: offsets at or above `base`, ascending. When not all fit, the highest are left out and processed again.
    stamp: of the last move of the position (`bridge.brokers.positions.Move`). It follows the compressed bits: versions
    of the bridge without moves read the bits and ignore it.
    """
    trailer = stamp.to_bytes(_STAMP_BYTES, "big") if stamp else b""
    without = _encoded(zlib.compress(b"") + trailer) if trailer else ""
    if not done:
        return without
    span = min(done[-1] - base + 1, _FARTHEST)
    while span:
        bits = bytearray((span + 7) // 8)
        for offset in done:
            distance = offset - base
            if distance >= span:
                break
            bits[distance >> 3] |= 1 << (distance & 7)
        packed = zlib.compress(bytes(bits), 6)
        if len(packed) <= _RAW_LIMIT:
            return _encoded(packed + trailer)
        span = span * 3 // 4
    return without


def _encoded(raw: bytes) -> str:
    return _PREFIX + base64.b64encode(raw).decode()


def decode_metadata(base: int, text: str) -> list[int]:
    """Completed offsets that were given to `encode_metadata`, ascending. Metadata of other programs is ignored."""
    bits, _ = _decoded(text)
    return [base + (at << 3 | bit) for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1]


def decode_stamp(text: str) -> int:
    """Stamp that was given to `encode_metadata`; 0 without one, and for metadata of other programs."""
    _, trailer = _decoded(text)
    return int.from_bytes(trailer, "big") if len(trailer) == _STAMP_BYTES else 0


def _decoded(text: str) -> tuple[bytes, bytes]:
    """Bits, and the bytes behind them."""
    if not text.startswith(_PREFIX):
        return b"", b""
    try:
        unpack = zlib.decompressobj()
        bits = unpack.decompress(base64.b64decode(text[len(_PREFIX) :], validate=True), _FARTHEST // 8 + 1)
    except (binascii.Error, ValueError, zlib.error):
        return b"", b""
    return bits, unpack.unused_data


COMMIT_SECONDS = 10.0
"""Longest duration of one commit in seconds; the client itself would wait forever."""


class Commits:
    """Commits of one subscription. The consumer may change; the caller passes the partitions assigned at the moment."""

    def __init__(self, connection: Connection, group: str) -> None:
        self._connection = connection
        self._group = group
        self._turn = asyncio.Lock()
        self._sending: asyncio.Task[None] | None = None
        self._failing = False
        self.count = 0
        self.seconds = 0.0

    async def run(self, consumer: Any, partitions: Callable[[], Collection[KafkaPartition]]) -> None:
        """Commit every `commit_interval` seconds until cancelled."""
        while True:
            await asyncio.sleep(self._connection.config.commit_interval)
            try:
                await self.commit(consumer, partitions())
            except (BrokerError, PartitionRevoked) as error:
                if not self._failing:
                    _log.warning("group %s cannot commit and tries again: %s", self._group, error)
                self._failing = True
            else:
                self._failing = False

    async def commit(
        self, consumer: Any, partitions: Collection[KafkaPartition], seconds: float = COMMIT_SECONDS
    ) -> None:
        """Return when every earlier completion is committed.

        Raises: BrokerUnavailable (the positions are kept for the next commit), PartitionRevoked (the group reassigned
        the partitions).
        """
        async with self._turn:
            offsets: dict[Any, OffsetAndMetadata] = {}
            sent: list[tuple[KafkaPartition, tuple[int, str]]] = []
            for partition in partitions:
                if partition.revoked:
                    continue
                offset, done = partition.snapshot()
                position = offset, encode_metadata(offset, done, partition.stamp)
                if position != partition.committed and not partition.revoked:
                    offsets[partition.tp] = OffsetAndMetadata(*position)
                    sent.append((partition, position))
            if not offsets:
                return
            await self._send(consumer, offsets, seconds)
            for partition, position in sent:
                partition.note_committed(position)

    async def move(self, consumer: Any, positions: Mapping[Any, tuple[int, str]]) -> None:
        """Commit other positions in partitions of this consumer, with their metadata, after all earlier commits.

        Raises: as `commit`. The outcome is then unknown.
        """
        async with self._turn:
            await self._send(consumer, {tp: OffsetAndMetadata(*each) for tp, each in positions.items()}, COMMIT_SECONDS)

    async def _send(self, consumer: Any, offsets: Mapping[Any, OffsetAndMetadata], seconds: float) -> None:
        begun = time.monotonic()
        self._sending = task = asyncio.create_task(consumer.commit(offsets))
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            self._sending = None
            if not task.done():
                task.cancel()
        if not task.done() or task.cancelled():
            raise BrokerUnavailable(f"{self._connection.name}: group {self._group} did not commit within {seconds:g} s")
        error = task.exception()
        if error is not None:
            raise self._connection.translate(error, f"commit of group {self._group}") from error
        self.count += 1
        self.seconds += time.monotonic() - begun

    def interrupt(self) -> None:
        """Cancel the commit in progress. The client would repeat it after a rebalance, and rewind a position that then
        belongs to another member.
        """
        if self._sending is not None:
            self._sending.cancel()
