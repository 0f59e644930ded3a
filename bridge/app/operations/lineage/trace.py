"""Answers to "what became of this message, and why?": from the index, the histories, and what waits on an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from bridge.app.operations.lineage.lineage import Arrival, Histories, Lineage, Publication, SearchScope
from bridge.app.operations.lineage.undelivered import UndeliveredInfo, dead_lettered, every, of_entity
from bridge.core.lineage.records import DEAD_LETTER_RECORD, DUPLICATE_RECORD
from bridge.core.origin import event_id, index_ids, is_named, search_ids
from bridge.core.provenance import current_reason
from bridge.core.states import MessageState, Outcome
from bridge.core.system_names import DEAD_LETTER_IDS
from bridge.engines.base import Engine
from bridge.engines.entity_client import LineageHit, LineageHits, LineageRecord
from bridge.system.clock import stamp, time_of

NODES = 100
"""Most instances above, and below, the one that was found."""

_FEW = 20
"""Instances that are read for one id, unless all are wanted. `for_each` makes many of one message."""

_FOLLOWED = 100
"""Most messages of one hop that are followed."""

PUBLISHED = "published"
"""Outcome of a message that an instance published."""

NOT_KEPT = "not_kept"
"""Outcome of a message that its broker no longer has, and of which no engine knows."""

NOT_PROCESSED = "not_processed"
"""Outcome of a message that a rule would execute, and of which no engine knows."""


@dataclass(frozen=True, slots=True)
class TraceAnswer:
    """End, or present state, of a message. Members that do not apply are None.

    outcome: an `Outcome`, a `MessageState`, PUBLISHED, NOT_KEPT or NOT_PROCESSED.
    at: time of the outcome, or since which the state lasts.
    what: the command: `start`, `event` and its name, `signal` and its name.
    until: end of a wait.
    next_try: time of the next attempt.
    topic: topic of the dead letter, or target of a publication.
    duplicate_of: position of the delivery that was executed.
    config: version of the configuration that decided.
    """

    outcome: str
    message_id: str | None = None
    position: str | None = None
    at: str | None = None
    source: str | None = None
    route: str | None = None
    what: str | None = None
    instance_id: str | None = None
    entity: str | None = None
    key: str | None = None
    reason: str | None = None
    detail: str | None = None
    attempt: int | None = None
    until: str | None = None
    next_try: str | None = None
    topic: str | None = None
    duplicate_of: str | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """Message behind a position in a topic that no source reads.

    what: `dead letter`, or `publication`.
    id: position of the message that was dead-lettered, or id of the published one.
    state, job: state of the dead letter, and the job that has set it; None if unknown.
    """

    what: str
    id: str
    state: str | None = None
    job: str | None = None


@dataclass(frozen=True, slots=True)
class TraceResult:
    """Result of a trace.

    by: kind of thing that the id names.
    instances: instances of the message, or the named one, with their children.
    searched: number of instances that were read without the index.
    undelivered: messages that wait or were dead-lettered after a wait.
    answers: ends and states of the message, one for each command of its rules.
    upstream, downstream: instances that published a message of `instances`, or received one, in order of distance.
    started_by: ids of those `upstream` that are parents and published none of the messages.
    index: `complete`; `partial` when older instances have no rows; `none`.
    index_since: time since which all instances have rows.
    index_bounded: rows may be missing at any time, beyond the bounds of the index.
    more: number of further instances that the index names, which were not read.
    behind: message that was traced instead of the dead letter or publication at the position that was asked for.
    silent: number of daemons that did not answer; their messages in flight are unknown.
    """

    by: Literal["instance", "message", "undelivered", "nothing"]
    instances: tuple[Lineage, ...] = ()
    searched: int = 0
    undelivered: tuple[UndeliveredInfo, ...] = ()
    answers: tuple[TraceAnswer, ...] = ()
    upstream: tuple[Lineage, ...] = ()
    downstream: tuple[Lineage, ...] = ()
    started_by: frozenset[str] = frozenset()
    index: Literal["complete", "partial", "none"] = "none"
    index_since: str | None = None
    index_bounded: bool = False
    more: int = 0
    behind: Behind | None = None
    silent: int = 0

    def add(self, answers: Iterable[TraceAnswer]) -> TraceResult:
        """The same result with further answers."""
        new = tuple(answers)
        if not new:
            return self
        return replace(self, by="message" if self.by == "nothing" else self.by, answers=self.answers + new)


class EngineTracer:
    """Traces on one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._client = engine.client
        self._histories = Histories(engine)

    async def find(self, wanted: str, scope: SearchScope) -> TraceResult:
        """Find by instance id and by the index; if neither has it, in instances older than the index."""
        histories = self._histories
        one = await histories.find(wanted)
        hits = await self._search([search_ids(wanted)])
        begin = None if hits is None or hits.bounded else datetime.fromtimestamp(hits.begin / 1e6, UTC)
        if hits is None:
            found = TraceResult("nothing")
        elif begin is None:
            since = stamp(datetime.fromtimestamp(hits.begin / 1e6, UTC)) if hits.begin else None
            found = TraceResult("nothing", index="partial", index_since=since, index_bounded=True)
        elif hits.last_key:
            found = TraceResult("nothing", index="partial", index_since=stamp(begin))
        else:
            found = TraceResult("nothing", index="complete", index_since=stamp(begin))
        if hits is not None:
            found = await self._by_index(found, wanted, hits.hits[0], scope)
        if one is not None:
            others = (each for each in found.instances if each.instance_id != one.instance_id)
            found = replace(found, by="instance", instances=(one, *others))
        if found.by == "nothing" and found.index != "complete" and scope.search:
            found = await self._by_search(found, wanted, replace(scope, until=begin))
        if found.instances:
            whole = [await histories.with_children(each) for each in found.instances]
            found = replace(found, instances=tuple(whole))
            if hits is not None:
                up, down = await self._publishers(whole), await self._receivers(whole)
                started = frozenset(one.instance_id for one, is_linked in up if not is_linked)
                found = replace(
                    found,
                    upstream=tuple(one for one, _ in up),
                    downstream=tuple(one for one, _ in down),
                    started_by=started,
                )
        return found

    async def _search(self, searches: Sequence[Collection[str]]) -> LineageHits | None:
        index = self._engine.lineage
        return await (self._client.search_lineage(searches) if index is None else index.search(searches))

    async def identified(self, message_id: str, position: str) -> Sequence[TraceAnswer]:
        """Answers for a message of this identity, whatever its position."""
        found = await self.find(message_id, SearchScope(all=True))
        return [
            replace(one, outcome=Outcome.DUPLICATE, position=position, duplicate_of=one.position)
            if one.outcome == Outcome.EXECUTED and one.position not in (None, position)
            else one
            for one in found.answers
        ]

    # Search

    async def _by_index(self, found: TraceResult, wanted: str, hit: LineageHit, scope: SearchScope) -> TraceResult:
        answers: list[TraceAnswer] = []
        instances: list[Lineage] = []
        undelivered: list[UndeliveredInfo] = []
        names = search_ids(wanted)
        begins = (scope.prefix or "", DEAD_LETTER_IDS)
        candidates = [each for each in hit.instances if each.startswith(begins)]
        read = candidates if scope.all else candidates[:_FEW]
        for each in read:
            if each.startswith(DEAD_LETTER_IDS):
                state = await self._client.find_instance(each)
                undelivered += [] if state is None else [one for one in dead_lettered(state) if one.is_named(wanted)]
                continue
            one = await self._histories.find(each)
            if one is None:
                continue
            new = list(_executed(one, wanted))
            if new:
                instances.append(one)
            elif not _explains(one, names):
                new = [_unread(one, wanted)]
                instances.append(one)
            answers += new
        for entity_id in hit.entities:
            undelivered += [one for one in await of_entity(self._engine, entity_id) if one.is_named(wanted)]
        answers += [_waits(one) for one in undelivered]
        for record in hit.records:
            if _is_recorded(record, wanted):
                answers += await self._of_record(record, wanted)
        if scope.prefix:
            answers = [one for one in answers if (one.instance_id or "").startswith(scope.prefix)]
            undelivered = [one for one in undelivered if (one.instance_id or "").startswith(scope.prefix)]
        if instances:
            by: Literal["message", "undelivered", "nothing"] = "message"
        else:
            by = "undelivered" if undelivered else "message" if answers else "nothing"
        return replace(
            found,
            by=by,
            instances=tuple(instances),
            undelivered=tuple(undelivered),
            answers=tuple(answers),
            more=len(candidates) - len(read),
        )

    async def _of_record(self, record: LineageRecord, wanted: str) -> Sequence[TraceAnswer]:
        """Answers for a record. That of a repeated command names only the position of the repeat."""
        message_id, position = record.body.get("id"), record.body.get("position")
        if record.kind == DUPLICATE_RECORD and message_id is not None and position is not None:
            known = await self.identified(message_id, position) if wanted != message_id else ()
            return known or [replace(_recorded(record), outcome=Outcome.DUPLICATE)]
        return [_recorded(record)]

    async def _by_search(self, found: TraceResult, wanted: str, scope: SearchScope) -> TraceResult:
        instances: list[Lineage] = []
        searched = 0
        async for one in self._histories.search(wanted, scope):
            searched += 1
            if one is not None:
                instances.append(one)
                if not scope.all:
                    break
        if instances:
            answers = [answer for one in instances for answer in _executed(one, wanted)]
            return replace(found, by="message", instances=tuple(instances), searched=searched, answers=tuple(answers))
        known = await every(self._engine, scope.prefix, scope.since)
        undelivered = tuple(one for one in known if one.is_named(wanted))
        return replace(
            found,
            by="undelivered" if undelivered else "nothing",
            searched=searched,
            undelivered=undelivered,
            answers=tuple(_waits(one) for one in undelivered),
        )

    # Up and down

    async def _publishers(self, start: Sequence[Lineage]) -> list[tuple[Lineage, bool]]:
        """Instances that published a message of these (True), or are only their parents; the nearest first."""
        return [each async for each in self._walk(start, _received, _has_published, parents=True)]

    async def _receivers(self, start: Sequence[Lineage]) -> list[tuple[Lineage, bool]]:
        """Instances that received a publication of these; the nearest first."""
        return [each async for each in self._walk(start, _sent, _has_received, parents=False)]

    async def _walk(
        self,
        start: Sequence[Lineage],
        ids: Callable[[Lineage], Iterable[str]],
        is_linked: Callable[[Lineage, Collection[str]], bool],
        *,
        parents: bool,
    ) -> AsyncIterator[tuple[Lineage, bool]]:
        """Instances, each with True if a message links it. Children that were shown before are left out."""
        seen = {each.instance_id for one in start for each in _tree(one)}
        level, count = [each for one in start for each in _tree(one)], 0
        while level and count < NODES:
            wanted = list(dict.fromkeys(id_ for one in level for id_ in ids(one)))[:_FOLLOWED]
            candidates = [one.parent for one in level if parents and one.parent is not None]
            linked: dict[str, set[str]] = {}
            hits = await self._search([[id_] for id_ in wanted]) if wanted else None
            for id_, hit in zip(wanted, hits.hits if hits is not None else (), strict=False):
                if len(hit.instances) <= _FEW:
                    for each in hit.instances:
                        linked.setdefault(each, set()).add(id_)
            new = [each for each in dict.fromkeys((*candidates, *linked)) if each not in seen][: NODES - count]
            seen.update(new)
            level = []
            for one in await self._histories.find_all(new):
                by_message = is_linked(one, linked.get(one.instance_id, ()))
                if not by_message and one.instance_id not in candidates:
                    continue
                count += 1
                own = [each for each in one.children if each.instance_id not in seen][: max(0, NODES - count)]
                whole = await self._histories.with_children(replace(one, children=tuple(own)))
                below = list(_tree(whole))[1:]
                count += len(below)
                seen.update(each.instance_id for each in below)
                # Messages of children led to nothing above, but their publications lead on
                level += [whole] if parents else [whole, *below]
                yield whole, by_message


