"""Kinds of jobs on instances: terminate, suspend, resume, rewind, restart, raise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

from durabletask.client import OrchestrationState

from bridge.app.operations.instances.instances import InstanceOperations
from bridge.app.operations.instances.selection import STATUSES
from bridge.core.errors import EngineError, EngineOutage, InstanceFinished, InstanceNotFound
from bridge.core.origin import MessageOrigin
from bridge.engines.base import Engine
from bridge.engines.commands.instance_reader import InstanceReader
from bridge.jobs.kind import ItemOutcome, ItemResult, Job, JobKind

SPACE = "instances"
"""Item space of these kinds: an instance belongs to one unfinished job at a time."""

_AT_ONCE = 16
_SUCCEEDED = ItemResult(ItemOutcome.SUCCEEDED)


def _terminate(instances: InstanceOperations, job: Job, id_: str) -> Awaitable[object]:
    given = job.request.arguments
    return instances.terminate(id_, given.get("output"), recursive=given.get("recursive", True))


def _raise(instances: InstanceOperations, job: Job, id_: str) -> Awaitable[object]:
    """Raise an event. Each event is a message of its own: an inbox drops the repeat after a crash."""
    given = job.request.arguments
    return instances.raise_event(id_, given["event"], given.get("data"), _origin(job, id_))


def _origin(job: Job, id_: str) -> MessageOrigin:
    return MessageOrigin(f"bridge:job:{job.id}:{id_}", "bridge instances raise")


def _has_status(*statuses: str) -> Callable[[Engine, Job, OrchestrationState], Awaitable[bool]]:
    async def has(engine: Engine, job: Job, state: OrchestrationState) -> bool:
        return state.runtime_status.name in statuses

    return has


async def _is_restarted(engine: Engine, job: Job, state: OrchestrationState) -> bool:
    return state.created_at.replace(tzinfo=UTC).timestamp() > job.request.cut_off


async def _is_raised(engine: Engine, job: Job, state: OrchestrationState) -> bool:
    origin = _origin(job, state.instance_id)
    past = await InstanceReader(engine).search("look for the event", state.instance_id, origin, None)
    return past is not None and past.has_received


@dataclass(frozen=True, slots=True)
class _Action:
    """Action on one instance.

    do: does it.
    is_done: True of an instance on which an earlier call has done it.
    """

    do: Callable[[InstanceOperations, Job, str], Awaitable[object]]
    is_done: Callable[[Engine, Job, OrchestrationState], Awaitable[bool]]


_ACTIONS: Mapping[str, _Action] = {
    "terminate": _Action(_terminate, _has_status("TERMINATED")),
    "suspend": _Action(
        lambda instances, job, id_: instances.suspend(id_, job.request.reason or None), _has_status("SUSPENDED")
    ),
    "resume": _Action(
        lambda instances, job, id_: instances.resume(id_, job.request.reason or None),
        _has_status("RUNNING", "COMPLETED", "FAILED"),
    ),
    "rewind": _Action(
        lambda instances, job, id_: instances.rewind(id_, job.request.reason or None),
        _has_status("RUNNING", "PENDING", "COMPLETED"),
    ),
    "restart": _Action(lambda instances, job, id_: instances.restart(id_, new_id=False), _is_restarted),
    "raise": _Action(_raise, _is_raised),
}


class InstanceKind:
    """Kind of a job whose items are ids of instances. Implements `bridge.jobs.kind.JobKind`.

    An item that an earlier call has begun may have been done: its state then decides.
    """

    item_space = SPACE
    keeps_order = False

    def __init__(self, engine: Engine, name: str) -> None:
        """Create the kind. name: of the action."""
        self.name = f"instances.{name}"
        self._engine = engine
        self._action = _ACTIONS[name]
        self._statuses = STATUSES[name]
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def work(
        self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]
    ) -> Mapping[str, ItemResult]:
        results = await asyncio.gather(*(self._one(job, id_, id_ in repeated) for id_ in items))
        return dict(zip(items, results, strict=True))

    async def _one(self, job: Job, id_: str, again: bool) -> ItemResult:
        async with self._slots:
            try:
                state = await self._engine.client.find_instance(id_, fetch_payloads=False)
                if state is None:
                    return _skipped("the instance does not exist any more")
                if again and await self._action.is_done(self._engine, job, state):
                    return _SUCCEEDED
                if state.created_at.replace(tzinfo=UTC).timestamp() > job.request.cut_off:
                    return _skipped("the instance was started after the selection")
                if state.runtime_status.name not in self._statuses:
                    return _skipped(f"the instance is {state.runtime_status.name}")
                await self._action.do(InstanceOperations(self._engine), job, id_)
            except EngineOutage:
                raise
            except InstanceNotFound:
                return _skipped("the instance does not exist any more")
            except InstanceFinished:
                return _skipped("the instance has finished")
            except EngineError as error:
                return ItemResult(ItemOutcome.FAILED, str(error))
            return _SUCCEEDED


def _skipped(why: str) -> ItemResult:
    return ItemResult(ItemOutcome.SKIPPED, why)


def instance_kinds(engine: Engine) -> list[JobKind]:
    """Kinds of jobs on the instances of an engine."""
    return [InstanceKind(engine, name) for name in _ACTIONS]
