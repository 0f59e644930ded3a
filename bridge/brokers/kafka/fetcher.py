"""Fetch requests of one consumer: choice of partitions and nodes, and rereads of damaged batches.

aiokafka's client carries the requests; its own fetcher is not used. The latter moves positions before records are
handed out, and an error in one partition discards records that it had drained from others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaClient, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError, LeaderNotAvailableError, for_code
from aiokafka.protocol.fetch import FetchRequest

from bridge.brokers.kafka.connection import Connection, close
from bridge.brokers.kafka.fetch_pace import FetchPace
from bridge.brokers.kafka.log.compression import TakeBudget
from bridge.brokers.kafka.log.fetch_cursor import PartitionData
from bridge.brokers.kafka.log.partition_log import LOW_WATER, PartitionLog
from bridge.brokers.kafka.log.record_batch import (
    RecordBatch,
    begins_with_whole_batch,
    claimed_next,
    hides_batch,
    is_whole,
    next_base,
    was_early,
)
from bridge.core.errors import BridgeError
from bridge.core.message import Message
from bridge.system.tasks import cancelled

_log = logging.getLogger(__name__)

MAX_WAIT_MS = 500
"""Milliseconds for which a node may wait for records before it answers."""

_SHORT_WAIT_MS = 100
"""The same limit for the second request to a node, whose partitions should soon join the first."""

_RETRY_SECONDS = 0.1
_METADATA_SECONDS = 0.25
_REFUSED_SECONDS = 1.0
_SLICE = 0.005
"""Seconds after which the decoding of an answer lets other tasks run."""

_SLACK = 1 << 20
"""Bytes requested beyond a damaged batch, to see the data that follows."""

_FRESH = 2
"""Number of simultaneous new connections for rereads of damaged batches."""

_REREADS = 5
"""Number of fetches of a record that was handed out before, after which the record counts as gone."""

_REPLACE_LEADERLESS = 20
"""Looks for leaders in a row that found none, after which the client is replaced: it asks only nodes that it knows."""
_REPLACE_AFTER = 10
"""Number of consecutive failures after which the client is replaced."""

_OUT_OF_RANGE = 1
_DENIED = 29
_MOVED = frozenset({3, 5, 6, 9, 56, 74, 75, 78})
"""Error codes that pass when the partition's leader is known again: unknown topic or partition, leader not available,
not leader, replica not available, storage error, fenced or unknown leader epoch, offset not available.