class AllEnginesTracer:
    """Traces on several engines, between which instances move. Raises: EngineError, in every method."""

    def __init__(self, tracers: Sequence[EngineTracer]) -> None:
        self._tracers = tracers

    async def find(self, wanted: str, scope: SearchScope) -> TraceResult:
        """Find on each engine, see `EngineTracer.find`."""
        return _joined([await tracer.find(wanted, scope) for tracer in self._tracers])

    async def identified(self, message_id: str, position: str) -> Sequence[TraceAnswer]:
        """Answers for a message of this identity, whatever its position."""
        return [answer for tracer in self._tracers for answer in await tracer.identified(message_id, position)]


def _joined(found: Sequence[TraceResult]) -> TraceResult:
    """Results of several engines as one. The index is as complete as the least complete one."""
    if len(found) == 1:
        return found[0]
    order = ("instance", "message", "undelivered", "nothing")
    weakest = max(found, key=lambda each: ("complete", "partial", "none").index(each.index))
    return TraceResult(
        min((each.by for each in found), key=order.index),
        tuple(one for each in found for one in each.instances),
        sum(each.searched for each in found),
        tuple(one for each in found for one in each.undelivered),
        tuple(one for each in found for one in each.answers),
        tuple(one for each in found for one in each.upstream),
        tuple(one for each in found for one in each.downstream),
        frozenset().union(*(each.started_by for each in found)),
        weakest.index,
        max((each.index_since for each in found if each.index_since is not None), default=None),
        any(each.index_bounded for each in found),
        sum(each.more for each in found),
    )


