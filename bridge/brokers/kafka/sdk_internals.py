"""Private parts of aiokafka: how a connection reads its answers, how nodes are found, how a group fares, and log texts.

The client works unchanged where they are not found; tests/brokers/kafka/test_sdk_internals.py fails then.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Iterable
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError, KafkaError
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import BrokerMetadata

from bridge.core.errors import BridgeError

_log = logging.getLogger(__name__)

OTHERS = 16 << 20
"""Bytes of an answer that brings no records; one about 100,000 partitions has 5 million."""

_METADATA_TIMEOUTS = 4
"""Deadline of one update of the metadata, in request timeouts. The client alone asks every node that an answer named,
one after another."""

_FETCH = FetchRequest.API_KEY
_BY_PARTITION = frozenset(
    kind.API_KEY for kind in (ProduceRequest, FetchRequest, OffsetRequest, OffsetCommitRequest, OffsetFetchRequest)
)
"""Requests whose answers have one entry for each partition in the request."""
_SIZE = struct.Struct(">i")


class AnswerRefused(ConnectionError):
    """The peer announces an answer that is beyond the bounds, or without a request; the connection ends."""


_most_bytes = 0
"""Bytes of the largest answer that is read."""

CONNECTION = ("_read", "_reader", "_requests", "_handle_frame")
"""Members of a connection. Without one of them the client reads answers of any size."""
CLIENT = ("_metadata_update", "_request_timeout_ms", "_conns")
CLUSTER = ("_bootstrap_brokers", "_brokers")
"""Members of the client and of its metadata. Without one of them an update of the metadata has no deadline, and the
client does not return to the configured servers."""
COORDINATOR = ("_do_heartbeat",)
"""Members of a group's coordinator. Without them the time of its last heartbeat is unknown."""


def has(kind: type, names: Iterable[str]) -> bool:
    """True when a class has all these members: its own, or attributes that its `__init__` sets."""
    known = {*dir(kind), *kind.__init__.__code__.co_names}  # type: ignore[misc]  # a function, not an overloaded slot
    return known.issuperset(names)


def bound_answers(size: int) -> None:
    """Let the clients of this process read answers of at most this number of bytes, or of a larger one given before.

    The client itself holds an answer of any size that its peer announces, before it looks into it. The bound is that of
    the process, since a connection does not know for whom it was made.
    """
    global _most_bytes
    _most_bytes = max(_most_bytes, size)
    AIOKafkaConnection.connect = _connect
    AIOKafkaConnection.send = _send
    ClusterMetadata.update_metadata = _update_metadata
    if has(AIOKafkaConnection, CONNECTION):
        AIOKafkaConnection._read = staticmethod(_read)
    if has(AIOKafkaClient, CLIENT) and has(ClusterMetadata, CLUSTER):
        AIOKafkaClient._metadata_update = _metadata_update
    if has(GroupCoordinator, COORDINATOR):
        GroupCoordinator._do_heartbeat = _do_heartbeat
        GroupCoordinator.last_heartbeat = 0.0


