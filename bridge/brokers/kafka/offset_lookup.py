"""Lookups of the first and the end offsets of partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError


async def look_up(
    question: Callable[[Collection[TopicPartition]], Awaitable[dict[TopicPartition, Any]]],
    partitions: Collection[TopicPartition],
    seconds: float,
) -> dict[TopicPartition, int]:
    """Offsets of exactly these partitions. No position of the client moves.

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
        raise KafkaError(f"the answer about offsets makes no sense ({type(error).__name__})") from error
    for tp in partitions:
        offset = found.get(tp)
        if not isinstance(offset, int) or offset < 0:
            raise KafkaError(f"the answer about offsets has none for {tp.topic}/{tp.partition}")
    return {tp: found[tp] for tp in partitions}