def _tree(one: Lineage) -> Iterable[Lineage]:
    yield one
    for child in one.children:
        yield from _tree(child)


def _received(one: Lineage) -> Iterable[str]:
    return (event_id(each.message_id, each.position) for each in one.arrivals if each.message_id is not None)


def _sent(one: Lineage) -> Iterable[str]:
    return (each.id for each in one.publications)


def _has_published(one: Lineage, ids: Collection[str]) -> bool:
    return any(each.id in ids for each in one.publications)


def _has_received(one: Lineage, ids: Collection[str]) -> bool:
    return not set(_received(one)).isdisjoint(ids)


def _executed(one: Lineage, wanted: str) -> Iterable[TraceAnswer]:
    for arrival in one.arrived(wanted):
        yield of_arrival(one, arrival)
    for publication in one.publications:
        if publication.id == wanted:
            yield of_publication(one, publication)


def of_arrival(one: Lineage, arrival: Arrival) -> TraceAnswer:
    """Answer for a message that an instance has received."""
    return TraceAnswer(
        Outcome.EXECUTED, arrival.message_id, arrival.position, arrival.at, None, arrival.route, arrival.what,
        one.instance_id,
    )  # fmt: skip


def of_publication(one: Lineage, publication: Publication) -> TraceAnswer:
    """Answer for a message that an instance has published."""
    detail = None if publication.state == PUBLISHED else publication.state
    return TraceAnswer(
        PUBLISHED, publication.id, None, publication.at, what=publication.type, instance_id=one.instance_id,
        topic=publication.target, attempt=publication.attempts, detail=detail,
    )  # fmt: skip