https://kafka.apache.org/protocol#protocol_error_codes
"""


class Fetcher:
    """Fetches for the partitions given to `assign`, for as long as they need more."""

    def __init__(
        self,
        connection: Connection,
        *,
        isolation: str,
        wake: Callable[[], None],
        out_of_range: Callable[[TopicPartition, int], None],
    ) -> None:
        """Create a fetcher.

        isolation: `read_committed` or `read_uncommitted`.
        wake: called when there may be records to hand out, or an error.
        out_of_range: called when the broker does not have an offset.
        """
        self._connection = connection
        self._committed_only = isolation == "read_committed"
        self._wake = wake
        self._out_of_range = out_of_range
        self._client: Any = None
        self._logs: dict[TopicPartition, PartitionLog] = {}
        self._topics: frozenset[str] = frozenset()
        self._asked: set[PartitionLog] = set()
        """Partitions with a request in progress."""
        self._paused: dict[PartitionLog, asyncio.TimerHandle] = {}
        """Partitions that are not fetched until some time after an error."""
        self._slots: dict[tuple[int, int], bool] = {}
        """Requests in progress by node and slot; True where all partitions of the request are at the end of their
        log."""
        self._paces: defaultdict[int, FetchPace] = defaultdict(FetchPace)
        """Pace of the fetches at the end of the logs, by node."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._kick = asyncio.Event()
        self._fresh = asyncio.Semaphore(_FRESH)
        self._running: asyncio.Task[None] | None = None
        self._turn = 0
        self._failures = 0
        self._leaderless = 0
        self._error: KafkaError | None = None

    async def start(self) -> None:
        """Connect and begin fetching. Raises: BrokerUnavailable."""
        self._client = await self._open()
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Cancel requests in progress and disconnect. Idempotent."""
        running, self._running = self._running, None
        await cancelled(*self._tasks, running)
        client, self._client = self._client, None
        if client is not None:
            await close(client)

    def assign(self, logs: Mapping[TopicPartition, PartitionLog]) -> None:
        """Fetch for exactly these partitions from now on. Answers for others are dropped."""
        self._logs = dict(logs)
        self._follow_topics()
        self._kick.set()

    def probe(self, log: PartitionLog) -> None:
        """Check a partition from which records were taken: it may need more, or hold damage."""
        if log not in self._asked and log not in self._paused and (log.wants or log.suspect is not None):
            self._kick.set()

    def take_error(self) -> KafkaError | None:
        """Return and clear the broker's refusal of a topic."""
        error, self._error = self._error, None
        return error

    # -- requests

    async def _run(self) -> None:
        while True:
            self._kick.clear()
            try:
                self._send()
            except Exception as error:  # nobody else begins requests
                _log.error("reading from %s failed unexpectedly", self._connection.name, exc_info=error)
                await asyncio.sleep(_REFUSED_SECONDS)
                continue
            await self._kick.wait()

    def _send(self) -> None:
        """Start a request at each node that has partitions to fetch.

        A node answers the requests of one connection one after another, and a wait at the end of one log would delay
        the backlog of another. Two slots, each with its own connection, keep them apart: long waits in the first, short
        waits in the second while the first is busy.
        """
        nodes: dict[int, list[tuple[TopicPartition, PartitionLog]]] = {}
        lost: dict[TopicPartition, PartitionLog] = {}
        for tp, log in self._logs.items():
            if log in self._asked or log in self._paused:
                continue
            if (suspect := log.suspect) is not None:
                self._start(self._reread(tp, log, suspect), [log])
            elif log.wants:
                node = self._client.cluster.leader_for_partition(tp)
                if node is None or node == -1:
                    lost[tp] = log
                else:
                    nodes.setdefault(node, []).append((tp, log))
        if lost:
            self._find_leaders(lost)
            if not nodes and not self._slots:
                self._leaderless += 1
                if self._leaderless % _REPLACE_LEADERLESS == 0:
                    self._start(self._replace(), [])
        for node, logs in nodes.items():
            waiting = not any(log.cursor.is_behind for _, log in logs)
            if (node, 0) not in self._slots and not (waiting and self._slots.get((node, 1), False)):
                slot = 0
            elif (node, 1) not in self._slots:
                slot = 1
            else:
                continue
            # The first partition of a request gets its batch whatever its size; all partitions take turns
            self._turn += 1
            first = self._turn % len(logs)
            ordered = logs[first:] + logs[:first]
            self._slots[node, slot] = waiting
            self._start(self._fetch(node, slot, ordered), [log for _, log in logs])

    def _start(self, work: Coroutine[Any, Any, None], logs: list[PartitionLog]) -> None:
        task = asyncio.create_task(work)
        self._asked.update(logs)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._asked.difference_update(logs)
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("reading from %s failed unexpectedly", self._connection.name, exc_info=error)
                self._pause(logs, _REFUSED_SECONDS)
            self._kick.set()

        task.add_done_callback(done)

    def _find_leaders(self, logs: Mapping[TopicPartition, PartitionLog]) -> None:
        """Fetch the partitions as soon as their leaders are known, or again after a pause."""
        client = self._client
        self._pause(logs.values(), _METADATA_SECONDS)

        def updated(update: asyncio.Future[Any]) -> None:
            if update.cancelled() or update.exception() is not None:
                return
            for tp, log in logs.items():
                if client.cluster.leader_for_partition(tp) not in (None, -1):
                    self._end_pause(log)

        client.force_metadata_update().add_done_callback(updated)

    def _pause(self, logs: Iterable[PartitionLog], seconds: float) -> None:
        for log in logs:
            if (before := self._paused.pop(log, None)) is not None:
                before.cancel()
            self._paused[log] = asyncio.get_running_loop().call_later(seconds, self._end_pause, log)

    def _end_pause(self, log: PartitionLog) -> None:
        if (timer := self._paused.pop(log, None)) is not None:
            timer.cancel()
        self._kick.set()

    async def _fetch(self, node: int, slot: int, logs: list[tuple[TopicPartition, PartitionLog]]) -> None:
        offsets = {tp: log.cursor.fetch_offset for tp, log in logs}
        extra = {tp: log.cursor.extra for tp, log in logs}
        asked = dict(logs)
        slot_waits = self._slots[node, slot]
        try:
            response = await self._client.send(
                node,
                self._request(offsets, _SHORT_WAIT_MS if slot else MAX_WAIT_MS, extra),
                # Metadata uses the default connection, which no long wait may block
                group=ConnectionGroup.DEFAULT if slot else ConnectionGroup.COORDINATION,
            )
            if code := getattr(response, "error_code", 0):
                raise for_code(code)()
        except (KafkaError, OSError, TimeoutError) as error:
            await self._failed(node, error)
            return
        finally:
            self._slots.pop((node, slot), None)
        self._failures = self._leaderless = 0
        answers = list(_answers(response, self._committed_only))
        if not slot_waits and not any(answer.data for _, _, answer in answers):
            # Records exist and were not sent: an immediate repetition would not help
            self._pause(asked.values(), _RETRY_SECONDS)
        begun, records = time.monotonic(), 0
        for tp, code, answer in answers:
            log = self._logs.get(tp)
            if log is None or asked.get(tp) != log:
                continue  # revoked meanwhile: the next owner reads it again
            if code:
                self._refused(tp, log, offsets[tp], code)
                continue
            log.accept(offsets[tp], answer)
            records += max(0, log.cursor.fetch_offset - offsets[tp])
            if not log.empty:
                self._wake()
            if time.monotonic() - begun > _SLICE:
                await asyncio.sleep(0)
                begun = time.monotonic()
        if slot_waits and (pause := self._paces[node].pause_after(records, time.monotonic())):
            # The partitions count as requested until then
            await asyncio.sleep(pause)

    def _request(
        self, offsets: Mapping[TopicPartition, int], wait: int, extra: Mapping[TopicPartition, int]
    ) -> FetchRequest:
        """Build a fetch request. extra: bytes by partition beyond the configured number."""
        config = self._connection.config
        topics: dict[str, list[tuple[int, int, int]]] = {}
        for tp, offset in offsets.items():
            topics.setdefault(tp.topic, []).append((tp.partition, offset, config.fetch_partition_bytes + extra[tp]))
        isolation = 1 if self._committed_only else 0
        return FetchRequest(wait, 1, config.fetch_bytes + sum(extra.values()), isolation, list(topics.items()))

    def _refused(self, tp: TopicPartition, log: PartitionLog, offset: int, code: int) -> None:
        error = for_code(code)
        if code == _OUT_OF_RANGE and log.cursor.search_ahead(offset):
            return  # the data before a batch was deleted meanwhile
        if code == _OUT_OF_RANGE:
            self._out_of_range(tp, offset)
            self._pause([log], _RETRY_SECONDS)
        elif code in _MOVED:
            self._client.force_metadata_update()
            self._pause([log], _RETRY_SECONDS)
        elif code == _DENIED:
            self._error = error(tp.topic)
            self._pause([log], _REFUSED_SECONDS)
            self._wake()
        else:
            if not log.cursor.problem:
                _log.warning("%s: the broker answers %s for offset %d", log, error.__name__, offset)
            log.cursor.refused(
                f"the broker answers {error.__name__} for offset {offset}; see the log of the broker. The source tries "
                f"again every {_REFUSED_SECONDS:g} s"
            )
            self._pause([log], _REFUSED_SECONDS)

    async def _failed(self, node: int, error: Exception) -> None:
        """Pause after a request without an answer; positions have not moved."""
        self._failures += 1
        _log.debug("node %d does not answer a fetch: %s: %s", node, type(error).__name__, error)
        self._client.force_metadata_update()
        await asyncio.sleep(min(_REFUSED_SECONDS, _RETRY_SECONDS * self._failures))
        if self._failures % _REPLACE_AFTER == 0:
            await self._replace()

    # -- records that were handed out before

    async def reread(self, tp: TopicPartition, offsets: Sequence[int], size: int) -> list[tuple[int, Message | None]]:
        """See `RereadableSubscription.reread`. Raises: KafkaError, OSError, TimeoutError."""
        found: list[tuple[int, Message | None]] = []
        left = deque(offsets)
        while left and (size > 0 or not found):
            records, end = await self._records_at(tp, left[0])
            while left and left[0] < end and (size > 0 or not found):
                message = records.get(left[0])
                found.append((left.popleft(), message))
                size -= message.size if message is not None else 0
        return found

    async def _records_at(self, tp: TopicPartition, offset: int) -> tuple[dict[int, Message], int]:
        """Records from this offset on, and the offset after them. The first is missing when it cannot be read."""
        bounds = self._connection.bounds
        log = PartitionLog(
            tp.topic, tp.partition, offset, bounds=bounds, low_water=1, treatment=lambda unreadable: "dead_letter"
        )
        for _ in range(_REREADS):
            code, answer = await self._ask(tp, log.cursor.fetch_offset, self._client, log.cursor.extra)
            if code == _OUT_OF_RANGE:
                break
            if code:
                raise for_code(code)(str(tp))
            log.accept(log.cursor.fetch_offset, answer)
            records = {first: message for first, _, message in log.take(LOW_WATER, TakeBudget())}
            if log.position > offset:
                return records, log.position
        return {}, offset + 1

    # -- clients

    async def _open(self) -> Any:
        client = AIOKafkaClient(**self._connection.arguments)
        try:
            await self._connection.open(client.bootstrap)
        except BaseException:
            await close(client)
            raise
        return client

    async def _replace(self) -> None:
        """Use a new client: the old one knows only nodes that it has met, and all of them may have moved."""
        try:
            fresh = await self._open()
        except BridgeError as error:
            _log.warning("%s: cannot reconnect to read: %s", self._connection.name, error)
            return
        old, self._client = self._client, fresh
        self._topics = frozenset()
        self._follow_topics()
        await close(old)

    def _follow_topics(self) -> None:
        topics = frozenset(tp.topic for tp in self._logs)
        if topics and topics != self._topics:
            self._topics = topics
            self._client.set_topics(topics)

    # -- damage

    async def _reread(self, tp: TopicPartition, log: PartitionLog, batch: RecordBatch) -> None:
        """Read a damaged batch twice more, the second time over a new connection, before its damage is accepted."""
        try:
            # The log may have lost the beginning of the batch, and the broker would refuse its base offset
            offset = max(batch.base, log.position) if batch.asked is None else batch.asked
            answer = await self._read_again(tp, offset, batch, self._client)
            if _with_same_damage(batch, answer) is not None:
                async with self._fresh:
                    fresh = await self._open()
                    try:
                        await fresh.set_topics([tp.topic])
                        answer = await self._read_again(tp, offset, batch, fresh)
                        if (same := _with_same_damage(batch, answer)) is not None:
                            await self._accept_damage(tp, log, batch, same, fresh)
                            return
                    finally:
                        await close(fresh)
        except (KafkaError, OSError, TimeoutError, BridgeError) as error:
            _log.warning("%s: offset %d is damaged and cannot be read again: %s", log, batch.base, error)
            self._pause([log], _REFUSED_SECONDS)
            return
        if self._logs.get(tp) is log:
            log.reread(batch)
            if answer is not None and batch.asked is None:
                log.accept(log.cursor.fetch_offset, answer)
                self._wake()
            self._pause([log], _RETRY_SECONDS)

    async def _accept_damage(
        self, tp: TopicPartition, log: PartitionLog, batch: RecordBatch, answer: PartitionData, client: Any
    ) -> None:
        try:
            known = batch.last is not None or batch.ambiguous
            following = None if known else await self._following(tp, batch, answer, client)
        except _LogGrew:
            self._pause([log], _RETRY_SECONDS)
            return
        if self._logs.get(tp) is not log:
            return
        assert batch.fault is not None
        if batch.last is None and following is None:
            log.stop_at_damage(batch)
        else:
            log.confirm(batch, following)
        _log.error("%s: offset %d is damaged: %s", log, batch.base, batch.fault.detail)
        self._wake()

    async def _following(
        self, tp: TopicPartition, batch: RecordBatch, answer: PartitionData, client: Any
    ) -> int | None:
        """Offset after a batch whose own header is unreliable; None when it cannot be determined.

        The following batch in the answer shows the offset. Without one, the damaged header is accepted if the broker
        agrees: the log ends at the stated offset, or another batch begins there. Raises: _Grown, for another attempt.
        """
        lowest = batch.base if batch.placed else 0
        if not is_whole(batch.raw) or await asyncio.to_thread(hides_batch, batch.raw, lowest, answer.end):
            return None
        bounds = self._connection.bounds
        if len(answer.data) > len(batch.raw):
            return next_base(answer.data, len(batch.raw), lowest, answer.end, bounds)
        claimed, end = claimed_next(batch.raw), answer.readable_end
        if claimed == end:
            return claimed
        if claimed is not None and batch.base < claimed < end:
            then = await self._read_at(tp, claimed, client, 0)
            if then is None:
                return None
            if not then.data:
                return then.readable_end
            if next_base(then.data, 0, claimed - 1, then.end, bounds) == claimed:
                return claimed
        last = await self._read_at(tp, end - 1, client, len(batch.raw))
        if last is not None and last.readable_end != end:
            raise _LogGrew
        return end if last is not None and (not last.data or last.data.endswith(batch.raw)) else None

    async def _read_again(
        self, tp: TopicPartition, offset: int, batch: RecordBatch, client: Any
    ) -> PartitionData | None:
        return await self._read_at(tp, offset, client, len(batch.raw) + _SLACK)

    async def _read_at(self, tp: TopicPartition, offset: int, client: Any, extra: int) -> PartitionData | None:
        """Answer to a fetch of one partition; None when the broker refuses. Raises: KafkaError, OSError."""
        code, answer = await self._ask(tp, offset, client, extra)
        return None if code else answer

    async def _ask(self, tp: TopicPartition, offset: int, client: Any, extra: int) -> tuple[int, PartitionData]:
        """Error code of the broker and answer to a fetch of one partition. Raises: KafkaError, OSError."""
        if client is None:
            raise LeaderNotAvailableError("the subscription is closed")
        node = client.cluster.leader_for_partition(tp)
        if node is None or node == -1:
            client.force_metadata_update()
            raise LeaderNotAvailableError(str(tp))
        response = await client.send(node, self._request({tp: offset}, 0, {tp: extra}))
        for found, code, answer in _answers(response, self._committed_only):
            if found != tp:
                continue
            if code in _MOVED:
                client.force_metadata_update()
                raise for_code(code)(str(tp))
            return code, answer
        raise LeaderNotAvailableError(str(tp))


