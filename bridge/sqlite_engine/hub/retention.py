"""Retention of finished instances for a time or up to a number; the others are removed a few at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.operation import Kind
from bridge.sqlite_engine.hub.purge import STEP, Purges

PERIOD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Limits of retention; None means no limit.

    age: seconds since the instance finished.
    count: number of finished instances that are kept.
    """

    age: float | None = None
    count: int | None = None
    period: float = PERIOD_SECONDS
    """Seconds between two checks."""


class Retention:
    """Periodic removal of the instances beyond the limits, in transactions of a few instances."""

    def __init__(self, policy: RetentionPolicy, hub: TaskHub, purges: Purges, submit: Callable[..., None]) -> None:
        self._policy = policy
        self._hub = hub
        self._purges = purges
        self._submit = submit
        self._failed: set[str] = set()
        """Ids of instances whose removal failed."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-retention", daemon=True)

    def start(self) -> None:
        if self._policy.age is not None or self._policy.count is not None:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._policy.period):
            self._submit(self.step, kind=Kind.RETENTION)

    def step(self, limit: int | None = None) -> Any:
        """Remove a few instances that finished up to `limit`, and submit the next step while there are more.

        limit: time in microseconds; None computes it from the policy.
        """
        hub = self._hub
        hub.tx.flush()
        if limit is None:
            limit = self._limit()
            if limit is None:
                return None
        rows = hub.store.connection.execute(
            "SELECT id FROM instances WHERE finished_at IS NOT NULL AND finished_at <= ? ORDER BY finished_at LIMIT ?",
            (limit, STEP + len(self._failed)),
        ).fetchall()
        ids = [instance_id for (instance_id,) in rows if instance_id not in self._failed][:STEP]
        hub.after.append(lambda: self._submit_removals(ids, limit))
        return None

    def _submit_removals(self, ids: list[str], limit: int) -> None:
        for instance_id in ids:
            self._submit(self._remove, instance_id, kind=Kind.RETENTION)
        if len(ids) == STEP and not self._stop.is_set():
            self._submit(self.step, limit, kind=Kind.RETENTION)

    def _remove(self, instance_id: str) -> None:
        # Discarded when the removal succeeds: an instance that cannot be removed is tried once.
        self._failed.add(instance_id)
        instance = self._hub.find(instance_id)
        if instance is not None and instance.finished:
            self._purges.remove(instance)
        self._failed.discard(instance_id)

    def _limit(self) -> int | None:
        """Time in microseconds up to which finished instances are removed; None when all are within the limits."""
        limits = []
        if self._policy.age is not None:
            limits.append(self._hub.now - self._hub.clock.ahead() - int(self._policy.age * 1_000_000))
        if self._policy.count is not None:
            row = self._hub.store.connection.execute(
                "SELECT finished_at FROM instances WHERE finished_at IS NOT NULL ORDER BY finished_at DESC, id DESC"
                " LIMIT 1 OFFSET ?",
                (self._policy.count,),
            ).fetchone()
            if row is not None:
                limits.append(int(row[0]))
        return max(limits) if limits else None
