"""An idempotent producer that is replaced when it fails, with a deadline for every call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, errors
from aiokafka.errors import KafkaError

from bridge.brokers import dead_letter
from bridge.brokers.kafka import faults
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.connection import Connection, close
from bridge.core.errors import BrokerError, BrokerUnavailable, PublishFailed
from bridge.core.message import Message, Position
from bridge.core.provenance import Cause

_log = logging.getLogger(__name__)

BATCH_BYTES = 256 * 1024


class Producer:
    """Publishes with acks=all and without duplicates of its own.

    aiokafka's idempotent producer stays unusable after a gap in its sequence numbers, and its futures stay pending
    while a broker hangs. Therefore any result other than success retires the producer. The next call gets a new one,
    and calls that still wait on the old one at worst meet their own deadlines.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._current: Any = None
        self._turn = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Lock()
        self._together = 0
        """Number of calls in progress whose records may share a batch."""
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def stop(self) -> None:
        """Flush and disconnect. Idempotent."""
        async with self._turn:
            current, self._current = self._current, None
        if current is not None:
            await close(current, self._connection.config.publish_timeout)
        if self._retired:
            await asyncio.wait(tuple(self._retired))

    async def publish(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """Return partition and offset of each message, when all in-sync replicas have acknowledged all.

        Raises: BrokerUnavailable (some may have been written), PublishFailed.
        """
        try:
            async with asyncio.timeout(self._connection.config.publish_timeout):
                async with self._alone:
                    self._together += 1
                    self._quiet.clear()
                try:
                    return await self._publish(topic, messages)
                except PublishFailed as error:
                    if len(messages) > 1 or not isinstance(error.__cause__, faults.TOO_LARGE):
                        raise
                finally:
                    self._together -= 1
                    if not self._together:
                        self._quiet.set()
                # A topic refuses a whole batch: only a record alone in its batch is judged by its own size
                async with self._alone:
                    await self._quiet.wait()
                    return await self._publish(topic, messages)
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"{self._connection.name}: {topic} did not confirm within {self._connection.config.publish_timeout:g} s"
            ) from error

    async def _publish(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        for final in (False, True):
            producer = await self._open()
            try:
                return await self._send(producer, topic, messages)
            except (KafkaError, OSError) as error:
                self._retire(producer)
                if final or not isinstance(error, _DEAD):
                    raise self._connection.translate(error, f"publish to {topic}") from error
            except asyncio.CancelledError:
                # Deadline or cancellation: the result of the publish is unknown and may never arrive
                self._retire(producer)
                raise
        raise AssertionError

    async def _send(self, producer: Any, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        pending = []
        # Checked before any is sent: the client accepts no record without key and value
        if any(message.body is None and message.key is None for message in messages):
            raise PublishFailed(f"{self._connection.name}: a tombstone needs a key")
        try:
            for message in messages:
                pending.append(  # noqa: PERF401 # an error leaves those before it in the list
                    await producer.send(
                        topic,
                        message.body,
                        message.key,
                        timestamp_ms=message.milliseconds,
                        headers=list(message.headers),
                    )
                )
            written = [await each for each in pending]
            return [(each.partition, each.offset) for each in written]
        finally:
            for each in pending:
                if each.done():
                    if not each.cancelled():
                        each.exception()
                else:
                    each.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _open(self) -> Any:
        if self._current is not None:
            return self._current
        async with self._turn:
            if self._current is None:
                config = self._connection.config
                producer = AIOKafkaProducer(
                    **self._connection.arguments,
                    enable_idempotence=True,
                    acks="all",
                    linger_ms=round(config.linger * 1000),
                    max_batch_size=BATCH_BYTES,
                    max_request_size=config.max_request,
                    compression_type=None if config.compression == "none" else config.compression,
                )
                try:
                    await self._connection.open(producer.start)
                except BaseException:
                    await close(producer)
                    raise
                self._current = producer
        return self._current

    def _retire(self, producer: Any) -> None:
        if self._current is not producer:
            return
        self._current = None
        # Other calls may wait for records that the producer has accepted: stopping gets the time of one publish
        task = asyncio.create_task(close(producer, self._connection.config.publish_timeout))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


_DEAD = (
    errors.OutOfOrderSequenceNumber,
    errors.UnknownProducerId,
    errors.InvalidProducerEpoch,
    errors.InvalidProducerIdMapping,
    errors.ProducerFenced,
    errors.ProducerClosed,
    errors.CorruptRecordException,
)
"""Errors of the producer, not of the message; another producer is worth one more attempt."""


class DeadLetterProducer:
    """Dead letters of one subscription."""

    def __init__(self, cluster: Cluster, producer: Producer, template: str) -> None:
        """Prepare the dead letters of one subscription.

        template: name of their topic, in which `{topic}` stands for the original topic.
        """
        self._cluster = cluster
        self._producer = producer
        self._template = template

    async def write(self, message: Message, position: Position, cause: Cause) -> None:
        """Return when the dead letter is acknowledged. Parts of a dead letter that is too large are left out.

        Raises: BrokerUnavailable, for all errors of the broker: the source must stop, not lose the message.
        """
        topic = self._template.replace("{topic}", position.topic)

        async def send(entry: Message) -> None:
            await self._producer.publish(topic, [entry])

        try:
            await self._cluster.ensure({topic})
            await dead_letter.write(send, topic, message, position, cause, keyless_tombstones=False)
        except BrokerUnavailable:
            self._cluster.forget(topic)
            raise
        except BrokerError as error:
            raise BrokerUnavailable(f"the dead letter for {position} cannot be written to {topic}: {error}") from error
