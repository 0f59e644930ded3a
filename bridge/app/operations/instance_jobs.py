"""Kinds of jobs on instances: terminate, suspend, resume, rewind, restart, raise."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC

from durabletask.client import OrchestrationState

from bridge.app.operations.instances import Instances
from bridge.app.operations.selection import STATUSES
from bridge.core.errors import EngineError, EngineOutage, InstanceFinished, InstanceNotFound
from bridge.core.origin import MessageOrigin
from bridge.engines.base import Engine
from bridge.engines.commands.instance_reader import InstanceReader
from bridge.jobs.kind import ItemResult, Job, JobKind, Result

SPACE = "instances"
"""Item space of these kinds: an instance belongs to one unfinished job at a time."""

_AT_ONCE = 16
_SUCCEEDED = ItemResult(Result.SUCCEEDED)


class InstanceKind(ABC):
    """Kind of a job whose items are ids of instances.

    An item that an earlier call has begun may have been done: its state then decides.
    """

    item_space = SPACE
    keeps_order = False
    action: str
    after: tuple[str, ...] = ()
    """Statuses of an instance on which the action was done."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._slots = asyncio.Semaphore(_AT_ONCE)

    @property
    def name(self) -> str:
        return f"instances.{self.action}"

    @property
    def _instances(self) -> Instances:
        return Instances(self._engine)

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
                status = state.runtime_status.name
                if again and await self._is_done(job, state):
                    return _SUCCEEDED
                if state.created_at.replace(tzinfo=UTC).timestamp() > job.request.cut_off:
                    return _skipped("the instance was started after the selection")
                if status not in STATUSES[self.action]:
                    return _skipped(f"the instance is {status}")
                return await self._do(job, id_)
            except EngineOutage:
                raise
            except InstanceNotFound:
                return _skipped("the instance does not exist any more")
            except InstanceFinished:
                return _skipped("the instance has finished")
            except EngineError as error:
                return ItemResult(Result.FAILED, str(error))

    async def _is_done(self, job: Job, state: OrchestrationState) -> bool:
        """Return whether an earlier call has done the action on this instance."""
        return state.runtime_status.name in self.after

    @abstractmethod
    async def _do(self, job: Job, id_: str) -> ItemResult: ...


class TerminateInstances(InstanceKind):
    action = "terminate"
    after = ("TERMINATED",)

    async def _do(self, job: Job, id_: str) -> ItemResult:
        given = job.request.arguments
        await self._instances.terminate(id_, given.get("output"), recursive=given.get("recursive", True))
        return _SUCCEEDED


class SuspendInstances(InstanceKind):
    action = "suspend"
    after = ("SUSPENDED",)

    async def _do(self, job: Job, id_: str) -> ItemResult:
        await self._instances.suspend(id_, job.request.reason or None)
        return _SUCCEEDED


class ResumeInstances(InstanceKind):
    action = "resume"
    after = ("RUNNING", "COMPLETED", "FAILED")

    async def _do(self, job: Job, id_: str) -> ItemResult:
        await self._instances.resume(id_, job.request.reason or None)
        return _SUCCEEDED


class RewindInstances(InstanceKind):
    action = "rewind"
    after = ("RUNNING", "PENDING", "COMPLETED")

    async def _do(self, job: Job, id_: str) -> ItemResult:
        await self._instances.rewind(id_, job.request.reason or None)
        return _SUCCEEDED


class RestartInstances(InstanceKind):
    action = "restart"

    async def _is_done(self, job: Job, state: OrchestrationState) -> bool:
        return state.created_at.replace(tzinfo=UTC).timestamp() > job.request.cut_off

    async def _do(self, job: Job, id_: str) -> ItemResult:
        await self._instances.restart(id_, new_id=False)
        return _SUCCEEDED


class RaiseEvents(InstanceKind):
    """Each event is a message of its own: an inbox drops the repeat after a crash."""

    action = "raise"

    async def _is_done(self, job: Job, state: OrchestrationState) -> bool:
        origin = _origin(job, state.instance_id)
        past = await InstanceReader(self._engine).search("look for the event", state.instance_id, origin, None)
        return past is not None and past.held

    async def _do(self, job: Job, id_: str) -> ItemResult:
        given = job.request.arguments
        await self._instances.raise_event(id_, given["event"], given.get("data"), _origin(job, id_))
        return _SUCCEEDED


def _origin(job: Job, id_: str) -> MessageOrigin:
    return MessageOrigin(f"bridge:job:{job.id}:{id_}", "bridge instances raise")


def _skipped(why: str) -> ItemResult:
    return ItemResult(Result.SKIPPED, why)


def instance_kinds(engine: Engine) -> list[JobKind]:
    """Kinds of jobs on the instances of an engine."""
    kinds = (TerminateInstances, SuspendInstances, ResumeInstances, RewindInstances, RestartInstances, RaiseEvents)
    return [kind(engine) for kind in kinds]
