"""Activity that writes dead letters of early and quarantined messages: from an activity thread to a broker and back."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bridge.brokers import dead_letter
from bridge.brokers.base import Broker
from bridge.core.errors import BrokerUnavailable, PublishFailed
from bridge.parking.stored_message import StoredMessage

TIMEOUT = 30.0
"""Seconds until a dead letter must be confirmed. The engine then tries again."""


class Undeliverable:
    """Writes dead letters of stored messages. Call it from any thread but the event loop's."""

    def __init__(self, brokers: Mapping[str, Broker], loop: asyncio.AbstractEventLoop) -> None:
        self._brokers = brokers
        self._loop = loop
        self.written: Counter[tuple[str, str]] = Counter()
        """Number of written dead letters by source and reason."""

    def __call__(self, document: Mapping[str, Any]) -> None:
        """Write one dead letter.

        document: `item`, the JSON of a stored message, with `reason`, `detail`, `error` and `attempts`.
        Raises: PublishFailed, BrokerUnavailable; the engine tries again.
        """
        item = document["item"]
        letter = StoredMessage.from_json(item["letter"])
        broker = self._brokers.get(letter.broker)
        if broker is None:
            raise PublishFailed(f"broker {letter.broker!r} is not configured here")
        cause = letter.cause(
            document["reason"], document["detail"], document["error"], item.get("route"), document["attempts"]
        )
        topic = letter.dead_letter_topic
        writing = dead_letter.write(
            lambda each: broker.publish(topic, [each]),
            topic,
            letter.message,
            letter.position,
            cause,
            keyless_tombstones=broker.features.keyless_tombstones,
        )
        done = asyncio.run_coroutine_threadsafe(writing, self._loop)
        try:
            done.result(TIMEOUT)
        except concurrent.futures.TimeoutError as error:
            done.cancel()
            raise BrokerUnavailable(f"the dead letter for {letter.position} is not confirmed in time") from error
        self.written[letter.source, document["reason"]] += 1
