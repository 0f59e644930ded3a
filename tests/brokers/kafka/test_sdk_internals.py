"""The client has every private part that the bridge uses, and works without each of them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.producer.sender import Sender
from aiokafka.protocol.produce import ProduceRequest

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.kafka import sdk_internals
from bridge.core.message import Message
from tests.brokers.consumer import Assignments
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kafka.server.server import Server
from tests.kit.waiting import TIMEOUT

PATCHED = (
    (AIOKafkaConnection, "connect"), (AIOKafkaConnection, "send"), (AIOKafkaConnection, "_read"),
    (ClusterMetadata, "update_metadata"), (AIOKafkaClient, "_metadata_update"), (GroupCoordinator, "_do_heartbeat"),
)  # fmt: skip
"""Methods of the client that `bound_answers` replaces."""

GROUPS = {
    "CONNECTION": (AIOKafkaConnection, "_read"),
    "CLIENT": (AIOKafkaClient, "_metadata_update"),
    "CLUSTER": (AIOKafkaClient, "_metadata_update"),
    "COORDINATOR": (GroupCoordinator, "_do_heartbeat"),
}
"""Method that stays the client's own, by the members without which it does."""


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    await server.stop()


@pytest.fixture
def originals(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The client as it was before `bound_answers`, until the end of the test."""
    found = {
        "connect": sdk_internals._open,
        "send": sdk_internals._send_at_once,
        "_read": staticmethod(_their_read),
        "update_metadata": sdk_internals._update,
        "_metadata_update": sdk_internals._find_nodes,
        "_do_heartbeat": sdk_internals._beat,
    }
    for kind, name in PATCHED:
        monkeypatch.setattr(kind, name, found[name])
    return found


async def _their_read(self_ref: Any) -> None:
    """The client's own loop: an answer of any size is read."""
    while (self := self_ref()) is not None:
        reader = self._reader
        del self
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
        if (self := self_ref()) is not None:
            self._handle_frame(answer)
        del self


async def round_trip(server: Server) -> None:
    """Publish a message and receive it, as a member of a group."""
    harness = KafkaHarness(await server.start())
    topic = unique("internals")
    await harness.create_topic(topic, 1)
    broker = await harness.broker()
    try:
        async with asyncio.timeout(TIMEOUT):
            await broker.publish(topic, [Message(b"here", b"k")])
            subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
            [delivery] = await subscription.receive(10)
            assert delivery.message.body == b"here"
            await delivery.complete()
            await subscription.close()
    finally:
        await harness.stop()


# -- what the client has


def test_the_client_has_the_members() -> None:
    for kind, name in PATCHED:
        assert inspect.isfunction(getattr(kind, name)), name
    assert sdk_internals.has(AIOKafkaConnection, sdk_internals.CONNECTION)
    assert sdk_internals.has(AIOKafkaClient, sdk_internals.CLIENT)
    assert sdk_internals.has(ClusterMetadata, sdk_internals.CLUSTER)
    assert sdk_internals.has(GroupCoordinator, sdk_internals.COORDINATOR)
    assert not sdk_internals.has(AIOKafkaClient, ("_renamed",))


def test_the_client_calls_the_methods() -> None:
    """A method that the client no longer calls would be replaced in vain."""
    assert "._read(" in inspect.getsource(AIOKafkaConnection)
    assert "._metadata_update(" in inspect.getsource(AIOKafkaClient)
    assert "._do_heartbeat(" in inspect.getsource(GroupCoordinator)
    assert ".update_metadata(" in inspect.getsource(AIOKafkaClient)
    assert "correlation_id, request, fut = self._requests[0]" in inspect.getsource(AIOKafkaConnection._handle_frame)


def touched(tree: ast.AST) -> set[str]:
    """Private attributes that a syntax tree reads or writes."""
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def test_every_touch_is_listed() -> None:
    """Each private attribute belongs to a list, whose members are looked for before anything is replaced."""
    tree = ast.parse(Path(sdk_internals.__file__).read_text())
    listed = {*sdk_internals.CONNECTION, *sdk_internals.CLIENT, *sdk_internals.CLUSTER, *sdk_internals.COORDINATOR}
    assert touched(tree) <= listed


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (aiokafka.AIOKafkaConsumer, ("_client", "_coordinator", "_fetcher")),
        (aiokafka.AIOKafkaProducer, ("client", "_sender")),
        (AIOKafkaAdminClient, ("_client", "_send_request")),
        (AIOKafkaClient, ("_sync_task", "_conns")),
        (GroupCoordinator, ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "check_errors")),
        (Fetcher, ("_fetch_task",)),
        (Sender, ("_sender_task",)),
    ],
)
def test_tasks_and_connections_of_a_client(kind: type, names: Iterable[str]) -> None:
    source = inspect.getsource(kind)
    assert [name for name in names if f"self.{name}" not in source and not hasattr(kind, name)] == []


