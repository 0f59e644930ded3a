"""State machine of one replay queue: dead letters that a daemon executes again, in order. Pure.

A job adds messages, page after page. The daemon that has the claim executes them and reports each result. The result
leaves the queue in the commit that also informs the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.core.stored_message import OperationResult
from bridge.jobs.kind import ItemOutcome
from bridge.waiting.claim import Claim

FORGET = 3600.0
"""Seconds after its last message for which the queue recognizes repeated additions of a job."""

LEASE = 10.0
"""Seconds that a claim of a process lasts. A killed daemon delays its queues for that long."""

JOBS = 100
"""Most jobs without messages that a queue remembers, the latest ones."""


@dataclass(frozen=True, slots=True)
class ReplayLimits:
    """Limits per queue at which jobs wait: number of messages, and bytes of their JSON."""

    max_messages: int = 1000
    max_bytes: int = 512 * 1024


@dataclass(slots=True)
class _Progress:
    """Additions of one job: its last page, the marks that were added of that page, and the time of the last one."""

    page: int
    marks: list[str]
    at: float


class ReplayQueue:
    """Dead letters of one source and origin partition that wait for their execution, in order.

    items: JSON of stored messages, each with `mark`, `size`, `job` and `since`.
    """

    def __init__(self, document: Mapping[str, Any] | None = None) -> None:
        document = document or {}
        self.source: str = document.get("source", "")
        self.topic: str | None = document.get("topic")
        self.partition: int | None = document.get("partition")
        self.items: list[dict[str, Any]] = list(document.get("items", ()))
        self.size: int = document.get("size", 0)
        self._claim = Claim.of(document)
        self._jobs = {job: _Progress(*stored) for job, stored in document.get("jobs", {}).items()}
        self._tick: float | None = document.get("tick")

    def to_json(self) -> dict[str, Any] | None:
        """State as JSON; None when there is nothing to remember."""
        if not self.items and not self._jobs:
            return None
        return {
            "v": 1,
            "source": self.source,
            "topic": self.topic,
            "partition": self.partition,
            "items": self.items,
            "size": self.size,
            **self._claim.to_json(),
            "jobs": {job: [each.page, each.marks, each.at] for job, each in self._jobs.items()},
            "tick": self._tick,
        }

    def add(self, value: Mapping[str, Any], now: float) -> OperationResult:
        """Add messages of one page of a job, in order.

        A job adds a page after it has added all earlier ones: an addition of an earlier page is a repeated one. So are
        messages of the last page that were added before, although they may have left.
        value: `source`, `topic`, `partition`, `job`, `page`, `items`.
        """
        result = OperationResult()
        job, page = value["job"], value["page"]
        progress = self._jobs.get(job)
        if progress is None or page > progress.page:
            progress = self._jobs[job] = _Progress(page, [], now)
        elif page < progress.page:
            result.events.extend(["repeated"] * len(value["items"]))
            return result
        self.source, self.topic, self.partition = value["source"], value.get("topic"), value.get("partition")
        progress.at = now
        known = set(progress.marks)
        for item in value["items"]:
            mark = item["mark"]
            if mark in known:
                result.events.append("repeated")
                continue
            known.add(mark)
            progress.marks.append(mark)
            self.items.append(dict(item) | {"job": job, "since": now})
            self.size += item["size"]
            result.events.append("stored")
        self._plan(result, now)
        return result

    def settle(self, results: Sequence[Mapping[str, Any]], now: float) -> OperationResult:
        """Remove executed messages. The first result of a message counts.

        results: `mark`, `job` and `result` (see `bridge.jobs.kind.ItemOutcome`) of each, with `detail`. A failed one
        has the facts of its dead letter, which is written then: `reason`, `detail`, `error`, `route`, `attempts`,
        `executed`, `expression`.
        """
        result = OperationResult()
        waiting = {item["mark"]: item for item in self.items}
        gone = set()
        for each in results:
            item = waiting.get(each["mark"])
            if item is None or item["job"] != each.get("job", item["job"]):
                continue
            del waiting[each["mark"]]
            gone.add(item["mark"])
            self.size -= item["size"]
            self._jobs[item["job"]].at = now
            result.events.append(each["result"])
            if each["result"] == ItemOutcome.FAILED:
                result.refuse(
                    failed(item, each), each["reason"], each["detail"], each.get("error", ""), each.get("attempts", 1)
                )
            else:
                result.end(item, each["result"], each.get("detail", ""))
        self.items = [item for item in self.items if item["mark"] not in gone]
        self._plan(result, now)
        return result

    def claim(self, owner: str, now: float) -> OperationResult:
        """Claim the queue for a process, or renew its claim."""
        if self.items:
            self._claim.take(owner, now, LEASE)
        return OperationResult()

    def unclaim(self, owner: str) -> OperationResult:
        """End the claim of a process."""
        self._claim.end(owner)
        return OperationResult()

    def tick(self, at: float, now: float) -> OperationResult:
        """Forget jobs whose last message left long ago. A call for another time than the planned one does nothing."""
        result = OperationResult()
        if at == self._tick:
            self._tick = None
            self._plan(result, now)
        return result

    def _plan(self, result: OperationResult, now: float) -> None:
        """Forget old jobs, and plan the next time for it."""
        held = {item["job"] for item in self.items}
        idle = sorted((each.at, job) for job, each in self._jobs.items() if job not in held)
        for number, (at, job) in enumerate(idle):
            if at + FORGET <= now or number < len(idle) - JOBS:
                del self._jobs[job]
        if self._tick is None and self._jobs:
            self._tick = now + FORGET
            result.wake_at(self._tick)


def failed(item: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Item of a message that failed again, with the facts of its next dead letter."""
    document = dict(item["letter"])
    if given.get("executed"):
        document["executed"] = list(given["executed"])
    return dict(item) | {"letter": document, "route": given.get("route"), "expression": given.get("expression", "")}
