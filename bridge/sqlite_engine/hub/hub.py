"""Task hub: the state of its instances and entities, and the steps of which every call consists.

Everything runs in the writer's thread. A step changes the working set and adds to the transaction. Its consequences
(work to send, answers to give) follow after the commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.system_names import EARLY_MESSAGES
from bridge.sqlite_engine.hub.dispatch import ACTIVITY, ENTITY, ORCHESTRATION, Dispatcher, Lease
from bridge.sqlite_engine.hub.entities import Entities
from bridge.sqlite_engine.hub.losses import Losses
from bridge.sqlite_engine.hub.operation import Kind, Operation, Orchestration, Queued, Subject
from bridge.sqlite_engine.hub.tokenless import Tokenless
from bridge.sqlite_engine.hub.waiters import Waiters
from bridge.sqlite_engine.hub.workitem import WorkItems
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.attempts import pauses_of, with_pauses
from bridge.sqlite_engine.model.bounds import Limits
from bridge.sqlite_engine.model.clock import due, timestamp
from bridge.sqlite_engine.model.failures import bound_event
from bridge.sqlite_engine.model.identity import new_id
from bridge.sqlite_engine.model.instance import COMPLETED, FAILED, PENDING, Instance, InstanceCache
from bridge.sqlite_engine.model.rejection import instance_finished, not_found, unavailable
from bridge.sqlite_engine.model.reply import Reply, settle_all
from bridge.sqlite_engine.model.unread import UnreadLimits
from bridge.sqlite_engine.model.wire import StringValue, Timestamp
from bridge.sqlite_engine.storage.due import due_at, origin_of
from bridge.sqlite_engine.storage.schema import APPLICATION_ID
from bridge.sqlite_engine.storage.store import SIGNAL_IS_DUE, START_IS_DUE, TIMER_FIRES, Store, Task, Timer
from bridge.sqlite_engine.storage.transaction import Transaction
from bridge.system.clock import SYSTEM, Clock

logger = logging.getLogger(__name__)

MAX_REQUESTS = 2000
"""Waiting activities whose inputs are kept in memory; the inputs of further ones are read when they are due."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Raise whose answer is deferred: its reply, the answer, and the sequence number of its event."""

    reply: Reply
    answer: Any
    seq: int


