"""Operations that only read: dead letters, the configuration, lineage of a message, audit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import Annotated, Any, cast

from pydantic import AwareDatetime, BeforeValidator, Field
from typing_extensions import TypedDict

from bridge.app import audit, state
from bridge.app.dead_letters.check import checked
from bridge.app.dead_letters.editing import is_cloud_event
from bridge.app.dead_letters.groups import Newest, Trend, grouped, newest
from bridge.app.dead_letters.reading import DeadLetterSelection, FoundDeadLetter, ReadPlace, visited
from bridge.app.dead_letters.view import facts_of
from bridge.app.operations.cursors import Cursor, Order, cursor_at, part_size, place_of
from bridge.app.operations.lineage.lineage import SearchScope
from bridge.app.operations.lineage.trace import TraceAnswer, TraceResult, of_in_flight
from bridge.app.operations.lineage.tracing import MessageTracer, tracer_of
from bridge.app.operations.operation import LONGEST_SECONDS, Operation, Parameters, QueryIds, Scene, Words, words
from bridge.core.errors import InstanceNotFound, Problem
from bridge.dead_letters.state_machine import DeadLetterState
from bridge.ops.audit import settle
from bridge.ops.trail import AuditTrail, TrailPosition

_MOST_LINES = 10_000
"""Most lines of an answer, and most that are read for a part."""
_AUDIT = "audit"
"""Name of the list in its cursors."""


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
    def selection(self) -> DeadLetterSelection:
        since, until = (None if each is None else each.timestamp() for each in (self.since, self.until))
        return DeadLetterSelection(self.sources, self.routes, self.causes, (), (), since, until, frozenset(self.states))


class ListDeadLetters(ChooseDeadLetters):
    """Dead letters to read; see `ChooseDeadLetters`. keys: message keys."""

    keys: Words = ()

    @property
    def selection(self) -> DeadLetterSelection:
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

    ids: QueryIds = ()
    limit: int = Field(1_000, ge=1, le=10_000)


class PageOfDeadLetters(ListDeadLetters):
    """Dead letters to list; see `ListDeadLetters`.

    cursor: the parts have the order of broker, topic, partition and offset.
    """

    limit: int = Field(100, ge=1, le=10_000)
    cursor: Cursor = None


class DeadLettersPart(TypedDict):
    """Part of the dead letters. next: cursor of the next part."""

    next: str | None
    dead_letters: list[dict[str, Any]]


class OneDeadLetter(Parameters):
    """Dead letter by its position, the position of the original message, or its message id.

    payload: add headers, body, and True for an event whose payload is its member `data`.
    """

    id: str
    payload: bool = False


class ListAudit(Parameters):
    """Lines of the audit on the machine of the daemon.

    limit: most lines, the newest. They are oldest first; with a cursor, newest first.
    """

    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    actor: str | None = None
    action: str | None = None
    limit: int = Field(100, ge=1, le=_MOST_LINES)
    cursor: Cursor = None


class AuditPart(TypedDict):
    """Part of the audit lines, newest first. next: cursor of the next part."""

    next: str | None
    lines: list[dict[str, Any]]


class TraceMessage(Parameters):
    """Message, publication or instance. search: also read instances that the index does not have."""

    message: str
    search: bool = False


class DeadLetterGroup(TypedDict):
    """Dead letters with one cause. first, last: times at which they were written; null where they are not known."""

    group: str
    reason: str
    error: str
    format: str
    count: int
    first: str | None
    last: str | None
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
    if given.cursor is None:
        opened = await scene.engines(given.engine)
        return [facts_of(each) async for each in visited(scene.loaded, given.selection, given.limit, engines=opened)]
    after = DEAD_LETTERS.after(given.cursor) or ("", "", 0, -1)
    opened = await scene.engines(given.engine)
    found = visited(scene.loaded, given.selection, engines=opened, after=cast(ReadPlace, after))
    part, more = await DEAD_LETTERS.first(found, given.limit)
    return {"next": more, "dead_letters": [facts_of(each) for each in part]}


def _place(found: FoundDeadLetter) -> ReadPlace:
    at = found.dead_letter.position
    return found.place.broker, found.place.topic, at.partition, at.offset


DEAD_LETTERS: Order[FoundDeadLetter] = Order("dead letters", _place, (str, str, int, int))


async def _dead_letter(scene: Scene, given: OneDeadLetter) -> Any:
    selection, opened = DeadLetterSelection(ids=(given.id,)), await scene.engines(given.engine)
    found = []
    async for each in visited(scene.loaded, selection, engines=opened):
        facts = facts_of(each, given.payload)
        found.append(facts | {"is_cloud_event": is_cloud_event(scene.loaded, each)} if given.payload else facts)
    if not found:
        raise InstanceNotFound(f"there is no dead letter {given.id[:200]!r}")
    return found


async def _trace(scene: Scene, given: TraceMessage) -> Any:
    silent = 0

    async def in_flight(id_: str) -> Sequence[TraceAnswer]:
        nonlocal silent
        known = [*(() if scene.in_flight is None else scene.in_flight(id_))]
        if scene.elsewhere is not None:
            more, missing = await scene.elsewhere(id_)
            known, silent = [*known, *more], max(silent, missing)
        return [of_in_flight(each) for each in known]

    tracer = MessageTracer(scene.loaded, await tracer_of(scene, given.engine), in_flight)
    found = await tracer.find(given.message, SearchScope(search=given.search))
    return asdict(found) | {"started_by": sorted(found.started_by), "silent": silent}


async def _audit(scene: Scene, given: ListAudit) -> Any:
    wanted = audit.AuditFilter(given.since, given.until, given.actor, given.action)
    trails = state.trails(scene.loaded)
    if given.cursor is None:
        found = await asyncio.to_thread(_newest_lines, trails, wanted, given.limit)
        return [*reversed(found.lines)]
    form = (str, int) * len(trails)
    after, size = place_of(_AUDIT, given.cursor, form), part_size(given.limit)
    places = (
        None
        if after is None
        else [TrailPosition(str(file), int(at)) for file, at in zip(after[::2], after[1::2], strict=True)]
    )
    found = await asyncio.to_thread(_newest_lines, trails, wanted, size, places, _MOST_LINES)
    more = None if found.next is None else cursor_at(_AUDIT, tuple(chain.from_iterable(found.next)))
    return {"next": more, "lines": found.lines}


def _newest_lines(
    trails: Sequence[AuditTrail],
    wanted: audit.AuditFilter,
    limit: int,
    places: Sequence[TrailPosition] | None = None,
    most: int | None = None,
) -> audit.AuditLines:
    """Part as of `audit.newest`. The first one has the lines of changes whose process was killed, too."""
    if places is None:
        for trail in trails:
            settle(trail)
    return audit.newest(trails, wanted, limit, places, most)


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
    Operation(
        "dlq.list", "reader", "dead-letters", PageOfDeadLetters, _dead_letters, list[dict[str, Any]] | DeadLettersPart
    ),
    Operation(
        "dlq.show", "reader", "dead-letters/{id}", OneDeadLetter, _dead_letter, list[dict[str, Any]],
        reads_payloads=lambda given: given.payload,
    ),
    Operation("messages.trace", "reader", "messages/{message}/lineage", TraceMessage, _trace, TraceResult),
    Operation(
        "audit.list", "operator", "audit", ListAudit, _audit, list[dict[str, Any]] | AuditPart, only_reads=True
    ),
    Operation("config.show", "operator", "config", Parameters, _configuration, Configuration, only_reads=True),
    Operation("config.problems", "reader", "problems", Parameters, _problems, list[Problem]),
    Operation("routes.list", "reader", "routes", Parameters, _routes, list[dict[str, Any]]),
    Operation("targets.list", "reader", "targets", Parameters, _targets, dict[str, dict[str, Any]]),
)  # fmt: skip
