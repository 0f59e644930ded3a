"""Jobs that release or drop early and quarantined messages, selected by a filter."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field
from typing_extensions import TypedDict

from bridge.app.connection import chosen
from bridge.app.operations.operation import NEW, JobParameters, Operation, Parameters, Scene, Words
from bridge.core.errors import EngineError, EngineOutage, InstanceNotFound, InvalidCommand
from bridge.early_messages.operations import EarlyMessageOperations
from bridge.engines.base import Engine
from bridge.jobs.kind import ItemOutcome, ItemResult, Job, JobKind, JobRequest
from bridge.jobs.store import JobStore
from bridge.quarantine.operations import QuarantineOperations
from bridge.quarantine.orphaned import refuse_release
from bridge.waiting.operations import WaitingChange, WaitingMessage

_AT_ONCE = 16
_PARTS = ("prefix", "source", "routes", "causes", "since", "until")

WaitingStage = Literal["early", "quarantine"]
WaitingAction = Literal["release", "drop"]


class FilterWaiting(Parameters):
    """Filter of early or quarantined messages. Parts that are left out mean any.

    prefix: of the id of the instance; early messages only.
    causes: reasons of the wait.
    since, until: limits of the begin of the wait.
    limit: most messages, the oldest ones.
    all: every message; required for a filter without another part.
    """

    prefix: str | None = None
    source: str | None = None
    routes: Words = ()
    causes: Words = ()
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    limit: int | None = Field(None, ge=1)
    all: bool = False

    def select(self, found: Sequence[WaitingMessage]) -> list[WaitingMessage]:
        """Selected ones of these messages, oldest first. Raises: InvalidCommand for an empty filter without `all`."""
        if not self.all and not any(getattr(self, name) for name in _PARTS):
            raise InvalidCommand("the filter is empty; `all` selects every message that waits")
        return [each for each in found if self._has(each)][: self.limit]

    def _has(self, one: WaitingMessage) -> bool:
        began = datetime.fromisoformat(one.since)
        return (
            (not self.routes or one.route in self.routes)
            and (not self.causes or one.reason in self.causes)
            and (self.since is None or began >= self.since)
            and (self.until is None or began < self.until)
        )

    @property
    def audited(self) -> dict[str, Any]:
        """Filter for the audit line."""
        return self.model_dump(mode="json", exclude={"engine", "reason"}, exclude_defaults=True)


class MatchWaiting(FilterWaiting):
    """Dry run."""

    action: WaitingAction


class ChangeWaiting(JobParameters, FilterWaiting):
    """Job on waiting messages. forget: drop without dead letters."""

    forget: bool = False


class MatchedWaiting(TypedDict):
    """Number of instances or keys of a filter, and of their messages."""

    count: int
    messages: int


class WaitingJobSubmitted(MatchedWaiting):
    job: str


class WaitingKind(ABC):
    """Kind of a job on waiting messages.

    Items of a release are instances, or source and key of quarantined keys; those of a drop also have the id of the
    message. Their parts are separated by blanks. Names of sources and ids of messages have none.
    """

    keeps_order = False

    def __init__(self, engine: Engine, stage: WaitingStage, action: WaitingAction) -> None:
        self._engine = engine
        self._stage = stage
        self._action = action
        self._slots = asyncio.Semaphore(_AT_ONCE)

    @property
    def name(self) -> str:
        return f"{self._stage}.{self._action}"

    @property
    def item_space(self) -> str:
        return self.name

    async def work(
        self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]
    ) -> Mapping[str, ItemResult]:
        entities = await self._entities(items)
        results = await asyncio.gather(*(self._one(job, item, item in repeated, entities) for item in items))
        return dict(zip(items, results, strict=True))

    async def _entities(self, items: Sequence[str]) -> Mapping[tuple[str, str], str]:
        """Keys of entities by source and quarantined key, which are read once for all items."""
        return {}

    async def _one(self, job: Job, item: str, again: bool, entities: Mapping[tuple[str, str], str]) -> ItemResult:
        async with self._slots:
            try:
                change = await self._change(item, bool(job.request.arguments.get("forget")), entities)
            except EngineOutage:
                raise
            except InstanceNotFound:
                return ItemResult(ItemOutcome.SUCCEEDED if again else ItemOutcome.SKIPPED, "it waits no longer")
            except EngineError as error:
                return ItemResult(ItemOutcome.FAILED, str(error))
        if self._action == "drop" and change.before == change.after and not again:
            return ItemResult(ItemOutcome.SKIPPED, "it waits no longer")
        if self.name == "early.release" and change.after:
            return ItemResult(ItemOutcome.SKIPPED, f"the instance has not started; {change.after:,} still wait")
        return ItemResult(ItemOutcome.SUCCEEDED)

    @abstractmethod
    async def _change(self, item: str, forget: bool, entities: Mapping[tuple[str, str], str]) -> WaitingChange: ...


class EarlyKind(WaitingKind):
    async def _change(self, item: str, forget: bool, entities: Mapping[tuple[str, str], str]) -> WaitingChange:
        early = EarlyMessageOperations(self._engine)
        if self._action == "release":
            return await early.release(item)
        instance, _, mark = item.rpartition(" ")
        return await early.drop(instance, [mark], forget=forget)


class QuarantineKind(WaitingKind):
    async def _entities(self, items: Sequence[str]) -> Mapping[tuple[str, str], str]:
        quarantine = QuarantineOperations(self._engine)
        sources = dict.fromkeys(item.partition(" ")[0] for item in items)
        return {
            (source, key): entity
            for source in sources
            for key, entity in (await quarantine.entity_keys(source)).items()
        }

    async def _change(self, item: str, forget: bool, entities: Mapping[tuple[str, str], str]) -> WaitingChange:
        quarantine = QuarantineOperations(self._engine)
        source, _, key = item.partition(" ")
        mark = ""
        if self._action == "drop":
            key, _, mark = key.rpartition(" ")
        entity = entities.get((source, key))
        if entity is None:
            raise InstanceNotFound(f"{source} {key} is not in quarantine")
        if self._action == "release":
            return await quarantine.release(source, key, entity)
        return await quarantine.drop(source, key, [mark], forget=forget, entity=entity)


def waiting_kinds(engine: Engine) -> list[JobKind]:
    """Kinds of jobs on the messages that wait on an engine."""
    actions: tuple[WaitingAction, ...] = ("release", "drop")
    return [
        *(EarlyKind(engine, "early", action) for action in actions),
        *(QuarantineKind(engine, "quarantine", action) for action in actions),
    ]


@dataclass(frozen=True, slots=True)
class _Selected:
    """Items of a job, and number of the messages that wait there."""

    items: Sequence[str]
    messages: int


async def _selected(scene: Scene, stage: WaitingStage, action: WaitingAction, given: FilterWaiting) -> _Selected:
    engine = await scene.engine()
    if stage == "early":
        found = given.select(await EarlyMessageOperations(engine).list(given.prefix, given.source))
        places = [each.instance_id or "" for each in found]
    else:
        if given.prefix is not None:
            raise InvalidCommand("`prefix` selects instances; quarantined keys have none")
        found = given.select(await QuarantineOperations(engine).list(given.source))
        places = [f"{each.source} {each.key}" for each in found]
        if action == "release":
            for source in dict.fromkeys(each.source for each in found):
                refuse_release(scene.loaded, source, chosen(scene.loaded, given.engine))
    if action == "drop":
        places = [f"{place} {each.id}" for place, each in zip(places, found, strict=True)]
    return _Selected(list(dict.fromkeys(places)), len(found))


def _match(stage: WaitingStage) -> Operation[Any]:
    async def run(scene: Scene, given: MatchWaiting) -> Any:
        found = await _selected(scene, stage, given.action, given)
        return {"count": len(found.items), "messages": found.messages}

    return Operation(f"{stage}.match", "reader", f"{stage}:match", MatchWaiting, run, MatchedWaiting)


def _submit(stage: WaitingStage, action: WaitingAction) -> Operation[Any]:
    async def run(scene: Scene, given: ChangeWaiting) -> Any:
        cut_off = time.time()
        found = await _selected(scene, stage, action, given)

        async def items() -> AsyncIterator[str]:
            for each in found.items:
                yield each

        request = JobRequest(
            f"{stage}.{action}",
            {"forget": True} if given.forget else {},
            _text(given),
            cut_off,
            given.rate,
            given.ramp,
            given.failures,
            reason=given.reason or "",
            by=scene.actor.name,
        )
        submitted = await JobStore(await scene.engine()).submit(request, items(), request.kind)
        if submitted is None:
            raise InstanceNotFound("no waiting message matches the filter")
        return {"job": submitted[0], "count": submitted[1], "messages": found.messages}

    return Operation(
        f"{stage}.{action}_by", "operator" if action == "release" else "admin", f"{stage}:{action}-by", ChangeWaiting,
        run, WaitingJobSubmitted, lambda given: NEW, lambda given: given.audited, submits=True,
    )  # fmt: skip


def _text(given: FilterWaiting) -> str:
    """Filter in words."""
    words = {"routes": "route", "causes": "cause"}
    parts = []
    for name in (*_PARTS, "limit"):
        value = getattr(given, name)
        if value:
            parts.append(f"{words.get(name, name)} {', '.join(value) if isinstance(value, tuple) else value}")
    return ", ".join(parts) or "all"


WAITING_JOBS: tuple[Operation[Any], ...] = tuple(
    operation
    for stage in ("early", "quarantine")
    for operation in (_match(stage), _submit(stage, "release"), _submit(stage, "drop"))
)
