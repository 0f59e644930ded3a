"""Running orchestrations of one id prefix on an engine, as far as this process knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping

import structlog

from bridge.core.errors import BridgeError
from bridge.pipeline.limits.per_value import ValueAccounts
from bridge.system.tasks import cancelled

log = structlog.get_logger("bridge.admission")

RECOUNT = 30.0
"""Seconds between two counts while no start waits."""

_SHORTEST = 0.25
_SHARE = 5.0
"""Factor between the duration of a count and the pause after it, on an engine that does not report what finishes.

Counting takes at most a sixth of the time while starts wait.
"""

CountRunning = Callable[[], Awaitable[Collection[str]]]
"""Callback that reads the ids of running instances with the prefix; a mapping also has the known values.

Raises: BridgeError.
"""


class RunningValue:
    """Number of running instances and of waiting starts of one value."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0

    def enter(self) -> None:
        """Count a running instance."""
        self.running += 1

    def leave(self) -> None:
        """Remove an instance that runs no more."""
        self.running -= 1

    def queue(self) -> None:
        """Count a waiting start."""
        self.waiting += 1

    def dequeue(self) -> None:
        """Count a start that waits no more."""
        self.waiting -= 1

    def idle(self, now: float) -> bool:
        """True when the value can be forgotten; see `Account.idle`."""
        return not self.running and not self.waiting


class RunningInstances:
    """Ids of running instances, from a count of the engine, updated by this process's starts and the engine's events.

    Before the first count nothing is known, and no start is admitted.
    """

    def __init__(self, engine: str, prefix: str, count: CountRunning, max_values: int | None = None) -> None:
        """Create an empty set. max_values: values counted separately; None: none."""
        self.engine = engine
        self.prefix = prefix
        self.known = False
        self._is_notified = False
        self.max_values = max_values
        self.values = None if max_values is None else ValueAccounts(max_values, RunningValue)
        self._count = count
        self._entered: dict[str, float] = {}
        self._value_of: dict[str, RunningValue] = {}
        self._confirmed: set[str] = set()
        """Ids that the engine has confirmed as running; the others are about to be started."""
        self._finished_meanwhile: set[str] | None = None
        self._listeners: list[Callable[[], None]] = []
        self._recount_requested = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._entered)

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._entered

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a slot may have become free."""
        self._listeners.append(listener)

    def rely_on_notices(self) -> None:
        """Count seldom from now on: the engine reports starts and ends of instances."""
        self._is_notified = True

    def start(self) -> None:
        """Start counting."""
        self.task = asyncio.create_task(self._run(), name=f"count:{self.engine}:{self.prefix}")

    async def stop(self) -> None:
        """Stop counting. Idempotent."""
        await cancelled(self.task)
        self.task = None

    def reserve(self, instance_id: str, value: RunningValue | None = None) -> None:
        """Reserve a slot for an instance that is about to be started. value: the count of its value."""
        self._entered[instance_id] = time.monotonic()
        if value is not None:
            self._count_for(instance_id, value)

    def release(self, instance_id: str) -> None:
        """Release the slot of a start that failed. An instance confirmed by the engine keeps its slot."""
        if instance_id not in self._confirmed and self._forget(instance_id):
            self._notify()

    def started(self, instance_ids: Iterable[str]) -> None:
        """Add instances that the engine reports as running. Children do not count."""
        for instance_id in instance_ids:
            if instance_id.startswith(self.prefix) and not is_child(instance_id, self._entered):
                self._entered[instance_id] = time.monotonic()
                self._confirmed.add(instance_id)
                if self._finished_meanwhile is not None:
                    self._finished_meanwhile.discard(instance_id)

    def leave(self, instance_ids: Iterable[str]) -> None:
        """Remove finished instances."""
        left = [instance_id for instance_id in instance_ids if instance_id.startswith(self.prefix)]
        if self._finished_meanwhile is not None:
            self._finished_meanwhile.update(left)
        self._confirmed.difference_update(left)
        if [instance_id for instance_id in left if self._forget(instance_id)]:
            self._notify()

    def request_recount(self) -> None:
        """Ask for a count: a start waits for a slot."""
        if not self._is_notified or not self.known:
            self._recount_requested.set()

    async def _run(self) -> None:
        failed = False
        while True:
            began = time.monotonic()
            try:
                await self._recount(began)
            except BridgeError as error:
                if not failed:
                    log.warning(
                        f"running instances {self.prefix}* cannot be counted; the route "
                        "starts no new ones until the engine answers",
                        action="count",
                        engine=self.engine,
                        prefix=self.prefix,
                        error=str(error),
                    )
                failed = True
            else:
                failed = False
            pause = max(_SHORTEST, _SHARE * (time.monotonic() - began))
            self._recount_requested.clear()
            self._notify()  # a start that still waits requests another count
            await asyncio.sleep(pause)
            if failed:
                continue
            try:
                async with asyncio.timeout(max(0.0, RECOUNT - pause)):
                    await self._recount_requested.wait()
            except TimeoutError:
                pass

    async def _recount(self, began: float) -> None:
        self._finished_meanwhile = set()
        try:
            answer = await self._count()
            found = set(answer) - self._finished_meanwhile
        finally:
            self._finished_meanwhile = None
        # The engine may not have seen yet what entered since
        since = {instance_id: at for instance_id, at in self._entered.items() if at >= began}
        counted = without_children(found)
        self._confirmed = self._confirmed.intersection(since).union(counted)
        self._entered = dict.fromkeys(counted, began) | since
        if self.values is not None:
            for instance_id in self._value_of.keys() - self._entered.keys():
                self._value_of.pop(instance_id).leave()
            if isinstance(answer, Mapping):
                for instance_id in counted:
                    if instance_id not in self._value_of and (value := answer[instance_id]):
                        self._count_for(instance_id, self.values.of(value, began))
        self.known = True

    def _count_for(self, instance_id: str, value: RunningValue) -> None:
        if instance_id not in self._value_of:
            self._value_of[instance_id] = value
            value.enter()

    def _forget(self, instance_id: str) -> bool:
        if instance_id in self._value_of:
            self._value_of.pop(instance_id).leave()
        return self._entered.pop(instance_id, None) is not None

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()


def without_children(ids: Collection[str]) -> list[str]:
    """Ids without those of children."""
    return [instance_id for instance_id in ids if not is_child(instance_id, ids)]


def is_child(instance_id: str, ids: Container[str]) -> bool:
    """True when one of the ids is the parent's. The SDK and sagas name children after the parent: `parent:0001`."""
    return any(instance_id[:position] in ids for position, character in enumerate(instance_id) if character == ":")
