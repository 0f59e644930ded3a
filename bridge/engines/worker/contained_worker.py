"""Worker of the SDK in which user code can fail only its own instance."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Protocol

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.payload import PayloadStore
from google.protobuf.message import EncodeError

from bridge.core.errors import EngineError, EngineOutage, EngineRejected
from bridge.engines.payloads.large_payloads import RestoringConverter, WorkerPayloads
from bridge.engines.remote.remote_limits import WorkItemFlow
from bridge.engines.sdk_internals import OpenWorker, batch_of
from bridge.engines.worker.containment import (
    ContainedConverter,
    WorkerStats,
    contained_activity,
    contained_orchestrator,
    end_turn,
)
from bridge.engines.worker.failures import failure_details, shorten, type_name
from bridge.engines.worker.items import EngineGreeting, HeldItems, Item
from bridge.engines.worker.suspensions import drop_repeated_suspensions
from bridge.sqlite_engine.hub.leases import DRAINING, LEAVING
from bridge.sqlite_engine.model.payload_fields import of_actions, of_batch
from bridge.system.forks import end_child, generation

logger = logging.getLogger("bridge.engines.containment")

HOLD_SECONDS = 5.0
"""Longest time for which a stopping worker waits for running work before it ends the stream of a foreign engine.

Such an engine goes on sending work, which nobody else gets meanwhile.
"""


STORE_SECONDS = 1.0
"""Pause before a work item goes back to the engine because the store of large payloads does not answer."""

_UNSENDABLE = (EngineRejected, MemoryError, EncodeError)
"""Errors of a response that is too large for its store, for the memory of the process, or for a message."""


class Load:
    """Load of one pool of threads: start times of the items that its threads run. Thread-safe."""

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        """Start time by thread id, on the monotonic clock."""

    def begin(self) -> None:
        """Record that this thread begins an item."""
        self.began[threading.get_ident()] = time.monotonic()

    def end(self) -> None:
        self.began.pop(threading.get_ident(), None)

    def is_stuck(self, threads: int, waiting: int, after: float) -> bool:
        """True when every thread has been busy with the same item for `after` seconds, and other items wait."""
        began = list(self.began.values())
        return waiting > 0 and len(began) >= threads and time.monotonic() - max(began) >= after


class RunningWorker(Protocol):
    """Worker of one engine, in this process or in others."""

    @property
    def stats(self) -> WorkerStats: ...

    @property
    def session_count(self) -> int:
        """Number of orchestrations that stay in memory between their turns."""
        ...

    @property
    def unfinished(self) -> tuple[int, int, int]:
        """Numbers of turns, activities and entity batches that the worker has not ended.

        Where the kinds are not known, all count as activities.
        """
        ...

    def start(self) -> None: ...

    def stop(self) -> None:
        """Stop the worker. Waits for running work."""
        ...

    def stuck(self) -> list[str]:
        """Reasons why the worker cannot work; empty while it can."""
        ...


class RunningRecord(Protocol):
    """Record of the work items that threads of this process run."""

    def begin(self, token: str) -> None: ...

    def end(self) -> None: ...

    def resume(self) -> None: ...

    def drain(self) -> None: ...


class ContainedWorker(OpenWorker):
    """Worker of the SDK in which user code can fail only its own instance."""

    stuck_after: float | None = None
    """Seconds after which work that waits behind busy threads counts as stuck; None disables the check."""

    def __init__(
        self,
        *,
        running: RunningRecord | None = None,
        flow: WorkItemFlow | None = None,
        greeting: EngineGreeting | None = None,
        stats: WorkerStats | None = None,
        store: PayloadStore | None = None,
        **options: Any,
    ) -> None:
        """Create the worker. options: those of the SDK's worker.

        running: record of the running work items, in a process whose end is also the engine's end.
        flow: flow of work items from a remote engine.
        greeting: tells if the engine takes back the work of a stopping worker; None for one that does not.
        stats: counts to which this worker adds; None for counts of its own.
        store: store of large payloads; None stores none.
        """
        super().__init__(**options)
        self.running = running
        self._stats = WorkerStats() if stats is None else stats
        self.flow = flow
        self.greeting = EngineGreeting() if greeting is None else greeting
        self.payloads = WorkerPayloads(store)
        """Large payloads of this worker's work items."""
        self.replace_converter(ContainedConverter(RestoringConverter(self.converter, self.payloads)))
        self._load: Load | None = Load()
        """Load of the single pool of the SDK's worker; None where a subclass has pools of its own."""
        self._begin: Callable[[str], None] = self._begun
        """Called when a thread begins a work item. An attribute, like `_end`, for subclasses that need less."""
        self._end: Callable[[], None] = self._ended
        self.items = HeldItems()
        """Work items of the streams that this worker has; none where the engine's process passes them directly."""
        self.intercept_arrivals(self._arrived)

    @property
    def stats(self) -> WorkerStats:
        """Work of this worker since it was created."""
        return self._stats

    def add_orchestrator(self, fn: Any) -> str:
        name: str = super().add_orchestrator(contained_orchestrator(fn, self.converter))
        return name

    def add_activity(self, fn: Any) -> str:
        name: str = super().add_activity(contained_activity(fn, self.stats))
        return name

    def start(self) -> None:
        if self.running is not None:
            self.running.resume()
        self.items.open()
        super().start()  # type: ignore[no-untyped-call]  # the SDK leaves its result unannotated

    def stop(self) -> None:
        if self.running is not None:
            self.running.drain()
        self.finish_items()
        self.release_items()
        super().stop()  # type: ignore[no-untyped-call]  # as above

    def finish_items(self) -> None:
        """Begin no further work item, and wait for those that run, as long as the engine needs nothing else.

        Items that have not begun go back to an engine that takes them from an open stream.
        """
        running = self.items.close()
        if not self.greeting.takes_back:
            self.items.wait(HOLD_SECONDS)
            return
        if running is not None:
            running.give_back(LEAVING)
        self._return_waiting()
        self.items.wait(None)

    def release_items(self) -> None:
        """Return the items that have not begun, and those that arrive on the ending stream."""
        for item in self.items.release():
            item.give_back()

    def _return_waiting(self) -> None:
        for item in self.items.take_waiting() if self.greeting.takes_back else ():
            item.give_back(DRAINING)

    def _arrived(
        self,
        submit: Callable[..., None],
        give_back: Callable[[Any, Any, str], None],
        execute: Any,
        cancel: Any,
        request: Any,
        stub: Any,
        token: str,
    ) -> None:
        """Take a work item from the stream, and hold it until it has ended."""
        item = Item(lambda mark: give_back(request, stub, f"{mark}{token}"))
        items = self.items
        if isinstance(request, pb.OrchestratorRequest):
            drop_repeated_suspensions(request)

        execute = _before(lambda: items.end(item), execute)

        def run(*given: Any) -> Any:
            if items.begin(item):
                return execute(*given)
            if items.take(item):
                item.give_back()
            return None

        items.add(item)
        if items.is_closed:
            self._return_waiting()
        if self.flow is not None:
            done = self.flow.begin(request)
            submit(_before(done, run), _before(done, cancel), request, stub, token)
        else:
            submit(run, cancel, request, stub, token)

    def inspect_turn(self, request: Any, response: pb.OrchestratorResponse) -> None:
        """Inspect the response of a turn before it is sent."""

    def inspect_activity(self, response: pb.ActivityResponse) -> None:
        """Inspect the failure of an activity before it is sent."""

    @property
    def session_count(self) -> int:
        """Number of orchestrations that stay in memory between their turns."""
        return 0

    @property
    def unfinished(self) -> tuple[int, int, int]:
        return (0, self.queued_items[1] + len(self._load.began), 0) if self._load is not None else (0, 0, 0)

    def count_replay(self, request: Any) -> None:
        """Count the turn when it runs the orchestrator again from its history."""
        if request.pastEvents:
            self.stats.replay()

    def _begun(self, token: str) -> None:
        """Record that this thread begins a work item."""
        if self._load is not None:
            self._load.begin()
        if self.running is not None:
            self.running.begin(token)

    def _ended(self) -> None:
        if self.running is not None:
            self.running.end()
        if self._load is not None:
            self._load.end()

    def stuck(self) -> list[str]:
        """Reasons why pools of threads cannot work; empty while all can, and when the worker is stopped."""
        if not self.is_running:
            return []
        if self.has_lost_its_loop:
            return ["the worker's event loop has ended; restart the process"]
        if self.stuck_after is None or self._load is None:
            return []
        threads, waiting = self.queued_items
        if not self._load.is_stuck(threads, waiting, self.stuck_after):
            return []
        return [stuck_pool("work", threads, waiting, self.stuck_after)]

    def run_turn(self, request: Any, stub: Any, token: Any) -> None:
        answers = _Answers(stub, self, request)
        self._begin(token)
        self.payloads.begin()
        self.count_replay(request)
        try:
            super().run_turn(request, answers, token)
        except BaseException as error:
            response = pb.OrchestratorResponse(
                instanceId=request.instanceId, actions=[_failed(error)], completionToken=token
            )
            answers.send_failure(error, "CompleteOrchestratorTask", response, f"orchestration {request.instanceId}")
        finally:
            self._end()
            end_turn()

    def run_activity(self, request: Any, stub: Any, token: Any) -> Future[None] | None:
        answers = _Answers(stub, self, request)
        self._begin(token)
        self.payloads.begin()
        try:
            return super().run_activity(request, answers, token)
        except BaseException as error:
            instance_id = request.orchestrationInstance.instanceId
            response = pb.ActivityResponse(
                instanceId=instance_id,
                taskId=request.taskId,
                failureDetails=failure_details(error),
                completionToken=token,
            )
            answers.send_failure(error, "CompleteActivityTask", response, f"activity {request.name} of {instance_id}")
            return None
        finally:
            self._end()

    def run_entity_batch(self, request: Any, stub: Any, token: Any) -> pb.EntityBatchResult:
        """Run each operation as a batch of its own, which fails alone."""
        answers = _Answers(stub, self, request)
        self.payloads.begin()
        request, infos = batch_of(request)
        whole = pb.EntityBatchResult(completionToken=token, operationInfos=infos)
        if request.HasField("entityState"):
            whole.entityState.CopyFrom(request.entityState)
        for operation in request.operations:
            alone = pb.EntityBatchRequest(instanceId=request.instanceId, operations=[operation])
            if whole.HasField("entityState"):
                alone.entityState.CopyFrom(whole.entityState)
            began = datetime.now(UTC)
            collected = _Collected()
            self._begin(token)
            process = generation()
            try:
                super().run_entity_batch(alone, collected, token)
            except BaseException as error:
                end_child(process, error)
                _log_failure(error, f"operation of entity {request.instanceId}")
                collected = _Collected()
                failed = whole.results.add().failure
                failed.failureDetails.CopyFrom(failure_details(error))
                failed.startTimeUtc.FromDatetime(began)
                failed.endTimeUtc.FromDatetime(datetime.now(UTC))
            finally:
                end_child(process)
                self._end()
            if collected.result is not None:
                for result in collected.result.results:
                    if result.HasField("failure"):
                        shorten(result.failure.failureDetails)
                    whole.results.append(result)
                whole.actions.extend(collected.result.actions)
                whole.ClearField("entityState")
                if collected.result.HasField("entityState"):
                    whole.entityState.CopyFrom(collected.result.entityState)
        try:
            answers.CompleteEntityTask(whole)
        except Exception as error:
            (self.sdk_logger or logger).error(
                "Failed to deliver the results of entity %s: %s", request.instanceId, type_name(error)
            )
        return whole


