"""Dead letters of early and quarantined messages: one orchestration for each, which retries without end.

Its activity writes the dead letter: from an activity thread to a broker and back.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from durabletask import task
from durabletask.entities import EntityContext

from bridge.brokers import dead_letter as broker_dead_letter
from bridge.brokers.base import Broker
from bridge.core.errors import BrokerUnavailable, PublishFailed
from bridge.core.lineage.records import dead_letter_record
from bridge.core.provenance import current_reason
from bridge.core.stored_message import StoredMessage, UndeliveredMessage
from bridge.core.system_names import DEAD_LETTER, dead_letter_id
from bridge.engines.message_sealer import MessageSealer

TIMEOUT = 30.0
"""Seconds until a dead letter must be confirmed. The engine then tries again."""

_RETRY = task.RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=5,
    backoff_coefficient=2.0,
    max_retry_interval=timedelta(seconds=30),
)
_PAUSE = timedelta(minutes=1)


def dead_letter_orchestrator() -> Callable[..., Any]:
    """Create the orchestrator, which takes the input of the activity DEAD_LETTER.

    After a few failures it continues as new, which keeps its history short.
    """

    def dead_letter(ctx: task.OrchestrationContext, undelivered: Any) -> Generator[Any, Any, None]:
        try:
            yield ctx.call_activity(DEAD_LETTER, input=undelivered, retry_policy=_RETRY)
        except task.TaskFailedError:
            yield ctx.create_timer(_PAUSE)
            ctx.continue_as_new(undelivered)

    dead_letter.__name__ = DEAD_LETTER
    return dead_letter


def dead_letter_activity(
    write: Callable[[dict[str, Any]], object], messages: MessageSealer | None = None
) -> Callable[..., Any]:
    """Create the activity that writes a dead letter.

    write: writes one dead letter durably; raises BridgeError.
    messages: decrypts encrypted messages.
    """
    sealer = messages or MessageSealer()

    def dead_letter(_: task.ActivityContext, undelivered: dict[str, Any]) -> None:
        reason = current_reason(undelivered["reason"])
        write(undelivered | {"item": sealer.open(undelivered["item"]), "reason": reason})

    dead_letter.__name__ = DEAD_LETTER
    return dead_letter


def start_dead_letters(ctx: EntityContext, undelivered: Iterable[UndeliveredMessage]) -> None:
    """Start one orchestration for each undelivered message.

    The start is part of the commit of the entity's operation. A repeated operation uses the same instance id.
    """
    for each in undelivered:
        item = each.item
        if not has_topic(item):
            continue
        document: dict[str, Any] = {"item": item, "reason": each.reason, "detail": each.detail}
        document |= {"error": each.error, "attempts": each.attempts}
        instance_id = dead_letter_id(ctx.entity_id.key, item["mark"], item["since"])
        ctx.schedule_new_orchestration(DEAD_LETTER, document, instance_id)


def has_topic(item: Mapping[str, Any]) -> bool:
    """False for the replay of a message that stays in the dead-letter queue of its broker until it succeeds."""
    entry = item.get("letter", {})
    return bool(entry.get("of", entry).get("topic") != "")


class DeadLetterWriter:
    """Writer of dead letters of stored messages. Call it from any thread but the event loop's."""

    def __init__(self, brokers: Mapping[str, Broker], loop: asyncio.AbstractEventLoop) -> None:
        self._brokers = brokers
        self._loop = loop
        self.written: Counter[tuple[str, str]] = Counter()
        """Number of written dead letters by source and reason."""

    def __call__(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Write one dead letter; return its record for the lineage index.

        document: `item`, the JSON of a stored message, with `reason`, `detail`, `error` and `attempts`.
        Raises: PublishFailed, BrokerUnavailable; the engine tries again.
        """
        item = document["item"]
        message = StoredMessage.from_json(item["letter"])
        broker = self._brokers.get(message.broker)
        if broker is None:
            raise PublishFailed(f"broker {message.broker!r} is not configured here")
        cause = replace(
            message.cause(
                document["reason"], document["detail"], document["error"], item.get("route"), document["attempts"]
            ),
            at=time.time(),
            expression=item.get("expression", ""),
        )
        topic = message.dead_letter_topic
        writing = broker_dead_letter.write(
            lambda each: broker.publish(topic, [each]),
            topic,
            message.message,
            message.position,
            cause,
            keyless_tombstones=broker.features.keyless_tombstones,
        )
        done = asyncio.run_coroutine_threadsafe(writing, self._loop)
        try:
            done.result(TIMEOUT)
        except concurrent.futures.TimeoutError as error:
            done.cancel()
            raise BrokerUnavailable(f"the dead letter for {message.position} is not confirmed in time") from error
        self.written[message.source, document["reason"]] += 1
        return dead_letter_record(cause, message.position, topic)
