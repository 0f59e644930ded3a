"""Interface of job kinds: the request of a job, the results of its items, and the work on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

ITEMS_PER_PAGE = 100
"""Items in one page entity."""

DETAIL_LIMIT = 300
"""Most characters of the detail of a result."""

DEFAULT_FOLLOW = 3600.0
"""Seconds for which a job follows its waiting items."""


class ItemOutcome(StrEnum):
    """Results of an item. `early` and `quarantined` may be followed by a final one; the first final one stays."""

    SUCCEEDED = "succeeded"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    SKIPPED = "skipped"
    EARLY = "early"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class ItemResult:
    """Result of one item.

    detail: cause in a few words, without payload; empty if the result says all. A skipped item names its reason, and
    the job that holds the item.
    """

    result: ItemOutcome
    detail: str = ""

    def to_json(self) -> list[str]:
        """Value of an item in the page operation RESULTS."""
        return [self.result.value, self.detail[:DETAIL_LIMIT]]

    @classmethod
    def of(cls, stored: Sequence[str]) -> ItemResult:
        return cls(ItemOutcome(stored[0]), stored[1])


@dataclass(frozen=True, slots=True)
class JobRequest:
    """Request of a job, frozen at its submission.

    kind: name of the JobKind.
    arguments: arguments of the kind, as JSON values; no payload and no secret, because `bridge jobs show` prints them.
    selection: the filter in words, as the person typed it.
    cut_off: time of the selection, seconds since the Unix epoch; later items do not belong to the job.
    rate: most items per second; None for no limit.
    ramp: sizes of the first steps; a step begins after the items of the one before have ended.
    stop_after_failures: number of failed items at which the job stops; None for never.
    follow: seconds for which the job follows its waiting items.
    reason: text of the person.
    by: name of the person.
    """

    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    selection: str = ""
    cut_off: float = 0.0
    rate: float | None = None
    ramp: tuple[int, ...] = ()
    stop_after_failures: int | None = None
    follow: float = DEFAULT_FOLLOW
    reason: str = ""
    by: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ramp": list(self.ramp)}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> JobRequest:
        """Request from its JSON. Members of later versions are ignored."""
        known = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        return cls(**known | {"ramp": tuple(stored.get("ramp", ()))})


@dataclass(frozen=True, slots=True)
class Job:
    """Job whose items a kind works on. id: also the last part of its instance id."""

    id: str
    request: JobRequest


class TryLater(Exception):
    """Raised by `JobKind.work` when it can accept no items now, for example because a bounded queue is full.

    The job offers the same items again. Nothing is counted as a failure.
    seconds: pause until then.
    """

    def __init__(self, why: str, seconds: float = 1.0) -> None:
        super().__init__(why)
        self.seconds = seconds


class JobKind(Protocol):
    """Work of one kind of job on one engine. It runs in the event loop of a daemon or worker of that engine."""

    @property
    def name(self) -> str:
        """Word in lists, metrics and audit lines: `replay`, `instances.terminate`."""
        ...

    @property
    def item_space(self) -> str | None:
        """Name of the set of ids from which jobs select, for example `instances`.

        An item that an unfinished job of the same set holds is skipped before `work` sees it. None: `work` decides that
        itself.
        """
        ...

    @property
    def keeps_order(self) -> bool:
        """True: `work` gets the items in the order of their selection, one page after the other.

        False: several pages are worked at once.
        """
        ...

    async def work(
        self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]
    ) -> Mapping[str, ItemResult]:
        """Work on items of one page, and return the results that are known.

        Called at least once for each item, with some items of a page at a time. After a crash it is called again with
        the same items: it must be idempotent by job and item. Items without a result are in progress: their results
        follow later by the operation JOB_RESULTS of the page's entity (`bridge.core.system_names`).

        repeated: those of the items that an earlier call may have worked on.

        Raises: TryLater; EngineOutage and BrokerUnavailable, after which the job tries again without end; any other
        BridgeError stops the job, and a person resumes or aborts it.
        """
        ...
