"""Results of replayed messages, reported to their job by the entities that had the messages."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.provenance import fingerprint
from bridge.core.states import Outcome
from bridge.core.stored_message import OperationResult, ReplayOf
from bridge.core.system_names import DEAD_LETTER_STATES, JOB_PAGE, JOB_RESULTS, job_page_key
from bridge.dead_letters import store as dead_letters
from bridge.dead_letters.topic_states import DeadLetterRef
from bridge.engines.base import Engine
from bridge.jobs.kind import ItemOutcome, ItemResult
from bridge.waiting.dead_letters import has_topic


class ReplayEnd(NamedTuple):
    """Result of a replayed message.

    returned: the message became another dead letter.
    """

    replay: ReplayOf
    result: ItemResult
    returned: bool = False

    @property
    def change(self) -> str | None:
        """Operation on the state of the dead letter; None while the message waits."""
        match self.result.result:
            case ItemOutcome.SUCCEEDED | ItemOutcome.DUPLICATE:
                return "replayed"
            case ItemOutcome.FAILED:
                # Without another dead letter, the replayed one is the only copy of the message
                return "returned" if self.returned else "open"
        return None


def result_of(outcome: Outcome) -> ItemResult:
    """Result of a message with this outcome."""
    match outcome:
        case Outcome.DUPLICATE:
            return ItemResult(ItemOutcome.DUPLICATE)
        case Outcome.EARLY:
            return ItemResult(ItemOutcome.EARLY)
        case Outcome.QUARANTINED:
            return ItemResult(ItemOutcome.QUARANTINED)
        case Outcome.IGNORED:
            return ItemResult(ItemOutcome.SUCCEEDED, "ignored")
    return ItemResult(ItemOutcome.SUCCEEDED)


class ReplayReports:
    """Results of replayed messages, reported by a daemon. engines: by name."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    async def send(self, found: Sequence[ReplayEnd]) -> None:
        """Report results durably. Raises: EngineError."""
        for name, engine in self._engines.items():
            for entity, operation, value in signals([each for each in found if each.replay.engine == name]):
                await engine.client.signal_entity(entity, operation, value, what="report the result of a replay")


def report(ctx: EntityContext, engine: str, result: OperationResult) -> None:
    """Inform the jobs that replay the messages which have left an entity. Part of the commit of its operation.

    engine: name of the entity's engine. A job on another engine is not informed.
    """
    for entity, operation, value in signals([each for each in ends(result) if each.replay.engine == engine]):
        ctx.signal_entity(entity, operation, value)


def ends(result: OperationResult) -> Iterator[ReplayEnd]:
    """Results of replayed messages in the result of an operation."""
    for item, word, detail in result.ended:
        if (replay := ReplayOf.of_item(item)) is not None:
            yield ReplayEnd(replay, ItemResult(ItemOutcome(word), detail))
    for each in result.undelivered:
        if (replay := ReplayOf.of_item(each.item)) is not None:
            cause = fingerprint(each.reason, each.item.get("route"), each.error, each.detail)
            which = "same cause" if cause == replay.cause else "new cause"
            detail = f"{which}: {each.reason}" + (f": {each.detail}" if each.detail else "")
            yield ReplayEnd(replay, ItemResult(ItemOutcome.FAILED, detail), returned=has_topic(each.item))


def signals(found: Sequence[ReplayEnd]) -> Iterator[tuple[EntityInstanceId, str, Any]]:
    """Operations that store results in the pages of jobs, and in the states of dead letters."""
    pages: dict[tuple[str, int], dict[str, list[str]]] = defaultdict(dict)
    entries: dict[tuple[str, str], list[DeadLetterRef]] = defaultdict(list)
    for end in found:
        replay = end.replay
        pages[replay.job, replay.page][replay.item] = end.result.to_json()
        if (change := end.change) is not None:
            entries[change, replay.job].append(DeadLetterRef(replay.broker, *replay.place))
    for (job, page), results in pages.items():
        yield EntityInstanceId(JOB_PAGE, job_page_key(job, page)), JOB_RESULTS, results
    for (change, job), refs in entries.items():
        for key, value in dead_letters.signals(change, refs, {"job": job, "at": time.time()}):
            yield EntityInstanceId(DEAD_LETTER_STATES, key), change, value
