"""Selection of instances by a filter, for bulk actions. What the engine cannot answer is applied to each instance."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from durabletask.client import OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.app.connection import payload
from bridge.core.errors import ConfigError, ExpressionError, InvalidCommand, Problem
from bridge.core.system_names import PREFIX, SAGA
from bridge.engines.base import Engine, instance_counts
from bridge.engines.sagas import declared_name, saga_end
from bridge.routing.cel.expression import Compiler, Expression
from bridge.routing.cel.scope import ExpressionScope
from bridge.system.clock import stamp

FACTS = frozenset({"id", "name", "status", "created", "updated", "tags", "custom_status"})
PAYLOADS = frozenset({"input", "output"})
"""Variables of `--where`. Payloads are read only where the condition names one."""

MAX_READS = 100_000
"""Most instances that are read without a confirmation."""

OPEN = ("RUNNING", "PENDING", "SUSPENDED")
STATUSES: Mapping[str, tuple[str, ...]] = {
    "terminate": OPEN,
    "suspend": ("RUNNING", "PENDING"),
    "resume": ("SUSPENDED",),
    "rewind": ("FAILED",),
    "restart": ("COMPLETED", "FAILED", "TERMINATED"),
    "raise": OPEN,
}
"""Statuses of the instances that an action works on."""


@dataclass(frozen=True, slots=True)
class BulkFilter:
    """Filter of a bulk action. Empty and None mean any.

    orchestration: name of the orchestration, or own name of a saga.
    since, until: limits of the creation, until excluded.
    where: CEL over FACTS and PAYLOADS.
    limit: most instances.
    """

    orchestration: str | None = None
    statuses: tuple[str, ...] = ()
    prefix: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    where: str | None = None
    limit: int | None = None

    @property
    def is_empty(self) -> bool:
        parts = (self.orchestration, self.statuses, self.prefix, self.tags, self.since, self.until, self.where)
        return not any(parts)

    @property
    def reads(self) -> bool:
        """True when each instance must be read, because no engine answers this part of a filter."""
        return bool(self.orchestration or self.tags or self.where)

    def text(self) -> str:
        """Filter in words, for people."""
        parts = [
            self.orchestration and f"orchestration {self.orchestration}",
            self.statuses and f"status {' or '.join(self.statuses).lower()}",
            self.prefix and f"id begins with {self.prefix}",
            self.tags and ", ".join(f"tag {name}={value}" for name, value in self.tags.items()),
            self.since and f"created since {stamp(self.since)}",
            self.until and f"created before {stamp(self.until)}",
            self.where and f"where {self.where}",
            self.limit and f"at most {self.limit:,}",
        ]
        return ", ".join(part for part in parts if part) or "all instances"


class InstanceSelection:
    """One pass over the instances that an action selects.

    count: selected instances so far. reads: instances that were read because the engine cannot answer the filter.
    """

    def __init__(self, engine: Engine, action: str, given: BulkFilter, cut_off: float, max_reads: int | None) -> None:
        """Create a selection.

        cut_off: seconds since the Unix epoch; instances created later are left out. max_reads: None for no limit.
        Raises: InvalidCommand for a filter that can select nothing.
        """
        self._engine = engine
        self._filter = given
        self._max_reads = max_reads
        self._statuses = _statuses(action, given.statuses)
        self._condition, self._payloads = _condition(given.where)
        cut = datetime.fromtimestamp(cut_off, UTC)
        self._until = cut if given.until is None else min(cut, given.until)
        self.count = 0
        self.reads = 0

    async def ids(self) -> AsyncIterator[str]:
        """Ids of the selected instances, in the order of the engine. Raises: EngineError, InvalidCommand."""
        given = self._filter
        pages = self._engine.client.instance_pages(
            [OrchestrationStatus[status] for status in self._statuses],
            given.prefix or "",
            given.since,
            self._until,
            payloads=self._payloads,
        )
        async for page in pages:
            for state in page:
                if given.reads:
                    self._count_read()
                if await self._matches(state):
                    self.count += 1
                    yield state.instanceId
                    if self.count == given.limit:
                        return

    async def counted(self) -> bool:
        """Count with the counts of the engine, without a read. False where it cannot answer the filter."""
        given = self._filter
        if given.prefix or given.tags or given.where or given.since or given.until or given.limit:
            return False
        counts = await instance_counts(self._engine)
        if counts is None:
            return False
        self.count = sum(
            number
            for (name, status), number in counts.instances.items()
            if status in self._statuses and given.orchestration in (None, name) and not name.startswith(PREFIX)
        )
        return True

    def _count_read(self) -> None:
        self.reads += 1
        if self._max_reads is not None and self.reads > self._max_reads:
            raise InvalidCommand(
                f"this filter must read more than {self._max_reads:,} instances: the engine answers only status, time "
                "of creation and prefix. Narrow it by these, or confirm with --yes"
            )

    async def _matches(self, state: pb.OrchestrationState) -> bool:
        given = self._filter
        if state.name.startswith(PREFIX) and state.name != SAGA:
            return False
        if not given.tags.items() <= state.tags.items():
            return False
        if given.orchestration is not None and given.orchestration != await self._name(state):
            return False
        return self._condition is None or self._holds(self._condition, state, await self._name(state))

    async def _name(self, state: pb.OrchestrationState) -> str:
        """Name for people: a saga of the configuration has its own."""
        if state.name != SAGA:
            return state.name
        end = saga_end(state.customStatus.value or None, state.orchestrationStatus)
        if end is not None:
            return end.saga
        whole = await self._engine.client.find_instance(state.instanceId)
        return (whole and declared_name(whole.serialized_input or "")) or SAGA

    def _holds(self, condition: Expression, state: pb.OrchestrationState, name: str) -> bool:
        """True when the condition is true. An instance that lacks a member of the condition is not selected."""
        try:
            return condition.condition(InstanceScope(state, name))
        except ExpressionError:
            return False


class InstanceScope(ExpressionScope):
    """Variables of a condition on one instance. Times are RFC 3339 in UTC, payloads are JSON values."""

    __slots__ = ("created", "custom_status", "id", "input", "name", "output", "status", "tags", "updated")

    def __init__(self, state: pb.OrchestrationState, name: str) -> None:
        super().__init__()
        self.id = state.instanceId
        self.name = name
        self.status = OrchestrationStatus(state.orchestrationStatus).name.lower()
        self.created = stamp(state.createdTimestamp.ToDatetime(UTC))
        self.updated = stamp(state.lastUpdatedTimestamp.ToDatetime(UTC))
        self.tags = dict(state.tags)
        self.custom_status = payload(state.customStatus.value)
        self.input = payload(state.input.value)
        self.output = payload(state.output.value)


def _statuses(action: str, given: tuple[str, ...]) -> tuple[str, ...]:
    """Statuses to select. Raises: InvalidCommand."""
    possible = STATUSES[action]
    if wrong := [status for status in given if status not in possible]:
        raise InvalidCommand(
            f"{action} works on instances that are {' or '.join(possible).lower()}, not {wrong[0].lower()}"
        )
    return given or possible


def _condition(text: str | None) -> tuple[Expression | None, bool]:
    """Compiled condition, and True when it reads payloads. Raises: InvalidCommand."""
    if text is None:
        return None, False
    problems: list[Problem] = []
    for variables in (FACTS, FACTS | PAYLOADS):
        compiler = Compiler(lambda path, what: Problem("--where", 0, 0, "", what))
        found = compiler.condition(text, (), "--where", variables)
        if found is not None:
            return found, variables != FACTS
        problems = compiler.problems
    raise InvalidCommand(f"`where`: {'; '.join(problem.what for problem in ConfigError(problems).problems)}")
