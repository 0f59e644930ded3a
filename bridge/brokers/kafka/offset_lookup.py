"""Lookups of offsets, which move no position of a client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndTimestamp

from bridge.brokers.kafka.connection import Connection, close

_T = TypeVar("_T")

Offsets = dict[TopicPartition, int]


async def look_up(
    question: Callable[[Collection[TopicPartition]], Awaitable[dict[TopicPartition, Any]]],
    partitions: Collection[TopicPartition],
    seconds: float,
) -> Offsets:
    """Offsets of exactly these partitions.

    question: `beginning_offsets` or `end_offsets` of a client. Raises: KafkaError, also where an answer lacks a
    partition or an offset; TimeoutError.
    """
    if not partitions:
        return {}
    try:
        found = await asyncio.wait_for(question(partitions), seconds)
    except (KafkaError, TimeoutError):
        raise
    except Exception as error:  # the client looks into answers without a check
        raise KafkaError(f"the answer of the broker about offsets is not valid ({type(error).__name__})") from error
    for tp in partitions:
        offset = found.get(tp)
        if not isinstance(offset, int) or offset < 0:
            raise KafkaError(f"the answer about offsets has none for {tp.topic}/{tp.partition}")
    return {tp: found[tp] for tp in partitions}


class OffsetLookup:
    """Client outside of any group that asks for offsets and reads nothing. It connects with the first question."""

    def __init__(self, connection: Connection, isolation: str = "read_committed") -> None:
        """Create the client. isolation: `read_committed` or `read_uncommitted`."""
        self._connection = connection
        self._isolation = isolation
        self._client: Any = None
        self._turn = asyncio.Lock()

    async def ends(self, partitions: Collection[TopicPartition], what: str) -> tuple[Offsets, Offsets]:
        """First and end offsets of the partitions. what: for an error. Raises: BrokerUnavailable."""
        limit = self._connection.config.request_timeout

        async def ask(client: Any) -> tuple[Offsets, Offsets]:
            begin = await look_up(client.beginning_offsets, partitions, limit)
            return begin, await look_up(client.end_offsets, partitions, limit)

        return await self._ask(ask, what)

    async def at_times(
        self, times: Mapping[TopicPartition, int], what: str
    ) -> Mapping[TopicPartition, OffsetAndTimestamp | None]:
        """First record with this time or a later one, by partition; None without one.

        times: milliseconds since the Unix epoch. what: for an error. Raises: BrokerUnavailable.
        """
        limit = self._connection.config.request_timeout
        return await self._ask(lambda client: asyncio.wait_for(client.offsets_for_times(times), limit), what)

    async def _ask(self, question: Callable[[Any], Awaitable[_T]], what: str) -> _T:
        async with self._turn:
            try:
                if self._client is None:
                    self._client = AIOKafkaConsumer(
                        **self._connection.arguments,
                        group_id=None,
                        enable_auto_commit=False,
                        isolation_level=self._isolation,
                    )
                    await self._connection.open(self._client.start)
                return await question(self._client)
            except (KafkaError, TimeoutError) as error:
                await self._close()
                raise self._connection.translate(error, what) from error
            except BaseException:
                await self._close()
                raise

    async def aclose(self) -> None:
        """Disconnect. Idempotent."""
        async with self._turn:
            await self._close()

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await close(client)
