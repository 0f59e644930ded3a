"""Dead letters of one subscription."""

from __future__ import annotations

from dataclasses import replace

from bridge import provenance
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.producer import Producer, TooLarge
from bridge.errors import BrokerError, BrokerUnavailable, PublishFailed
from bridge.message import RESERVED_HEADER_PREFIX, Message, Position
from bridge.provenance import Cause


class DeadLetters:
    """Writes them to the topic that `template` names; `{topic}` in it stands for the origin's."""

    def __init__(self, cluster: Cluster, producer: Producer, template: str) -> None:
        self._cluster = cluster
        self._producer = producer
        self._template = template

    async def write(self, message: Message, position: Position, cause: Cause) -> None:
        """Return when the dead letter is acknowledged. One that is too large goes without what makes it so.

        Raises: BrokerUnavailable; whatever else stops it must stop the source, not lose the message.
        """
        topic = self._template.replace("{topic}", position.topic)
        letter = provenance.dead_letter(message, position, cause)
        if letter.body is None and letter.key is None:
            # The client cannot send a record that has neither
            letter = _without(letter, "tombstone without a key", body=b"")
        try:
            await self._cluster.ensure({topic})
            try:
                await self._producer.publish(topic, [letter])
            except TooLarge:
                try:
                    await self._producer.publish(topic, [_without(letter, "payload", body=b"")])
                except TooLarge:
                    ours = tuple(each for each in letter.headers if each[0].startswith(RESERVED_HEADER_PREFIX))
                    bare = replace(letter, headers=ours)
                    await self._producer.publish(
                        topic, [_without(bare, "payload, key and headers", body=b"", key=None)]
                    )
        except BrokerUnavailable:
            self._cluster.forget(topic)
            raise
        except PublishFailed as error:
            raise BrokerUnavailable(f"the dead letter for {position} cannot be written: {error}") from error
        except BrokerError as error:
            raise BrokerUnavailable(f"the dead letter for {position} cannot be written: {error}") from error


def _without(letter: Message, what: str, **changes: bytes | None) -> Message:
    headers = (*letter.headers, (provenance.TRUNCATED, what.encode()))
    return replace(letter, headers=headers, **changes)  # type: ignore[arg-type]  # the fields that are bytes