class _LogGrew(Exception):
    """The log grew between two reads that have to agree."""


def _with_same_damage(batch: RecordBatch, answer: PartitionData | None) -> PartitionData | None:
    """Answer from the batch on, where it shows the same damage; None otherwise. An incomplete batch must still be
    incomplete.
    """
    if answer is None or was_early(batch, answer.end):
        return None
    if not is_whole(batch.raw):
        return answer if answer.data.startswith(batch.raw) and not begins_with_whole_batch(answer.data) else None
    # Other batches may come first, when the header of one of them states offsets that are too high
    at = answer.data.find(batch.raw)
    return None if at < 0 else replace(answer, data=answer.data[at:])


def _answers(response: Any, committed_only: bool) -> Iterator[tuple[TopicPartition, int, PartitionData]]:
    """Partition, error code and answer. Layouts: versions 4, 5 to 10, and 11 of the fetch response."""
    for topic, partitions in response.topics:
        for number, code, end, *rest in partitions:
            stable, start, aborted, data = -1, 0, None, rest[-1] or b""
            if response.API_VERSION >= 4:
                stable = rest[0]
                start = rest[1] if response.API_VERSION >= 5 else 0
                aborted = (rest[2] if response.API_VERSION >= 5 else rest[1]) or ()
            readable = stable if committed_only and stable >= 0 else end
            yield (
                TopicPartition(topic, number),
                code,
                PartitionData(data, end, readable, tuple(aborted or ()) if committed_only else None, start),
            )
