"""Publishing of messages to a configured broker, from any process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby

from bridge.app import state
from bridge.app.composition import build_broker, require
from bridge.brokers.factory import check_destination
from bridge.config.source import Loaded
from bridge.core.message import Message, Position
from bridge.ops.audit import AuditedChange, audited, user

MAX_BATCH = 1000
"""Most messages of one publish call."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Destination of messages.

    topic: None when every message names its own.
    codec: codec of the source that reads there; None when unknown.
    """

    broker: str
    topic: str | None
    codec: str | None


def destination(loaded: Loaded, text: str) -> Destination:
    """Destination for `SOURCE`, `BROKER/TOPIC` or `BROKER/`. Raises: LookupError."""
    config = loaded.config
    broker, slash, topic = text.partition("/")
    if not slash:
        if text in config.targets and text not in config.sources:
            target = config.targets[text]
            raise LookupError(f"{text!r} is a target and not a source: publish to {target.broker}/{target.address}")
        require("source", text, config.sources, "a topic has the form BROKER/TOPIC")
        source = config.sources[text]
        entrance = source.entrance
        if entrance is None:
            raise LookupError(f"the source {text!r} names no topic or queue to publish to; use BROKER/TOPIC")
        return Destination(source.broker, entrance, source.codec)
    require("broker", broker, config.brokers)
    if not topic:
        return Destination(broker, None, None)
    try:
        check_destination(config.brokers[broker], topic)
    except ValueError as error:
        raise LookupError(str(error)) from None
    read = {
        source.codec
        for source in config.sources.values()
        if source.broker == broker and (topic in source.topics or topic == source.entrance)
    }
    return Destination(broker, topic, read.pop() if len(read) == 1 else None)


def publish(
    loaded: Loaded,
    to: Destination,
    batches: Iterable[Sequence[tuple[str, Message]]],
    progress: Callable[[Sequence[Position | None]], None] = lambda positions: None,
    reason: str | None = None,
) -> int:
    """Publish batches of (topic, message) in order; return the number of messages.

    progress: called after every step with the positions of the messages that it has durably published, None where the
    broker does not return them.
    reason: reason for the audit.
    Raises: BrokerUnavailable, PublishFailed, and the errors of `batches`. The messages that `progress` reported stay
    published.
    """
    count = 0
    change = AuditedChange(user(), "publish", f"{to.broker}/{to.topic or '*'}", reason=reason)
    with audited(state.trail(loaded, ""), change), closing(_published(loaded, to.broker, batches)) as steps:
        for positions in steps:
            count += len(positions)
            change.describe(filter_={"messages": count})
            progress(positions)
    return count


def _published(
    loaded: Loaded, broker_name: str, batches: Iterable[Sequence[tuple[str, Message]]]
) -> Generator[Sequence[Position | None], None, None]:
    """Yield the positions of the durably published messages of every step."""
    broker = build_broker(loaded, broker_name)
    # Batches may wait for standard input. They are read outside of the event loop, and Ctrl-C ends the wait
    with asyncio.Runner() as runner:
        try:
            runner.run(broker.start())
            for batch in batches:
                for topic, run in groupby(batch, key=lambda pair: pair[0]):
                    messages = [message for _, message in run]
                    for start in range(0, len(messages), MAX_BATCH):
                        part = messages[start : start + MAX_BATCH]
                        positions = runner.run(broker.publish(topic, part))
                        yield [None] * len(part) if positions is None else positions
        finally:
            runner.run(broker.stop())
