"""The entities of a hub: their queues and locks, and the moves that calls on them are made of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded import event as events
from bridge.engines.embedded.clock import timestamp
from bridge.engines.embedded.entity import Entity, EntityCache
from bridge.engines.embedded.identity import new_id
from bridge.engines.embedded.instance import Instance
from bridge.engines.embedded.store import SIGNAL_IS_DUE, Timer
from bridge.parking.names import PARKING, PREFIX, target_id

if TYPE_CHECKING:
    from bridge.engines.embedded.hub import TaskHub


logger = logging.getLogger(__name__)


class Entities:
    """Runs in the writer's thread, like the hub it belongs to."""

    def __init__(self, hub: TaskHub, max_cached: int, max_cached_bytes: int) -> None:
        self._hub = hub
        self._cache = EntityCache(max_cached, max_cached_bytes)
        self.woken: dict[str, Entity] = {}
        """Entities that may have something to do after this commit."""
        self.locks_used = False
        """Whether any lock was asked for since the start, or is held in the file; without, none is looked for."""
        self.parking: set[str] = set()
        """Ids of all parking entities: what waits for an instance is told when that starts."""
        self._gone: set[str] = set()
        """Removed in the transaction at hand; the file still has them."""

    @property
    def cached_bytes(self) -> int:
        """Bytes of the entities in memory."""
        return self._cache.bytes

    def trim(self) -> None:
        self._cache.trim()

    def clear(self) -> None:
        self._cache.clear()

    def remove(self, entity: Entity) -> None:
        """The entity is no more."""
        self._cache.remove(entity)
        self._gone.add(entity.id)
        self.parking.discard(entity.id)
        self._hub.tx.delete_entity(entity)

    def forget(self) -> None:
        """The transaction at hand is over."""
        self.woken.clear()
        self._gone.clear()

    def settle(self, entity: Entity) -> None:
        """A batch is done. Of the bridge's own entities none is kept for nothing."""
        if entity.state is None and not entity.queue and entity.section is None and entity.name.startswith(PREFIX):
            self.remove(entity)
        else:
            self.advance(entity)

    def announce(self, instance_id: str) -> None:
        """An instance was started: tell what waits for it."""
        if self.parking and (waiting := target_id(instance_id)) in self.parking:
            self.operate(waiting, events.signal(self._hub.now, waiting, "started", None, new_id()))

    def find(self, entity_id: str) -> Entity | None:
        entity = self._cache.get(entity_id)
        if entity is None and entity_id not in self._gone:
            entity = self._hub.store.entity(entity_id)
            if entity is not None:
                self._cache.add(entity)
                lease = self._hub.in_hand.get(entity_id)
                if lease is not None:
                    entity.token, entity.batch = lease.token, list(lease.taken)
        return entity

    def release(self, entity_id: str) -> None:
        """The entity's batch is no longer in flight; its operations are still queued."""
        self._hub.release(entity_id)
        entity = self._cache.get(entity_id)
        if entity is not None:
            entity.token = None
            entity.batch = None

    def drop(self, entity_id: str, seq: int) -> None:
        """Remove an operation without a look at it, as nothing else is possible; the entity is read anew."""
        self._hub.tx.remove("operations", [seq])
        entity = self._cache.get(entity_id)
        if entity is not None:
            entity.remove({seq})

    def operate(self, entity_id: str, event: pb.HistoryEvent, due: int | None = None) -> None:
        """Put an operation, call or lock request in the entity's queue; a signal with a later time when it is due."""
        if due is not None and due > self._hub.now:
            if not event.entityOperationSignaled.HasField("scheduledTime"):
                event.entityOperationSignaled.scheduledTime.CopyFrom(timestamp(due))
            self._hub.tx.add_timer(Timer(self._hub.next_seq(), due, SIGNAL_IS_DUE, entity=entity_id, event=event))
            return
        entity = self._found(entity_id)
        self._queue(entity, event)
        self.advance(entity)

    def _queue(self, entity: Entity, event: pb.HistoryEvent) -> None:
        seq = self._hub.next_seq()
        entity.append(seq, event)
        self._hub.tx.add_operation(seq, entity, event)

    def _found(self, entity_id: str) -> Entity:
        entity = self.find(entity_id)
        if entity is None:
            entity = Entity(entity_id, modified_at=self._hub.now)
            self._cache.add(entity)
            self._hub.tx.change_entity(entity)
            if entity.name == PARKING:
                self.parking.add(entity_id)
        return entity

    def lock(self, entity_id: str, section: str, owner: Instance) -> None:
        """Lock an entity, ahead of its queue, unless another has. A batch in flight counts as done before."""
        entity = self._found(entity_id)
        if entity.owner not in (None, owner.id):
            return
        entity.section = section
        entity.owner = owner.id
        self._hub.tx.change_entity(entity)

    def answer(self, operation: pb.HistoryEvent, answer: pb.OperationResult) -> None:
        """Tell the orchestration that called, if it was a call and its caller still waits."""
        if not operation.HasField("entityOperationCalled"):
            return
        hub = self._hub
        call = operation.entityOperationCalled
        caller = hub.find(call.parentInstanceId.value)
        if caller is None or caller.execution != call.parentExecutionId.value:
            return
        if answer.HasField("failure"):
            event = events.operation_failed(hub.now, call.requestId, answer.failure.failureDetails)
        else:
            output = answer.success.result if answer.success.HasField("result") else None
            event = events.operation_completed(hub.now, call.requestId, output)
        hub.answer(caller, event)

    def refuse(self, entity_id: str, seq: int, failure: pb.TaskFailureDetails) -> None:
        """An operation that cannot be run: its caller is told; a signal is dropped, which only the log tells."""
        entity = self.find(entity_id)
        operation = None if entity is None else next((event for each, event in entity.queue if each == seq), None)
        if entity is None or operation is None:
            return
        logger.warning("An operation of an entity %s was refused: %s", entity.name, failure.errorType)
        self.answer(operation, pb.OperationResult(failure=pb.OperationResultFailure(failureDetails=failure)))
        entity.remove({seq})
        self._hub.tx.remove("operations", [seq])
        self.advance(entity)

    def advance(self, entity: Entity) -> None:
        """Grant the lock that can be granted, and hand out what can run after this commit."""
        while (entry := entity.grantable()) is not None:
            seq, event = entry
            entity.pop()
            self._hub.tx.remove("operations", [seq])
            self._grant(entity, event)
        self.woken[entity.id] = entity

    def _grant(self, entity: Entity, event: pb.HistoryEvent) -> None:
        """Lock the entity for a request, then those after it in the request's set, up to one that is not free.

        In a loop, and without a queued request at each entity: a set may have any number of them.
        """
        request = event.entityLockRequested
        owner = self._hub.find(request.parentInstanceId.value)
        section, execution = events.lock_section(request)
        if owner is None or owner.finished or owner.execution != execution:
            return
        position = request.position
        while True:
            entity.section = section
            entity.owner = owner.id
            self._hub.tx.change_entity(entity)
            self.woken[entity.id] = entity
            position += 1
            if position == len(request.lockSet):
                self._hub.deliver(owner, events.lock_granted(self._hub.now, section))
                return
            entity = self._found(request.lockSet[position])
            if entity.section is not None or entity.token is not None or entity.queue:
                onward = pb.HistoryEvent()
                onward.CopyFrom(event)
                onward.entityLockRequested.position = position
                self._queue(entity, onward)
                self.woken[entity.id] = entity
                return

    def unlock(self, entity: Entity) -> None:
        entity.section = None
        entity.owner = None
        self._hub.tx.change_entity(entity)
        self.advance(entity)

    def release_locks(self, instance: Instance) -> None:
        """Free every entity that the instance holds."""
        if not self.locks_used:
            return
        self._hub.tx.flush()
        for entity_id in self._hub.store.entities_owned(instance.id):
            entity = self.find(entity_id)
            if entity is not None and entity.owner == instance.id:
                self.unlock(entity)