async def _read(self_ref: Any) -> None:
    """The client's own loop with a look at the announced size."""
    self = self_ref()
    if self is None:
        return
    reader = self._reader
    del self
    while True:
        (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
        self = self_ref()
        if self is None:
            return
        if not self._requests:
            raise AnswerRefused("the broker sent an answer without a request")
        _check(size, self._requests[0][1])
        del self
        answer = await reader.readexactly(size)
        self = self_ref()
        if self is None:
            return
        self._handle_frame(answer)
        del self


def _check(size: int, request: Any) -> None:
    """Check the announced size of an answer. request: None for a token. Raises: AnswerRefused."""
    most = _most_bytes if getattr(request, "API_KEY", None) == _FETCH else min(OTHERS, _most_bytes)
    if not 0 <= size <= most:
        raise AnswerRefused(f"an answer of {size} bytes was announced; at most {most} are allowed")


_open = AIOKafkaConnection.connect


async def _connect(self: Any) -> Any:
    """Connect as the client does. Every failure is an error that the client expects.

    An address, a list of versions or a step of SASL that makes no sense would otherwise end the client's own tasks.
    """
    try:
        return await _open(self)
    except (OSError, KafkaError, TimeoutError, BridgeError):
        raise
    except Exception as error:
        raise KafkaConnectionError(
            f"{self.host}:{self.port}: the address is not valid, or the first answers are not those of Kafka "
            f"({type(error).__name__}); check `bootstrap_servers` and `tls`"
        ) from error


_send_at_once = AIOKafkaConnection.send


def _send(self: Any, request: Any, expect_response: bool = True) -> Any:
    """Send as the client does. Close the connection when the peer announced no usable version of the request, or when
    the answer is not about the partitions in the request.

    A connection keeps the versions of its first answer. The client would try the same one without end, also if the
    peer is another by now, or was wrong.
    """
    try:
        sent = _send_at_once(self, request, expect_response)
    except (IncompatibleBrokerVersion, NotImplementedError) as error:
        self.close(reason=CloseReason.OUT_OF_SYNC)
        if isinstance(error, IncompatibleBrokerVersion):
            raise
        raise IncompatibleBrokerVersion(str(error)) from error
    waiting = getattr(self, "_requests", None)
    if not expect_response or request.API_KEY not in _BY_PARTITION or not waiting:
        return sent
    return _checked(self, waiting[-1][1], sent)


async def _checked(self: Any, request: Any, sent: Any) -> Any:
    answer = await sent
    try:
        _check_partitions(request, answer)
    except KafkaConnectionError:
        self.close(reason=CloseReason.OUT_OF_SYNC)
        raise
    return answer


def _check_partitions(request: Any, answer: Any) -> None:
    """Raise KafkaConnectionError where an answer leaves out a partition, repeats one, or has one that is not in the
    request.

    The client takes a commit without an answer for done, and fails unexpectedly on other partitions.
    """
    if request.topics is None or getattr(answer, "error_code", 0) != 0:
        return
    asked = set(_partitions(request.topics))
    try:
        found = list(_partitions(answer.topics))
    except TypeError as error:  # null instead of a list
        raise KafkaConnectionError("an answer has no partitions") from error
    # A node may leave partitions out of an answer with records
    complete = asked.issubset(found) or request.API_KEY == _FETCH
    if not complete or len(set(found)) < len(found) or not asked.issuperset(found):
        raise KafkaConnectionError("an answer is not about the partitions in the request")


def _partitions(topics: Iterable[Any]) -> Iterable[tuple[str, int]]:
    for topic, partitions in topics:
        for each in partitions:
            yield topic, each if isinstance(each, int) else each[0]


_update = ClusterMetadata.update_metadata


def _update_metadata(self: Any, metadata: Any) -> None:
    """Update as the client does, without topics whose partitions are not numbered from 0 on: there are none.

    The producer fails unexpectedly without partitions. A group would not notice later that the numbers have changed,
    because it compares their count.
    """
    kept = [topic for topic in metadata.topics if topic[0] or _numbered([each[1] for each in topic[-1]])]
    if len(kept) < len(metadata.topics):
        _log.warning(
            "the metadata has %d topics without a complete list of partitions", len(metadata.topics) - len(kept)
        )
        metadata.topics = kept
    _update(self, metadata)


def _numbered(partitions: list[int]) -> bool:
    return bool(partitions) and sorted(partitions) == list(range(len(partitions)))


_find_nodes = getattr(AIOKafkaClient, "_metadata_update", None)


async def _metadata_update(self: Any, cluster: Any, topics: Any) -> bool:
    """Update as the client does, within a deadline and without an exception; after a failure begin again at the
    configured servers. Close connections to addresses that the cluster no longer has.

    An exception would end the client's task that updates metadata. Its other tasks and its callers wait for that task
    without a limit. The client alone would ask the nodes of the last answer without end, and keep a connection for each
    node that an answer ever named.
    """
    assert _find_nodes is not None
    try:
        async with asyncio.timeout(_METADATA_TIMEOUTS * self._request_timeout_ms / 1000):
            found: bool = await _find_nodes(self, cluster, topics)
    except Exception as error:
        _log.warning("the metadata of the cluster cannot be updated: %s: %s", type(error).__name__, str(error)[:300])
        found = False
    if not found:
        nodes = [(f"bootstrap-{number}", host, port) for number, (host, port, _) in enumerate(self.hosts)]
        self.cluster._bootstrap_brokers = {node: BrokerMetadata(node, host, port, None) for node, host, port in nodes}
        self.cluster._brokers = {}
    elif cluster is self.cluster:
        cluster._bootstrap_brokers = {}
        for place, connection in list(self._conns.items()):
            node = cluster.broker_metadata(place[0])
            if node is None or (node.host, node.port) != (connection.host, connection.port):
                del self._conns[place]
                connection.close(reason=CloseReason.SHUTDOWN)
    return found


_beat = getattr(GroupCoordinator, "_do_heartbeat", None)


async def _do_heartbeat(self: Any) -> bool:
    """Send a heartbeat as the client does, and keep the time of an answer."""
    assert _beat is not None
    alive: bool = await _beat(self)
    if alive:
        self.last_heartbeat = asyncio.get_running_loop().time()
    return alive


def last_heartbeat(consumer: Any) -> float | None:
    """Time of the event loop at which the group last accepted a heartbeat; 0 before the first, None where unknown."""
    found: float | None = getattr(getattr(consumer, "_coordinator", None), "last_heartbeat", None)
    return found


_TASKS = {
    "_coordinator": ("_coordination_task", "_heartbeat_task", "_commit_refresh_task"),
    "_fetcher": ("_fetch_task",),
    "_sender": ("_sender_task",),
}
"""Tasks of a client by the attributes that lead to them."""


def abandon(client: Any) -> None:
    """End what a client leaves behind when it did not close: an abandoned member would keep its place in the group."""
    inner = getattr(client, "_client", None) or getattr(client, "client", None) or client
    tasks = [getattr(getattr(client, owner, None), name, None) for owner, names in _TASKS.items() for name in names]
    for task in [*tasks, getattr(inner, "_sync_task", None)]:
        if task is not None:
            task.cancel()
    for connection in list(getattr(inner, "_conns", {}).values()):
        connection.close(reason=CloseReason.SHUTDOWN)


def check_group(consumer: Any) -> None:
    """Raise the error that ended the client's work for its group, also while no partitions are assigned."""
    check = getattr(getattr(consumer, "_coordinator", None), "check_errors", None)
    if check is not None:
        check()


async def send(admin: Any, request: Any, node: int | None = None) -> Any:
    """Send a request through an administrative client. node: id of the receiving node; None: any.

    Raises: NotImplementedError where the client has no such method.
    """
    through = getattr(admin, "_send_request", None)
    if through is None:
        raise NotImplementedError("this version of aiokafka sends no requests of others")
    return await through(request, node)


STARTING_SECONDS = 30.0
"""Seconds from the start of a client for which passing states of a cluster are expected: a topic that was just created,
or a coordinator that is not elected yet. The bridge itself reports a state that lasts."""

_EXPECTED = {
    "aiokafka.cluster": (
        "Topic %s not found in cluster metadata",
        "Topic %s is not available during auto-create initialization",
        "No broker metadata found in MetadataResponse -- ignoring.",
    ),
    "aiokafka.consumer.group_coordinator": (
        "Group Coordinator Request failed: %s",
        "Marking the coordinator dead (node %s)for group %s.",
    ),
    "aiokafka.coordinator.assignors.roundrobin": ("No partition metadata for topic %s",),
}
"""Messages of the client about such states, by logger."""
_NORMAL = {
    "aiokafka": ('Unable connect to "%s:%s": %s', "Unable connect to node with id %s: %s"),
    "aiokafka.consumer.group_coordinator": ("Heartbeat failed for group %s because it is rebalancing",),
}
"""Messages of the client about the normal course of a group, and about outages, which the bridge reports itself."""


class _Expected(logging.Filter):
    """Filter that lowers warnings and errors of the client about expected states to `info`."""

    until = 0.0
    """Monotonic time until which clients are starting."""

    def start(self) -> None:
        """Note that a client starts."""
        self.until = time.monotonic() + STARTING_SECONDS

    def filter(self, record: logging.LogRecord) -> bool:
        passing = record.msg in _EXPECTED.get(record.name, ()) and time.monotonic() < self.until
        if passing or record.msg in _NORMAL.get(record.name, ()):
            error = record.args[0] if isinstance(record.args, tuple) and record.args else None
            if not isinstance(error, KafkaError) or error.retriable:
                record.levelno, record.levelname = logging.INFO, "INFO"
        return True


_expected = _Expected()
for _name in _EXPECTED | _NORMAL:
    logging.getLogger(_name).addFilter(_expected)


def starting() -> None:
    """Lower the messages of the clients about a start to `info` for some time."""
    _expected.start()
