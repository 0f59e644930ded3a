"""Operations that read instances: lists, counts, causes, histories, and waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from durabletask.client import OrchestrationStatus
from pydantic import AwareDatetime, BeforeValidator, Field
from typing_extensions import TypedDict

from bridge.app.operations.cursors import Cursor, part_size
from bridge.app.operations.instances.causes import FailureCause
from bridge.app.operations.instances.instances import CountOfInstances, InstanceFilter, InstanceInfo, InstanceOperations
from bridge.app.operations.instances.timeline import TimelineEntry, as_json, timeline
from bridge.app.operations.operation import Operation, Parameters, Scene, Words, json_object
from bridge.core.errors import InvalidCommand
from bridge.engines.sagas import OUTCOMES

MAX_WAIT = 20.0
"""Most seconds of one wait. A client repeats the request to wait longer."""


class OneInstance(Parameters):
    instance_id: str


def instance_target(given: OneInstance) -> str:
    """Target of the audit line of a change of one instance."""
    return given.instance_id


class SelectInstances(Parameters):
    """Filter of instances. Parts that are left out mean any.

    statuses, outcomes: separated by commas in a query. outcomes: of sagas.
    name: of the orchestration, or own name of the saga.
    completed_from, completed_to: only finished instances, by time of completion.
    """

    statuses: Words = ()
    prefix: str | None = None
    created_from: AwareDatetime | None = None
    created_to: AwareDatetime | None = None
    completed_from: AwareDatetime | None = None
    completed_to: AwareDatetime | None = None
    name: str | None = None
    outcomes: Words = ()
    tags: Annotated[Mapping[str, str], BeforeValidator(json_object)] = Field(default_factory=dict)

    @property
    def filter(self) -> InstanceFilter:
        """Filter. Raises: InvalidCommand for an unknown status or outcome."""
        for name, given, known in (
            ("statuses", self.statuses, tuple(OrchestrationStatus.__members__)),
            ("outcomes", self.outcomes, OUTCOMES),
        ):
            if unknown := sorted(set(given).difference(known)):
                raise InvalidCommand(f"`{name}`: {unknown[0][:100]!r} is not one of {', '.join(known)}")
        return InstanceFilter(
            self.statuses, self.prefix, self.created_from, self.created_to, self.completed_from, self.completed_to,
            self.name, self.outcomes, self.tags,
        )  # fmt: skip


class ListInstances(SelectInstances):
    """Instances to list.

    limit: 0 is all.
    payloads: include payloads.
    named: read the own names of declared sagas from their inputs, where no custom status has them yet.
    cursor: a part of at most 1,000 instances, without their number: `start`, then `next` of the part before.
    """

    limit: int = Field(100, ge=0)
    cursor: Cursor = None
    payloads: bool = False
    named: bool = False


class WaitForInstance(OneInstance):
    """Event of an instance to wait for. seconds: longest wait."""

    until: Literal["start", "completion"] = "completion"
    seconds: float = Field(MAX_WAIT, ge=0, le=MAX_WAIT)


class InstanceList(TypedDict):
    """Instances, newest first. all: number that match; null with a cursor. next: cursor of the next part."""

    all: int | None
    next: str | None
    instances: list[InstanceInfo]


class RecordedHistory(TypedDict):
    """History in the form of `bridge instances export`. events: in the JSON form of protobuf."""

    format: str
    version: int
    instance_id: str
    orchestration: str
    events: list[dict[str, Any]]


async def _list(scene: Scene, given: ListInstances) -> Any:
    instances = InstanceOperations(await scene.engine())
    if given.cursor is not None:
        if given.payloads:
            raise InvalidCommand("with `cursor`, use no `payloads`")
        part, more = await instances.page(given.filter, part_size(given.limit), given.cursor)
        part = [*await instances.named(part)] if given.named else part
        return {"all": None, "next": more, "instances": [asdict(one) for one in part]}
    found = await instances.list(given.filter, payloads=given.payloads)
    shown = found[: given.limit] if given.limit else found
    named = await instances.named(shown) if given.named else shown
    return {"all": len(found), "next": None, "instances": [asdict(one) for one in named]}


async def _count(scene: Scene, given: SelectInstances) -> Any:
    return [asdict(one) for one in await InstanceOperations(await scene.engine()).count(given.filter)]


async def _show(scene: Scene, given: OneInstance) -> Any:
    return asdict(await InstanceOperations(await scene.engine()).show(given.instance_id))


async def _cause(scene: Scene, given: OneInstance) -> Any:
    instances = InstanceOperations(await scene.engine())
    cause = await instances.cause(await instances.show(given.instance_id))
    return None if cause is None else asdict(cause)


async def _history(scene: Scene, given: OneInstance) -> Any:
    return as_json(await InstanceOperations(await scene.engine()).history(given.instance_id))


async def _timeline(scene: Scene, given: OneInstance) -> Any:
    return [
        asdict(each) for each in timeline(await InstanceOperations(await scene.engine()).history(given.instance_id))
    ]


async def _recording(scene: Scene, given: OneInstance) -> Any:
    return (await InstanceOperations(await scene.engine()).recording(given.instance_id)).to_json()


async def _wait(scene: Scene, given: WaitForInstance) -> Any:
    one = await InstanceOperations(await scene.engine()).wait(given.instance_id, given.until, given.seconds)
    return None if one is None else asdict(one)


INSTANCE = "instances/{instance_id}"
"""Path of one instance."""
_PAYLOADS = frozenset({"input", "output", "custom_status", "message", "stack_trace"})
"""Members of an instance, and of its failure, that may be payload."""
_OF_HISTORY = frozenset(
    {"input", "result", "output", "data", "reason", "failure_details", "carryover_events", "error_message"}
)
INSTANCE_READS: tuple[Operation[Any], ...] = (
    Operation(
        "instances.list", "reader", "instances", ListInstances, _list, InstanceList, payloads=_PAYLOADS,
        reads_payloads=lambda given: given.payloads,
    ),
    Operation("instances.count", "reader", "instances:count", SelectInstances, _count, list[CountOfInstances]),
    Operation("instances.show", "reader", INSTANCE, OneInstance, _show, InstanceInfo, payloads=_PAYLOADS),
    Operation(
        "instances.cause", "reader", f"{INSTANCE}/cause", OneInstance, _cause, FailureCause | None,
        payloads=_PAYLOADS,
    ),
    Operation(
        "instances.history", "reader", f"{INSTANCE}/history", OneInstance, _history, list[dict[str, Any]],
        payloads=_OF_HISTORY,
    ),
    Operation(
        "instances.timeline", "reader", f"{INSTANCE}/timeline", OneInstance, _timeline, list[TimelineEntry],
        payloads=_OF_HISTORY,
    ),
    Operation(
        "instances.recording", "reader", f"{INSTANCE}/recording", OneInstance, _recording, RecordedHistory,
        reads_payloads=lambda given: True,
    ),
    Operation(
        "instances.wait", "reader", f"{INSTANCE}/wait", WaitForInstance, _wait, InstanceInfo | None,
        payloads=_PAYLOADS,
    ),
)  # fmt: skip
