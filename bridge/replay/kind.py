"""Job kind `replay`: brings dead letters into the replay queues of their sources."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bridge.core import dead_letter
from bridge.core.dead_letter import DeadLetter
from bridge.core.errors import EngineRejected
from bridge.core.message import Message, Position
from bridge.core.stored_message import ReplayOf, StoredMessage
from bridge.core.system_names import replay_key
from bridge.core.words import plural
from bridge.dead_letters.state_machine import DeadLetterMark, DeadLetterState
from bridge.dead_letters.topic_states import DeadLetterRef
from bridge.jobs.kind import ItemOutcome, ItemResult, Job, TryLater
from bridge.replay.original import missing_parts, original_position, stored_original
from bridge.replay.state_machine import ReplayLimits
from bridge.replay.store import ReplayStore

REPLAY_KIND = "replay"

_FULL_SECONDS = 0.05
"""Seconds until a job tries a full queue again."""

_ADDITION_SECONDS = 60.0
"""Seconds for which the addition of a message is expected in the state of its queue, which may forget it later."""

_PORTION = 256 * 1024
"""Bytes of the messages in one operation, unless a single message is larger."""

_PREPARED = 8
"""Pages whose dead letters stay in memory while their queue is full."""

Place = tuple[str, int, int]
"""Topic, partition and offset of a dead letter."""


class States(Protocol):
    """States of dead letters; see `bridge.dead_letters.store.DeadLetterStates`."""

    async def take(
        self, job: str, refs: Sequence[DeadLetterRef], *, by: str
    ) -> Mapping[DeadLetterRef, DeadLetterMark]: ...

    async def send(self, operation: str, refs: Sequence[DeadLetterRef], value: Mapping[str, Any]) -> None: ...


class Edits(Protocol):
    """Edited bodies; see `bridge.replay.edits.ReplayEdits`."""

    async def read(self, name: str) -> bytes | None: ...

    async def clear(self, name: str) -> None: ...


class DeadLetterReading(Protocol):
    """Reader of dead letters; see `bridge.replay.reading.DeadLetterReader`."""

    async def read(self, broker: str, places: Sequence[Place]) -> Mapping[Place, tuple[Position, Message]]: ...


@dataclass(frozen=True, slots=True)
class ReplaySource:
    """Source that executes replayed messages.

    dead_letter_topic: topic of the next dead letter, with `{topic}` for the origin; empty where the broker keeps the
    dead letter until its message has been executed.
    max_replays: number of replays that failed again, from which on a replay needs `force`.
    has: True when the source reads this topic and partition in a group.
    """

    name: str
    broker: str
    dead_letter_topic: str
    max_replays: int
    limits: ReplayLimits
    has: Callable[[str, int], bool]


@dataclass(slots=True)
class _Page:
    """Items of a page that are to be added to queues.

    queues: messages by key of the queue, in order.
    origins: source, topic and partition of each queue.
    results: results of the other items.
    """

    results: dict[str, ItemResult] = field(default_factory=dict)
    queues: dict[str, list[StoredMessage]] = field(default_factory=dict)
    origins: dict[str, tuple[ReplaySource, str | None, int | None]] = field(default_factory=dict)


class ReplayKind:
    """Work of the jobs of kind `replay` on one engine. Implements `bridge.jobs.kind.JobKind`.

    Items are ids of dead letters (`orders.dlq/0@12`) of one broker.
    Arguments of a job: `broker`; `sources`, names of the sources of its dead letters; `owners`, the source for the
    dead letters of each topic that name none; `force` replays beyond the limit of a source; `edit`, the name of an
    edited body (see `bridge.replay.edits`).
    """

    name = REPLAY_KIND
    item_space = None
    keeps_order = True

    def __init__(
        self,
        store: ReplayStore,
        states: States,
        dead_letters: DeadLetterReading,
        sources: Mapping[str, ReplaySource],
        edits: Edits,
        filled: Callable[[str], None] = lambda key: None,
    ) -> None:
        """Create the kind.

        sources: of the configuration.
        filled: called with the key of a queue that has got messages.
        """
        self._filled = filled
        self._store = store
        self._states = states
        self._dead_letters = dead_letters
        self._sources = sources
        self._edits = edits
        self._added: dict[str, tuple[int, int]] = {}
        """Messages and bytes of each queue when it was read last, and those that were added since."""
        self._last: dict[str, tuple[str, int, str, float]] = {}
        """Job, page, mark and monotonic time of the last message that was added to each queue."""
        self._pages: OrderedDict[tuple[str, int, tuple[str, ...]], _Page] = OrderedDict()

    def use(self, sources: Mapping[str, ReplaySource]) -> None:
        """Use the sources of another configuration for the following pages."""
        self._sources = sources

    async def work(
        self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]
    ) -> Mapping[str, ItemResult]:
        """Add the dead letters to their queues. Those that cannot be replayed are skipped."""
        key = (job.id, page, tuple(items))
        prepared = self._pages.pop(key, None)
        edit: str | None = job.request.arguments.get("edit")
        if prepared is None:
            body = None if edit is None else await self._edits.read(edit)
            if edit is not None and body is None:
                return {}  # an earlier call has added the message
            prepared = await self._prepare(job, page, items, body)
        try:
            await self._add(job, page, prepared)
        except TryLater:
            self._pages[key] = prepared
            while len(self._pages) > _PREPARED:
                self._pages.popitem(last=False)
            raise
        if edit is not None:
            await self._edits.clear(edit)
        return prepared.results

    async def _prepare(self, job: Job, page: int, items: Sequence[str], edited: bytes | None) -> _Page:
        arguments = job.request.arguments
        broker: str = arguments["broker"]
        prepared = _Page()
        places = {item: place_of(item) for item in items}
        found = await self._dead_letters.read(broker, [place for place in places.values() if place is not None])
        wanted: list[tuple[str, DeadLetterRef, DeadLetter, Message, ReplaySource]] = []
        for item, place in places.items():
            read = None if place is None else found.get(place)
            if place is None or read is None:
                prepared.results[item] = _skipped(
                    "the topic has it no longer (retention, compaction or another program)"
                )
                continue
            position, message = read
            entry = dead_letter.read(message, position)
            name = entry.source if entry.source in self._sources else arguments.get("owners", {}).get(place[0])
            source = self._sources.get(name or "")
            problem = _problem(entry, message, source, arguments, edited=edited is not None)
            if problem is not None or source is None:
                prepared.results[item] = _skipped(problem or f"there is no source {entry.source!r}")
                continue
            wanted.append((item, DeadLetterRef(broker, *place, entry.failed_at), entry, message, source))
        marks = await self._states.take(job.id, [each[1] for each in wanted], by=job.request.by)
        for item, ref, entry, message, source in wanted:
            mark = marks[ref]
            if mark.state is not DeadLetterState.REPLAYING or mark.job != job.id:
                prepared.results[item] = _skipped(_held(mark))
                continue
            replay = ReplayOf(
                self._store.engine.name,
                job.id,
                page,
                item,
                broker,
                (ref.topic, ref.partition, ref.offset),
                entry.fingerprint,
            )
            stored = stored_original(
                entry,
                message,
                source=source.name,
                broker=source.broker,
                dead_letter_topic=source.dead_letter_topic,
                replay=replay,
                edited=edited,
            )
            origin = original_position(entry, message)
            has = source.has(origin.topic, origin.partition)
            topic, partition = (origin.topic, origin.partition) if has else (None, None)
            key = replay_key(source.name, topic, partition)
            prepared.origins[key] = (source, topic, partition)
            prepared.queues.setdefault(key, []).append(stored)
        return prepared

    async def _add(self, job: Job, page: int, prepared: _Page) -> None:
        """Add the messages of a page to their queues. Raises: TryLater while one is full."""
        for key, messages in prepared.queues.items():
            source, topic, partition = prepared.origins[key]
            if not messages:
                continue
            value = {"source": source.name, "topic": topic, "partition": partition, "job": job.id, "page": page}
            while messages:
                await self._check_room(key, source)
                items = self._portion(messages)
                try:
                    await self._store.send(key, "add", value | {"items": items})
                except EngineRejected as error:
                    if len(items) > 1:
                        raise
                    await self._give_up(job, prepared, messages[0], str(error))
                else:
                    self._filled(key)
                    count, size = self._added[key]
                    self._added[key] = count + len(items), size + sum(item["size"] for item in items)
                    self._last[key] = job.id, page, items[-1]["mark"], time.monotonic()
                # A repetition of the call adds nothing twice
                del messages[: len(items)]

    async def _check_room(self, key: str, source: ReplaySource) -> None:
        """Raises: TryLater while a queue is full, or does not show the last addition.

        Its state is read when the messages added since would fill it.
        """
        limits = source.limits
        count, size = self._added.get(key, (limits.max_messages, 0))
        if count < limits.max_messages and size < limits.max_bytes:
            return
        state = await self._store.load(key)
        if key in self._last:
            job, page, mark, at = self._last[key]
            if not state.has_added(job, page, mark) and time.monotonic() - at < _ADDITION_SECONDS:
                raise TryLater(f"messages are being stored in the replay queue of {source.name}", _FULL_SECONDS)
        count, size = self._added[key] = len(state.messages), state.size
        if count >= limits.max_messages or size >= limits.max_bytes:
            waiting = plural(count, "message waits", "messages wait")
            raise TryLater(f"{waiting} in the replay queue of {source.name}", _FULL_SECONDS)

    def _portion(self, messages: Sequence[StoredMessage]) -> list[dict[str, Any]]:
        """First of the messages as items of a queue, for one operation. A large message has an operation of its own."""
        items: list[dict[str, Any]] = []
        size = 0
        for message in messages:
            assert message.replay is not None
            item = self._store.item(f"{message.replay.broker}/{message.replay.item}", message)
            size += item["size"]
            if items and size > _PORTION:
                break
            items.append(item)
        return items

    async def _give_up(self, job: Job, prepared: _Page, message: StoredMessage, detail: str) -> None:
        """Skip a message that the engine does not accept."""
        assert message.replay is not None
        prepared.results[message.replay.item] = _skipped(f"the engine does not accept it: {detail}")
        ref = DeadLetterRef(message.replay.broker, *message.replay.place)
        await self._states.send("open", [ref], {"job": job.id})


def place_of(item: str) -> Place | None:
    """Place of a dead letter, from its id; None of a text that is no id."""
    topic_partition, at, offset = item.rpartition("@")
    topic, slash, partition = topic_partition.rpartition("/")
    if not (at and slash and topic and partition.isascii() and partition.isdigit()):
        return None
    if not (offset.isascii() and offset.isdigit()):
        return None
    return topic, int(partition), int(offset)


def _problem(
    entry: DeadLetter, message: Message, source: ReplaySource | None, arguments: Mapping[str, Any], *, edited: bool
) -> str | None:
    """Reason why a dead letter cannot be replayed; None when it can."""
    if source is None:
        return f"there is no source {entry.source!r}" if entry.source else "its source is unknown"
    if message.unreadable is not None:
        return "the dead letter itself cannot be read"
    if parts := [part for part in missing_parts(message) if part != "payload" or not edited]:
        return f"its {' and '.join(parts)} did not fit into the dead-letter topic; send the message again"
    if entry.replays >= source.max_replays and not arguments.get("force"):
        failed = "1 replay has failed" if entry.replays == 1 else f"{entry.replays} replays have failed"
        return f"{failed} (limits.max_replays {source.max_replays}); use --force"
    return None


def _held(mark: DeadLetterMark) -> str:
    if mark.state is DeadLetterState.REPLAYING:
        return f"job {mark.job} is replaying it"
    return f"{mark.state.value}" + (f" by job {mark.job}" if mark.job else f" by {mark.by}" if mark.by else "")


def _skipped(detail: str) -> ItemResult:
    return ItemResult(ItemOutcome.SKIPPED, detail)
