"""Sends record batches to a broker as they are: headers and all, which no client library would write."""

from __future__ import annotations

from aiokafka import AIOKafkaClient, TopicPartition
from aiokafka.errors import NotLeaderForPartitionError, for_code
from aiokafka.protocol.produce import ProduceRequest


async def produce(bootstrap: str, topic: str, partition: int, *batches: bytes) -> None:
    """Return when the leader has taken each batch. Raises: KafkaError when it refuses one."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        place = TopicPartition(topic, partition)
        for data in batches:
            # A producer counts from 0; the broker places the batch
            request = ProduceRequest(None, -1, 10_000, [(topic, [(partition, bytes(8) + data[8:])])])
            while True:
                response = await client.send(client.cluster.leader_for_partition(place), request)
                [(_, [(_, code, *_)])] = response.topics
                if for_code(code) is not NotLeaderForPartitionError:
                    break
                await client.force_metadata_update()
            if code:
                raise for_code(code)()
    finally:
        await client.close()
