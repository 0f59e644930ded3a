"""Operations that read a selection of dead letters: its number, and its messages."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from pydantic import Field
from typing_extensions import TypedDict

from bridge.app.dead_letters.reading import ReadPlace, visited
from bridge.app.messages.jsonlines import line_of
from bridge.app.operations.cursors import START, Cursor, part_size
from bridge.app.operations.dead_letters.batches import DeadLetterBatch, select
from bridge.app.operations.dead_letters.replays import ReplayBatch
from bridge.app.operations.operation import Operation, QueryIds, Scene
from bridge.app.operations.read_operations import DEAD_LETTERS, ListDeadLetters

LARGEST_PART = 4 * 1024 * 1024
"""Characters of a part of messages, after which it ends. A single message may be larger."""


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
    Operation("dlq.match", "reader", "dead-letters:match", MatchDeadLetters, _match, MatchedDeadLetters),
    Operation(
        "dlq.export", "reader", "dead-letters:export", ExportDeadLetters, _export, ExportPart,
        reads_payloads=lambda given: True,
    ),
)  # fmt: skip
