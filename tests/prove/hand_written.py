"""Manually written Kafka consumer, written with care, as a baseline for the bridge: `BOOTSTRAP TOPICS ENGINE`.

The consumer is at-least-once: it commits after the work, tries a few times, and has a dead-letter topic. Tutorials and
most code bases have such a consumer; nothing in it is deliberately worse.
"""

import asyncio
import json
import logging
import sys

import grpc
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from durabletask.client import AsyncTaskHubGrpcClient

log = logging.getLogger("orders")
ATTEMPTS = 5


async def handle(client: AsyncTaskHubGrpcClient, value: bytes) -> None:
    event = json.loads(value)
    instance_id = f"order-{event['key']}"
    if event["number"] == 0:
        await client.schedule_new_orchestration("collect_plain", instance_id=instance_id, input=event)
    else:
        await client.raise_orchestration_event(instance_id, "item", data=event)


async def process(client: AsyncTaskHubGrpcClient, value: bytes) -> bool:
    """Handle one message. Returns False when the message should be dead-lettered."""
    for attempt in range(ATTEMPTS):
        try:
            await asyncio.wait_for(handle(client, value), 10)
            return True
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                return True  # redelivery of an earlier start
            log.warning("attempt %d: %s", attempt + 1, error.code())
        except json.JSONDecodeError:
            return False
        except Exception:
            log.exception("attempt %d", attempt + 1)
        await asyncio.sleep(0.2 * 2**attempt)
    return False


async def main(bootstrap: str, topics: str, engine: str) -> None:
    consumer = AIOKafkaConsumer(
        *topics.split(","),
        bootstrap_servers=bootstrap,
        group_id=topics.split(",")[0],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=3000,
        heartbeat_interval_ms=1000,
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    client = AsyncTaskHubGrpcClient(host_address=engine)
    await consumer.start()
    await producer.start()
    try:
        async for message in consumer:
            if not await process(client, message.value):
                await producer.send_and_wait(f"{message.topic}.dlq", message.value, key=message.key)
            await consumer.commit()
    finally:
        await consumer.stop()
        await producer.stop()
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