def _explains(one: Lineage, names: Collection[str]) -> bool:
    """True when another message, or publication, of the instance has one of the ids."""
    received = (index_ids(each.message_id, each.position) for each in one.arrivals)
    return any(id_ in names for ids in received for id_ in ids) or any(each.id in names for each in one.publications)


def _unread(one: Lineage, wanted: str) -> TraceAnswer:
    """Answer for a row of the index that the history does not show."""
    detail = "the instance has not read it yet, or has continued as new since"
    if one.status not in ("RUNNING", "PENDING", "SUSPENDED"):
        detail = "the history does not show it any more: the instance has continued as new, or ended before it read it"
    return TraceAnswer(Outcome.EXECUTED, wanted, instance_id=one.instance_id, detail=detail)


def _waits(one: UndeliveredInfo) -> TraceAnswer:
    return TraceAnswer(
        one.state, one.message_id, one.position, one.at, one.source, one.route, None, one.instance_id, None, one.key,
        one.reason, one.detail, None, one.until, None, one.topic,
    )  # fmt: skip


def _is_recorded(record: LineageRecord, wanted: str) -> bool:
    return is_named(record.body.get("id"), record.body.get("position"), wanted)


def _recorded(record: LineageRecord) -> TraceAnswer:
    body = record.body
    at = stamp(datetime.fromtimestamp(record.at, UTC))
    common = (body.get("id"), body.get("position"), at, body.get("source"), body.get("route"))
    if record.kind == DEAD_LETTER_RECORD:
        return TraceAnswer(
            Outcome.DEAD_LETTERED, *common, reason=current_reason(str(body.get("reason"))), detail=body.get("detail"),
            attempt=body.get("attempts"), topic=body.get("topic"), config=body.get("config"),
        )  # fmt: skip
    return TraceAnswer(
        Outcome.EXECUTED, *common, body.get("command"), instance_id=body.get("instance_id"), entity=body.get("entity")
    )


def of_in_flight(document: Mapping[str, Any]) -> TraceAnswer:
    """Answer for a message in flight. document: JSON of an `InFlightMessage`."""

    def time_at(name: str) -> str | None:
        value = document[name]
        # A daemon of an earlier build sends seconds
        return time_of(value) if isinstance(value, int | float) else value

    return TraceAnswer(
        MessageState(document["state"]), document["message_id"], document["position"],
        time_at("failed_since") or time_at("since"), document["source"], document["route"], key=document["key"],
        reason=document["reason"] or None, detail=document["detail"] or None, attempt=document["attempt"],
        next_try=time_at("next_try"),
    )  # fmt: skip
