"""Recovery of the work in a file at the start, or when the engine starts over."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.system_names import EARLY_MESSAGES
from bridge.sqlite_engine.hub.dispatch import ACTIVITY, ENTITY, ORCHESTRATION
from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.operation import Kind, Operation, Orchestration, Queued, Subject
from bridge.sqlite_engine.model.attempts import pauses_of
from bridge.sqlite_engine.storage.schema import is_file_fault
from bridge.sqlite_engine.storage.store import Task


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
    hub.entities.locks_used = hub.store.has_locks()
    hub.entities.parking = set(hub.store.entities_named(EARLY_MESSAGES))
    hub.load_counters()
    if hub.losses is not None:
        hub.losses.load()


def _queue_task(hub: TaskHub, task: Task) -> None:
    task.execution, task.pauses = pauses_of(task.execution)
    hub.dispatcher.ready[ACTIVITY].add(task.name, task.version, task)


def _attempt(hub: TaskHub, subject: Subject, run: Callable[[], None]) -> None:
    try:
        run()
    except Exception as error:
        if is_file_fault(error):
            raise
        hub.failed.append((Operation(Kind.RECOVERY, run, subject=subject), error))