def _before(done: Callable[[], None], handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler of a work item: call `done` when it has ended, or the activity that it has passed on."""

    def run(*given: Any) -> Any:
        pending: Any = None
        try:
            pending = handler(*given)
        finally:
            if isinstance(pending, Future):
                pending.add_done_callback(lambda _: done())
            else:
                done()
        return pending

    return run


def stuck_pool(name: str, threads: int, waiting: int, after: float) -> str:
    return f"all {threads} threads for {name} have been busy for {after:g} s or more, and {waiting} items wait"


def _failed(error: BaseException) -> pb.OrchestratorAction:
    """Action that fails an orchestration."""
    failed = pb.OrchestratorAction(id=-1)
    failed.completeOrchestration.orchestrationStatus = pb.ORCHESTRATION_STATUS_FAILED
    failed.completeOrchestration.failureDetails.CopyFrom(failure_details(error))
    return failed


def _named(error: Exception) -> Exception:
    """Error of a response that could not be sent, with a text."""
    if isinstance(error, EngineRejected):
        return error
    return MemoryError(
        f"the result does not fit into a message, or into the memory of the worker's process ({type_name(error)}); "
        "return a reference to it, or raise `worker.memory_limit`"
    )


def _log_failure(error: BaseException, what: str) -> None:
    logger.warning("%s failed: user code raised %s", what, type_name(error), extra={"action": "contained"})


class _Answers:
    """Stub that shows responses to its worker before they are sent, and records that the work item was answered."""

    _is_answered = False

    def __init__(self, stub: Any, worker: ContainedWorker, request: Any) -> None:
        self._stub = stub
        self._worker = worker
        self._request = request

    # The two methods that every work item needs are defined explicitly, which is faster.
    def CompleteOrchestratorTask(self, response: pb.OrchestratorResponse) -> Any:  # noqa: N802 -- the protocol's name
        self._is_answered = True
        self._worker.inspect_turn(self._request, response)
        try:
            self._store(of_actions(response.actions), response.instanceId)
            return self._stub.CompleteOrchestratorTask(response)
        except EngineOutage as error:
            request = pb.AbandonOrchestrationTaskRequest(completionToken=response.completionToken)
            return self._return("AbandonTaskOrchestratorWorkItem", request, error)
        except _UNSENDABLE as error:
            failed = pb.OrchestratorResponse(
                instanceId=response.instanceId,
                actions=[_failed(_named(error))],
                completionToken=response.completionToken,
            )
            return self._stub.CompleteOrchestratorTask(failed)

    def CompleteActivityTask(self, response: pb.ActivityResponse) -> Any:  # noqa: N802 -- the protocol's name
        self._is_answered = True
        try:
            self._store([("", response.result)] if response.HasField("result") else (), response.instanceId)
            if response.HasField("failureDetails"):
                self._worker.inspect_activity(response)
            return self._stub.CompleteActivityTask(response)
        except EngineOutage as error:
            request = pb.AbandonActivityTaskRequest(completionToken=response.completionToken)
            return self._return("AbandonTaskActivityWorkItem", request, error)
        except _UNSENDABLE as error:
            response.ClearField("result")
            response.failureDetails.CopyFrom(failure_details(_named(error)))
            self._worker.inspect_activity(response)
            return self._stub.CompleteActivityTask(response)

    def CompleteEntityTask(self, result: pb.EntityBatchResult) -> Any:  # noqa: N802 -- the protocol's name
        self._is_answered = True
        try:
            self._store(of_batch(result), self._request.instanceId)
            return self._stub.CompleteEntityTask(result)
        except EngineOutage as error:
            request = pb.AbandonEntityTaskRequest(completionToken=result.completionToken)
            return self._return("AbandonTaskEntityWorkItem", request, error)
        except _UNSENDABLE as error:
            return self._stub.CompleteEntityTask(self._failed_batch(result, _named(error)))

    def _failed_batch(self, result: pb.EntityBatchResult, error: Exception) -> pb.EntityBatchResult:
        """Result of a batch of which nothing counts: the state is as before, and every operation fails."""
        details, now = failure_details(error), datetime.now(UTC)
        failed = pb.EntityBatchResult(completionToken=result.completionToken, operationInfos=result.operationInfos)
        if self._request.HasField("entityState"):
            failed.entityState.CopyFrom(self._request.entityState)
        for _ in result.results:
            failure = failed.results.add().failure
            failure.failureDetails.CopyFrom(details)
            failure.startTimeUtc.FromDatetime(now)
            failure.endTimeUtc.FromDatetime(now)
        return failed

    def _store(self, fields: Iterable[tuple[str, Any]], instance_id: str) -> None:
        """Store the large payloads of a response. Raises: EngineRejected, EngineOutage."""
        payloads = self._worker.payloads
        if payloads.outage is not None:
            raise payloads.outage
        payloads.store(fields, instance_id)

    def _return(self, method: str, request: Any, error: EngineError) -> Any:
        """Give the work item back to the engine after a pause: the store of large payloads does not answer."""
        logger.warning("A work item goes back to the engine: %s", error)
        time.sleep(STORE_SECONDS)
        return getattr(self._stub, method)(request)

    def __getattr__(self, name: str) -> Any:
        self._is_answered = True
        return getattr(self._stub, name)

    def send_failure(self, error: BaseException, method: str, response: Any, what: str) -> None:
        """Send a response for an executor that raised, unless it has responded."""
        _log_failure(error, what)
        if self._is_answered:
            return
        try:
            getattr(self, method)(response)
        except Exception as refused:
            logger.error("%s: its failure could not be delivered: %s", what, type_name(refused))


class _Collected:
    """Stub that keeps the result of an entity batch."""

    result: pb.EntityBatchResult | None = None

    def CompleteEntityTask(self, result: pb.EntityBatchResult) -> None:  # noqa: N802 -- the protocol's name
        self.result = result