def test_log_texts_are_those_of_the_client() -> None:
    for logger, texts in (*sdk_internals._EXPECTED.items(), *sdk_internals._NORMAL.items()):
        package = Path(aiokafka.__file__).parent
        path = package.parent / logger.replace(".", "/")
        files = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(package.rglob("*.py"))
        literals = {
            node.value
            for file in files
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert [text for text in texts if text not in literals] == []


# -- what happens without


@pytest.mark.parametrize("group", GROUPS)
async def test_the_client_keeps_its_own_method_without_a_member(
    server: Server, originals: dict[str, Any], monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    kind, name = GROUPS[group]
    monkeypatch.setattr(sdk_internals, group, (*getattr(sdk_internals, group), "_renamed"))
    sdk_internals.bound_answers(1 << 20)
    assert inspect.getattr_static(kind, name) is originals[name]
    await round_trip(server)


async def test_with_all_members_every_method_is_replaced(server: Server, originals: dict[str, Any]) -> None:
    sdk_internals.bound_answers(1 << 20)
    assert [name for kind, name in PATCHED if inspect.getattr_static(kind, name) is originals[name]] == []
    await round_trip(server)


async def test_answers_are_not_compared_without_the_list_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer() -> str:
        return "answer"

    monkeypatch.setattr(sdk_internals, "_send_at_once", lambda self, request, expect_response: answer())
    request: Any = SimpleNamespace(API_KEY=ProduceRequest.API_KEY, topics=[("t", [(0, b"")])])
    assert await sdk_internals._send(SimpleNamespace(), request) == "answer"


def test_the_last_heartbeat_may_be_unknown() -> None:
    coordinator = SimpleNamespace(last_heartbeat=2.0)
    assert sdk_internals.last_heartbeat(SimpleNamespace(_coordinator=coordinator)) == 2.0
    assert sdk_internals.last_heartbeat(SimpleNamespace(_coordinator=SimpleNamespace())) is None
    assert sdk_internals.last_heartbeat(SimpleNamespace()) is None


def test_errors_of_a_group_may_be_unknown() -> None:
    def fails() -> None:
        raise GroupCoordinatorNotAvailableError

    with pytest.raises(GroupCoordinatorNotAvailableError):
        sdk_internals.check_group(SimpleNamespace(_coordinator=SimpleNamespace(check_errors=fails)))
    sdk_internals.check_group(SimpleNamespace(_coordinator=SimpleNamespace()))
    sdk_internals.check_group(SimpleNamespace())


async def test_an_abandoned_client_ends_what_it_is_known_to_have(server: Server) -> None:
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=await server.start(), group_id=unique("abandoned"))
    await consumer.start()
    client = consumer._client
    tasks = [consumer._coordinator._coordination_task, consumer._fetcher._fetch_task, client._sync_task]
    assert await client.ready(client.get_random_node())
    connections = list(client._conns.values())
    assert connections
    sdk_internals.abandon(consumer)
    await asyncio.wait(tasks, timeout=TIMEOUT)
    assert [task.done() for task in tasks] == [True] * 3
    assert not any(connection.connected() for connection in connections)
    consumer._closed = True  # its `stop` would wait for the group
    sdk_internals.abandon(SimpleNamespace())


async def test_requests_of_others_need_the_client_s_method() -> None:
    with pytest.raises(NotImplementedError, match="sends no requests of others"):
        await sdk_internals.send(SimpleNamespace(), object())


def test_unknown_texts_keep_their_level() -> None:
    record = logging.LogRecord("aiokafka.cluster", logging.ERROR, "", 0, "renamed", (), None)
    assert sdk_internals._expected.filter(record)
    assert record.levelno == logging.ERROR
