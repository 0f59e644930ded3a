"""Manually written consumer for a queue with sessions, as a baseline for the bridge: `CONNECTION QUEUE ENGINE`.

The consumer works as `hand_written` does: it completes after the work and dead-letters a message after five failed
attempts. It takes the next free session when one is silent or fails.
"""

import asyncio
import logging
import sys

from azure.servicebus import NEXT_AVAILABLE_SESSION
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import OperationTimeoutError
from durabletask.client import AsyncTaskHubGrpcClient

from tests.prove.hand_written import process

log = logging.getLogger("orders")
SESSIONS = 16
SILENCE = 1.0
"""Seconds without a message after which the consumer leaves a session."""


async def drain(receiver: ServiceBusReceiver, client: AsyncTaskHubGrpcClient) -> None:
    """Handle the messages of one session until no more arrive."""
    async for message in receiver:
        if await process(client, b"".join(message.body)):
            await receiver.complete_message(message)
        else:
            await receiver.dead_letter_message(message, reason="failed")


async def take_sessions(
    bus: ServiceBusClient, queue: str, renewer: AutoLockRenewer, client: AsyncTaskHubGrpcClient
) -> None:
    """Handle free sessions one after the other."""
    while True:
        receiver = bus.get_queue_receiver(
            queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=SILENCE, auto_lock_renewer=renewer
        )
        try:
            async with receiver:
                await drain(receiver, client)
        except OperationTimeoutError:
            log.debug("no session is free")
        except Exception:
            log.exception("session %s", receiver.session.session_id if receiver.session else "?")
            await asyncio.sleep(1)


async def main(connection: str, queue: str, engine: str) -> None:
    client = AsyncTaskHubGrpcClient(host_address=engine)
    async with ServiceBusClient.from_connection_string(connection) as bus, AutoLockRenewer() as renewer:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(SESSIONS):
                    group.create_task(take_sessions(bus, queue, renewer, client))
        finally:
            await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
