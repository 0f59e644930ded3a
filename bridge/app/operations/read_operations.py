"""Operations that only read: dead letters, the configuration, lineage of a message, audit."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Field
from typing_extensions import TypedDict

from bridge.app import audit, state
from bridge.app.dead_letters.check import checked
from bridge.app.dead_letters.groups import Newest, Trend, grouped, newest
from bridge.app.dead_letters.reading import Selection, visited
from bridge.app.dead_letters.view import facts_of
from bridge.app.operations.lineage.lineage import Scope
from bridge.app.operations.lineage.trace import Answer, Found, Tracer, of_in_flight
from bridge.app.operations.lineage.tracing import MessageTracer
from bridge.app.operations.operation import LONGEST_SECONDS, Operation, Parameters, Scene, Words, words
from bridge.core.errors import InstanceNotFound, Problem
from bridge.dead_letters.state_machine import DeadLetterState

_MOST_LINES = 10_000


class ChooseDeadLetters(Parameters):
    """Conditions on the facts of dead letters; parts that are left out mean any.

    causes: reasons, or names of groups. states: `open` unless stated.
    """

    sources: Words = ()
    routes: Words = ()
    causes: Words = ()
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    states: Annotated[tuple[DeadLetterState, ...], BeforeValidator(words)] = (DeadLetterState.OPEN,)

    @property
    def selection(self) -> Selection:
        since, until = (None if each is None else each.timestamp() for each in (self.since, self.until))
        return Selection(self.sources, self.routes, self.causes, (), (), since, until, frozenset(self.states))


class ListDeadLetters(ChooseDeadLetters):
    """Dead letters to read; see `ChooseDeadLetters`. keys: message keys."""

    keys: Words = ()

    @property
    def selection(self) -> Selection:
        return replace(super().selection, keys=self.keys)


class GroupDeadLetters(ListDeadLetters):
    """Dead letters to group. trend: seconds before now in whose 24 equal parts each group is counted; None: none."""

    trend: float | None = Field(None, gt=0, le=LONGEST_SECONDS)


class NewestDeadLetters(ChooseDeadLetters):
    """Newest dead letters, by their facts. before: `next` of an earlier answer."""

    limit: int = Field(50, ge=1, le=1_000)
    before: str | None = None


class CheckDeadLetters(ListDeadLetters):
    """Dead letters whose replay is tried. ids: only these. limit: most dead letters, the first of each topic."""

    ids: Words = ()
    limit: int = Field(1_000, ge=1, le=10_000)


class PageOfDeadLetters(ListDeadLetters):
    limit: int = Field(100, ge=1, le=10_000)


class OneDeadLetter(Parameters):
    """Dead letter by its position, the position of the original message, or its message id.

    payload: add headers and body.
    """

    id: str
    payload: bool = False


class ListAudit(Parameters):
    """Lines of the audit on the machine of the daemon. limit: most lines, the newest."""

    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    actor: str | None = None
    action: str | None = None
    limit: int = Field(100, ge=1, le=_MOST_LINES)


class TraceMessage(Parameters):
    """Message, publication or instance. search: also read instances that the index does not have."""

    message: str
    search: bool = False


class DeadLetterGroup(TypedDict):
    """Dead letters with one cause. first, last: seconds since the Unix epoch."""

    group: str
    reason: str
    error: str
    format: str
    count: int
    first: float | None
    last: float | None
    detail: str
    example: str
    sources: dict[str, int]
    routes: dict[str, int]
    configs: dict[str, int]
    trend: list[int]


class DeadLetterGroups(TypedDict):
    groups: list[DeadLetterGroup]
    gone: list[str]


class ReplayLine(TypedDict):
    """Dead letters of whose replay the same would become. would: in words. outcome: of their deliveries."""

    count: int
    outcome: str
    would: str
    detail: str
    example: str


class ReplayCheck(TypedDict):
    """Dry run of a replay."""

    total: int
    failing: int
    lines: list[ReplayLine]


class Configuration(TypedDict):
    """Configuration of the daemon. effective: YAML with the origin of each value, secrets masked."""

    version: str
    directory: str
    effective: str


async def _groups(scene: Scene, given: GroupDeadLetters) -> Any:
    now, opened = time.time(), await scene.engines(given.engine)
    trend = None if given.trend is None else Trend(now - given.trend, now)
    found = await grouped(scene.loaded, given.selection, offline=False, engines=opened, trend=trend)
    return {"groups": [each.to_dict() for each in found.sorted()], "gone": found.gone}


async def _newest(scene: Scene, given: NewestDeadLetters) -> Any:
    opened = await scene.engines(given.engine)
    return asdict(await newest(scene.loaded, given.selection, given.limit, given.before, engines=opened))


async def _check(scene: Scene, given: CheckDeadLetters) -> Any:
    selection, opened = replace(given.selection, ids=given.ids), await scene.engines(given.engine)
    report = await checked(
        scene.loaded, scene.loaded, selection, False, lambda count: None, given.limit, running=opened
    )
    return report.to_dict()


async def _dead_letters(scene: Scene, given: PageOfDeadLetters) -> Any:
    opened = await scene.engines(given.engine)
    return [facts_of(each) async for each in visited(scene.loaded, given.selection, given.limit, engines=opened)]


async def _dead_letter(scene: Scene, given: OneDeadLetter) -> Any:
    selection, opened = Selection(ids=(given.id,)), await scene.engines(given.engine)
    found = [facts_of(each, given.payload) async for each in visited(scene.loaded, selection, engines=opened)]
    if not found:
        raise InstanceNotFound(f"there is no dead letter {given.id[:200]!r}")
    return found


async def _trace(scene: Scene, given: TraceMessage) -> Any:
    async def in_flight(id_: str) -> Sequence[Answer]:
        return [of_in_flight(each) for each in (scene.in_flight(id_) if scene.in_flight is not None else ())]

    tracer = MessageTracer(scene.loaded, Tracer(await scene.engine()), in_flight)
    found = await tracer.find(given.message, Scope(search=given.search))
    return asdict(found) | {"started_by": sorted(found.started_by)}


async def _audit(scene: Scene, given: ListAudit) -> Any:
    wanted = audit.Wanted(given.since, given.until, given.actor, given.action)
    trails = state.trails(scene.loaded)
    return await asyncio.to_thread(lambda: list(deque(audit.lines(trails, wanted), given.limit)))


async def _configuration(scene: Scene, given: Parameters) -> Any:
    loaded = scene.loaded
    return {"version": loaded.version, "directory": str(loaded.base), "effective": loaded.effective()}


async def _problems(scene: Scene, given: Parameters) -> Any:
    return [asdict(each) for each in await asyncio.to_thread(scene.problems)]


async def _routes(scene: Scene, given: Parameters) -> Any:
    return [each.model_dump(mode="json", exclude_none=True, by_alias=True) for each in scene.loaded.config.routes]


async def _targets(scene: Scene, given: Parameters) -> Any:
    return {
        name: each.model_dump(mode="json", exclude_none=True, by_alias=True)
        for name, each in scene.loaded.config.targets.items()
    }


READ_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("dlq.groups", "reader", "dead-letter-groups", GroupDeadLetters, _groups, DeadLetterGroups),
    Operation("dlq.newest", "reader", "dead-letters:newest", NewestDeadLetters, _newest, Newest),
    Operation("dlq.check", "reader", "dead-letters:check", CheckDeadLetters, _check, ReplayCheck),
    Operation("dlq.list", "reader", "dead-letters", PageOfDeadLetters, _dead_letters, list[dict[str, Any]]),
    Operation(
        "dlq.show", "reader", "dead-letters/{id}", OneDeadLetter, _dead_letter, list[dict[str, Any]],
        reads_payloads=lambda given: given.payload,
    ),
    Operation("messages.trace", "reader", "messages/{message}/lineage", TraceMessage, _trace, Found),
    Operation("audit.list", "operator", "audit", ListAudit, _audit, list[dict[str, Any]], only_reads=True),
    Operation("config.show", "operator", "config", Parameters, _configuration, Configuration, only_reads=True),
    Operation("config.problems", "reader", "problems", Parameters, _problems, list[Problem]),
    Operation("routes.list", "reader", "routes", Parameters, _routes, list[dict[str, Any]]),
    Operation("targets.list", "reader", "targets", Parameters, _targets, dict[str, dict[str, Any]]),
)  # fmt: skip
