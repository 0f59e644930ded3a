"""Results of replayed messages, reported to their job by the entities that had the messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.stored_message import OperationResult, ReplayOf
from bridge.core.system_names import JOB_PAGE, JOB_RESULTS, job_page_key
from bridge.jobs.kind import ItemResult, Result

Ends = Iterable[tuple[ReplayOf, ItemResult]]


def report(ctx: EntityContext, engine: str, result: OperationResult) -> None:
    """Inform the jobs that replay the messages which have left an entity. Part of the commit of its operation.

    engine: name of the entity's engine. A job on another engine is not informed.
    """
    for entity, operation, value in signals(each for each in ends(result) if each[0].engine == engine):
        ctx.signal_entity(entity, operation, value)


def ends(result: OperationResult) -> Iterator[tuple[ReplayOf, ItemResult]]:
    """Results of replayed messages in the result of an operation."""
    for item, word, detail in result.ended:
        if (replay := ReplayOf.of_item(item)) is not None:
            yield replay, ItemResult(Result(word), detail)
    for each in result.undelivered:
        if (replay := ReplayOf.of_item(each.item)) is not None:
            yield replay, ItemResult(Result.FAILED, f"{each.reason}: {each.detail}" if each.detail else each.reason)


def signals(ends: Ends) -> Iterator[tuple[EntityInstanceId, str, Any]]:
    """Operations that store results: one for each page of a job."""
    pages: dict[tuple[str, int], dict[str, list[str]]] = defaultdict(dict)
    for replay, result in ends:
        pages[replay.job, replay.page][replay.item] = result.to_json()
    for (job, page), results in pages.items():
        yield EntityInstanceId(JOB_PAGE, job_page_key(job, page)), JOB_RESULTS, results
