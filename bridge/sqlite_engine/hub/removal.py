"""Removal of finished instances and empty entities: by purge calls, and by the limits of retention.

Both go in short steps that do not delay other operations.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.working_set import OperationKind
from bridge.sqlite_engine.model.instance import FINISHED, StoredInstance
from bridge.sqlite_engine.model.reply import DEFERRED, Reply
from bridge.sqlite_engine.model.turn import BadResponse, entity_id
from bridge.sqlite_engine.model.values import BoolValue, micros, seconds
from bridge.sqlite_engine.options import RetentionPolicy

STEP = 200
"""Largest number of instances that one transaction removes."""

WINDOW = 2000
"""Largest number of keys that one transaction searches."""


class Purges:
    """Purge calls. All methods run in the writer's thread. again: submits the next step of a long purge."""

    def __init__(self, hub: TaskHub, again: Callable[..., None]) -> None:
        self._hub = hub
        self._again = again

    def purge(self, request: pb.PurgeInstancesRequest, reply: Reply) -> Any:
        kind = request.WhichOneof("request")
        if kind == "purgeInstanceFilter":
            limit = seconds(request.purgeInstanceFilter.timeout)
            deadline = time.monotonic() + limit if limit > 0 else None
            self._filtered(request, reply, 0, 0, deadline)
            return DEFERRED
        ids = list(request.instanceBatch.instanceIds) if kind == "instanceBatch" else [request.instanceId]
        removed = sum(self._by_id(instance_id, request.recursive) for instance_id in ids)
        self._hub.tx.flush()
        return _answer(removed, True)

    def _filtered(
        self, request: pb.PurgeInstancesRequest, reply: Reply, after: int, removed: int, deadline: float | None
    ) -> Any:
        hub = self._hub
        hub.tx.flush()
        chosen = request.purgeInstanceFilter
        last = after + WINDOW
        where, values = ["key > ?", "key <= ?", "finished_at IS NOT NULL"], [after, last]
        if chosen.HasField("createdTimeFrom"):
            where.append("created_at >= ?")
            values.append(micros(chosen.createdTimeFrom))
        if chosen.HasField("createdTimeTo"):
            where.append("created_at < ?")
            values.append(micros(chosen.createdTimeTo))
        if chosen.runtimeStatus:
            where.append(f"status IN ({','.join('?' * len(chosen.runtimeStatus))})")
            values += chosen.runtimeStatus
        query = f"SELECT key, id FROM instances WHERE {' AND '.join(where)} ORDER BY key LIMIT {STEP}"  # noqa: S608 -- fixed parts
        rows = hub.store.connection.execute(query, values).fetchall()
        for _, instance_id in rows:
            removed += self._by_id(instance_id, request.recursive)
        hub.tx.flush()
        if len(rows) == STEP:
            last = rows[-1][0]
        if last >= hub.last_key:
            hub.settled.append((reply, _answer(removed, True)))
        elif deadline is not None and time.monotonic() >= deadline:
            hub.settled.append((reply, _answer(removed, False)))
        else:
            hub.after.append(
                lambda: self._again(
                    self._filtered, request, reply, last, removed, deadline, kind=OperationKind.PURGE, reply=reply
                )
            )
        return DEFERRED

    def _by_id(self, instance_id: str, recursive: bool) -> int:
        hub = self._hub
        if instance_id.startswith("@"):
            return self._entity(instance_id)
        removed = 0
        waiting = [instance_id]
        while waiting:
            each = waiting.pop()
            instance = hub.find(each)
            if instance is None or instance.status not in FINISHED:
                continue
            if recursive:
                waiting += hub.store.children(each)
            self.remove(instance)
            removed += 1
        return removed

    def remove(self, instance: StoredInstance) -> None:
        """Remove a finished instance."""
        self._hub.replace(instance)
        self._hub.tx.flush()
        self._hub.after.append(lambda: self._hub.waiters.end(instance.id))

    def _entity(self, value: str) -> int:
        try:
            entity = self._hub.entities.find(entity_id(value))
        except BadResponse:
            return 0
        if entity is None or entity.queue or entity.token is not None or entity.owner is not None:
            return 0
        self._hub.entities.remove(entity)
        return 1

    def clean_entities(self, request: pb.CleanEntityStorageRequest) -> pb.CleanEntityStorageResponse:
        """Remove entities without state and release locks whose owner has ended, one page at a time."""
        hub = self._hub
        hub.tx.flush()
        empty = released = 0
        rows = hub.store.connection.execute(
            "SELECT id FROM entities WHERE (state IS NULL OR owner IS NOT NULL) AND id > ? ORDER BY id LIMIT ?",
            (request.continuationToken.value, STEP),
        ).fetchall()
        for (each,) in rows:
            entity = hub.entities.find(each)
            if entity is None:
                continue
            if request.releaseOrphanedLocks and entity.owner is not None:
                owner = hub.find(entity.owner)
                if owner is None or owner.finished:
                    hub.entities.unlock(entity)
                    released += 1
            idle = not entity.queue and entity.token is None and entity.owner is None
            if request.removeEmptyEntities and entity.state is None and idle:
                hub.entities.remove(entity)
                empty += 1
        token = rows[-1][0] if len(rows) == STEP else None
        response = pb.CleanEntityStorageResponse(emptyEntitiesRemoved=empty, orphanedLocksReleased=released)
        if token is not None:
            response.continuationToken.value = token
        return response


