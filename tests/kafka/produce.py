"""Send raw record batches to a broker, with headers that no client library would write."""

from __future__ import annotations

from aiokafka import AIOKafkaClient, TopicPartition
from aiokafka.errors import NotLeaderForPartitionError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.produce import ProduceRequest

_SOON = (NotLeaderForPartitionError, UnknownTopicOrPartitionError)


async def produce(bootstrap: str, topic: str, partition: int, *batches: bytes) -> None:
    """Send batches and return when the leader has accepted each one.

    Raises: KafkaError when the leader refuses a batch.
    """
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        place = TopicPartition(topic, partition)
        for data in batches:
            # The base offset is 0 in a produce request; the broker assigns the real one
            request = ProduceRequest(None, -1, 10_000, [(topic, [(partition, bytes(8) + data[8:])])])
            while True:
                node = client.cluster.leader_for_partition(place)
                if node is not None and node >= 0:
                    response = await client.send(node, request)
                    [(_, [(_, code, *_)])] = response.topics
                    if for_code(code) not in _SOON:
                        break
                # The partition was just created
                await client.force_metadata_update()
            if code:
                raise for_code(code)()
    finally:
        await client.close()