class TaskHub:
    """Working set over one store. `tx` is the current transaction."""

    def __init__(
        self,
        store: Store,
        *,
        max_cached_instances: int = 10_000,
        max_cached_bytes: int = 32 * 1024 * 1024,
        max_message: int = 4 * 1024 * 1024,
        lease_seconds: float | None = None,
        limits: Limits | None = None,
        clock: Clock = SYSTEM,
        unread: UnreadLimits | None = None,
    ) -> None:
        self.store = store
        self.unread = unread or UnreadLimits(message_bytes=max_message)
        self.events_refused = 0
        """Number of events refused because their instance had too many unread ones."""
        self.limits = limits or Limits()
        self._jumps = clock.jumps.total()
        self.tx = Transaction(store.connection, store.payloads)
        self.instances = InstanceCache(max_cached_instances, max_cached_bytes)
        self.entities = Entities(self, max_cached_instances, max_cached_bytes)
        self.waiters = Waiters()
        self.work = WorkItems(self, max_message)
        self.dispatcher = Dispatcher(self.work.build, lease_seconds, self._not_built)
        self.tokenless = Tokenless()
        self.in_hand: dict[int | str, Lease] = {}
        """Turns and batches in flight, by key of the instance or id of the entity, also while neither is cached."""
        self._let_out: dict[int | str, Lease] = {}
        self.deferred: dict[int, tuple[Deferred, ...]] = {}
        """Deferred raises, which are answered when the turn in flight has ended, by key of the instance."""
        self._deferred_before: dict[int, tuple[Deferred, ...]] = {}
        self.clock = clock
        self.now = clock.now()
        """Time of the current transaction, in microseconds, which goes back when the wall clock is set back."""
        self.stepped = True
        """True when the wall clock was set, or may have been while the file was closed: timers must be checked."""
        self.settled: list[tuple[Reply, Any]] = []
        """Deferred answers that are given after the commit."""
        self.later: list[Operation] = []
        """Operations for the next transaction."""
        self.failed: list[tuple[Operation, Exception]] = []
        """Operations outside of transactions that cannot be applied, with their errors."""
        self.after: list[Callable[[], None]] = []
        """Callbacks that run after the commit of the current transaction."""
        self.unseen: dict[int, bool] = {}
        """Keys of instances that were failed without being read."""
        self.run_listeners: list[Callable[[Sequence[str], Sequence[str]], None]] = []
        """Listeners that get the ids of finished and started instances after each commit."""
        self.losses: Losses | None = None
        """Count of lost workers; None when the limit is disabled."""
        self._absent: set[str] = set()
        self._key = 1
        self._seq = 1
        self._woken: dict[int, Instance] = {}
        self._moved: dict[int, Instance] = {}
        self.started: dict[int, Instance] = {}
        """Instances that the current transaction started, by key."""
        self._new_tasks: list[Task] = []
        self.cancelled: set[int] = set()
        """Keys of instances whose queued activities are void."""
        self.load_counters()

    def load_counters(self) -> None:
        self._key = max(self._key, self.store.next_key())
        self._seq = max(self._seq, self.store.next_seq())

    def tick(self) -> None:
        """Begin a transaction: update its time."""
        self.now = self.clock.now()
        jumps = self.clock.jumps.total()
        if jumps != self._jumps:
            self._jumps = jumps
            self.stepped = True

    @property
    def last_key(self) -> int:
        """Upper limit of all instance keys."""
        return self._key

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def reset(self) -> None:
        """Drop the working set and all work in flight. The file alone remains."""
        for each in self.deferred.values():
            self.settled.extend((deferred.reply, None) for deferred in each)
        settle_all((reply, unavailable("The engine started over")) for reply, _ in self.settled)
        self.settled.clear()
        self.forget()
        self.failed.clear()
        self.in_hand.clear()
        self.deferred.clear()
        self._let_go()
        self._drop_work()

    def undo(self) -> None:
        """Roll back the current transaction, and keep the work in flight. Raises: sqlite3.Error."""
        self.tx.rollback()
        self.in_hand.update(self._let_out)
        self.deferred.update(self._deferred_before)
        if self.losses is not None:
            self.losses.undo()
        self.settled.clear()
        self.forget()
        self.instances.clear()
        self.entities.clear()
        self.entities.parking = set(self.store.entities_named(EARLY_MESSAGES))

    def empty(self) -> None:
        """Delete everything in the hub. Workers stay connected; results of the work that they hold no longer count."""
        for key in list(self.deferred):
            instance = self.find_key(key)
            gone = not_found("" if instance is None else instance.id)
            self.settled.extend((each.reply, gone) for each in self._take_deferred(key))
        for subject in list(self.in_hand):
            self.release(subject)
        self.tx.wipe()
        self._woken.clear()
        self._moved.clear()
        self.started.clear()
        self._new_tasks.clear()
        self.entities.woken.clear()
        self.after.append(self._emptied)
        self._let_go()

    def _emptied(self) -> None:
        waiters = self.waiters.take_all()
        settle_all((waiter.reply, pb.GetInstanceResponse(exists=False)) for waiter in waiters)
        self.later.clear()
        self._drop_work()
        if self.losses is not None:
            self.losses.load()

    def _drop_work(self) -> None:
        self.dispatcher.reset(self.tokenless.reset(self.dispatcher.leases.open()))

    def _let_go(self) -> None:
        self.cancelled.clear()
        self.instances.clear()
        self.entities.clear()

    def close(self) -> None:
        """Answer all waiting calls.

        A raise that waits for the end of a turn succeeds, because its event is in the file.
        """
        settle_all((waiter.reply, unavailable("The engine is stopping")) for waiter in self.waiters.take_all())
        settle_all((each.reply, each.answer) for deferred in self.deferred.values() for each in deferred)
        self.deferred.clear()

    def probe(self) -> None:
        """Check that the file can be written. Raises: sqlite3.Error."""
        self.store.connection.execute("BEGIN IMMEDIATE")
        self.store.connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self.store.connection.execute("COMMIT")

    # Instances

    def look_ahead(self, instance_ids: list[str]) -> None:
        """Find the unused ids among many at once, because most ids of starts are new."""
        unknown = [each for each in instance_ids if each and self.instances.by_id(each) is None]
        if len(unknown) > 1:
            self._absent = set(unknown) - self.store.ids_present(unknown)

    def find(self, instance_id: str) -> Instance | None:
        instance = self.instances.by_id(instance_id)
        if instance is not None or instance_id in self._absent:
            return instance
        return self._loaded(self.store.instance_by_id(instance_id))

    def find_key(self, key: int) -> Instance | None:
        instance = self.instances.by_key(key)
        return self._loaded(self.store.instance_by_key(key)) if instance is None else instance

    def _loaded(self, instance: Instance | None) -> Instance | None:
        if instance is not None and not instance.finished:
            self.instances.add(instance)
            lease = self.in_hand.get(instance.key)
            if lease is not None:
                instance.token, instance.turn, instance.shared = lease.token, lease.turn, lease.stream.shares
                instance.taken, instance.turn_at = len(lease.taken), max(instance.turn_at, lease.turn_at)
        return instance

    # In flight

    def hold(self, lease: Lease) -> None:
        """Record that the lease's turn or batch is in flight. Call it after the commit only."""
        self.in_hand[lease.subject] = lease

    def release(self, subject: int | str) -> Lease | None:
        """Mark the turn of the instance, or the batch of the entity, as no longer in flight."""
        lease = self.in_hand.pop(subject, None)
        if lease is not None:
            self._let_out[subject] = lease
        return lease

    def end_lease(self, lease: Lease, *, done: bool) -> None:
        """Return the lease's credit. done: as for the dispatcher's `release`."""
        self.dispatcher.release(lease, done=done)
        waited = self.tokenless.end(lease, is_lost=not done)
        if waited is not None:
            self.dispatcher.ready[ORCHESTRATION].add(*waited)

    def _withdraw(self, lease: Lease) -> None:
        lease.void = True
        if lease.token in lease.stream.leases:  # not ended in the same transaction
            self.tokenless.mark_void(lease)

    def defer(self, instance: Instance, deferred: Deferred) -> None:
        """Answer a raise when the turn in flight has ended."""
        before = self.deferred.get(instance.key, ())
        self._deferred_before.setdefault(instance.key, before)
        self.deferred[instance.key] = (*before, deferred)

    def _take_deferred(self, key: int) -> tuple[Deferred, ...]:
        taken = self.deferred.pop(key, ())
        if taken:
            self._deferred_before.setdefault(key, taken)
        return taken

    def create(
        self,
        instance_id: str,
        name: str,
        *,
        execution: str = "",
        version: StringValue | None = None,
        input: StringValue | None = None,  # noqa: A002 -- the field's name in the protocol
        tags: dict[str, str] | None = None,
        start_at: int | None = None,
        trace: pb.TraceContext | None = None,
        parent: pb.ParentInstanceInfo | None = None,
        after: int = 0,
    ) -> Instance:
        """Create an instance, whose id must be free, with turns later than the time `after`."""
        self._key += 1
        execution = execution or new_id()
        started = events.execution_started(
            self.now, name, instance_id, execution,
            version=version, input=input, tags=tags, scheduled_at=start_at, trace=trace, parent=parent,
        )  # fmt: skip
        instance = Instance(
            key=self._key,
            id=instance_id,
            execution=execution,
            name=name,
            version=None if version is None else version.value,
            status=PENDING,
            created_at=self.now,
            updated_at=self.now,
            start=started,
            start_at=start_at,
            turn_at=after,
            parent=None if parent is None else parent.orchestrationInstance.instanceId,
            history=[],
        )
        self.instances.add(instance)
        self._absent.discard(instance_id)
        self.tx.create(instance)
        if start_at is not None and start_at > self.now:
            instance.waiting_start = True
            self.tx.add_timer(Timer(self.next_seq(), start_at, START_IS_DUE, instance.key))
        else:
            self.wake(instance)
        self.entities.announce(instance_id)
        self.started[instance.key] = instance
        return instance

    def replace(self, instance: Instance) -> None:
        """Delete the instance, which frees its id. The parent of a running instance sees it as terminated."""
        if not instance.finished:
            self.settled.extend(
                (each.reply, instance_finished(instance.id)) for each in self._take_deferred(instance.key)
            )
            if instance.parent is not None:
                self._tell_parent(instance)
        self.entities.release_locks(instance)
        self.void(instance)
        self.tx.delete(instance)
        self.instances.remove(instance)
        self.started.pop(instance.key, None)

    def void(self, instance: Instance) -> None:
        """Void the work in flight of the instance."""
        lease = self.release(instance.key)
        instance.token = None
        if lease is not None:
            self.after.append(lambda: self._withdraw(lease))
        if not instance.finished:
            self.cancelled.add(instance.key)
        self._woken.pop(instance.key, None)

    def touch(self, instance: Instance) -> None:
        """Mark the instance's row as changed."""
        instance.updated_at = self.now
        self._moved[instance.key] = instance
        self.tx.change(instance)

    def change_generation(self, instance: Instance) -> None:
        """Record that the instance's execution, version or start event changed."""
        self.tx.change_generation(instance)
        self.instances.measure(instance)

    def deliver(self, instance: Instance, event: pb.HistoryEvent) -> None:
        """Put the event in the inbox of an unfinished instance."""
        seq = self.next_seq()
        instance.inbox.append((seq, event))
        self.tx.put(seq, instance, event)
        self.wake(instance)

    def answer(self, instance: Instance, event: pb.HistoryEvent) -> None:
        """Deliver a result. A failed instance keeps the result for a rewind; any other finished instance drops it."""
        if not instance.finished:
            self.deliver(instance, event)
        elif instance.status == FAILED:
            self.tx.put(self.next_seq(), instance, event)

    def wake(self, instance: Instance) -> None:
        """Check after this commit whether the instance can run a turn."""
        self._woken[instance.key] = instance

    def finish(
        self, instance: Instance, status: int, output: str | None, failure: pb.TaskFailureDetails | None
    ) -> None:
        """Finish the instance, and notify its parent.

        A failed instance keeps the events that no turn took, for a rewind. Raised events whose senders get a refusal
        are not kept.
        """
        instance.status = status
        instance.suspended = False
        instance.waiting_start = False
        instance.output = output
        instance.failure = failure
        instance.finished_at = self.now
        self.touch(instance)
        self.tx.clear(instance, "timers")
        if status == FAILED:
            self.tx.remove("inbox", [each.seq for each in self.deferred.get(instance.key, ())])
        else:
            self.tx.clear(instance, "inbox")
        instance.inbox.clear()
        instance.taken = 0
        self.entities.release_locks(instance)
        if instance.parent is not None:
            self._tell_parent(instance)

    def end(
        self,
        instance: Instance,
        status: int,
        output: str | None,
        failure: pb.TaskFailureDetails | None,
        cause: pb.HistoryEvent | None = None,
    ) -> None:
        """End the instance without its worker, and void its work in flight."""
        self.void(instance)
        self.tx.clear(instance, "tasks")
        last = [instance.start] if instance.chunks == 0 else []
        if cause is not None:
            last.append(cause)
        last.append(events.execution_completed(self.now, status, output, failure))
        self.append(instance, last)
        self.finish(instance, status, output, failure)
        self.settle_deferred(instance)

    def fail(self, instance: Instance, failure: pb.TaskFailureDetails) -> None:
        if not instance.finished:
            self.end(instance, FAILED, None, failure)

    # Giving up

    def end_unseen(self, key: int, failure: pb.TaskFailureDetails) -> None:
        """Fail an instance without reading it, as a last resort. Its owners are notified in later steps."""
        self.tx.fail_unseen(key, self.now, failure)
        lease = self.release(key)
        if lease is not None:
            self.after.append(lambda: self._withdraw(lease))
        for each in self._take_deferred(key):
            self.settled.append((each.reply, instance_finished("")))
        self.cancelled.add(key)
        self.unseen[key] = True
        instance = self.instances.by_key(key)
        if instance is not None:
            self.instances.remove(instance)

    def show_end(self, key: int) -> None:
        """Notify the clients that wait for the instance."""
        instance = self.find_key(key)
        if instance is not None:
            self._moved[key] = instance

    def tell_parent_of(self, key: int) -> None:
        instance = self.find_key(key)
        if instance is not None and instance.parent is not None:
            self._tell_parent(instance)

    def release_locks_of(self, key: int) -> None:
        instance = self.find_key(key)
        if instance is not None:
            self.entities.release_locks(instance)

    def settle_deferred(self, instance: Instance) -> None:
        """Answer the raises that waited for the turn in flight.

        The answer is a success while the instance runs, and a refusal after its end.
        """
        for each in self._take_deferred(instance.key):
            self.settled.append((each.reply, each.answer if not instance.finished else instance_finished(instance.id)))

    def _tell_parent(self, child: Instance) -> None:
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

    def _run_again(self, child: Instance, link: pb.ParentInstanceInfo, execution: str, pauses: tuple[int, ...]) -> None:
        """Start the next attempt of a child after a rewind, with the pauses of the worker's retry policy."""
        link.orchestrationInstance.executionId.value = with_pauses(execution, pauses[1:])
        started = child.start.executionStarted
        self.replace(child)
        self.create(
            child.id,
            child.name,
            version=started.version if started.HasField("version") else None,
            input=started.input if started.HasField("input") else None,
            tags=dict(started.tags) if started.tags else None,
            start_at=self.now + pauses[0],
            trace=started.parentTraceContext if started.HasField("parentTraceContext") else None,
            parent=link,
            after=child.turn_at,
        )

    def load_history(self, instance: Instance) -> list[pb.HistoryEvent]:
        if instance.history is None:
            if instance.chunks:
                instance.history, size = self.store.history(instance.key)
                self.instances.grow(instance, size - instance.history_bytes)
            else:
                instance.history = []
        return instance.history

    def append(self, instance: Instance, new: Iterable[pb.HistoryEvent]) -> None:
        """Add events to the instance's history."""
        new = list(new)
        size = self.tx.append_history(instance, new)
        if instance.history is not None:
            instance.history.extend(new)
            self.instances.grow(instance, size)

    def drop_history(self, instance: Instance) -> None:
        """Delete the instance's history."""
        self.tx.clear(instance, "history")
        self.instances.grow(instance, -instance.history_bytes)
        instance.history = []
        instance.chunks = 0

    # Activities

    def add_task(self, instance: Instance, request: pb.ActivityRequest, pauses: tuple[int, ...] = ()) -> None:
        """Create an activity. pauses: before further attempts that the engine makes, in microseconds."""
        # Filters treat an activity without a version as one of its orchestration's version. The .NET worker sends that
        # version itself, others omit it: a worker of one version accepts both.
        version = request.version.value if request.HasField("version") else instance.version
        task = Task(self.next_seq(), instance.key, instance.execution, request.taskId, request.name, version, request)
        task.pauses = pauses
        self.tx.add_task(task)
        self._new_tasks.append(task)

    def waiting_for(self, task: Task) -> Instance | None:
        """Instance that awaits the activity's result: the execution that scheduled it, or one that kept it."""
        instance = self.find_key(task.key)
        if instance is None or instance.execution == task.execution:
            return instance
        return instance if instance.execution == self.store.task_execution(task.seq) else None

    def try_again(self, instance: Instance, lease: Lease, failure: pb.TaskFailureDetails) -> bool:
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
        self.after.append(lambda: self.dispatcher.rest(replace(lease, subject=again), pause))
        return True

    def fail_task(self, task: Task, failure: pb.TaskFailureDetails) -> None:
        """Report that the activity cannot be run."""
        instance = self.waiting_for(task)
        self.tx.remove("tasks", [task.seq])
        if instance is not None:
            self.answer(instance, events.task_failed(self.now, task.task_id, failure))

    # Time

    def add_timer(self, instance: Instance, timer_id: int, moment: Timestamp, made: int) -> None:
        """Create a timer that an orchestrator requested in the turn of the time `made`.

        When the clock was set back, the turn's time is ahead of the clock. The timer then runs for its full length.
        """
        wanted = due(moment)
        event = events.timer_fired(min(made, wanted - 1), timer_id, moment)
        fire_at = due_at(self.now, wanted, wanted, made)
        self.tx.add_timer(Timer(self.next_seq(), fire_at, TIMER_FIRES, instance.key, event=event))

    def set_timers(self) -> None:
        """Recompute the due times of all timers after the clock was set."""
        self.stepped = False
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
        if timer.stored is not None:
            timer.event = self.store.timer_event(timer)
        if timer.kind == SIGNAL_IS_DUE:
            assert timer.entity is not None
            assert timer.event is not None
            self.entities.operate(timer.entity, timer.event)
            return
        assert timer.key is not None
        instance = self.find_key(timer.key)
        if instance is None or instance.finished:
            return
        if timer.kind == START_IS_DUE:
            instance.waiting_start = False
            self.wake(instance)
        elif timer.kind == TIMER_FIRES:
            assert timer.event is not None
            timer.event.timestamp.CopyFrom(timestamp(due(timer.event.timerFired.fireAt)))
            self.deliver(instance, timer.event)

    # After the commit

    def committed(self) -> None:
        """Send the work that became ready, and answer the waiting calls."""
        ready = self.dispatcher.ready
        for consequence in self.after:
            consequence()
        for instance in self._woken.values():
            if instance.token is None and instance.deliverable:
                ready[ORCHESTRATION].add(instance.name, instance.version, instance.key)
        for task in self._new_tasks:
            if len(ready[ACTIVITY]) >= MAX_REQUESTS:
                task.request = None
            ready[ACTIVITY].add(task.name, task.version, task)
        for entity in self.entities.woken.values():
            if entity.token is None and entity.queue:
                ready[ENTITY].add(entity.name, None, entity.id)
        replies: list[tuple[Reply, Any]] = []
        finished: list[str] = []
        for instance in self._moved.values():
            replies += self.waiters.notify(instance)
            if instance.finished:
                finished.append(instance.id)
                self.instances.remove(instance)
        started = [instance.id for instance in self.started.values() if not instance.finished]
        self.forget()
        for listener in self.run_listeners if finished or started else ():
            try:
                listener(finished, started)
            except Exception:
                logger.exception("A listener of runs failed")
        if replies:
            settle_all(replies)
        self.dispatcher.pump()
        if self.cancelled and not len(ready[ACTIVITY]) and not self.dispatcher.resting:
            self.cancelled.clear()
        self.instances.trim()
        self.entities.trim()

    def forget(self) -> None:
        """Discard the consequences of the current transaction."""
        if self.losses is not None:
            self.losses.forget()
        self.after.clear()
        self._let_out.clear()
        self._deferred_before.clear()
        self._absent.clear()
        self._woken.clear()
        self._moved.clear()
        self.started.clear()
        self._new_tasks.clear()
        self.entities.forget()

    def _not_built(self, kind: int, subject: Any, error: Exception) -> None:
        self.failed.append((Operation(Kind.HANDOUT, _nothing, subject=subject_of(kind, subject)), error))


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