def _answer(removed: int, complete: bool) -> pb.PurgeInstancesResponse:
    return pb.PurgeInstancesResponse(deletedInstanceCount=removed, isComplete=BoolValue(value=complete))


class RetentionSweep:
    """Periodic removal of the instances beyond the limits, in transactions of a few instances."""

    def __init__(self, policy: RetentionPolicy, hub: TaskHub, purges: Purges, submit: Callable[..., None]) -> None:
        self._policy = policy
        self._hub = hub
        self._purges = purges
        self._submit = submit
        self._failed: set[str] = set()
        """Ids of instances whose removal failed."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-retention", daemon=True)

    def start(self) -> None:
        if self._policy.age is not None or self._policy.count is not None:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._policy.period):
            self._submit(self.step, kind=OperationKind.RETENTION)

    def step(self, limit: int | None = None) -> Any:
        """Remove a few instances that finished up to `limit`, and submit the next step while there are more.

        limit: time in microseconds; None computes it from the policy.
        """
        hub = self._hub
        hub.tx.flush()
        if limit is None:
            limit = self._limit()
            if limit is None:
                return None
        rows = hub.store.connection.execute(
            "SELECT id FROM instances WHERE finished_at IS NOT NULL AND finished_at <= ? ORDER BY finished_at LIMIT ?",
            (limit, STEP + len(self._failed)),
        ).fetchall()
        ids = [instance_id for (instance_id,) in rows if instance_id not in self._failed][:STEP]
        hub.after.append(lambda: self._submit_removals(ids, limit))
        return None

    def _submit_removals(self, ids: list[str], limit: int) -> None:
        for instance_id in ids:
            self._submit(self._remove, instance_id, kind=OperationKind.RETENTION)
        if len(ids) == STEP and not self._stop.is_set():
            self._submit(self.step, limit, kind=OperationKind.RETENTION)

    def _remove(self, instance_id: str) -> None:
        # Discarded when the removal succeeds: an instance that cannot be removed is tried once.
        self._failed.add(instance_id)
        instance = self._hub.find(instance_id)
        if instance is not None and instance.finished:
            self._purges.remove(instance)
        self._failed.discard(instance_id)

    def _limit(self) -> int | None:
        """Time in microseconds up to which finished instances are removed; None when all are within the limits."""
        limits = []
        if self._policy.age is not None:
            limits.append(self._hub.now - self._hub.clock.ahead() - int(self._policy.age * 1_000_000))
        if self._policy.count is not None:
            row = self._hub.store.connection.execute(
                "SELECT finished_at FROM instances WHERE finished_at IS NOT NULL ORDER BY finished_at DESC, id DESC"
                " LIMIT 1 OFFSET ?",
                (self._policy.count,),
            ).fetchone()
            if row is not None:
                limits.append(int(row[0]))
        return max(limits) if limits else None
