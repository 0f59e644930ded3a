"""State machines of a job: its record, its pages of items, and the registry of jobs. Pure.

The record has the sums. A page changes them only by moves from one count to another, in the commit that changes the
page: selected = succeeded + duplicate + failed + skipped + early + quarantined + in progress + left, at every look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.core.states import JobState
from bridge.core.system_names import JOB, JOB_RESULTS, JOBS, JOBS_KEY
from bridge.jobs.kind import ItemOutcome, ItemResult, JobRequest

LEFT = "left"
IN_PROGRESS = "in_progress"
COUNTS = (*(result.value for result in ItemOutcome), IN_PROGRESS, LEFT)
"""Counts of a record. Each item is in exactly one."""

MAX_UNFINISHED = 100
"""Most unfinished jobs of an engine. A further one is aborted."""

SELECTION_SECONDS = 600.0
"""Seconds without progress of a selection after which its job is aborted."""

_CLAIMS = 10
_SAMPLES = 13
_SAMPLE_SECONDS = 5.0
_OPEN = (JobState.SELECTING, JobState.RUNNING, JobState.PAUSED, JobState.STOPPED)
_TEXT = 500


@dataclass(frozen=True, slots=True)
class Signal:
    """Operation that an entity sends in the commit of its own change."""

    entity: str
    key: str
    operation: str
    value: Any


class JobRecord:
    """Record of one job. Times are seconds since the Unix epoch.

    why: cause of the states stopped and aborted; empty otherwise.
    number: position among the jobs of the engine; None until the registry has counted the job.
    touched: last progress of the selection.
    began, ended: begin of the work, and end of the job.
    followed: time since which only waiting items are left.
    failed_before: failed items at the last resume.
    control: last operation of a person.
    claim: number of the step that works on the job, and the tokens of the last steps. The operations of a step carry
    its number, and pages ignore those of an earlier step: its process was frozen, and another one went on.
    samples: pairs of time and number of ended items, oldest first.
    """

    def __init__(self, id_: str, state: Mapping[str, Any] | None = None) -> None:
        stored = state or {}
        self.id = id_
        self.exists = state is not None
        self.request = JobRequest.of(stored.get("request", {"kind": ""}))
        self.space: str | None = stored.get("space")
        self.state = JobState(stored.get("state", JobState.SELECTING))
        self.why: str = stored.get("why", "")
        self.number: int | None = stored.get("number")
        self.created: float = stored.get("created", 0.0)
        self.touched: float = stored.get("touched", 0.0)
        self.began: float | None = stored.get("began")
        self.ended: float | None = stored.get("ended")
        self.followed: float | None = stored.get("followed")
        self.pages: int = stored.get("pages", 0)
        self.selected: int = stored.get("selected", 0)
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0) | stored.get("counts", {})
        self.failed_before: int = stored.get("failed_before", 0)
        self.control: dict[str, Any] = stored.get("control", {})
        self.claim: dict[str, Any] = stored.get("claim", {"number": 0, "recent": []})
        self.samples: list[list[float]] = [list(each) for each in stored.get("samples", ())]
        self.is_released: bool = stored.get("released", False)

    def to_json(self) -> dict[str, Any] | None:
        """State as JSON; None when the job was removed."""
        if not self.exists:
            return None
        return {
            "v": 1,
            "request": self.request.to_json(),
            "space": self.space,
            "state": self.state.value,
            "why": self.why,
            "number": self.number,
            "created": self.created,
            "touched": self.touched,
            "began": self.began,
            "ended": self.ended,
            "followed": self.followed,
            "pages": self.pages,
            "selected": self.selected,
            "counts": self.counts,
            "failed_before": self.failed_before,
            "control": self.control,
            "claim": self.claim,
            "samples": self.samples,
            "released": self.is_released,
        }

    # Facts

    @property
    def is_open(self) -> bool:
        """False for a job that has ended. Results of its items in progress may still follow."""
        return self.state in _OPEN

    @property
    def waiting(self) -> int:
        """Number of items that wait on their engine, early or quarantined."""
        return self.counts[ItemOutcome.EARLY] + self.counts[ItemOutcome.QUARANTINED]

    @property
    def handed(self) -> int:
        """Number of items that are worked on, or have a result."""
        return self.selected - self.counts[LEFT]

    @property
    def finished(self) -> int:
        """Number of items with a result, waiting ones included."""
        return self.handed - self.counts[IN_PROGRESS]

    @property
    def speed(self) -> float | None:
        """Ended items per second over the last minute; None while unknown."""
        if len(self.samples) < 2:
            return None
        (since, before), (until, after) = self.samples[0], self.samples[-1]
        return (after - before) / (until - since) if until > since and after > before else None

    def eta(self) -> float | None:
        """Seconds until the last item has a result; None while unknown."""
        speed = self.speed
        if self.state is not JobState.RUNNING or speed is None:
            return None
        return (self.selected - self.finished) / speed

    # Operations

    def apply(self, operation: str, value: Mapping[str, Any], now: float) -> list[Signal]:
        """Apply an operation of the entity. Unknown operations of later versions change nothing."""
        if operation == "create":
            self._create(value, now)
            return []
        if not self.exists:
            return []
        match operation:
            case "touch":
                self.touched = now
            case "selected":
                return self._selected(value, now)
            case "ordered":
                self.number = value["number"]
            case "moved":
                self._moved(value["moves"], value["at"])
            case "pause" | "resume" | "abort":
                self._controlled(operation, value, now)
            case "claim":
                if value["token"] not in self.claim["recent"]:
                    recent = [*self.claim["recent"], value["token"]]
                    self.claim = {"number": self.claim["number"] + 1, "recent": recent[-_CLAIMS:]}
            case "stop":
                if value["step"] >= self.claim["number"]:
                    self._stop(value["why"])
            case "expire":
                if self.state is JobState.SELECTING and now - self.touched >= SELECTION_SECONDS:
                    self._end(JobState.ABORTED, now, "the selection did not finish")
            case "refuse":
                if self.is_open:
                    self._end(JobState.ABORTED, now, value["why"])
            case "follow":
                self.followed = now if self.followed is None else self.followed
            case "finish":
                if self.state is JobState.RUNNING and not self.counts[LEFT] and not self.counts[IN_PROGRESS]:
                    self._end(JobState.DONE, now)
            case "remove":
                if not self.is_open:
                    self.exists = False
        return self._release()

    def _create(self, value: Mapping[str, Any], now: float) -> None:
        if self.exists:
            return
        self.exists = True
        self.request = JobRequest.of(value["request"])
        self.space = value.get("space")
        self.created = self.touched = now

    def _selected(self, value: Mapping[str, Any], now: float) -> list[Signal]:
        if self.state is JobState.SELECTING:
            self.state = JobState.RUNNING
            self.began = now
            self.pages, self.selected = value["pages"], value["items"]
            self.counts[LEFT] = self.selected
            self.samples = [[now, 0]]
        if not self.is_open or self.number is not None:
            return []
        return [Signal(JOBS, JOBS_KEY, "add", {"job": self.id, "space": self.space})]

    def _moved(self, moves: Mapping[str, int], at: float) -> None:
        if sum(moves.values()) or not moves.keys() <= self.counts.keys():
            return  # of a later version; it would break the sum
        for name, count in moves.items():
            self.counts[name] += count
        self._sample(at)
        limit = self.request.stop_after_failures
        failed = self.counts[ItemOutcome.FAILED] - self.failed_before
        if limit is not None and failed >= limit and self.state in (JobState.RUNNING, JobState.PAUSED):
            self._stop(f"{failed:,} failed (limit {limit:,})")

    def _sample(self, at: float) -> None:
        samples, entry = self.samples, [at, self.finished]
        if len(samples) > 1 and at - samples[-2][0] < _SAMPLE_SECONDS:
            samples[-1] = entry
        else:
            samples.append(entry)
        del samples[:-_SAMPLES]

    def _controlled(self, action: str, value: Mapping[str, Any], now: float) -> None:
        before = self.state
        if action == "abort" and self.is_open:
            self._end(JobState.ABORTED, now)
        elif action == "pause" and self.state is JobState.RUNNING:
            self.state = JobState.PAUSED
        elif action == "resume" and self.state in (JobState.PAUSED, JobState.STOPPED):
            self.state, self.why = JobState.RUNNING, ""
            self.failed_before = self.counts[ItemOutcome.FAILED]
            self.samples = [[now, self.finished]]
        self.control = {
            "id": value.get("id"),
            "action": action,
            "by": str(value.get("by", ""))[:_TEXT],
            "reason": str(value.get("reason") or "")[:_TEXT],
            "at": now,
            "before": before.value,
        }

    def _stop(self, why: str) -> None:
        if self.state in (JobState.RUNNING, JobState.PAUSED):
            self.state, self.why = JobState.STOPPED, why[:_TEXT]

    def _end(self, state: JobState, now: float, why: str = "") -> None:
        self.state, self.why, self.ended = state, why, now

    def _release(self) -> list[Signal]:
        """Leave the registry when the job has ended and none of its items is in progress."""
        if self.is_open or self.counts[IN_PROGRESS] or self.is_released:
            return []
        self.is_released = True
        return [Signal(JOBS, JOBS_KEY, "remove", {"job": self.id})]


class JobPage:
    """Items of one page of a job, in the order of their selection. An item is a list of id, status and detail.

    The status is a result, IN_PROGRESS or LEFT.
    step: number of the latest step that has worked on the page.
    begun: number of the step that has begun an item, for the items in progress.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        stored = state or {}
        self.exists = state is not None
        self.job: str = stored.get("job", "")
        self.kind: str = stored.get("kind", "")
        self.items: list[list[str]] = [list(item) for item in stored.get("items", ())]
        self.step: int = stored.get("step", 0)
        self.begun: dict[str, int] = dict(stored.get("begun", {}))
        self.results: list[ItemOutcome] = []
        """Results that the last operation has set."""

    def to_json(self) -> dict[str, Any] | None:
        """State as JSON; None without items."""
        if not self.exists:
            return None
        return {
            "v": 1, "job": self.job, "kind": self.kind, "items": self.items, "step": self.step, "begun": self.begun,
        }  # fmt: skip

    def with_status(self, *statuses: str) -> list[str]:
        """Ids of the items with one of these statuses, in order."""
        return [id_ for id_, status, _ in self.items if status in statuses]

    @property
    def unfinished(self) -> list[str]:
        """Ids of the items that the job holds."""
        return self.with_status(LEFT, IN_PROGRESS)

    def apply(self, operation: str, value: Any, now: float) -> list[Signal]:
        """Apply an operation of the entity. Unknown operations of later versions change nothing."""
        self.results = []
        if operation == "fill":
            if not self.exists:
                self.exists, self.job, self.kind = True, value["job"], value["kind"]
                self.items = [[id_, LEFT, ""] for id_ in value["ids"]]
            return []
        if operation == "remove":
            self.exists = False
            return []
        if not self.exists:
            return []
        moves: dict[str, int] = {}
        if operation == JOB_RESULTS:
            self._change(_read(value), _REPLACED, moves)
        elif operation in ("begin", "undo", "settle") and value["step"] >= self.step:
            self.step = value["step"]
            if operation == "begin":
                self._change(((id_, IN_PROGRESS, "") for id_ in value["ids"]), (LEFT,), moves)
            elif operation == "undo":
                self._change(((id_, LEFT, "") for id_ in value["ids"]), (IN_PROGRESS,), moves)
            else:
                self._change(_read(value["results"]), _REPLACED, moves)
        moves = {name: count for name, count in moves.items() if count}
        return [Signal(JOB, self.job, "moved", {"moves": moves, "at": now})] if moves else []

    def _change(self, changes: Iterable[tuple[str, str, str]], replaced: Sequence[str], moves: dict[str, int]) -> None:
        """Give items a new status where theirs may be replaced."""
        places = {item[0]: item for item in self.items}
        for id_, status, detail in changes:
            item = places.get(id_)
            if item is None or item[1] not in replaced or item[1:] == [status, detail]:
                continue
            moves[item[1]] = moves.get(item[1], 0) - 1
            moves[status] = moves.get(status, 0) + 1
            if status != item[1] and status in _RESULTS:
                self.results.append(ItemOutcome(status))
            if status == IN_PROGRESS:
                self.begun[id_] = self.step
            else:
                self.begun.pop(id_, None)
            item[1:] = [status, detail]


