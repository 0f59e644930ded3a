"""Writer: the single thread that changes the engine's file, in transactions over groups of operations."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.leases import Lease, WorkerStream
from bridge.sqlite_engine.hub.recovery import failing_steps, recover
from bridge.sqlite_engine.hub.working_set import OperationKind, Subject, WriterOperation
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.reply import DEFERRED, Rejection, Reply, internal, settle_all, unavailable
from bridge.sqlite_engine.model.values import new_id
from bridge.sqlite_engine.storage.schema import is_file_fault

logger = logging.getLogger(__name__)

MAX_GROUP = 256
"""Number of operations from which on a transaction takes no more."""

MAX_DUE = 256
"""Largest number of timers that fire in one transaction."""

CHECK_SECONDS = 1.0
"""Longest sleep in seconds while something is due by the wall clock, which may be set meanwhile."""

RETRY_SECONDS = 0.5
"""Seconds before the file is tried again after a failed write."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """Reason why a transaction was rolled back. `operation` is None when any of several may be the cause."""

    operation: WriterOperation | None
    error: Exception


_STOP = WriterOperation(OperationKind.WORKER, lambda: None)


class Writer:
    """Executor of operations in order, many in one transaction. Answers are given after the commit.

    An operation that fails with anything but a Rejection is given up: its group is rolled back, and the others of the
    group run again, each in a transaction of its own. When the file cannot be read or written (disk full), the whole
    group is rejected, and the working set is read again after a pause. Acknowledged changes are never lost.
    """

    def __init__(self, hub: TaskHub, name: str, requeue: Callable[[Lease], None]) -> None:
        """Prepare the thread. requeue: operation that requeues the work of an expired or lost lease."""
        self._hub = hub
        self._requeue = requeue
        hub.dispatcher.report_unsent_to(self._not_sent)
        self._queue: SimpleQueue[WriterOperation | list[WriterOperation]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._stopped = False
        self._next_timer: int | None = None
        self.broken: str | None = None
        self._retry_at = 0.0
        self.commits = 0
        self.operations = 0
        """Number of submitted operations that were run."""
        self.given_up: Counter[str] = Counter()
        """Number of operations that could not be applied, by kind."""

    def start(self) -> None:
        """Start the thread, after the hub was recovered."""
        self._next_timer = self._hub.store.next_timer()
        self._thread.start()

    def stop(self) -> None:
        """Finish the submitted operations and their consequences, and stop the thread. Idempotent."""
        if not self._stopped:
            self._stopped = True
            self._queue.put(_STOP)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def submit(
        self,
        run: Callable[..., Any],
        *args: Any,
        kind: OperationKind = OperationKind.CALL,
        reply: Reply | None = None,
        subject: Subject | None = None,
    ) -> None:
        """Run the operation in a later transaction; settle `reply` after its commit. Callable from any thread."""
        self.put(WriterOperation(kind, run, args, reply, subject))

    def put(self, operation: WriterOperation) -> None:
        """Run the operation in a later transaction; a stopping writer refuses it. Callable from any thread."""
        if self._stopped:
            self.put_all([operation])
        else:
            self._queue.put(operation)

    def put_all(self, operations: list[WriterOperation]) -> None:
        """Run the operations in order, as `put` does."""
        if self._stopped:
            refusal = unavailable("The engine is stopping")
            settle_all((each.reply, refusal) for each in operations if each.reply is not None)
        else:
            self._queue.put(operations)

    def _run(self) -> None:
        running = True
        while running:
            group, running = self._collect()
            if self.broken is not None and not self._repair():
                self._refuse(group)
                continue
            try:
                self._transact(group)
                if not running and self._hub.later:
                    self._transact([])
                self._give_up_failed()
            except Exception as error:
                self._fall_back(error, group)
        self._hub.close()
        self._refuse(self._drain())

    def _drain(self) -> list[WriterOperation]:
        group: list[WriterOperation] = []
        while True:
            try:
                found = self._queue.get_nowait()
                group += found if isinstance(found, list) else [found]
            except Empty:
                return group

    def _collect(self) -> tuple[list[WriterOperation], bool]:
        """Wait for work; return the next group, and False when the writer stops after it."""
        group: list[WriterOperation] = []
        queue = self._queue
        try:
            operation = queue.get(timeout=self._wait())
            while operation is not _STOP:
                if isinstance(operation, list):
                    group += operation
                else:
                    group.append(operation)
                if len(group) >= MAX_GROUP:
                    return group, True
                operation = queue.get_nowait()
        except Empty:
            return group, True
        return group, False

    def _wait(self) -> float | None:
        """Seconds until the next internal event is due; None when none is."""
        if self.broken is not None:
            return max(0.0, self._retry_at - time.monotonic())
        if self._hub.later or self._hub.failed or self._hub.stepped:
            return 0.0
        wait = None
        if self._next_timer is not None:
            # At most one second, to notice a change of the wall clock.
            wait = min(CHECK_SECONDS, max(0.0, (self._next_timer - self._hub.clock.wall()) / 1_000_000))
        wake = self._hub.dispatcher.next_wake()
        if wake is not None:
            wait = min(CHECK_SECONDS if wait is None else wait, max(0.0, wake - time.monotonic()))
        return wait

    def _transact(self, group: list[WriterOperation]) -> None:
        """Apply the due operations and the group. Operations that cannot be applied are given up.

        Raises: sqlite3.Error when the file is at fault.
        """
        hub = self._hub
        self.operations += len(group)
        stepped = hub.begin()
        fires = self._next_timer is not None and self._next_timer <= hub.now and not stepped
        due = self._due(fires, stepped)
        # Due operations come first: a turn of the group may end the subject of a timer.
        operations = [*due, *group]
        fault = self._applied(operations)
        if fault is not None:
            for operation in operations:
                found = fault if operation is fault.operation else self._applied([operation])
                if found is not None:
                    self._give_up(operation, found.error)
        if fires or stepped:
            self._next_timer = hub.store.next_timer()

    def _due(self, fires: bool, stepped: bool) -> list[WriterOperation]:
        """Operations that the engine itself has due."""
        hub = self._hub
        found = hub.later.take()
        if stepped:
            # In an operation of its own, before any timer fires by its old time.
            found.append(WriterOperation(OperationKind.CLOCK, hub.set_timers))
        dispatcher = hub.dispatcher
        if dispatcher.next_wake() is not None:
            dispatcher.wake(time.monotonic())
            for lease in dispatcher.expired(time.monotonic()):
                found.append(WriterOperation(OperationKind.RETURN, self._requeue, (lease,), subject=lease))
        if fires:
            for timer in hub.store.due_timers(hub.now, MAX_DUE):
                found.append(WriterOperation(OperationKind.TIMER, hub.fire, (timer,), subject=timer))
        return found

    def _applied(self, operations: list[WriterOperation]) -> _Fault | None:
        """Apply the operations in one transaction and answer them.

        Returns the fault when the transaction was rolled back. Raises: sqlite3.Error when the file is at fault.
        """
        hub = self._hub
        operation: WriterOperation | None = None
        answers: list[tuple[Reply, Any]] = []
        try:
            if len(operations) > 1:
                starts = [each.args[0] for each in operations if each.reply is not None and each.args]
                hub.note_absent([each.instanceId for each in starts if isinstance(each, pb.CreateInstanceRequest)])
            for operation in operations:
                try:
                    result = operation.run(*operation.args)
                except Rejection as rejection:
                    # The traceback of the rejection refers to this frame, which holds the requests of the whole group
                    result = rejection.with_traceback(None)
                if operation.reply is not None and result is not DEFERRED:
                    answers.append((operation.reply, result))
            if len(operations) > 1:
                operation = None
            if hub.tx.commit():
                self.commits += 1
        except Exception as error:
            if is_file_fault(error):
                raise
            hub.undo()
            return _Fault(operation, error)
        self._committed(answers)
        return None

    def _committed(self, answers: list[tuple[Reply, Any]]) -> None:
        hub = self._hub
        if released := hub.tx.take_unreferenced():
            hub.files.remove(released)
        timer = hub.tx.take_next_timer()
        if timer is not None and (self._next_timer is None or timer < self._next_timer):
            self._next_timer = timer
        if hub.settled:
            answers.extend(hub.settled.take())
        if answers:
            settle_all(answers)
        hub.committed()

    def _give_up(self, operation: WriterOperation, error: Exception) -> None:
        """Fail the operation's subject, and report the failure to its owners."""
        number = new_id()[:12]
        self.given_up[operation.kind] += 1
        logger.error(
            "An operation of the engine (%s) could not be applied and is given up (fault %s)",
            operation.kind,
            number,
            exc_info=error,
        )
        what = f"The engine could not apply this {operation.kind}; see its log for fault {number}"
        if operation.reply is not None:
            settle_all([(operation.reply, internal(what))])
        if operation.subject is None:
            return
        for alternatives in failing_steps(self._hub, operation.subject, events.failure("EngineError", what)):
            for move in alternatives:
                fault = self._applied([WriterOperation(operation.kind, move)])
                if fault is None:
                    break
                logger.error("Giving up after fault %s failed in part", number, exc_info=fault.error)

    def _not_sent(self, stream: WorkerStream, error: Exception) -> None:
        """Disconnect a worker whose stream is broken, and requeue its work."""
        self.given_up[OperationKind.WORKER] += 1
        logger.error("A worker cannot be reached and is taken to be gone", exc_info=error)
        for lease in self._hub.dispatcher.disconnect(stream):
            self._hub.later.append(WriterOperation(OperationKind.RETURN, self._requeue, (lease,), subject=lease))

    def _give_up_failed(self) -> None:
        """Give up subjects that were found to be unusable outside of a transaction."""
        while self._hub.failed:
            for operation, error in self._hub.failed.take():
                self._give_up(operation, error)

    def _fall_back(self, error: Exception, group: list[WriterOperation]) -> None:
        if is_file_fault(error):
            logger.error("The engine's file cannot be written: %s", error)
            self.broken = f"The engine's file cannot be written: {error}"
        else:
            logger.error("The engine failed and reads its file anew", exc_info=error)
            self.broken = "The engine failed; see its log"
        self._refuse(group)
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _repair(self) -> bool:
        """Recover from a fault: roll back, and read the working set again. Returns True on success."""
        if time.monotonic() < self._retry_at:
            return False
        hub = self._hub
        try:
            hub.tx.rollback()
            hub.reset()
            recover(hub)
            hub.probe()
            self._next_timer = hub.store.next_timer()
        except Exception as error:
            self.broken = f"The engine's file cannot be written: {error}"
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return False
        self.broken = None
        return True

    def _refuse(self, group: list[WriterOperation]) -> None:
        reason = self.broken or "The engine is stopping"
        answers = [(each.reply, unavailable(reason)) for each in group if each.reply is not None]
        settle_all([*answers, *((reply, unavailable(reason)) for reply, _ in self._hub.settled.take())])
