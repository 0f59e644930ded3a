"""Sagas: by outcome and step, with the reasons of failures. Words of configuration and code only, no payload."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from durabletask.client import OrchestrationStatus
from pydantic import Field
from typing_extensions import TypedDict

from bridge.app.operations.cursors import START
from bridge.app.operations.instances.instances import FINISHED, InstanceFilter, InstanceInfo, InstanceOperations
from bridge.app.operations.operation import Operation, Parameters, Scene, Words
from bridge.core.errors import InvalidCommand
from bridge.engines.sagas import OUTCOMES, saga_end, saga_progress

COMPENSATING = "compensating"
_OPEN = tuple(sorted(OrchestrationStatus.__members__.keys() - FINISHED - {"CONTINUED_AS_NEW"}))


class CompensationFailure(TypedDict):
    """Step whose compensation failed, with the reason."""

    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class SagaInfo:
    """Saga of one instance.

    state: its outcome, or of an unfinished one `running` or `compensating`.
    step, reason: of the failure. steps: state of each step.
    """

    instance_id: str
    saga: str
    orchestration: str
    state: str
    step: str | None
    reason: str | None
    steps: Mapping[str, str]
    failed_compensations: Sequence[CompensationFailure]
    created_at: str
    last_updated_at: str


class SagaList(TypedDict):
    sagas: list[SagaInfo]
    next: str | None


class ListSagas(Parameters):
    """Sagas to list in parts, newest first. A part may have fewer than `limit`, although `next` names another.

    states: outcomes, or one of `running` and `compensating`. step: that failed.
    cursor: `start`, then `next` of the part before.
    """

    states: Words = OUTCOMES
    saga: str | None = None
    step: str | None = None
    limit: int = Field(100, ge=1, le=1_000)
    cursor: str = START

    @property
    def is_open(self) -> bool:
        return bool({"running", COMPENSATING} & {*self.states})


def saga_of(one: InstanceInfo) -> SagaInfo | None:
    """Saga of an instance; None when it runs none."""
    progress = saga_progress(one.custom_status)
    text = json.dumps(one.custom_status) if progress is not None else None
    end = saga_end(text, OrchestrationStatus[one.status].value, one.saga)
    if end is None:
        return None
    state = one.outcome or end.outcome
    if not one.finished:
        state = COMPENSATING if progress is not None and progress.state == COMPENSATING else "running"
    failed: list[CompensationFailure] = [{"step": step, "reason": why} for step, why in end.failed_compensations]
    return SagaInfo(
        one.instance_id, end.saga, one.name, state, end.step, end.reason,
        {} if progress is None else dict(progress.steps), failed, one.created_at, one.last_updated_at,
    )  # fmt: skip


async def _list(scene: Scene, given: ListSagas) -> Any:
    known = {*OUTCOMES, "running", COMPENSATING}
    if not given.states or not known.issuperset(given.states):
        raise InvalidCommand(f"`states`: outcomes ({', '.join(OUTCOMES)}), or one of running, {COMPENSATING}")
    if given.is_open and len(given.states) > 1:
        raise InvalidCommand("`states`: running and compensating stand alone")
    text = [] if given.step is None else [json.dumps(given.step)]
    if given.is_open:
        # Sagas in Python have a name of their own in their custom status only
        text += ['"saga"', *([] if given.saga is None else [json.dumps(given.saga)])]
        text += [f'"{COMPENSATING}"'] if given.states == (COMPENSATING,) else []
        filter_ = InstanceFilter(statuses=_OPEN)
    else:
        # A completed saga has no failed step
        outcomes = tuple(each for each in given.states if given.step is None or each != "completed")
        if not outcomes:
            return {"sagas": [], "next": None}
        filter_ = InstanceFilter(outcomes=outcomes, name=given.saga)
    part, more = await InstanceOperations(await scene.engine()).page(filter_, given.limit, given.cursor, tuple(text))
    found = [each for one in part if (each := saga_of(one)) is not None and _is_wanted(each, given)]
    return {"sagas": [asdict(each) for each in found], "next": more}


def _is_wanted(saga: SagaInfo, given: ListSagas) -> bool:
    return saga.state in given.states and given.step in (None, saga.step) and given.saga in (None, saga.saga)


SAGA_OPERATIONS: tuple[Operation[Any], ...] = (Operation("sagas.list", "reader", "sagas", ListSagas, _list, SagaList),)
