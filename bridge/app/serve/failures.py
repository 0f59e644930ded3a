"""Log of failed instances and of compensated sagas: one line each, at a bounded rate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from bridge.config.source import Loaded
from bridge.engines.worker.finishes import InstanceFailure, failure_of, saga_name
from bridge.engines.workflows import Workflows
from bridge.sqlite_engine.model.instance import Finish

log = structlog.get_logger("bridge.instances")

WINDOW = 60.0
"""Seconds of the limit."""

_PERIOD = 5.0

MAX_NAMES = 10
"""Orchestrations that the line about omitted lines names."""


class FailureLog:
    """Log of the failures of one engine. At most `most` lines a minute; a further line counts the omitted ones."""

    def __init__(
        self,
        engine: str,
        loop: asyncio.AbstractEventLoop,
        most: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._most = most
        self._now = now
        self._lock = threading.Lock()
        self._since = now()
        self._lines = 0
        self._left: Counter[str] = Counter()
        self.omitted = 0
        """Failures without a line since the process started."""

    def add(self, end: Finish) -> None:
        """Log a failure, from any thread. The line is written on the event loop's thread."""
        with self._lock:
            if self._lines < self._most:
                self._lines += 1
            else:
                self.omitted += 1
                name = saga_name(end) or end.name
                self._left[name if name in self._left or len(self._left) < MAX_NAMES else "others"] += 1
                return
        failure = failure_of(end)
        try:
            self._loop.call_soon_threadsafe(self._write, failure)
        except RuntimeError:  # the loop is closed
            self._write(failure)

    def report(self, *, last: bool = False) -> None:
        """Log the number of omitted lines when a minute has passed. last: log it now."""
        with self._lock:
            now = self._now()
            if now - self._since < WINDOW and not last:
                return
            left, self._left = self._left, Counter()
            self._since, self._lines = now, 0
        if left:
            names = ", ".join(f"{count:,} of {name}" for name, count in left.most_common())
            log.warning(
                f"{left.total():,} more instances failed or were compensated, without a line each: {names}; "
                "`bridge instances list --status failed` shows failed ones",
                action="failures_omitted",
                engine=self._engine,
                count=left.total(),
            )

    def _write(self, found: InstanceFailure) -> None:
        fields = {
            name: value
            for name in ("saga", "outcome", "step", "reason", "compensation", "error", "frame", "parent")
            if (value := getattr(found, name))
        }
        write = log.warning if found.is_compensated else log.error
        write(
            sentence(found),
            action="compensated" if found.is_compensated else "failed",
            engine=self._engine,
            orchestration=found.orchestration,
            instance=found.instance_id,
            **fields,
        )


async def report_omitted(logs: Iterable[FailureLog]) -> None:
    """Log omitted failures once a minute, until cancelled."""
    while True:
        await asyncio.sleep(_PERIOD)
        for each in logs:
            each.report()


def known_orchestrations(loaded: Loaded, workflows: Workflows) -> set[str]:
    """Names of orchestrations and sagas in the configuration and in the workflows of this process."""
    config = loaded.config
    names = {*workflows.orchestrators, *workflows.external, *config.workflows.external, *config.sagas}
    for route in config.routes:
        for command in (route.schedule, route.start_or_raise):
            if command is not None and command.orchestration is not None and "{{" not in command.orchestration:
                names.add(command.orchestration)
    return names


def sentence(found: InstanceFailure) -> str:
    """State, cause and next command."""
    ends = {"compensated": "was compensated", "compensation_failed": "could not be compensated"}
    cause = " ".join(filter(None, (found.error, f"at {found.frame}" if found.frame else "")))
    words = found.reason if found.reason != "failed" or not cause else ""
    step = f"step {found.step} failed" if found.step and not words else " ".join(filter(None, (found.step, words)))
    undone = f"compensation of {found.compensation} failed" if found.compensation else ""
    why = ", ".join(filter(None, (step, undone, cause)))
    return (
        f"{found.orchestration} {found.instance_id} {ends.get(found.outcome, 'failed')}"
        f"{f': {why}' if why else ''}; see `bridge instances show {found.instance_id}`"
    )
