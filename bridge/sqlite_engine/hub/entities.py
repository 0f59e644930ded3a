"""Entities of a hub: their queues and locks, and the steps of which calls on them consist."""

from __future__ import annotations

import logging

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.index import IndexWriter
from bridge.sqlite_engine.hub.working_set import WorkingSet
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.entity import EntityCache, StoredEntity
from bridge.sqlite_engine.model.instance import StoredInstance
from bridge.sqlite_engine.model.values import due, new_id, timestamp
from bridge.sqlite_engine.model.work import SIGNAL_IS_DUE, Timer
from bridge.sqlite_engine.options import DatabaseOptions

logger = logging.getLogger(__name__)


class HubEntities:
    """Entities of one hub. All methods run in the writer's thread, like those of the working set."""

    def __init__(self, working: WorkingSet, options: DatabaseOptions, index: IndexWriter) -> None:
        self._working = working
        self._index = index
        self._rules = options.rules
        self._cache = EntityCache(options.max_cached_instances, options.max_cached_bytes)
        self.woken: dict[str, StoredEntity] = {}
        """Entities that may have work after this commit, by id."""
        self._locks_used = False
        """True when a lock was requested since the start or is held in the file; otherwise no search for locks is made.
        """
        self.companions: set[str] = set()
        """Ids of all companion entities (`HostRules.companion`)."""
        self._gone: set[str] = set()
        """Ids of entities removed in the current transaction; the file still has them."""

    @property
    def cached_bytes(self) -> int:
        """Bytes of the entities in memory."""
        return self._cache.bytes

    def load(self) -> None:
        """Find locks and companions in the file. Raises: sqlite3.Error."""
        self._locks_used = self._working.store.has_locks()
        self._load_companions()

    def _load_companions(self) -> None:
        name = self._rules.companion
        self.companions = set() if name is None else set(self._working.store.entities_named(name))

    def undo(self) -> None:
        """Undo the changes of the current transaction. Raises: sqlite3.Error."""
        self.forget()
        self.clear()
        self._load_companions()

    def trim(self) -> None:
        self._cache.trim()

    def clear(self) -> None:
        self._cache.clear()

    def remove(self, entity: StoredEntity) -> None:
        """Delete the entity."""
        self._cache.remove(entity)
        self._gone.add(entity.id)
        self.companions.discard(entity.id)
        self._index.removed(entity.id)
        self._working.tx.delete_entity(entity)

    def forget(self) -> None:
        """Forget the changes of the current transaction at its end."""
        self.woken.clear()
        self._gone.clear()

    def settle(self, entity: StoredEntity) -> None:
        """Continue after a batch, or delete an empty entity that is disposable."""
        is_empty = entity.state is None and not entity.queue and entity.section is None
        if is_empty and self._rules.is_disposable(entity.name):
            self.remove(entity)
        else:
            self.advance(entity)

    def announce(self, instance_id: str) -> None:
        """Notify the companion entity of an instance that it was started."""
        if self.companions and (companion := self._rules.companion_of(instance_id)) in self.companions:
            self.operate(companion, events.signal(self._working.now, companion, "started", None, new_id()))

    def find(self, entity_id: str) -> StoredEntity | None:
        entity = self._cache.get(entity_id)
        if entity is None and entity_id not in self._gone:
            entity = self._working.store.entity(entity_id)
            if entity is not None:
                self._cache.add(entity)
                lease = self._working.in_flight.get(entity_id)
                if lease is not None:
                    entity.begin_batch(lease.token, list(lease.taken))
        return entity

    def release(self, entity_id: str) -> None:
        """Mark the entity's batch as no longer in flight; its operations are still queued."""
        self._working.release(entity_id)
        entity = self._cache.get(entity_id)
        if entity is not None:
            entity.end_batch()

    def drop(self, entity_id: str, seq: int) -> None:
        """Remove an operation without reading it, as a last resort.

        The entity's copy in memory, if any, is updated too.
        """
        self._working.tx.remove("operations", [seq])
        entity = self._cache.get(entity_id)
        if entity is not None:
            entity.remove({seq})

    def signal(self, entity_id: str, signal: pb.SignalEntityRequest | pb.SendSignalAction, request_id: str) -> None:
        data = signal.input if signal.HasField("input") else None
        event = events.signal(self._working.now, entity_id, signal.name, data, request_id)
        self.operate(entity_id, event, due(signal.scheduledTime) if signal.HasField("scheduledTime") else None)

    def operate(self, entity_id: str, event: pb.HistoryEvent, due_at: int | None = None) -> None:
        """Put an operation, call or lock request in the entity's queue.

        due_at: time of a delayed signal, in microseconds; the signal is queued at that time.
        """
        if due_at is not None and due_at > self._working.now:
            if not event.entityOperationSignaled.HasField("scheduledTime"):
                event.entityOperationSignaled.scheduledTime.CopyFrom(timestamp(due_at))
            timer = Timer(self._working.next_seq(), due_at, SIGNAL_IS_DUE, entity=entity_id, event=event)
            self._working.tx.add_timer(timer)
            return
        entity = self._found(entity_id)
        self._queue(entity, event)
        self.advance(entity)

    def _queue(self, entity: StoredEntity, event: pb.HistoryEvent) -> None:
        seq = self._working.next_seq()
        entity.append(seq, event)
        self._working.tx.add_operation(seq, entity, event)

    def _found(self, entity_id: str) -> StoredEntity:
        entity = self.find(entity_id)
        if entity is None:
            entity = StoredEntity(entity_id, modified_at=self._working.now)
            self._cache.add(entity)
            self._working.tx.change_entity(entity)
            if entity.name == self._rules.companion:
                self.companions.add(entity_id)
        return entity

    def request_lock(self, request: pb.EntityLockRequestedEvent, execution: str) -> None:
        """Queue a request for locks at its first entity, for an execution of the request's orchestration."""
        self._locks_used = True
        self.operate(request.lockSet[0], events.lock_requested(self._working.now, request, execution))

    def lock(self, entity_id: str, section: str, owner: StoredInstance) -> None:
        """Lock an entity ahead of its queue, unless another owner has it.

        A batch in flight counts as completed before.
        """
        self._locks_used = True
        entity = self._found(entity_id)
        if entity.owner not in (None, owner.id):
            return
        entity.lock(section, owner.id)
        self._working.tx.change_entity(entity)

    def answer(self, operation: pb.HistoryEvent, answer: pb.OperationResult) -> None:
        """Report the result of a call to the orchestration that made it, if it still waits."""
        if not operation.HasField("entityOperationCalled"):
            return
        working = self._working
        call = operation.entityOperationCalled
        caller = working.find(call.parentInstanceId.value)
        if caller is None or caller.execution != call.parentExecutionId.value:
            return
        if answer.HasField("failure"):
            event = events.operation_failed(working.now, call.requestId, answer.failure.failureDetails)
        else:
            output = answer.success.result if answer.success.HasField("result") else None
            event = events.operation_completed(working.now, call.requestId, output)
        working.answer(caller, event)

    def refuse(self, entity_id: str, seq: int, failure: pb.TaskFailureDetails) -> None:
        """Refuse an operation that cannot be run. Its caller gets the failure; a refused signal is only logged."""
        entity = self.find(entity_id)
        operation = None if entity is None else next((event for each, event in entity.queue if each == seq), None)
        if entity is None or operation is None:
            return
        logger.warning("An operation of an entity %s was refused: %s", entity.name, failure.errorType)
        self.answer(operation, pb.OperationResult(failure=pb.OperationResultFailure(failureDetails=failure)))
        entity.remove({seq})
        self._working.tx.remove("operations", [seq])
        self.advance(entity)

    def advance(self, entity: StoredEntity) -> None:
        """Grant the lock at the head of the queue, and offer the next operations to a worker after this commit."""
        while (entry := entity.grantable()) is not None:
            seq, event = entry
            entity.pop()
            self._working.tx.remove("operations", [seq])
            self._grant_lock(entity, event)
        self.woken[entity.id] = entity

    def _grant_lock(self, entity: StoredEntity, event: pb.HistoryEvent) -> None:
        """Lock the entity for a request, then the following entities of the request's set, up to one that is not free.

        The loop queues no request at each entity, because a set may have any number of them.
        """
        request = event.entityLockRequested
        owner = self._working.find(request.parentInstanceId.value)
        section, execution = events.lock_section(request)
        if owner is None or owner.finished or owner.execution != execution:
            return
        position = request.position
        while True:
            entity.lock(section, owner.id)
            self._working.tx.change_entity(entity)
            self.woken[entity.id] = entity
            position += 1
            if position == len(request.lockSet):
                self._working.deliver(owner, events.lock_granted(self._working.now, section))
                return
            entity = self._found(request.lockSet[position])
            if entity.section is not None or entity.token is not None or entity.queue:
                onward = pb.HistoryEvent()
                onward.CopyFrom(event)
                onward.entityLockRequested.position = position
                self._queue(entity, onward)
                self.woken[entity.id] = entity
                return

    def unlock(self, entity: StoredEntity) -> None:
        entity.unlock()
        self._working.tx.change_entity(entity)
        self.advance(entity)

    def release_locks(self, instance: StoredInstance) -> None:
        """Release the locks of all entities that the instance holds."""
        if not self._locks_used:
            return
        self._working.tx.flush()
        for entity_id in self._working.store.entities_owned(instance.id):
            entity = self.find(entity_id)
            if entity is not None and entity.owner == instance.id:
                self.unlock(entity)
