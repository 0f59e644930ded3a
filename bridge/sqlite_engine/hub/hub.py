"""Task hub: life of its instances, from their start to their end, on top of the working set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.dispatch import Dispatcher
from bridge.sqlite_engine.hub.entities import HubEntities
from bridge.sqlite_engine.hub.index import IndexWriter
from bridge.sqlite_engine.hub.leases import ACTIVITY, ENTITY, ORCHESTRATION, Lease
from bridge.sqlite_engine.hub.losses import Losses
from bridge.sqlite_engine.hub.tokenless import Tokenless
from bridge.sqlite_engine.hub.tracing import HistoryTracing
from bridge.sqlite_engine.hub.waiting_calls import DeferredRaises, Waiters
from bridge.sqlite_engine.hub.work_items import WorkItems
from bridge.sqlite_engine.hub.working_set import (
    OperationKind,
    Orchestration,
    Queued,
    Subject,
    WorkingSet,
    WriterOperation,
)
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.bounds import SCHEDULERS, Limits, check_id
from bridge.sqlite_engine.model.failures import bound_event
from bridge.sqlite_engine.model.instance import (
    COMPLETED,
    FAILED,
    PENDING,
    TERMINATED,
    Finish,
    StoredInstance,
    UnreadLimits,
)
from bridge.sqlite_engine.model.reply import (
    Rejection,
    Reply,
    instance_finished,
    not_found,
    settle_all,
    unavailable,
    unread_full,
)
from bridge.sqlite_engine.model.values import Timestamp, due, new_id, text, timestamp
from bridge.sqlite_engine.model.work import (
    SIGNAL_IS_DUE,
    START_IS_DUE,
    TIMER_FIRES,
    Task,
    Timer,
    due_at,
    origin_of,
    pauses_of,
    with_pauses,
)
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.storage.schema import APPLICATION_ID
from bridge.sqlite_engine.storage.store import Store

logger = logging.getLogger(__name__)

MAX_REQUESTS = 2000
"""Waiting activities whose inputs are kept in memory; the inputs of further ones are read when they are due."""


class TaskHub(WorkingSet):
    """Instances, activities, timers and entities of one store, with their workers and waiting callers."""

    def __init__(self, store: Store, options: DatabaseOptions) -> None:
        super().__init__(store, options)
        self.limits = SCHEDULERS if options.strict else Limits()
        self.rules = options.rules
        self.tracing = None if options.tracing is None else HistoryTracing(self, options.tracing)
        """Makes spans of histories; None where traces are off."""
        self.unread = UnreadLimits(options.unread_events, options.unread_bytes, options.max_work_item)
        self.events_refused = 0
        """Number of events refused because their instance had too many unread ones."""
        self.waiters = Waiters()
        self.deferred = DeferredRaises()
        self.index = IndexWriter(store, self.tx, options)
        self.entities = HubEntities(self, options, self.index)
        self.tokenless = Tokenless()
        work = WorkItems(self, self.entities, self.tokenless, options.max_work_item, self.fail)
        self.dispatcher = Dispatcher(
            work.build, self._not_built, self.tokenless, options.lease_seconds, options.rules.never_alone
        )
        self.losses = Losses(self, self.dispatcher, options) if options.max_lost_workers else None
        """Count of lost workers; None when the limit is disabled."""
        self._new_tasks: list[Task] = []
        self._run_listeners: list[Callable[[Sequence[str], Sequence[str]], None]] = []
        self._finish_listeners: list[Callable[[Sequence[Finish]], None]] = []

    def watch_runs(self, listener: Callable[[Sequence[str], Sequence[str]], None]) -> None:
        """Call the listener after each commit with the ids of finished and of started instances."""
        self._run_listeners.append(listener)

    def watch_finishes(self, listener: Callable[[Sequence[Finish]], None]) -> None:
        """Call the listener after each commit in which instances ended."""
        self._finish_listeners.append(listener)

    def refuse_event(self, instance: StoredInstance) -> Rejection:
        """Count an event for an instance that has too many unread ones; return its refusal."""
        self.events_refused += 1
        return unread_full(instance.unread_events, instance.unread_bytes)

    def load(self) -> None:
        """Read from the file everything but instances and entities. Raises: sqlite3.Error."""
        self.entities.load()
        self.index.load(self.now)
        self.load_counters()
        if self.losses is not None:
            self.losses.load()

    def reset(self) -> None:
        """Drop the working set and all work in flight. The file alone remains."""
        unsettled = [*self.settled.take(), *((each.reply, None) for each in self.deferred.take_all())]
        settle_all((reply, unavailable("The engine started over")) for reply, _ in unsettled)
        self.forget()
        self.failed.clear()
        self.in_flight.clear()
        self._clear_caches()
        self.dispatcher.reset()

    def undo(self) -> None:
        """Roll back the current transaction, and keep the work in flight. Raises: sqlite3.Error."""
        if self.losses is not None:
            self.losses.undo()
        self.deferred.undo()
        super().undo()
        self.entities.undo()
        self.index.undo()

    def forget(self) -> None:
        """Discard the consequences of the current transaction."""
        super().forget()
        if self.losses is not None:
            self.losses.forget()
        self.deferred.forget()
        self._new_tasks.clear()
        self.entities.forget()

    def empty(self) -> None:
        """Delete everything in the hub. Workers stay connected; results of the work that they hold no longer count."""
        for each in self.deferred.take_all():
            self.settled.append((each.reply, not_found(each.instance_id)))
        for subject in list(self.in_flight):
            self.release(subject)
        self.tx.wipe()
        self.index.undo()
        self._woken.clear()
        self._changed.clear()
        self._started.clear()
        self._new_tasks.clear()
        self.entities.forget()
        self.after.append(self._emptied)
        self._clear_caches()

    def _emptied(self) -> None:
        waiters = self.waiters.take_all()
        settle_all((waiter.reply, pb.GetInstanceResponse(exists=False)) for waiter in waiters)
        self.later.take()
        self.dispatcher.reset()
        if self.losses is not None:
            self.losses.load()

    def _clear_caches(self) -> None:
        self.cancelled.clear()
        self.instances.clear()
        self.entities.clear()

    def close(self) -> None:
        """Answer all waiting calls.

        A raise that waits for the end of a turn succeeds, because its event is in the file.
        """
        settle_all((waiter.reply, unavailable("The engine is stopping")) for waiter in self.waiters.take_all())
        settle_all((each.reply, pb.RaiseEventResponse()) for each in self.deferred.take_all())

    def probe(self) -> None:
        """Check that the file can be written. Raises: sqlite3.Error."""
        self.store.connection.execute("BEGIN IMMEDIATE")
        self.store.connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self.store.connection.execute("COMMIT")

    # Start and end of instances

    def create(
        self,
        instance_id: str,
        spec: events.Spec,
        *,
        execution: str = "",
        start_at: int | None = None,
        parent: pb.ParentInstanceInfo | None = None,
        after: int = 0,
    ) -> StoredInstance:
        """Create an instance, whose id must be free, with turns later than the time `after`."""
        execution = execution or new_id()
        started = events.execution_started(self.now, spec, instance_id, execution, scheduled_at=start_at, parent=parent)
        instance = StoredInstance(
            key=self.next_key(),
            id=instance_id,
            execution=execution,
            name=spec.name,
            version=spec.version.value if spec.HasField("version") else None,
            status=PENDING,
            created_at=self.now,
            updated_at=self.now,
            start=started,
            start_at=start_at,
            turn_at=after,
            parent=None if parent is None else parent.orchestrationInstance.instanceId,
            saga=self.rules.saga_of(spec.input.value) if spec.name in self.rules.sagas else None,
            history=[],
        )
        if self.tracing is not None:
            self.tracing.begin(instance)
        self.add(instance)
        self.index.started(instance, spec.input.value)
        if start_at is not None and start_at > self.now:
            instance.waiting_start = True
            self.tx.add_timer(Timer(self.next_seq(), start_at, START_IS_DUE, instance.key))
        else:
            self.wake(instance)
        self.entities.announce(instance_id)
        return instance

    def replace(self, instance: StoredInstance) -> None:
        """Delete the instance, which frees its id. The parent of a running instance sees it as terminated."""
        if not instance.finished:
            if self.tracing is not None:
                self.tracing.end(instance, TERMINATED, None)
            for each in self.deferred.take(instance.key):
                self.settled.append((each.reply, instance_finished(instance.id)))
            if instance.parent is not None:
                self._report_to_parent(instance)
        self.entities.release_locks(instance)
        self.void(instance)
        self.tx.delete(instance)
        self.instances.remove(instance)
        self._started.pop(instance.key, None)

    def void(self, instance: StoredInstance) -> None:
        """Void the work in flight of the instance."""
        self._void_turn(instance.key)
        self.dispatcher.motion.remove(instance.key)
        instance.end_turn()
        if not instance.finished:
            self.void_tasks(instance.key)
        self._woken.pop(instance.key, None)

    def _void_turn(self, key: int) -> None:
        lease = self.release(key)
        if lease is not None:
            self.after.append(lambda: self.dispatcher.mark_void(lease))

    def start_child(
        self,
        parent: StoredInstance,
        task_id: int,
        child: pb.CreateSubOrchestrationAction | pb.SubOrchestrationInstanceCreatedEvent,
    ) -> None:
        """Start a sub-orchestration; report a failure to the parent when its id is invalid or in use.

        A finished instance of the same id is replaced, because ids recur in each generation of the parent.
        """
        after = 0
        try:
            check_id(child.instanceId, self.limits)
        except Rejection as rejection:
            self.deliver(
                parent, events.child_failed(self.now, task_id, events.failure("InvalidInstanceId", str(rejection)))
            )
            return
        existing = self.find(child.instanceId)
        if existing is not None:
            if not existing.finished:
                message = f"Orchestration instance '{child.instanceId}' already exists"
                failure = events.failure("InstanceAlreadyExists", message)
                self.deliver(parent, events.child_failed(self.now, task_id, failure))
                return
            after = existing.turn_at
            self.replace(existing)
        link = pb.ParentInstanceInfo(
            taskScheduledId=task_id,
            name=text(parent.name),
            version=text(parent.version),
            orchestrationInstance=pb.OrchestrationInstance(instanceId=parent.id, executionId=text(parent.execution)),
        )
        self.create(child.instanceId, child, parent=link, after=after)

    def finish(
        self, instance: StoredInstance, status: int, output: str | None, failure: pb.TaskFailureDetails | None
    ) -> None:
        """Finish the instance, and notify its parent.

        A failed instance keeps the events that no turn took, for a rewind. Raised events whose senders get a refusal
        are not kept.
        """
        saga = None
        if instance.custom_status is not None or instance.saga is not None:
            saga = self.rules.saga_end(instance.saga, instance.custom_status, status)
        instance.finish(status, output, failure, self.now, saga)
        self.touch(instance)
        self.tx.clear(instance, "timers")
        if status == FAILED:
            self.tx.remove("inbox", [each.seq for each in self.deferred.of(instance.key)])
        else:
            self.tx.clear(instance, "inbox")
        instance.drop_inbox()
        self.entities.release_locks(instance)
        if instance.parent is not None:
            self._report_to_parent(instance)

    def end(
        self,
        instance: StoredInstance,
        status: int,
        output: str | None,
        failure: pb.TaskFailureDetails | None,
        cause: pb.HistoryEvent | None = None,
    ) -> None:
        """End the instance without its worker, and void its work in flight."""
        self.void(instance)
        if self.tracing is not None:
            self.tracing.end(instance, status, failure)
        self.tx.clear(instance, "tasks")
        last = [instance.start] if instance.chunks == 0 else []
        if cause is not None:
            last.append(cause)
        last.append(events.execution_completed(self.now, status, output, failure))
        self.append(instance, last)
        self.finish(instance, status, output, failure)
        self.settle_deferred(instance)

    def fail(self, instance: StoredInstance, failure: pb.TaskFailureDetails) -> None:
        if not instance.finished:
            self.end(instance, FAILED, None, failure)

    # Last resorts for instances that cannot be read

    def end_unseen(self, key: int, failure: pb.TaskFailureDetails) -> bool:
        """Fail an instance without reading it, as a last resort. Its owners are notified in later steps."""
        self.tx.fail_unseen(key, self.now, failure)
        self._void_turn(key)
        self.dispatcher.motion.remove(key)
        for each in self.deferred.take(key):
            self.settled.append((each.reply, instance_finished("")))
        self.void_tasks(key)
        instance = self.instances.by_key(key)
        if instance is not None:
            self.instances.remove(instance)
        return True

    def notify_waiters_of(self, key: int) -> None:
        instance = self.find_key(key)
        if instance is not None:
            self._changed[key] = instance

    def report_to_parent_of(self, key: int) -> None:
        instance = self.find_key(key)
        if instance is not None and instance.parent is not None:
            self._report_to_parent(instance)

    def release_locks_of(self, key: int) -> None:
        instance = self.find_key(key)
        if instance is not None:
            self.entities.release_locks(instance)

    def settle_deferred(self, instance: StoredInstance) -> None:
        """Answer the raises that waited for the turn in flight.

        The answer is a success while the instance runs, and a refusal after its end.
        """
        for each in self.deferred.take(instance.key):
            answer = instance_finished(instance.id) if instance.finished else pb.RaiseEventResponse()
            self.settled.append((each.reply, answer))

    def _report_to_parent(self, child: StoredInstance) -> None:
        link = child.start.executionStarted.parentInstance
        parent = self.find(link.orchestrationInstance.instanceId)
        execution, pauses = pauses_of(link.orchestrationInstance.executionId.value)
        if parent is None or parent.execution != execution:
            return
        if pauses and child.status == FAILED and not parent.finished:
            self._run_again(child, link, execution, pauses)
            return
        if child.status == COMPLETED:
            event = events.child_completed(self.now, link.taskScheduledId, child.output)
        else:
            details = child.failure
            if details is None:
                details = events.failure("SubOrchestrationTerminated", "Sub-orchestration was terminated")
            event = events.child_failed(self.now, link.taskScheduledId, details)
            bound_event(event)
        self.answer(parent, event)

    def _run_again(
        self, child: StoredInstance, link: pb.ParentInstanceInfo, execution: str, pauses: tuple[int, ...]
    ) -> None:
        """Start the next attempt of a child after a rewind, with the pauses of the worker's retry policy."""
        link.orchestrationInstance.executionId.value = with_pauses(execution, pauses[1:])
        start_at = self.now + pauses[0]
        self.replace(child)
        self.create(child.id, child.start.executionStarted, start_at=start_at, parent=link, after=child.turn_at)

    # Activities

    def add_task(self, instance: StoredInstance, request: pb.ActivityRequest, pauses: tuple[int, ...] = ()) -> None:
        """Create an activity. pauses: before further attempts that the engine makes, in microseconds."""
        # Filters treat an activity without a version as one of its orchestration's version. The .NET worker sends that
        # version itself, others omit it: a worker of one version accepts both.
        version = request.version.value if request.HasField("version") else instance.version
        task = Task(
            self.next_seq(), instance.key, instance.execution, request.taskId, request.name, version, request, pauses
        )
        self.tx.add_task(task)
        self._new_tasks.append(task)

    def try_again(self, instance: StoredInstance, lease: Lease, failure: pb.TaskFailureDetails) -> bool:
        """Schedule the next attempt of an activity that failed after a rewind. Returns False when none is left."""
        task = lease.subject
        if not task.pauses or failure.isNonRetriable or instance.finished:
            return False
        request = task.request or self.store.task_request(task.seq)
        again = replace(
            task, seq=self.next_seq(), execution=instance.execution, request=request, pauses=task.pauses[1:]
        )
        self.tx.remove("tasks", [task.seq])
        self.tx.add_task(again)
        pause = task.pauses[0] / 1_000_000
        self.after.append(lambda: self.dispatcher.requeue_later(replace(lease, subject=again), pause))
        return True

    # Time

    def add_timer(self, instance: StoredInstance, timer_id: int, moment: Timestamp, made: int) -> None:
        """Create a timer that an orchestrator requested in the turn of the time `made`.

        When the clock was set back, the turn's time is ahead of the clock. The timer then runs for its full length.
        """
        wanted = due(moment)
        event = events.timer_fired(min(made, wanted - 1), timer_id, moment)
        fire_at = due_at(self.now, wanted, wanted, made)
        self.tx.add_timer(Timer(self.next_seq(), fire_at, TIMER_FIRES, instance.key, event=event))

    def set_timers(self) -> None:
        """Recompute the due times of all timers after the clock was set."""
        self.tx.flush()
        moved = []
        for timer, created_at, start_at in self.store.all_timers():
            try:
                found = origin_of(timer, self.store.timer_event(timer), created_at, start_at)
            except Exception:
                # The timer cannot be read; it is given up when it is due.
                logger.exception("A timer cannot be read")
                continue
            if found is not None:
                fire_at = due_at(self.now, timer.fire_at, *found)
                if fire_at != timer.fire_at:
                    moved.append((fire_at, timer.seq))
        self.tx.move_timers(moved)

    def fire(self, timer: Timer) -> None:
        """Fire a timer that is due."""
        self.tx.remove("timers", [timer.seq])
        event = timer.event if timer.stored is None else self.store.timer_event(timer)
        if timer.kind == SIGNAL_IS_DUE:
            assert timer.entity is not None
            assert event is not None
            self.entities.operate(timer.entity, event)
            return
        assert timer.key is not None
        instance = self.find_key(timer.key)
        if instance is None or instance.finished:
            return
        if timer.kind == START_IS_DUE:
            instance.reach_start()
            self.wake(instance)
        elif timer.kind == TIMER_FIRES:
            assert event is not None
            event.timestamp.CopyFrom(timestamp(due(event.timerFired.fireAt)))
            self.deliver(instance, event)

    # After the commit

    def committed(self) -> None:
        """Send the work that became ready, and answer the waiting calls."""
        ready = self.dispatcher.ready
        for consequence in self.after:
            consequence()
        for instance in self._woken.values():
            if instance.token is None and instance.deliverable:
                is_new = instance.status == PENDING
                self.dispatcher.add_turn(instance.id, instance.name, instance.version, instance.key, is_new=is_new)
        for task in self._new_tasks:
            if len(ready[ACTIVITY]) >= MAX_REQUESTS:
                task.drop_request()
            ready[ACTIVITY].add(task.name, task.version, task)
        for entity in self.entities.woken.values():
            if entity.token is None and entity.queue:
                ready[ENTITY].add(entity.name, None, entity.id)
        replies: list[tuple[Reply, Any]] = []
        finished: list[str] = []
        for instance in self._changed.values():
            replies += self.waiters.notify(instance)
            if instance.finished:
                finished.append(instance.id)
                self.instances.remove(instance)
        started = [instance.id for instance in self._started.values() if not instance.finished]
        self.forget()
        for listener in self._run_listeners if finished or started else ():
            try:
                listener(finished, started)
            except Exception:
                logger.exception("A listener of runs failed")
        ends = self.tx.take_finished()
        for finish_listener in self._finish_listeners if ends else ():
            try:
                finish_listener(ends)
            except Exception:
                logger.exception("A listener for finished instances failed")
        if replies:
            settle_all(replies)
        self.dispatcher.pump()
        if self.cancelled and not len(ready[ACTIVITY]) and not self.dispatcher.has_pauses:
            self.cancelled.clear()
        self.instances.trim()
        self.entities.trim()

    def _not_built(self, kind: int, subject: Any, error: Exception) -> None:
        self.failed.append((WriterOperation(OperationKind.HANDOUT, _nothing, subject=subject_of(kind, subject)), error))


def subject_of(kind: int, subject: Any) -> Subject:
    """Subject to give up for a work item."""
    if kind == ORCHESTRATION:
        return Orchestration(subject)
    if kind == ENTITY:
        return Queued(subject)
    task: Task = subject
    return task


def _nothing() -> None:
    """Placeholder operation for a work item that cannot be made."""
