"""Recovery: of the work in a file at the start, and from operations that cannot be applied.

The subject of such an operation is given up: it fails, and its owners are notified. Each step of this runs in a
transaction of its own. When a step fails too, its next alternative does less; the last alternative changes rows without
reading them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.leases import ACTIVITY, ENTITY, ORCHESTRATION, Lease
from bridge.sqlite_engine.hub.working_set import OperationKind, Orchestration, Queued, Subject, WriterOperation
from bridge.sqlite_engine.model.work import Task, Timer
from bridge.sqlite_engine.storage.schema import is_file_fault


def recover(hub: TaskHub) -> None:
    """Queue all open work. Reads keys and names only, not payloads.

    The writer gives up the items that cannot be queued; all others continue. Raises: sqlite3.Error.
    """
    ready = hub.dispatcher.ready
    for key, _, name, version, suspended, busy in hub.store.open_instances():
        if busy and not suspended:
            _attempt(hub, Orchestration(key), lambda: ready[ORCHESTRATION].add(name, version, key))  # noqa: B023 -- runs at once
    for task in hub.store.open_tasks():
        _attempt(hub, task, lambda: _queue_task(hub, task))  # noqa: B023 -- runs at once
    for entity_id in hub.store.busy_entities():
        name = entity_id[1:].partition("@")[0]
        _attempt(hub, Queued(entity_id), lambda: ready[ENTITY].add(name, None, entity_id))  # noqa: B023 -- runs at once
    hub.load()


def _queue_task(hub: TaskHub, task: Task) -> None:
    task.split_execution()
    hub.dispatcher.ready[ACTIVITY].add(task.name, task.version, task)


def _attempt(hub: TaskHub, subject: Subject, run: Callable[[], None]) -> None:
    try:
        run()
    except Exception as error:
        if is_file_fault(error):
            raise
        hub.failed.append((WriterOperation(OperationKind.RECOVERY, run, subject=subject), error))


Alternatives = tuple[Callable[[], object], ...]
"""Alternatives of one step; the first that succeeds counts."""


def failing_steps(hub: TaskHub, subject: Subject, failure: pb.TaskFailureDetails) -> Iterator[Alternatives]:
    """Steps that report the failure to all owners of the subject."""
    if isinstance(subject, Lease):
        yield from _leased(hub, subject, failure)
    elif isinstance(subject, Timer):
        yield (lambda: hub.tx.remove("timers", [subject.seq]),)
        if subject.key is not None:
            yield from _instance(hub, subject.key, failure)
    elif isinstance(subject, Task):
        yield from _task(hub, subject, failure)
    elif isinstance(subject, Queued):
        yield from _operations(hub, subject.entity, hub.store.queued(subject.entity), failure)
    else:
        assert isinstance(subject, Orchestration)
        yield from _instance(hub, subject.key, failure)


def _leased(hub: TaskHub, lease: Lease, failure: pb.TaskFailureDetails) -> Iterator[Alternatives]:
    # In a transaction, because it may reset the count of lost workers.
    yield (lambda: hub.dispatcher.release(lease, done=True),)
    if lease.kind == ACTIVITY:
        yield from _task(hub, lease.subject, failure)
    elif lease.kind == ENTITY:
        if (held := hub.in_flight.get(lease.subject)) is not None and held is lease:
            yield (lambda: hub.entities.release(lease.subject),)
            yield from _operations(hub, lease.subject, [seq for seq, _ in lease.taken], failure)
    elif hub.in_flight.get(lease.subject) is lease:
        yield from _instance(hub, lease.subject, failure)


def _task(hub: TaskHub, task: Task, failure: pb.TaskFailureDetails) -> Iterator[Alternatives]:
    yield (
        lambda: hub.fail_task(task, failure),
        lambda: _fail(hub, task.key, failure),
        lambda: hub.end_unseen(task.key, failure),
    )


def _fail(hub: TaskHub, key: int, failure: pb.TaskFailureDetails) -> None:
    instance = hub.find_key(key)
    if instance is not None:
        hub.fail(instance, failure)


def _instance(hub: TaskHub, key: int, failure: pb.TaskFailureDetails) -> Iterator[Alternatives]:
    ended: list[bool] = []
    yield (lambda: _fail(hub, key, failure), lambda: ended.append(hub.end_unseen(key, failure)))
    if not ended:
        return
    # One step for each consequence of an end; a fault in one must not prevent the others.
    yield (lambda: hub.notify_waiters_of(key),)
    yield (lambda: hub.report_to_parent_of(key),)
    yield (lambda: hub.release_locks_of(key),)


def _operations(hub: TaskHub, entity: str, seqs: list[int], failure: pb.TaskFailureDetails) -> Iterator[Alternatives]:
    for seq in seqs:
        yield (
            lambda seq=seq: hub.entities.refuse(entity, seq, failure),  # type: ignore[misc] # a default is not inferred
            lambda seq=seq: hub.entities.drop(entity, seq),  # type: ignore[misc] # as above
        )
