"""Lineage index of a remote engine: entities of the task hub, one for each shard, which the bridge itself writes.

A row is written after its cause, in batches: no message waits for it. A process that is killed loses its unwritten
rows.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.commands import Command, Resume, SignalEntity, Suspend, Terminate
from bridge.core.errors import EngineError, EngineOutage
from bridge.core.lineage.records import COMMAND_RECORD, DEAD_LETTER_RECORD, DUPLICATE_RECORD, command_record
from bridge.core.lineage.shards import (
    ENTITY_ROW,
    INSTANCE_ROW,
    ShardLimits,
    ShardRow,
    apply,
    find,
    hash_of,
    is_small,
    shard_of,
)
from bridge.core.origin import MessageOrigin, index_ids
from bridge.core.system_names import LINEAGE_INDEX
from bridge.engines.client import EngineClient
from bridge.engines.entity_client import LineageHit, LineageHits, LineageRecord
from bridge.engines.message_sealer import MessageSealer
from bridge.system.tasks import cancelled

log = structlog.get_logger("bridge.lineage")

_AT_ONCE = 16
"""Shards that are written, or read, concurrently."""

_BATCH = 100
"""Most rows of one operation: at MAX_ROW_BYTES each they are below the 1 MiB that a scheduler takes."""

_LAST = 5.0
"""Seconds for the last write when the engine stops."""

_WITHOUT_HISTORY = (SignalEntity, Terminate, Suspend, Resume)
"""Commands that no history of an instance names."""


@dataclass(frozen=True, slots=True)
class LineageOptions:
    """Settings of the index.

    shards: number of entities.
    limits: bounds of one shard.
    pause: seconds between two writes.
    buffer: most rows that wait for a write.
    """

    shards: int
    limits: ShardLimits
    pause: float
    buffer: int


class LineageIndex:
    """Writer and reader of the index of one engine. Rows may be added from any thread."""

    def __init__(self, options: LineageOptions, messages: MessageSealer, now: Callable[[], float] = time.time) -> None:
        """Create the index. messages: seals records where the engine's configuration has keys."""
        self._options = options
        self._messages = messages
        self._now = now
        self._lock = threading.Lock()
        self._rows: dict[str, list[ShardRow]] = {}
        self._count = 0
        self._client: EngineClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._planned = False
        self._writing: asyncio.Task[None] | None = None
        self._reported = False
        self.events: Counter[str] = Counter(dict.fromkeys(("written", "dropped", "removed", "expired"), 0))
        """Number of rows by event.

        `written`; `dropped`: never written, because the buffer was full, the row too large, or the engine refused it;
        and, where this process runs the entities, `removed` because of a bound, and `expired`.
        """

    @property
    def buffered(self) -> int:
        """Number of rows that wait for a write."""
        return self._count

    def start(self, client: EngineClient) -> None:
        """Begin to write, in the running event loop."""
        self._client = client
        self._loop = asyncio.get_running_loop()
        with self._lock:
            self._planned = False

    async def stop(self) -> None:
        """Write what is left, within a few seconds; count the rest as dropped."""
        if self._loop is None:
            return
        try:
            async with asyncio.timeout(_LAST):
                await cancelled(self._writing)
                await self.write()
        except TimeoutError:
            pass
        with self._lock:
            self._drop(self._count)
            self._rows, self._count, self._planned = {}, 0, True
        self._loop = self._client = None

    # -- rows

    def executed(self, command: Command, origin: MessageOrigin) -> None:
        """Add an executed command."""
        ids = index_ids(origin.message_id, origin.position)
        if isinstance(command, _WITHOUT_HISTORY):
            record = command_record(command, origin)
            if isinstance(command, SignalEntity):
                entity = EntityInstanceId(command.entity, command.key)
                record |= {"entity": str(entity), "command": f"signal {command.operation}"}
            self._record(ids, COMMAND_RECORD, record)
        else:
            self.add(ids, INSTANCE_ROW, command.instance_id)

    def repeated(self, command: Command, origin: MessageOrigin) -> None:
        """Add a command that was executed before: by another delivery, or by this one before a crash."""
        if isinstance(command, _WITHOUT_HISTORY):
            self.executed(command, origin)
            return
        *place, last = index_ids(origin.message_id, origin.position)
        self.add([last], INSTANCE_ROW, command.instance_id)
        if place:
            self._record(place, DUPLICATE_RECORD, command_record(command, origin))

    def waits(self, ids: Collection[str], entity_id: str) -> None:
        """Add an early or quarantined message."""
        self.add(ids, ENTITY_ROW, entity_id)

    def published(self, message_id: str, instance_id: str) -> None:
        """Add a publication of an instance."""
        self.add([message_id], INSTANCE_ROW, instance_id)

    def dead_letter(self, record: Mapping[str, Any]) -> None:
        """Add a dead letter. record: see `bridge.core.lineage.records.dead_letter_record`."""
        self._record(index_ids(record["id"], record["position"]), DEAD_LETTER_RECORD, record)

    def _record(self, ids: Collection[str], kind: int, record: Mapping[str, Any]) -> None:
        try:
            body = self._messages.seal_key(json.dumps(record), LINEAGE_INDEX)
        except EngineError as error:
            self._drop(len(ids))
            self._report(error)
            return
        self.add(ids, kind, body)

    def add(self, ids: Collection[str], kind: int, value: Any) -> None:
        """Add a row for each id. Never waits."""
        at = round(self._now(), 3)
        rows: list[ShardRow] = [[hash_of(id_), at, kind, value] for id_ in ids]
        loop = self._loop
        with self._lock:
            if loop is None or self._count + len(rows) > self._options.buffer or not all(map(is_small, rows)):
                self._drop(len(rows))
                return
            for row in rows:
                self._rows.setdefault(shard_of(row[0], self._options.shards), []).append(row)
            self._count += len(rows)
            planned, self._planned = self._planned, True
        if not planned:
            try:
                loop.call_soon_threadsafe(self._plan, loop)
            except RuntimeError:  # the loop is closed: this process ends
                return

    def count_removed(self, removed: int, expired: int) -> None:
        """Count rows that an entity of this process has removed."""
        with self._lock:
            self.events.update({"removed": removed, "expired": expired})

    # -- writing

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is None:
            return
        self._writing = loop.create_task(self._write_later(), name="lineage index")

    async def _write_later(self) -> None:
        """Write until nothing is left. An engine that is away gets the rows later."""
        while True:
            await asyncio.sleep(self._options.pause)
            await self.write()
            with self._lock:
                if not self._count:
                    self._planned = False
                    return

    async def write(self) -> None:
        """Write all rows that wait, once; keep those that an engine which is away did not take."""
        with self._lock:
            taken, self._rows = self._rows, {}
            self._count = 0
        left = [(shard, rows[at : at + _BATCH]) for shard, rows in taken.items() for at in range(0, len(rows), _BATCH)]
        outage = False
        try:
            while left and not outage:
                some = left[:_AT_ONCE]
                sent = await asyncio.gather(*(self._send(shard, rows) for shard, rows in some))
                outage = not all(sent)
                left = [each for each, is_sent in zip(some, sent, strict=True) if not is_sent] + left[_AT_ONCE:]
        finally:
            # Also when this write is cancelled: a batch that was sent nevertheless is written again, with no effect
            self._keep(left)

    async def _send(self, shard: str, rows: Sequence[ShardRow]) -> bool:
        """Send a batch; False when the engine is away."""
        assert self._client is not None
        limits = self._options.limits
        value = {"ids": limits.ids, "age": limits.age, "rows": rows}
        try:
            entity = EntityInstanceId(LINEAGE_INDEX, shard)
            await self._client.signal_entity(entity, "add", value, what="write the lineage index")
        except EngineOutage:
            return False
        except EngineError as error:
            self._drop(len(rows))
            self._report(error)
        else:
            self.events["written"] += len(rows)
        return True

    def _keep(self, left: Iterable[tuple[str, Sequence[ShardRow]]]) -> None:
        with self._lock:
            for shard, rows in left:
                room = max(0, self._options.buffer - self._count)
                self._drop(len(rows) - len(rows[:room]))
                self._rows[shard] = [*rows[:room], *self._rows.get(shard, ())]
                self._count += len(rows[:room])

    def _drop(self, count: int) -> None:
        if count:
            self.events["dropped"] += count

    def _report(self, error: EngineError) -> None:
        """Log the first error; the metric counts all."""
        if not self._reported:
            self._reported = True
            log.warning("rows of the lineage index cannot be written", action="lineage", detail=str(error))

    # -- reading

    async def search(self, searches: Sequence[Collection[str]]) -> LineageHits:
        """Search for ids that mean the same, for each search. Raises: EngineError."""
        hashes = [{hash_of(id_) for id_ in ids} for ids in searches]
        shards = {shard_of(each, self._options.shards) for some in hashes for each in some}
        states = await self._states(sorted(shards))
        now = self._now()
        hits = []
        since: float | None = now
        for some in hashes:
            own = {shard_of(each, self._options.shards) for each in some}
            found = find((states[shard] for shard in sorted(own)), some, self._options.limits, now)
            since = None if found.since is None or since is None else min(since, found.since)
            hits.append(self._hit(found.rows))
        return LineageHits(0, 0 if since is None else int(since * 1e6), hits, bounded=True)

    async def _states(self, shards: Sequence[str]) -> dict[str, Any]:
        assert self._client is not None
        client = self._client
        states: dict[str, Any] = {}

        async def read(shard: str) -> Any:
            found = await client.get_entity(EntityInstanceId(LINEAGE_INDEX, shard), what="read the lineage index")
            return None if found is None else json.loads(found.get_state() or "null")

        for begin in range(0, len(shards), _AT_ONCE):
            some = shards[begin : begin + _AT_ONCE]
            states |= dict(zip(some, await asyncio.gather(*map(read, some)), strict=True))
        return states

    def _hit(self, rows: Iterable[ShardRow]) -> LineageHit:
        instances: dict[str, None] = {}
        entities: dict[str, None] = {}
        records: dict[str, LineageRecord] = {}
        for _, at, kind, value in rows:
            if kind == INSTANCE_ROW:
                instances[value] = None
            elif kind == ENTITY_ROW:
                entities[value] = None
            elif kind in (DEAD_LETTER_RECORD, COMMAND_RECORD, DUPLICATE_RECORD):
                body = self._messages.open_key(value, LINEAGE_INDEX)
                records[body] = LineageRecord(at, kind, json.loads(body))
        return LineageHit(tuple(instances), tuple(entities), tuple(records.values()))


def index_entity(
    tell: Callable[[int, int], None] = lambda removed, expired: None,
) -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name LINEAGE_INDEX.

    tell: gets the numbers of rows that were removed because of a bound, and because of their age.
    """

    def index(ctx: EntityContext, value: Any) -> None:
        change = apply(ctx.get_state(), ctx.operation, value, time.time())
        ctx.set_state(change.state)
        if change.wake is not None:
            due = datetime.fromtimestamp(change.wake, UTC)
            ctx.signal_entity(ctx.entity_id, "expire", {"ids": value["ids"], "age": value["age"]}, due)
        tell(change.removed, change.expired)

    index.__name__ = LINEAGE_INDEX
    return index
