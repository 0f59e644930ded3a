"""Requests to the cluster itself: its identity, topics, and the positions of a group."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupLoadInProgressError, TopicAlreadyExistsError, for_code
from aiokafka.structs import OffsetAndMetadata

from bridge.brokers.kafka.connection import Connection, close
from bridge.core.errors import BridgeError, BrokerError, BrokerUnavailable

_T = TypeVar("_T")

_PAUSE = 0.1
_RENEW_AFTER = 3
"""Failures in a row after which the client is replaced."""
_NO_POSITION = -1
"""Offset in an answer for a partition in which the group has no position."""
_FIRST_ANSWER = 3.0
"""Seconds for the first answer of a connected server; short, because a person waits for the result."""


class Cluster:
    """One administrative client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._admin: Any = None
        self.id = ""
        """Identity of the cluster, known after `start`."""
        self._known: set[str] = set()
        self._turn = asyncio.Lock()
        self._failures = 0

    async def start(self) -> None:
        """Connect. Raises: BrokerUnavailable."""
        self._admin = await self._open()
        found = await self._ask("ask for the cluster's identity", lambda: self._admin.describe_cluster(), _FIRST_ANSWER)
        self.id = found.get("cluster_id") or ",".join(self._connection.config.hosts)

    async def _open(self) -> Any:
        admin = AIOKafkaAdminClient(**self._connection.arguments)
        try:
            await self._connection.open(admin.start)
        except BaseException:
            await close(admin)
            raise
        return admin

    async def _renew(self) -> None:
        """Begin again at the configured servers: the client itself would ask the nodes that it knows without end.

        Raises: BrokerUnavailable.
        """
        async with self._turn:
            old = self._admin
            if old is None or self._failures < _RENEW_AFTER:
                return
            fresh = await self._open()
            if self._admin is None:  # stopped meanwhile
                await close(fresh)
                return
            self._admin = fresh
            self._failures = 0
            await close(old)

    async def stop(self) -> None:
        """Disconnect. Idempotent."""
        admin, self._admin = self._admin, None
        if admin is not None:
            await close(admin)

    async def ping(self) -> None:
        """Check that the cluster answers. Raises: BrokerUnavailable."""
        await self._ask("reach the cluster", lambda: self._admin.describe_cluster(), longest=0.0)

    async def ask(self, what: str, question: Callable[[Any], Awaitable[_T]]) -> _T:
        """Answer to one question to the administrative client. Raises: BrokerUnavailable."""
        return await self._ask(what, lambda: question(self._admin), longest=0.0)

    async def topics(self) -> dict[str, int]:
        """Number of partitions by topic. Raises: BrokerUnavailable."""

        async def list_() -> dict[str, int]:
            found = await self._admin.describe_topics(None)
            return {topic["topic"]: len(topic["partitions"]) for topic in found if not topic["error_code"]}

        return await self._ask("list the topics", list_)

    async def ensure(self, names: Collection[str]) -> None:
        """Ensure that the topics exist; create missing ones when `create_topics` is set.

        Raises: BrokerError naming the missing topics, BrokerUnavailable.
        """
        unknown = {name for name in names if name not in self._known}
        if not unknown:
            return
        there = await self.topics()
        missing = unknown - there.keys()
        config = self._connection.config
        if missing and not config.create_topics:
            listed = ", ".join(sorted(missing))
            raise BrokerError(
                f"{self._connection.name}: no topic {listed}; create it, or set `create_topics: true` on the broker "
                "(a topic that this principal may not describe looks the same)"
            )
        if missing:
            await self._create(missing)
            # Wait until every node knows the topic; a client that asks another node would create it with other settings
            await self._seen(missing)
        self._known |= unknown

    async def _seen(self, names: set[str]) -> None:
        end = asyncio.get_running_loop().time() + self._connection.config.request_timeout
        while not names <= (await self.topics()).keys():
            if asyncio.get_running_loop().time() > end:
                listed = ", ".join(sorted(names))
                raise BrokerUnavailable(f"{self._connection.name}: topic {listed} was created but is not visible yet")
            await asyncio.sleep(_PAUSE)

    def forget(self, topic: str) -> None:
        """Check the topic again before its next use, because it may have been deleted."""
        self._known.discard(topic)

    async def committed(
        self, group: str, partitions: Iterable[TopicPartition], coordinator: int | None = None
    ) -> dict[TopicPartition, Any]:
        """Offset and metadata by partition, where the group has a position. Raises: BrokerUnavailable.

        coordinator: id of the node that coordinates the group; None: the cluster is asked for it.
        """
        wanted = list(partitions)
        if not wanted:
            return {}

        async def fetch() -> dict[TopicPartition, OffsetAndMetadata]:
            found = dict(await self._admin.list_consumer_group_offsets(group, coordinator, partitions=wanted))
            # The client overlooks an error above the topics of the answer, which then has no topics. A partition
            # without a position has an entry of its own (-1), and a missing entry never means "no position": treated as
            # such, the group would start from the beginning
            if any(tp not in found or found[tp].offset < _NO_POSITION for tp in wanted):
                raise GroupLoadInProgressError(
                    f"the coordinator of group {group} returns no positions: it is starting, or refuses the group"
                )
            return {tp: found[tp] for tp in wanted}

        found = await self._ask(f"read the positions of group {group}", fetch)
        return {partition: position for partition, position in found.items() if position.offset != _NO_POSITION}

    async def _create(self, names: Iterable[str]) -> None:
        replication, partitions = self._connection.config.replication, self._connection.config.partitions
        if replication is None:

            async def nodes() -> int:
                return len((await self._admin.describe_cluster())["brokers"])

            replication = max(1, min(3, await self._ask("ask for the nodes", nodes)))
        wanted = [NewTopic(name, partitions, replication) for name in names]

        async def create() -> list[tuple[str, int]]:
            return [(name, code) for name, code, *_ in (await self._admin.create_topics(wanted)).topic_errors]

        for name, code in await self._ask("create topics", create):
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise self._connection.translate(error(), f"create topic {name}")

    async def _ask(self, what: str, question: Callable[[], Awaitable[_T]], longest: float | None = None) -> _T:
        """Repeat a request until there is an answer, for at most `longest` seconds (default: the request timeout)."""
        limit = self._connection.config.request_timeout
        loop = asyncio.get_running_loop()
        end = loop.time() + (limit if longest is None else longest)
        while True:
            try:
                if self._failures >= _RENEW_AFTER:
                    await self._renew()
                found = await asyncio.wait_for(question(), limit)
                self._failures = 0
                return found
            except Exception as error:
                self._failures += 1
                # More than the client's own errors: it fails on answers of nodes that are away, or that are no Kafka
                if loop.time() >= end:
                    if isinstance(error, BridgeError):
                        raise
                    raise self._connection.translate(error, what) from error
            await asyncio.sleep(_PAUSE)
