"""Replay feed of one source: brings dead letters from its replay queues to their lanes, and reports their results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import structlog

from bridge.brokers.base import Partition
from bridge.core.errors import EngineError
from bridge.core.provenance import Cause
from bridge.core.stored_message import StoredMessage
from bridge.jobs.kind import ItemOutcome
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.source import SourcePipeline
from bridge.replay.state_machine import LEASE
from bridge.replay.store import QueuedReplay, QueueState, ReplayStore
from bridge.system.tasks import cancelled
from bridge.waiting.claim import Claim
from bridge.waiting.deliveries import Assignment, StoredDelivery, check_repeatedly, decode
from bridge.waiting.replays import result_of

log = structlog.get_logger("bridge.replay")

WINDOW = 500
"""Most replayed messages of a source in flight."""

_SOON, _LATER = 0.02, 1.0
"""Seconds between two checks of a queue with messages: the shortest and the longest."""

_IDLE = 0.25
"""Longest time between two checks while a queue of this process is empty: its job may run in another process, which
cannot notify this one."""

_BATCH = 500
"""Most results in one operation."""


class _ClaimHere:
    """Claim of this process on a queue. A new claim after a lost one is another object."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def is_valid(self) -> bool:
        """True while no other process can have the queue."""
        return time.time() < self._until

    @property
    def is_young(self) -> bool:
        """True while the claim need not be renewed."""
        return self._until - time.time() > LEASE / 2

    def renewed(self, claim: Claim) -> None:
        self._until = claim.lease

    def end(self) -> None:
        """End the claim: its messages that still wait in their lanes are abandoned."""
        self._until = 0.0


class _QueueHere:
    """Replay queue as known to this process. It stays known, so that no result of a call in flight is lost.

    place: origin topic and partition of its messages; None if unknown.
    results: results that the engine does not have yet.
    is_awaited: the queue is empty, and while the claim lasts only this process can execute its next messages.
    """

    def __init__(self, key: str, changed: asyncio.Event) -> None:
        self.key = key
        self.place: tuple[str, int] | None = None
        self.claim: _ClaimHere | None = None
        self.results: list[dict[str, Any]] = []
        self.is_awaited = False
        self._changed = changed
        self._at_work: set[str] = set()
        self._settled: set[str] = set()
        """Ids of messages that were executed here, while the engine still lists them."""

    @property
    def at_work(self) -> int:
        """Number of messages in flight."""
        return len(self._at_work)

    def fresh(self, state: QueueState, limit: int) -> list[QueuedReplay]:
        """Messages that are to be executed and are not in flight yet, in order."""
        self._settled &= {each.id for each in state.messages}
        known = self._settled | self._at_work
        return [each for each in state.messages if each.id not in known][: max(0, limit)]

    def add_in_flight(self, ids: Iterable[str]) -> None:
        """Note that these messages are in flight."""
        self._at_work.update(ids)

    def has_executed(self, id_: str) -> bool:
        """True of a message that was executed here, and was brought again before the engine knew that."""
        return id_ in self._settled

    def settle(self, id_: str, result: dict[str, Any]) -> None:
        """Note the result of a message. It becomes durable in the next batch: until then, a crash repeats it."""
        self._at_work.discard(id_)
        self._settled.add(id_)
        self.results.append(result)
        self._changed.set()

    def end_claim(self) -> None:
        """End the claim here. Messages in flight belong to the next owner."""
        if self.claim is not None:
            self.claim.end()
            self.claim = None
        self._at_work.clear()


class ReplayedDelivery(StoredDelivery):
    """Delivery of a dead letter that is replayed."""

    __slots__ = ("_claim", "_queue", "_queued")

    def __init__(self, queue: _QueueHere, claim: _ClaimHere, queued: QueuedReplay, stored: StoredMessage) -> None:
        super().__init__(stored)
        self._queue = queue
        self._claim = claim
        self._queued = queued

    @property
    def lost(self) -> bool:
        """True when another process may have the message, because this process has not renewed its claim in time.

        Also of a message that this process has executed before it lost and got back its claim.
        """
        return not self._claim.is_valid or self._queue.has_executed(self._queued.id)

    async def complete(self) -> None:
        """Report the outcome."""
        result = result_of(self.outcome)
        self._settle({"result": result.result.value, "detail": result.detail})

    async def dead_letter(self, cause: Cause) -> None:
        """Report the failure. The queue writes the next dead letter."""
        self._settle(
            {
                "result": ItemOutcome.FAILED.value,
                "reason": cause.reason,
                "detail": cause.detail,
                "error": cause.error,
                "route": cause.route,
                "attempts": cause.attempts,
                "executed": list(cause.executed),
                "expression": cause.expression,
            }
        )

    def _settle(self, result: dict[str, Any]) -> None:
        self._queue.settle(self._queued.id, {"mark": self._queued.mark, "job": self._queued.job, **result})


