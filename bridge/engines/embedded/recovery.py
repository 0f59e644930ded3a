"""What a start, or a start over, finds in the file and sets going."""

from __future__ import annotations

from bridge.engines.embedded.dispatch import ACTIVITY, ENTITY, ORCHESTRATION
from bridge.engines.embedded.hub import TaskHub
from bridge.parking.names import PARKING


def recover(hub: TaskHub) -> None:
    """Queue everything that has something to do. Reads keys and names only, not payloads.

    Raises: sqlite3.Error.
    """
    ready = hub.dispatcher.ready
    for key, _, name, version, suspended, busy in hub.store.open_instances():
        if busy and not suspended:
            ready[ORCHESTRATION].add(name, version, key)
    for task in hub.store.open_tasks():
        ready[ACTIVITY].add(task.name, task.version, task)
    for entity_id in hub.store.busy_entities():
        ready[ENTITY].add(entity_id[1:].partition("@")[0], None, entity_id)
    hub.entities.locks_used = hub.store.has_locks()
    hub.entities.parking = set(hub.store.entities_named(PARKING))
    hub.load_counters()
