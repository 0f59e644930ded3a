"""Operations that read dead letters: in groups and lists, one with its payload, dry run of a replay, export."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Annotated, Any, cast

from pydantic import AwareDatetime, BeforeValidator, Field
from typing_extensions import TypedDict

from bridge.app.dead_letters.check import checked
from bridge.app.dead_letters.editing import is_cloud_event
from bridge.app.dead_letters.groups import Newest, Trend, grouped, newest
from bridge.app.dead_letters.reading import DeadLetterSelection, FoundDeadLetter, ReadPlace, visited
from bridge.app.dead_letters.view import facts_of
from bridge.app.messages.jsonlines import line_of
from bridge.app.operations.cursors import START, Cursor, Order, part_size
from bridge.app.operations.dead_letters.batches import DeadLetterBatch, select
from bridge.app.operations.dead_letters.replays import ReplayBatch
from bridge.app.operations.operation import LONGEST_SECONDS, Operation, Parameters, QueryIds, Scene, Words, words
from bridge.core.errors import InstanceNotFound
from bridge.dead_letters.state_machine import DeadLetterState

LARGEST_PART = 4 * 1024 * 1024
"""Characters of a part of messages, after which it ends. A single message may be larger."""


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


class MatchDeadLetters(ListDeadLetters):
    """Dead letters that a job would work on. ids: only these. limit: most of them.

    replays: leave out those of unknown sources, which cannot be replayed.
    """

    ids: QueryIds = ()
    limit: int | None = Field(None, ge=1)
    replays: bool = False


class ExportDeadLetters(ListDeadLetters):
    """Dead letters with their messages. A part ends early when its messages are large."""

    cursor: Cursor = START
    limit: int = Field(100, ge=1, le=1_000)


class MatchedDeadLetters(TypedDict):
    """Numbers of the selected dead letters, and of those left out because their source is not configured."""

    count: int
    foreign: int


class ExportPart(TypedDict):
    """Part of the messages, in the order of `dlq.list`. lines: JSON as of `bridge topic read --json`.

    next: cursor of the next part.
    """

    next: str | None
    lines: list[str]


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


async def _match(scene: Scene, given: MatchDeadLetters) -> Any:
    selection, opened = replace(given.selection, ids=given.ids), await scene.engines(given.engine)
    batch = ReplayBatch if given.replays else DeadLetterBatch
    found = await select(scene.loaded, selection, batch, given.limit, engines=opened)
    return {"count": found.count, "foreign": found.foreign}


async def _export(scene: Scene, given: ExportDeadLetters) -> Any:
    after = None if given.cursor is None else DEAD_LETTERS.after(given.cursor)
    opened, limit = await scene.engines(given.engine), part_size(given.limit)
    entries = visited(scene.loaded, given.selection, engines=opened, after=cast(ReadPlace, after or ("", "", 0, -1)))
    lines: list[str] = []
    size, last = 0, None
    async with aclosing(cast(Any, entries)) as found:
        async for each in found:
            if last is not None and (len(lines) == limit or size > LARGEST_PART):
                return {"next": DEAD_LETTERS.cursor(last), "lines": lines}
            lines.append(line_of(each.dead_letter.position, each.message))
            size, last = size + len(lines[-1]), each
    return {"next": None, "lines": lines}


DEAD_LETTER_READS: tuple[Operation[Any], ...] = (
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
    Operation("dlq.match", "reader", "dead-letters:match", MatchDeadLetters, _match, MatchedDeadLetters),
    Operation(
        "dlq.export", "reader", "dead-letters:export", ExportDeadLetters, _export, ExportPart,
        reads_payloads=lambda given: True,
    ),
)  # fmt: skip