class ReplayFeed:
    """Feed of the messages of one source's replay queues to their lanes, behind what is in flight there.

    The engine has the truth. One process at a time works on a queue: the process that has claimed it and has its
    partition. Implements `bridge.pipeline.stage.SourcePart`.
    """

    name = "replay"

    def __init__(self, pipeline: SourcePipeline, store: ReplayStore) -> None:
        self.owner = uuid4().hex
        self._pipeline = pipeline
        self._store = store
        self._assignment = Assignment(pipeline)
        self._source = pipeline.settings.name
        self._all: Sequence[str] = ()
        """Keys of all queues of the source."""
        self._inspected: set[str] = set()
        """Keys of the queues that may have messages for this process."""
        self._queues: dict[str, _QueueHere] = {}
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._pause = _SOON
        self._flushing: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        """Held while results are sent: those that two calls sent at once would be removed twice, with later ones."""

    @property
    def at_work(self) -> int:
        """Number of replayed messages in flight."""
        return sum(queue.at_work for queue in self._queues.values())

    def notify(self, keys: Sequence[str] | None, changed: Collection[str]) -> None:
        """Note the queues of the source.

        keys: of all; None: as before.
        changed: keys of those that have changed.
        """
        if keys is not None:
            self._all = keys
        if changed:
            self._inspect_soon(changed)

    # -- life

    def start(self) -> None:
        """Start to report results."""
        self._flushing = asyncio.create_task(self._flush_always(), name=f"{self._source}:replay results")

    async def watch(self) -> None:
        """Bring messages while there are queues. Never returns."""
        await check_repeatedly(self._time_to_inspect, self.inspect, "replay", self._source)

    def assigned(self) -> None:
        """Look for the queues of the new partitions."""
        self._inspect_soon(self._all)

    def leaves_with(self, item: InFlightDelivery, partitions: Collection[Partition]) -> bool:
        """True when a replayed item leaves with its original partition."""
        return isinstance(item.delivery, ReplayedDelivery) and self._assignment.leaves_with(item, partitions)

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Report all results, and leave the queues of partitions that this process has no longer to other processes."""
        if self._assignment.has_groups:
            await self._leave([key for key, queue in self._queues.items() if not self._is_mine(queue)])
            self._inspect_soon(self._all)

    async def stop(self) -> None:
        """Report all results, and leave the queues to other processes."""
        await cancelled(self._flushing)
        await self._leave(list(self._queues))

    # -- work

    def _inspect_soon(self, keys: Collection[str]) -> None:
        self._inspected.update(keys)
        self._pause = _SOON
        if keys:
            self._wake.set()

    async def _time_to_inspect(self) -> None:
        self._wake.clear()
        if not self._inspected:
            await self._wake.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause):
                await self._wake.wait()

    async def inspect(self) -> None:
        """Look at the queues once: claim them, renew the claims, bring messages. Raises: EngineError."""
        moves = False
        for key in sorted(self._inspected):
            moves = await self._inspect(key) or moves
        awaited = any(queue.is_awaited for queue in self._queues.values())
        self._pause = _SOON if moves else min(_IDLE if awaited else _LATER, 2 * self._pause)

    async def _inspect(self, key: str) -> bool:
        """Look at one queue; True when it moves."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _QueueHere(key, self._changed)
        claim = queue.claim
        if claim is not None and claim.is_young and 2 * self.at_work > WINDOW:
            return True
        asked = time.time()
        state = await self._store.load(key)
        if state.topic is not None and state.partition is not None:
            queue.place = state.topic, state.partition
        mine = self._is_mine(queue)
        is_empty = not (state.messages or state.unsettled or queue.results)
        queue.is_awaited = mine and is_empty and claim is not None and claim.is_valid
        if queue.is_awaited:
            return False
        if not mine:
            # Calls may be in flight: `revoked` leaves the queue after them
            self._inspected.discard(key)
            return False
        if is_empty:
            self._inspected.discard(key)
            queue.fresh(state, 0)
            queue.end_claim()
            return False
        if not state.claim.belongs_to(self.owner, asked):
            if claim is not None:
                log.warning("the claim on a replay queue was lost", action="replay", source=self._source, queue=key)
                queue.end_claim()
            if state.claim.is_held(asked) or self._pipeline.gate.closed:
                return False
            await self._store.send(key, "claim", {"owner": self.owner})
            return True
        if state.claim.is_old(asked, LEASE):
            await self._store.send(key, "claim", {"owner": self.owner})
        if claim is None:
            claim = queue.claim = _ClaimHere()
            log.info("replaying dead letters", action="replay", source=self._source, queue=key)
        claim.renewed(state.claim)
        fresh = queue.fresh(state, min(WINDOW - self.at_work, self._pipeline.free_capacity))
        if fresh:
            await self._append_to_lanes(queue, claim, fresh)
        return bool(fresh)

    def _is_mine(self, queue: _QueueHere) -> bool:
        """True when this process may have the messages of the queue."""
        return queue.place is None or self._assignment.has(*queue.place)

    async def _append_to_lanes(self, queue: _QueueHere, claim: _ClaimHere, fresh: Sequence[QueuedReplay]) -> None:
        messages = [each.message for each in fresh]
        decoded = await decode(self._pipeline, messages)
        if self._pipeline.is_stopping or queue.claim is not claim or not claim.is_valid:
            return
        now = time.monotonic()
        items = []
        for each, message, found in zip(fresh, messages, decoded, strict=True):
            delivery = ReplayedDelivery(queue, claim, each, message)
            items.append(delivery.in_flight(found, now))
        queue.add_in_flight(each.id for each in fresh)
        self._pipeline.append(items)

    # -- results

    async def _flush_always(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._flush()
            except EngineError as error:
                log.info(
                    "results of replayed messages wait for the engine",
                    action="hold", source=self._source, detail=str(error),
                )  # fmt: skip
                await asyncio.sleep(self._pipeline.rules.current.retry.delay(1))
                self._changed.set()

    async def _flush(self) -> None:
        async with self._sending:
            for queue in list(self._queues.values()):
                while queue.results:
                    batch = queue.results[:_BATCH]
                    await self._store.send(queue.key, "done", {"results": batch})
                    del queue.results[: len(batch)]

    async def _leave(self, keys: Collection[str]) -> None:
        """Report all results, and end the claims on queues."""
        try:
            await self._flush()
            for key in keys:
                queue = self._queues[key]
                if queue.claim is not None:
                    queue.end_claim()
                    await self._store.send(key, "unclaim", {"owner": self.owner})
        except EngineError:
            log.info("a claim runs out by itself", action="replay", source=self._source)
