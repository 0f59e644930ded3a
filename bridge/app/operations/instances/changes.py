"""Operations that change one instance, or remove ended ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from pydantic import AwareDatetime, Field
from typing_extensions import TypedDict

from bridge.app.operations.instances.instances import InstanceFilter, InstanceOperations, StartRequest
from bridge.app.operations.instances.reads import INSTANCE, OneInstance, instance_target
from bridge.app.operations.operation import (
    LONGEST_SECONDS,
    NEW,
    MessageParameters,
    Operation,
    Parameters,
    Scene,
    checked,
)
from bridge.core.errors import InvalidCommand


class StartInstance(MessageParameters):
    orchestration: str
    input: Any = None
    instance_id: str | None = None
    start_at: AwareDatetime | None = None
    delay: float | None = Field(None, ge=0, le=LONGEST_SECONDS)
    version: str | None = None
    tags: Mapping[str, str] = Field(default_factory=dict)


class RaiseToInstance(MessageParameters, OneInstance):
    event: str
    data: Any = None


class TerminateInstance(OneInstance):
    output: Any = None
    recursive: bool = True


class RestartInstance(OneInstance):
    new_id: bool = False


class PurgeInstance(OneInstance):
    recursive: bool = True


class PurgeInstances(Parameters):
    statuses: tuple[Literal["COMPLETED", "FAILED", "TERMINATED"], ...]
    created_from: AwareDatetime | None = None
    created_to: AwareDatetime | None = None
    recursive: bool = True


class Started(TypedDict):
    instance_id: str
    message_id: str | None
    repeated: bool


class Raised(TypedDict):
    instance_id: str
    event: str
    message_id: str | None
    repeated: bool


class OneId(TypedDict):
    instance_id: str


class Purged(TypedDict):
    purged: int


class PurgedBy(TypedDict):
    purged: int
    complete: bool


async def _start(scene: Scene, given: StartInstance) -> Any:
    if given.start_at is not None and given.delay is not None:
        raise InvalidCommand("use either `start_at` or `delay`")
    message = given.origin("bridge instances start")
    start = StartRequest(
        given.orchestration, checked(given.input), given.instance_id, given.start_at, given.delay, given.version,
        given.tags,
    )  # fmt: skip
    instance_id, new = await InstanceOperations(await scene.engine()).start(start, message)
    return {"instance_id": instance_id, "message_id": message and message.message_id, "repeated": not new}


async def _raise(scene: Scene, given: RaiseToInstance) -> Any:
    message = given.origin("bridge instances raise")
    data = checked(given.data)
    new = await InstanceOperations(await scene.engine()).raise_event(given.instance_id, given.event, data, message)
    id_ = message and message.message_id
    return {"instance_id": given.instance_id, "event": given.event, "message_id": id_, "repeated": not new}


async def _terminate(scene: Scene, given: TerminateInstance) -> Any:
    output = checked(given.output)
    await InstanceOperations(await scene.engine()).terminate(given.instance_id, output, recursive=given.recursive)
    return {"instance_id": given.instance_id}


async def _restart(scene: Scene, given: RestartInstance) -> Any:
    return {
        "instance_id": await InstanceOperations(await scene.engine()).restart(given.instance_id, new_id=given.new_id)
    }


async def _purge(scene: Scene, given: PurgeInstance) -> Any:
    return {
        "purged": await InstanceOperations(await scene.engine()).purge(given.instance_id, recursive=given.recursive)
    }


async def _purge_by(scene: Scene, given: PurgeInstances) -> Any:
    if not given.statuses:
        raise InvalidCommand("`statuses` is empty")
    filter_ = InstanceFilter(given.statuses, None, given.created_from, given.created_to)
    count, complete = await InstanceOperations(await scene.engine()).purge_by(filter_, recursive=given.recursive)
    return {"purged": count, "complete": complete}


def _with_reason(name: str, act: Callable[[InstanceOperations, str, str | None], Awaitable[None]]) -> Operation[Any]:
    """Operation of an action that takes nothing but a reason, which the history keeps."""

    async def run(scene: Scene, given: OneInstance) -> Any:
        await act(InstanceOperations(await scene.engine()), given.instance_id, given.reason)
        return {"instance_id": given.instance_id}

    return Operation(f"instances.{name}", "operator", f"{INSTANCE}:{name}", OneInstance, run, OneId, instance_target)


INSTANCE_CHANGES: tuple[Operation[Any], ...] = (
    Operation(
        "instances.start", "operator", "instances", StartInstance, _start, Started,
        lambda given: given.instance_id or NEW, lambda given: {"orchestration": given.orchestration},
    ),
    Operation(
        "instances.raise", "operator", f"{INSTANCE}:raise", RaiseToInstance, _raise, Raised, instance_target,
        lambda given: {"event": given.event},
    ),
    _with_reason("suspend", InstanceOperations.suspend),
    _with_reason("resume", InstanceOperations.resume),
    _with_reason("rewind", InstanceOperations.rewind),
    Operation(
        "instances.terminate", "operator", f"{INSTANCE}:terminate", TerminateInstance, _terminate, OneId,
        instance_target,
        lambda given: {"recursive": given.recursive},
    ),
    Operation(
        "instances.restart", "operator", f"{INSTANCE}:restart", RestartInstance, _restart, OneId, instance_target,
        lambda given: {"new_id": given.new_id},
    ),
    Operation(
        "instances.purge", "admin", f"{INSTANCE}:purge", PurgeInstance, _purge, Purged, instance_target,
        lambda given: {"recursive": given.recursive},
    ),
    Operation(
        "instances.purge_by", "admin", "instances:purge", PurgeInstances, _purge_by, PurgedBy,
        filter=lambda given: given.model_dump(mode="json", exclude={"engine", "reason"}),
    ),
)  # fmt: skip
