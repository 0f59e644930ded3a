"""Workload of an engine: its work items, against the number of them that one process works on at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from durabletask.client import EntityQuery

from bridge.config.model.engines import EngineConfig
from bridge.core.answers import PUBLISH_ACTIVITY
from bridge.core.system_names import JOB_STEP, PREFIX, WORKLOAD
from bridge.engines.client import EngineClient

ORCHESTRATIONS, ACTIVITIES, ENTITIES, PUBLISHING = "orchestrations", "activities", "entities", "publishing"
KINDS = (ORCHESTRATIONS, ACTIVITIES, ENTITIES)
"""Kinds of work items in the order of their numbers in the engine. Activities that publish are a kind of their own."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Numbers of work items by kind: turns of orchestrations, activities, batches of entities, publishes.

    waiting: no worker has them. held: workers have them, running or not.
    """

    waiting: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)


async def workload_of(
    client: EngineClient, external: Collection[str] = (), versions: Collection[str] = ()
) -> Workload | None:
    """Work items of an embedded engine that wait for workers of this configuration or that they have.

    Steps of jobs do not count: further workers do not make a job faster.
    external: names that other workers run. versions: versions that the workers run; empty for all.
    Returns None for an engine that tells no numbers, as the scheduler. Raises: EngineError.
    """
    query = EntityQuery(f"@{WORKLOAD}@", include_state=True)
    answer = await client.get_all_entities(query, what="count the work items")
    if not answer:
        return None
    waiting: Counter[str] = Counter()
    held: Counter[str] = Counter()
    foreign = {name.lower() for name in external}
    for number, name, version, waits, has in json.loads(answer[0].get_state() or "[]"):
        is_own = name.startswith(PREFIX)
        if name == JOB_STEP or name.lower() in foreign:
            continue
        if versions and KINDS[number] != ENTITIES and not is_own and (version or "") not in versions:
            continue
        kind = PUBLISHING if name == PUBLISH_ACTIVITY else KINDS[number]
        waiting[kind] += waits
        held[kind] += has
    return Workload(waiting, held)


def capacity(config: EngineConfig) -> Mapping[str, int]:
    """Work items of each kind that one process works on at once.

    Activities wait for others, so their threads count. Turns and entities compute: the items that are in progress
    count.
    """
    worker = config.worker
    most = worker.threads if config.dispatch == "protocol" else worker.max_orchestrations
    return {
        ORCHESTRATIONS: most,
        ACTIVITIES: worker.threads,
        ENTITIES: worker.max_entities,
        PUBLISHING: worker.publish_threads,
    }