_RESULTS = frozenset(result.value for result in ItemOutcome)
_REPLACED = (LEFT, IN_PROGRESS, ItemOutcome.EARLY.value, ItemOutcome.QUARANTINED.value)


def _read(value: Mapping[str, Sequence[str]]) -> Iterable[tuple[str, str, str]]:
    """Results of the operation JOB_RESULTS. Those of later versions are left out."""
    for id_, stored in value.items():
        if stored[0] in _RESULTS:
            result, detail = ItemResult.of(stored).to_json()
            yield id_, result, detail


class JobRegistry:
    """Unfinished jobs of an engine, in the order in which their selections were complete.

    jobs: number and item space by job.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        stored = state or {}
        self.next: int = stored.get("next", 1)
        self.jobs: dict[str, tuple[int, str | None]] = {
            job: (number, space) for job, (number, space) in stored.get("jobs", {}).items()
        }

    def to_json(self) -> dict[str, Any]:
        """State as JSON."""
        return {"v": 1, "next": self.next, "jobs": {job: list(each) for job, each in self.jobs.items()}}

    def apply(self, operation: str, value: Mapping[str, Any]) -> list[Signal]:
        """Apply an operation of the entity. Unknown operations of later versions change nothing."""
        job = value.get("job", "")
        if operation == "remove":
            self.jobs.pop(job, None)
        if operation != "add":
            return []
        if job not in self.jobs:
            if len(self.jobs) >= MAX_UNFINISHED:
                why = f"{len(self.jobs)} jobs are unfinished; abort or finish some"
                return [Signal(JOB, job, "refuse", {"why": why})]
            self.jobs[job] = (self.next, value.get("space"))
            self.next += 1
        return [Signal(JOB, job, "ordered", {"number": self.jobs[job][0]})]

    def holders(self, job: str) -> list[str]:
        """Jobs whose items this job must skip: earlier ones with the same item space, oldest first."""
        number, space = self.jobs.get(job, (0, None))
        if space is None:
            return []
        found = sorted((other, id_) for id_, (other, same) in self.jobs.items() if same == space and other < number)
        return [id_ for _, id_ in found]
