"""First and end offsets of partitions, asked over one connection that stays open."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from bridge.brokers.kafka.connection import Connection, close
from bridge.brokers.kafka.positions import look_up

Offsets = dict[TopicPartition, int]


class Ends:
    """Client that asks for offsets and reads nothing. It connects with the first question."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client: Any = None
        self._turn = asyncio.Lock()

    async def ask(self, partitions: list[TopicPartition], what: str) -> tuple[Offsets, Offsets]:
        """First and end offsets of the partitions. what: for an error. Raises: BrokerUnavailable."""
        limit = self._connection.config.request_timeout
        async with self._turn:
            try:
                if self._client is None:
                    self._client = AIOKafkaConsumer(
                        **self._connection.arguments,
                        group_id=None,
                        enable_auto_commit=False,
                        isolation_level="read_committed",
                    )
                    await self._connection.open(self._client.start)
                begin = await look_up(self._client.beginning_offsets, partitions, limit)
                return begin, await look_up(self._client.end_offsets, partitions, limit)
            except (KafkaError, TimeoutError) as error:
                await self._close()
                raise self._connection.translate(error, what) from error
            except BaseException:
                await self._close()
                raise

    async def stop(self) -> None:
        """Disconnect. Idempotent."""
        async with self._turn:
            await self._close()

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await close(client)
