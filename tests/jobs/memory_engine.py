"""Engine in memory for tests of jobs: entities whose operations wait in a queue, and calls that can be interrupted."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

from durabletask.client import EntityQuery
from durabletask.entities import EntityInstanceId

from bridge.jobs.entities import JobEntities


class FrozenProcess:
    """Process that is frozen after some calls until it is thawed, and then perhaps again."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.thawed = asyncio.Event()
        self.then: FrozenProcess | None = None

    async def call(self) -> None:
        """Count a call; wait while the process is frozen."""
        if not self.thawed.is_set():
            self.left -= 1
            if self.left < 0:
                await self.thawed.wait()
        elif self.then is not None:
            await self.then.call()


PROCESS: ContextVar[FrozenProcess | None] = ContextVar("process", default=None)
"""Process of the caller; None for one that is never frozen."""


class MemoryEngine:
    """`Engine` and `EngineClient` as far as jobs use them.

    Operations are processed one by one, in the order in which they were sent, a few at each read. States are JSON.
    counts: the engine counts the operations that are not processed. Some engines leave out those of a running batch.
    """

    name = "memory"

    def __init__(self, now: Callable[[], float], *, counts: bool = True) -> None:
        self._counts = counts
        self.client: Any = self
        self.entities = JobEntities(now)
        self._functions = self.entities.functions()
        self.states: dict[str, str] = {}
        self.pending: deque[tuple[str, str, str]] = deque()
        self.started: set[str] = set()
        self.left: int | None = None
        """Calls until the caller is interrupted; None: never."""

    async def interruption(self) -> None:
        """Interrupt or freeze the caller when its number of calls is reached, as a crash of its process would."""
        process = PROCESS.get()
        if process is not None:
            await process.call()
            return
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise asyncio.CancelledError

    async def signal_entity(self, entity: EntityInstanceId, operation: str, value: Any, *, what: str = "") -> None:
        await self.interruption()
        self.pending.append((str(entity), operation, json.dumps(value)))
        await self.interruption()

    async def schedule_new_orchestration(self, name: str, *, instance_id: str, **more: Any) -> None:
        await self.interruption()
        self.started.add(instance_id)

    async def find_instance(self, instance_id: str, **more: Any) -> Any:
        await self.interruption()
        status = SimpleNamespace(name="RUNNING")
        return SimpleNamespace(runtime_status=status) if instance_id in self.started else None

    async def raise_orchestration_event(self, instance_id: str, name: str) -> None:
        await self.interruption()

    async def get_all_entities(self, query: EntityQuery, *, what: str = "") -> list[Any]:
        await self.interruption()
        prefix = query.instance_id_starts_with or ""
        waiting = [entity for entity, _, _ in self.pending]
        names = self.states.keys() | (set(waiting) if query.include_transient else set())
        found = [
            SimpleNamespace(
                id=EntityInstanceId.parse(name),
                get_state=partial_state(self.states.get(name)),
                backlog_queue_size=waiting.count(name) if self._counts else 0,
            )
            for name in sorted(names)
            if name.startswith(prefix)
        ]
        self.process(3)
        return found

    async def entity_pages(self, prefix: str, *, what: str) -> AsyncIterator[Any]:
        query = EntityQuery(prefix, include_transient=True)
        for each in await self.get_all_entities(query):
            state = SimpleNamespace(value=each.get_state() or "")
            yield [
                SimpleNamespace(
                    instanceId=str(each.id), backlogQueueSize=each.backlog_queue_size, serializedState=state
                )
            ]

    async def find_entity(self, entity: EntityInstanceId, *, what: str | None = None) -> Any:
        query = EntityQuery(str(entity), include_transient=True)
        return next((each for each in await self.get_all_entities(query) if each.id == entity), None)

    def process(self, count: int) -> None:
        """Process the oldest operations."""
        for _ in range(min(count, len(self.pending))):
            entity, operation, value = self.pending.popleft()
            id_ = EntityInstanceId.parse(entity)
            context = _Context(self, id_, operation)
            self._functions[id_.entity](context, json.loads(value))  # type: ignore[arg-type]  # as far as jobs use it

    def process_all(self) -> None:
        while self.pending:
            self.process(1)

    def state(self, entity: str, key: str) -> Any:
        return json.loads(self.states.get(str(EntityInstanceId(entity, key)), "null"))


def partial_state(state: str | None) -> Callable[[], str | None]:
    return lambda: state


class _Context:
    def __init__(self, engine: MemoryEngine, entity_id: EntityInstanceId, operation: str) -> None:
        self._engine = engine
        self.entity_id = entity_id
        self.operation = operation

    def get_state(self) -> Any:
        stored = self._engine.states.get(str(self.entity_id))
        return None if stored is None else json.loads(stored)

    def set_state(self, state: Any) -> None:
        if state is None:
            self._engine.states.pop(str(self.entity_id), None)
        else:
            self._engine.states[str(self.entity_id)] = json.dumps(state)

    def signal_entity(self, entity: EntityInstanceId, operation: str, value: Any) -> None:
        self._engine.pending.append((str(entity), operation, json.dumps(value)))
