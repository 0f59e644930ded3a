"""Operations that only read: dead letters, the configuration, lineage of a message, audit."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Field
from typing_extensions import TypedDict

from bridge.app import audit, state
from bridge.app.dead_letters.groups import grouped
from bridge.app.dead_letters.reading import Selection, visited
from bridge.app.dead_letters.view import facts_of
from bridge.app.operations.lineage.lineage import Scope
from bridge.app.operations.lineage.trace import Found, Tracer, of_in_flight
from bridge.app.operations.operation import Operation, Parameters, Scene, Words, words
from bridge.core.errors import InstanceNotFound, Problem
from bridge.dead_letters.state_machine import DeadLetterState

_MOST_LINES = 10_000


class ListDeadLetters(Parameters):
    """Dead letters to read; parts that are left out mean any.

    causes: reasons, or names of groups. states: `open` unless stated. limit: most dead letters.
    """

    sources: Words = ()
    routes: Words = ()
    causes: Words = ()
    keys: Words = ()
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    states: Annotated[tuple[DeadLetterState, ...], BeforeValidator(words)] = (DeadLetterState.OPEN,)

    @property
    def selection(self) -> Selection:
        since, until = (None if each is None else each.timestamp() for each in (self.since, self.until))
        return Selection(self.sources, self.routes, self.causes, (), self.keys, since, until, frozenset(self.states))


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


class DeadLetterGroups(TypedDict):
    groups: list[DeadLetterGroup]
    gone: list[str]


class Configuration(TypedDict):
    """Configuration of the daemon. effective: YAML with the origin of each value, secrets masked."""

    version: str
    directory: str
    effective: str


async def _groups(scene: Scene, given: ListDeadLetters) -> Any:
    found = await grouped(scene.loaded, given.selection, offline=False, engines=await scene.engines(given.engine))
    return {"groups": [each.to_dict() for each in found.sorted()], "gone": found.gone}


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
    found = await Tracer(await scene.engine()).find(given.message, Scope(search=given.search))
    here = () if scene.in_flight is None else scene.in_flight(given.message)
    found = found.add(of_in_flight(each) for each in here)
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
    Operation("dlq.groups", "reader", "dead-letter-groups", ListDeadLetters, _groups, DeadLetterGroups),
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
