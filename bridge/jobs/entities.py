"""Entities of jobs, as the SDK runs them: record, pages, registry."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.system_names import JOB, JOB_PAGE, JOBS
from bridge.jobs.state_machine import JobPage, JobRecord, JobRegistry, Signal


class JobEntities:
    """Entities of jobs that this process runs for one engine."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self.items: Counter[tuple[str, str]] = Counter()
        """Number of results by kind and result, since the start of the process."""

    def functions(self) -> dict[str, Callable[[EntityContext, Any], None]]:
        """Entity functions to register with a worker, by name."""
        found = {JOB: self._record, JOB_PAGE: self._page, JOBS: self._registry}
        return {name: _named(name, operate) for name, operate in found.items()}

    def _record(self, ctx: EntityContext, value: Any) -> None:
        record = JobRecord(ctx.entity_id.key, ctx.get_state())
        _send(ctx, record.apply(ctx.operation, value or {}, self._now()))
        ctx.set_state(record.to_json())

    def _page(self, ctx: EntityContext, value: Any) -> None:
        page = JobPage(ctx.get_state())
        _send(ctx, page.apply(ctx.operation, value or {}, self._now()))
        ctx.set_state(page.to_json())
        with self._lock:
            self.items.update((page.kind, result.value) for result in page.results)

    def _registry(self, ctx: EntityContext, value: Any) -> None:
        registry = JobRegistry(ctx.get_state())
        _send(ctx, registry.apply(ctx.operation, value or {}))
        ctx.set_state(registry.to_json())


def _named(name: str, operate: Callable[[EntityContext, Any], None]) -> Callable[[EntityContext, Any], None]:
    def entity(ctx: EntityContext, value: Any) -> None:
        operate(ctx, value)

    entity.__name__ = name
    return entity


def _send(ctx: EntityContext, signals: Iterable[Signal]) -> None:
    """Send signals in the commit of this operation."""
    for each in signals:
        ctx.signal_entity(EntityInstanceId(each.entity, each.key), each.operation, each.value)
