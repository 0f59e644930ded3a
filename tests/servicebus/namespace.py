"""Check of a namespace: `python -m tests.servicebus.namespace`, with its connection string in SERVICEBUS_CONNECTION.

Without the variable the program starts its own test server. The program prints missing entities and the commands that
create them. It probes behaviour that the service's documentation leaves open. It runs the product tests that need only
a connection string. The queues of the contract suite are emptied. The exit code is 0 when every part succeeds.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import ServiceBusError

from tests.kit.waiting import TIMEOUT
from tests.servicebus.process import ServerProcess
from tests.servicebus.sdk import Client, take
from tests.servicebus.server import QueueConfig, SubscriptionConfig, TopicConfig

ROOT = Path(__file__).parents[2]
VARIABLE = "SERVICEBUS_CONNECTION"
CONTRACT = ("orders", "orders.dlq", "dead-orders-letters", *(f"topic-{number}" for number in range(5)))
PLAIN, SESSIONS, TOPIC, SUBSCRIPTION = "orders", "by-session", "events", "bridge"
LOCK = 5.0
"""Shortest lock duration of the service, in seconds."""

QUEUES = (
    *(QueueConfig(name, lock_duration=LOCK) for name in CONTRACT),
    QueueConfig(SESSIONS, lock_duration=LOCK, requires_session=True),
)
TOPICS = (TopicConfig(TOPIC, (SubscriptionConfig(SUBSCRIPTION, lock_duration=LOCK),)),)
TESTS = ("tests/brokers/servicebus/test_contract.py", "tests/servicebus/test_product.py")

Question = Callable[[ServiceBusClient], Awaitable[str]]


# Entities


async def missing(connection: str) -> list[str]:
    """Azure CLI commands that create the entities that cannot be opened; the check only needs the right to read."""
    found = []
    async with Client.from_connection_string(connection, retry_total=0) as client:
        for queue in QUEUES:
            if not await _opens(client.get_queue_receiver(queue.name, session_id=_session(queue.requires_session))):
                sessions = " --enable-session true" if queue.requires_session else ""
                found.append(f"az servicebus queue create --name {queue.name} --lock-duration PT5S{sessions}")
        if not await _opens(client.get_subscription_receiver(TOPIC, SUBSCRIPTION)):
            found.append(f"az servicebus topic create --name {TOPIC}")
            options = f"--topic-name {TOPIC} --name {SUBSCRIPTION} --lock-duration PT5S"
            found.append(f"az servicebus topic subscription create {options}")
    return found


def _session(wanted: bool) -> str | None:
    return uuid.uuid4().hex if wanted else None


async def _opens(receiver: ServiceBusReceiver) -> bool:
    try:
        async with receiver:
            return True
    except ServiceBusError as problem:
        print(f"  {receiver.entity_path}: {problem}")
        return False


# Behaviour that the documentation leaves open


Messages = list[ServiceBusReceivedMessage]


async def _locked(client: ServiceBusClient, receiver: ServiceBusReceiver, count: int = 1) -> Messages:
    async with client.get_queue_sender(PLAIN) as sender:
        await sender.send_messages([ServiceBusMessage(f"{number}") for number in range(count)])
    return await take(receiver, count)


async def lock_and_connection(client: ServiceBusClient) -> str:
    """Lifetime of a lock after the connection of its message has ended."""
    async with client.get_queue_receiver(PLAIN) as other, client.get_queue_receiver(PLAIN) as receiver:
        [message] = await _locked(client, receiver)
        token = message.lock_token
        receiver._handler._connection._transport.writer.transport.abort()
        await asyncio.sleep(1)  # the service may need a moment to notice
        try:
            await other._renew_locks(token)  # type: ignore[arg-type]  # wider than its annotation, on purpose
        except ServiceBusError as problem:
            return f"ends with it ({_short(problem)})"
        return "outlives it"


async def renewals_in_one_request(client: ServiceBusClient) -> str:
    """Renewal of 101 locks in one request."""
    async with client.get_queue_receiver(PLAIN, prefetch_count=101) as receiver:
        messages = await _locked(client, receiver, 101)
        try:
            await receiver._renew_locks(*(message.lock_token for message in messages))  # type: ignore[arg-type]  # wider than its annotation, on purpose
        except ServiceBusError as problem:
            return f"101 are refused ({_short(problem)})"
        return "101 are taken"


async def _properties(client: ServiceBusClient, properties: dict[str | bytes, object]) -> str:
    async with client.get_queue_sender(PLAIN) as sender:
        try:
            await sender.send_messages(ServiceBusMessage("large", application_properties=properties))  # type: ignore[arg-type]  # wider than its annotation, on purpose
        except ServiceBusError as problem:
            return f"refused ({_short(problem)}{', may be tried again' if problem._retryable else ''})"
        return "taken"


async def large_property(client: ServiceBusClient) -> str:
    """Response to one application property above 32 KiB."""
    return await _properties(client, {"large": "x" * 33_000})


async def large_properties(client: ServiceBusClient) -> str:
    """Response to application properties of more than 64 KiB in total."""
    return await _properties(client, {f"p{number}": "x" * 9_000 for number in range(8)})


async def delivery_count_of_release(client: ServiceBusClient) -> str:
    """Delivery count of a message that was in the buffer of a closed receiver."""
    async with client.get_queue_receiver(PLAIN, prefetch_count=2) as receiver:
        [message] = await _locked(client, receiver)
        await receiver.complete_message(message)
        async with client.get_queue_sender(PLAIN) as sender:
            await sender.send_messages(ServiceBusMessage("buffered"))
        await asyncio.sleep(1)
    async with client.get_queue_receiver(PLAIN) as receiver:
        messages = await take(receiver, 1)
        return f"delivery count {messages[0].delivery_count}"


async def delivery_count_of_deferral(client: ServiceBusClient) -> str:
    """Delivery count of a message that was deferred once and received again."""
    async with client.get_queue_receiver(PLAIN) as receiver:
        [message] = await _locked(client, receiver)
        number = message.sequence_number
        await receiver.defer_message(message)
        [deferred] = await receiver.receive_deferred_messages([number])
        await receiver.complete_message(deferred)
        return f"delivery count {deferred.delivery_count}"


async def sequence_number_of_a_dead_letter(client: ServiceBusClient) -> str:
    """Sequence number and delivery count of a dead letter, compared with those of its message."""
    async with client.get_queue_receiver(PLAIN) as receiver:
        [message] = await _locked(client, receiver)
        number, count = message.sequence_number, message.delivery_count
        await receiver.dead_letter_message(message, reason="asked")
    async with client.get_queue_receiver(
        PLAIN, sub_queue=ServiceBusSubQueue.DEAD_LETTER, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE
    ) as receiver:
        [dead_letter] = await take(receiver, 1)
    kept = (
        "kept"
        if dead_letter.sequence_number == number
        else f"changed by {(dead_letter.sequence_number or 0) - (number or 0)}"
    )
    return f"{kept}; delivery count changed by {(dead_letter.delivery_count or 0) - (count or 0)}"


async def unknown_entity(client: ServiceBusClient) -> str:
    """Response to a link to a missing entity."""
    try:
        async with client.get_queue_sender(f"nowhere-{uuid.uuid4().hex[:8]}"):
            return "opened"
    except ServiceBusError as problem:
        status = getattr(problem.inner_exception, "status_code", None)
        return f"{_short(problem)}{f', claim refused with {status}' if status else ''}"


QUESTIONS: dict[str, Question] = {
    "a lock and its connection": lock_and_connection,
    "renewals in one request": renewals_in_one_request,
    "a property above 32 KiB": large_property,
    "properties above 64 KiB": large_properties,
    "a buffered message of a closed receiver": delivery_count_of_release,
    "a deferred message": delivery_count_of_deferral,
    "sequence number of a dead letter": sequence_number_of_a_dead_letter,
    "an unknown entity": unknown_entity,
}


def _short(problem: ServiceBusError) -> str:
    return f"{type(problem).__name__}{f' {problem._condition}' if problem._condition else ''}"


async def empty(client: ServiceBusClient) -> None:
    """Remove the messages that a question left; wait for locks to expire."""
    for sub_queue in (None, ServiceBusSubQueue.DEAD_LETTER):
        async with client.get_queue_receiver(
            PLAIN, sub_queue=sub_queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE
        ) as receiver:
            while await receiver.receive_messages(200, max_wait_time=1):
                pass
            while await receiver.peek_messages(1, sequence_number=1):
                await receiver.receive_messages(200, max_wait_time=1)


async def answers(connection: str) -> dict[str, str]:
    """Answers to all questions by name; the error for a question that fails."""
    found = {}
    async with Client.from_connection_string(connection, retry_total=0) as client:
        for name, ask in QUESTIONS.items():
            await empty(client)
            try:
                async with asyncio.timeout(TIMEOUT):
                    found[name] = await ask(client)
            except (ServiceBusError, TimeoutError) as problem:
                found[name] = f"could not be asked: {type(problem).__name__}"
        await empty(client)
    return found


# Main program


@contextmanager
def _connection() -> Iterator[str]:
    given = os.environ.get(VARIABLE)
    if given:
        print(f"the namespace that {VARIABLE} names")
        yield given
        return
    print(f"a server of our own, since {VARIABLE} is not set")
    with ServerProcess(QUEUES, TOPICS) as server:
        yield server.connection_string


def main() -> int:
    with _connection() as connection:
        commands = asyncio.run(missing(connection))
        if commands:
            print("these entities are missing; make them, with --namespace-name and --resource-group added:")
            print("\n".join(f"  {command}" for command in commands))
            return 2
        found = asyncio.run(answers(connection))
        width = max(map(len, found))
        print("\n".join(f"  {name:{width}}  {answer}" for name, answer in found.items()), flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        environment = os.environ | {VARIABLE: connection}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    asked = not any(answer.startswith("could not be asked") for answer in found.values())
    return done.returncode or (0 if asked else 1)


if __name__ == "__main__":
    sys.exit(main())
