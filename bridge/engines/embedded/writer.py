"""The one thread that changes the engine's file: it groups what callers ask for into transactions."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded import event as events
from bridge.engines.embedded.calls import DEFERRED
from bridge.engines.embedded.dispatch import ORCHESTRATION, Lease
from bridge.engines.embedded.hub import TaskHub
from bridge.engines.embedded.recovery import recover
from bridge.engines.embedded.rejection import Rejection, unavailable
from bridge.engines.embedded.reply import Reply, settle_all

logger = logging.getLogger(__name__)

MAX_GROUP = 256
"""Operations in one transaction at most."""

MAX_DUE = 256
"""Timers that fire in one transaction at most."""

RETRY_SECONDS = 0.5
"""Pause before the file is tried again after it could not be written."""

_Operation = tuple[Callable[..., Any], tuple[Any, ...], Reply | None]
_STOP: _Operation = (lambda: None, (), None)


class Writer:
    """Runs operations in order, many to a transaction, and answers after the commit.

    An operation either raises Rejection before it changes anything, or succeeds. When the file cannot be written
    (disk full), or an operation fails in any other way, the whole group is undone and rejected, and the working set
    is read anew: nothing that was acknowledged is lost.
    """

    def __init__(self, hub: TaskHub, name: str, on_expired: Callable[[list[Lease]], None]) -> None:
        self._hub = hub
        self._on_expired = on_expired
        self._queue: SimpleQueue[_Operation] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._stopped = False
        self._next_timer: int | None = None
        self.broken: str | None = None
        self._culprit: Lease | None = None
        self._retry_at = 0.0
        self.commits = 0

    def start(self) -> None:
        """The hub has been recovered."""
        self._next_timer = self._hub.store.next_timer()
        self._thread.start()

    def stop(self) -> None:
        """Finish what was submitted, then end. Idempotent."""
        if not self._stopped:
            self._stopped = True
            self._queue.put(_STOP)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def submit(self, operation: Callable[..., Any], *args: Any, reply: Reply | None = None) -> None:
        """Run the operation in a coming transaction; `reply` is settled after its commit. From any thread."""
        if self._stopped:
            if reply is not None:
                reply.settle(unavailable("The engine is stopping"))
            return
        self._queue.put((operation, args, reply))

    def _run(self) -> None:
        running = True
        while running:
            group, running = self._collect()
            if self.broken is not None and not self._mend():
                self._refuse(group)
                continue
            try:
                self._transact(group)
            except Exception as error:
                self._fall_back(error, group)
        self._hub.close()
        self._refuse(self._drain())

    def _drain(self) -> list[_Operation]:
        group: list[_Operation] = []
        while True:
            try:
                group.append(self._queue.get_nowait())
            except Empty:
                return group

    def _collect(self) -> tuple[list[_Operation], bool]:
        """The next group, and whether to go on after it. Sleeps until there is something to do."""
        group: list[_Operation] = []
        queue = self._queue
        try:
            operation = queue.get(timeout=self._patience())
            while operation is not _STOP:
                group.append(operation)
                if len(group) >= MAX_GROUP:
                    return group, True
                operation = queue.get_nowait()
        except Empty:
            return group, True
        return group, False

    def _patience(self) -> float | None:
        """Seconds until something is due by itself."""
        if self.broken is not None:
            return max(0.0, self._retry_at - time.monotonic())
        if self._hub.later:
            return 0.0
        due = [moment / 1_000_000 for moment in (self._next_timer,) if moment is not None]
        wake = self._hub.dispatcher.next_wake()
        if wake is not None:
            due.append(wake)
        if not due:
            return None
        # Never longer than a minute, so that a step of the wall clock is noticed.
        return min(60.0, max(0.0, min(due) - time.time()))

    def _transact(self, group: list[_Operation]) -> None:
        hub = self._hub
        hub.tick()
        if len(group) > 1:
            hub.look_ahead([a[0].instanceId for _, a, _ in group if a and isinstance(a[0], pb.CreateInstanceRequest)])
        answers: list[tuple[Reply, Any]] = []
        for operation, args, reply in group:
            try:
                result = operation(*args)
            except Rejection as rejection:
                # Its traceback leads to this frame, which holds the requests of the whole group
                result = rejection.with_traceback(None)
            except Exception:
                self._culprit = args[0] if args and isinstance(args[0], Lease) else None
                raise
            if reply is not None and result is not DEFERRED:
                answers.append((reply, result))
        self._due()
        if hub.tx.commit():
            self.commits += 1
        if hub.tx.next_timer is not None:
            if self._next_timer is None or hub.tx.next_timer < self._next_timer:
                self._next_timer = hub.tx.next_timer
            hub.tx.next_timer = None
        if hub.settled:
            answers.extend(hub.settled)
            hub.settled.clear()
        if answers:
            settle_all(answers)
        hub.committed()

    def _due(self) -> None:
        hub = self._hub
        if hub.later:
            moves, hub.later = hub.later, []
            for move in moves:
                move()
        if hub.dispatcher.next_wake() is not None:
            hub.dispatcher.wake(time.time())
            self._on_expired(hub.dispatcher.expired(time.time()))
        if self._next_timer is not None and self._next_timer <= hub.now:
            hub.tx.flush()
            hub.tx.next_timer = None
            timers = hub.store.due_timers(hub.now, MAX_DUE)
            for timer in timers:
                hub.fire(timer)
            hub.tx.flush()
            self._next_timer = hub.store.next_timer()
            hub.tx.next_timer = None

    def _fall_back(self, error: Exception, group: list[_Operation]) -> None:
        if isinstance(error, sqlite3.Error):
            logger.error("The engine's file cannot be written: %s", error)
            self.broken = f"The engine's file cannot be written: {error}"
        else:
            logger.exception("An operation of the engine failed; its group is undone")
            self.broken = "The engine failed; see its log"
        self._refuse(group)
        self._retry_at = time.monotonic() + (RETRY_SECONDS if isinstance(error, sqlite3.Error) else 0.0)

    def _mend(self) -> bool:
        """Try to go on: undo what is half done and read the working set anew."""
        if time.monotonic() < self._retry_at:
            return False
        hub = self._hub
        try:
            hub.tx.rollback()
            hub.reset()
            recover(hub)
            hub.probe()
            self._next_timer = hub.store.next_timer()
        except sqlite3.Error as error:
            self.broken = f"The engine's file cannot be written: {error}"
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return False
        self.broken = None
        culprit, self._culprit = self._culprit, None
        if culprit is not None and culprit.kind == ORCHESTRATION:
            # Handed out again it would fail again, and take its group with it each time.
            self._give_up(culprit)
        return True

    def _give_up(self, lease: Lease) -> None:
        hub = self._hub
        instance = hub.find_key(lease.subject)
        if instance is not None:
            failure = events.failure("EngineError", "The engine could not process the worker's answer; see its log")
            hub.later.append(lambda: hub.fail(instance, failure))

    def _refuse(self, group: list[_Operation]) -> None:
        reason = self.broken or "The engine is stopping"
        answers = [(reply, unavailable(reason)) for _, _, reply in group if reply is not None]
        settle_all([*answers, *((reply, unavailable(reason)) for reply, _ in self._hub.settled)])
        self._hub.settled.clear()
