"""Dead letters of one subscription."""

from __future__ import annotations

from bridge.brokers import dead_letter
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.producer import Producer
from bridge.core.errors import BrokerError, BrokerUnavailable
from bridge.core.message import Message, Position
from bridge.core.provenance import Cause


class DeadLetters:
    """Writes dead letters to the topic that `template` names; `{topic}` in it stands for the original topic."""

    def __init__(self, cluster: Cluster, producer: Producer, template: str) -> None:
        self._cluster = cluster
        self._producer = producer
        self._template = template

    async def write(self, message: Message, position: Position, cause: Cause) -> None:
        """Return when the dead letter is acknowledged. Parts of a dead letter that is too large are left out.

        Raises: BrokerUnavailable, for all errors of the broker: the source must stop, not lose the message.
        """
        topic = self._template.replace("{topic}", position.topic)

        async def send(letter: Message) -> None:
            await self._producer.publish(topic, [letter])

        try:
            await self._cluster.ensure({topic})
            await dead_letter.write(send, topic, message, position, cause, keyless_tombstones=False)
        except BrokerUnavailable:
            self._cluster.forget(topic)
            raise
        except BrokerError as error:
            raise BrokerUnavailable(f"the dead letter for {position} cannot be written to {topic}: {error}") from error
