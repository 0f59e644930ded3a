"""Product tests on a namespace with the entities of `tests.servicebus.namespace`, given by a connection string
alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import message, offsets_by_key
from tests.servicebus import namespace
from tests.servicebus.process import ServerProcess

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def connection() -> Iterator[str]:
    """Connection string of a test server, or the value of SERVICEBUS_CONNECTION."""
    given = os.environ.get(namespace.VARIABLE)
    if given:
        yield given
        return
    with ServerProcess(namespace.QUEUES, namespace.TOPICS) as server:
        yield server.connection_string


ENTITIES = {
    "queue": ("queue: topic-0", "topic-0"),
    "sessions": (f"queue: {namespace.SESSIONS}\n    sessions: {{concurrent: 2}}", namespace.SESSIONS),
    "subscription": (f"topic: {namespace.TOPIC}\n    subscription: {namespace.SUBSCRIPTION}", namespace.TOPIC),
}


@pytest.mark.parametrize("kind", ENTITIES)
async def test_messages_become_workflows(tmp_path: Path, connection: str, kind: str) -> None:
    """Each message starts one workflow; messages without a route become dead letters; order holds within a key."""
    entity, target = ENTITIES[kind]
    async with bus_setup(tmp_path, connection, entity, request_timeout="30s") as setup:
        started = [message("start", f"{key}-{number}", key) for number in range(5) for key in ("a", "b")]
        await setup.publish(*started, message("unknown", "c-0", "c"), topic=target)
        await setup.source.start()
        await setup.settled(11)
        assert outcomes(setup) == {"executed": 10, "dead_lettered": 1}
        by_key = offsets_by_key(setup.faults.taken)
        assert {key: len(numbers) for key, numbers in by_key.items()} == {"a": 5, "b": 5}
        if kind == "sessions":
            assert all(numbers == list(range(5)) for numbers in by_key.values())
