"""Task hub in a file, with all threads and services that are started and stopped with it."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineUnavailable
from bridge.large_payloads.reference import Reference, is_reference
from bridge.sqlite_engine.hub.calls import Calls
from bridge.sqlite_engine.hub.completions import Completions
from bridge.sqlite_engine.hub.grouping import OperationGroup
from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.kept_spans import KeptSpans
from bridge.sqlite_engine.hub.leases import ACTIVITY, DRAINING, ENTITY, LEAVING, ORCHESTRATION, Lease, WorkerStream
from bridge.sqlite_engine.hub.payload_sweep import PayloadSweep
from bridge.sqlite_engine.hub.recovery import recover
from bridge.sqlite_engine.hub.removal import Purges, RetentionSweep
from bridge.sqlite_engine.hub.working_set import OperationKind, WriterOperation
from bridge.sqlite_engine.hub.writer import Writer
from bridge.sqlite_engine.maintenance.process_files import DatabaseLock, RunningItems, record_of
from bridge.sqlite_engine.model.payload_fields import of_call, of_completion
from bridge.sqlite_engine.model.reply import DEFERRED, Rejection, Reply, invalid_argument, precondition, unavailable
from bridge.sqlite_engine.model.values import Empty, text
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.storage.counts import count_all, is_counted
from bridge.sqlite_engine.storage.ends import KeptEnds
from bridge.sqlite_engine.storage.payloads import Payloads
from bridge.sqlite_engine.storage.query import IndexWarmup, QueryThread
from bridge.sqlite_engine.storage.schema import SPANS, check_keys, connect, prepare, record_key
from bridge.sqlite_engine.storage.store import Store
from bridge.system import private

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 300.0
"""Seconds between two searches for files of large payloads to which nothing refers."""

Put = Callable[[WriterOperation], None]
"""Function that takes an operation for the writer."""


class Database:
    """Durable task hub over one SQLite file.

    `call` takes a request of the sidecar protocol by the name of its method; `connect` adds a worker.
    """

    def __init__(self, path: Path, options: DatabaseOptions | None = None) -> None:
        self.path = path
        self.options = options or DatabaseOptions()
        self._lock = DatabaseLock(path)
        self.spans: KeptSpans | None = None
        """Spans that were not sent yet; None where traces are off."""
        self.ends: KeptEnds | None = None
        """Ends of instances that were not announced yet; None where none are."""
        self._connection: sqlite3.Connection | None = None
        self._open = False
        self.running: RunningItems | None = None
        self._groups: dict[asyncio.AbstractEventLoop, OperationGroup] = {}

    def start(self) -> None:
        """Open the file, creating it where it is missing, and continue the work that it holds.

        Raises: EngineUnavailable (locked by another process, cannot be read or written), EngineMisconfigured (newer
        version, not an engine's file, or a required key is missing).
        """
        try:
            private.directory(self.path.parent)
            self._lock.acquire()
            private.database(self.path)
            private.narrow(self.path.parent.glob(f"{self.path.name}.replaced-*"))
        except OSError as error:
            self._lock.release()
            raise EngineUnavailable(f"{self.path}: {error.strerror}") from error
        try:
            self._make_services(self._open_file())
            self._make_handlers()
            self._start_threads()
        except BaseException as error:
            if self._connection is not None:
                self._connection.close()
            self._lock.release()
            if isinstance(error, sqlite3.Error):
                raise EngineUnavailable(f"{self.path}: cannot be read: {error}") from error
            raise
        self._open = True

    def _open_file(self) -> Store:
        """Open the file, and bring it to this version."""
        options = self.options
        connection = self._connection = connect(self.path)
        check_keys(connection, self.path, options.keyring)
        prepare(connection, self.path)
        record_key(connection, self.path, options.keyring)
        if options.tracing is not None:
            connection.execute(SPANS)
        payloads = Payloads(options.keyring)
        if not is_counted(connection):
            self._count(connection, payloads)
        return Store(connection, payloads)

    def _make_services(self, store: Store) -> None:
        """Create the hub with its queued work, and what runs beside it."""
        options = self.options
        self.hub = TaskHub(store, options)
        if options.max_lost_workers:
            self.running = RunningItems(record_of(self.path), self.hub.dispatcher.leases)
        recover(self.hub)
        self._calls = Calls(self.hub)
        self._completions = Completions(self.hub, self._calls)
        self.writer = Writer(self.hub, self.path.stem, self._completions.lost)
        self.spans = None if self.hub.tracing is None else KeptSpans(self.path, self.hub, self.writer.submit)
        if self.hub.ends is not None:
            self.ends = KeptEnds(
                self.path,
                self.hub.ends,
                lambda position: self.writer.submit(self.hub.tx.delete_ends, position, kind=OperationKind.PURGE),
            )
        self._purges = Purges(self.hub, self.writer.submit)
        self._retention = RetentionSweep(options.retention, self.hub, self._purges, self.writer.submit)
        period = min(SWEEP_SECONDS, max(1.0, options.payload_age))
        self._sweep = PayloadSweep(self.hub, self.writer.submit, options.payload_age, period)
        self._reader = QueryThread(self.path, self.path.stem, store.payloads, options.rules.index)
        self._warmup = IndexWarmup(self.path, self.path.stem)

    def _make_handlers(self) -> None:
        """Map the methods of the protocol to their handlers, by the way in which they are answered."""
        self._writes: dict[str, Callable[[Any], Any]] = {
            "StartInstance": self._calls.start,
            "GetInstance": self._calls.get,
            "TerminateInstance": self._calls.terminate,
            "SuspendInstance": self._calls.suspend,
            "ResumeInstance": self._calls.resume,
            "RestartInstance": self._calls.restart,
            "RewindInstance": self._calls.rewind,
            "SignalEntity": self._calls.signal_entity,
            "GetEntity": self._calls.get_entity,
            "CleanEntityStorage": self._purges.clean_entities,
            "CreateTaskHub": self._create,
            "DeleteTaskHub": self._delete,
            "SkipGracefulOrchestrationTerminations": self._calls.skip_graceful_terminations,
        }
        self._deferrable: dict[str, Callable[[Any, Reply], Any]] = {
            "RaiseEvent": self._calls.raise_event,
            "PurgeInstances": self._purges.purge,
            "WaitForInstanceStart": lambda request, reply: self._calls.wait(request, True, reply),
            "WaitForInstanceCompletion": lambda request, reply: self._calls.wait(request, False, reply),
        }
        self._questions: dict[str, Callable[[Any], Any]] = {
            "QueryInstances": self._reader.queries.instances,
            "ListInstanceIds": self._reader.queries.ids,
            "QueryEntities": self._reader.queries.entities,
            "StreamInstanceHistory": self._reader.queries.history,
        }
        self._completed: dict[str, tuple[int, OperationKind, Callable[[Lease, Any], None]]] = {
            "CompleteOrchestratorTask": (ORCHESTRATION, OperationKind.TURN, self._completions.turn),
            "CompleteActivityTask": (ACTIVITY, OperationKind.ACTIVITY, self._completions.activity),
            "CompleteEntityTask": (ENTITY, OperationKind.BATCH, self._completions.batch),
        }
        self._immediate: dict[str, Callable[[Any], Any]] = {
            "Hello": lambda _: Empty(),
            "AbandonTaskOrchestratorWorkItem": lambda r: self._abandon(r, pb.AbandonOrchestrationTaskResponse()),
            "AbandonTaskActivityWorkItem": lambda r: self._abandon(r, pb.AbandonActivityTaskResponse()),
            "AbandonTaskEntityWorkItem": lambda r: self._abandon(r, pb.AbandonEntityTaskResponse()),
        }
        workload = self.options.rules.workload
        self._workload = None if workload is None else f"@{workload}@"

    def _start_threads(self) -> None:
        self._reader.start()
        self.writer.start()
        if self.hub.losses is not None and self.running is not None:
            # Before any worker connects
            for item in self.running.read():
                self.writer.submit(self.hub.losses.crashed, item, kind=OperationKind.RECOVERY)
        self._retention.start()
        self._sweep.start()
        self._warmup.start()

    def _count(self, connection: sqlite3.Connection, payloads: Payloads) -> None:
        """Count the instances of a new file, or of one that an earlier version wrote."""
        began = time.monotonic()
        number = count_all(connection, payloads, self.options.rules)
        if number:
            took = time.monotonic() - began
            logger.info("%s: counted %d instances of an earlier version in %.1f s", self.path, number, took)

    def stop(self, *, unlocks: bool = True) -> None:
        """Finish the accepted operations and close the file. Idempotent.

        unlocks: let other processes open the file. False: `unlock` does that.
        """
        if not self._open:
            return
        self._open = False
        self._retention.stop()
        self._sweep.stop()
        self._warmup.stop()
        for loop in list(self._groups):
            self.end_group(loop)
        self.writer.stop()
        self._reader.stop()
        for kept in (self.spans, self.ends):
            if kept is not None:
                kept.close()
        if self.running is not None:
            self.running.close()
        if self._connection is not None:
            self._connection.close()
        if unlocks:
            self.unlock()

    def unlock(self) -> None:
        """Let other processes open the stopped file. Idempotent."""
        self._lock.release()

    def call(self, method: str, request: Any, reply: Reply, peer: str = "", put: Put | None = None) -> Any:
        """Handle a request. Return its answer, or return DEFERRED and settle `reply` later from another thread.

        peer: address of the caller's connection. put: takes the operation of the request; None: the writer takes it.
        Raises: Rejection.
        """
        if not self._open:
            raise unavailable("The engine is not running")
        operation = self._writes.get(method)
        if operation is not None:
            self._check_request(method, request)
            (put or self.writer.put)(WriterOperation(OperationKind.CALL, operation, (request,), reply))
            return DEFERRED
        if method in self._completed:
            return self.complete(method, request, peer, put)
        immediate = self._immediate.get(method)
        if immediate is not None:
            return immediate(request)
        deferrable = self._deferrable.get(method)
        if deferrable is not None:
            self._check_request(method, request)
            (put or self.writer.put)(WriterOperation(OperationKind.CALL, deferrable, (request, reply), reply))
            return DEFERRED
        question = self._questions.get(method)
        if question is not None:
            if method == "QueryEntities" and request.query.instanceIdStartsWith.value == self._workload:
                (put or self.writer.put)(WriterOperation(OperationKind.CALL, self._work, (), reply))
                return DEFERRED
            self._reader.submit(question, request, reply)
            return DEFERRED
        raise invalid_argument(f"{method} is not a call of this engine")

    def forget(self, instance_id: str, reply: Reply, put: Put | None = None) -> None:
        """Remove the waiter of a caller that has gone. put: as for its call."""
        (put or self.writer.put)(WriterOperation(OperationKind.WORKER, self.hub.waiters.discard, (instance_id, reply)))

    def group(self, loop: asyncio.AbstractEventLoop) -> OperationGroup:
        """Group of the operations of one event loop. A stop of the database passes them to the writer."""
        found = self._groups.get(loop)
        if found is None:
            found = self._groups[loop] = OperationGroup(loop, self.writer.put_all)
        return found

    def end_group(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass the operations of an event loop that ends to the writer."""
        if (found := self._groups.pop(loop, None)) is not None:
            found.flush()

    def connect(self, stream: WorkerStream) -> None:
        """Start to send work to the stream. Raises: Rejection when the engine is not running."""
        if not self._open:
            raise unavailable("The engine is not running")
        self.writer.submit(self.hub.dispatcher.connect, stream, kind=OperationKind.WORKER)

    def retire(self, stream: WorkerStream) -> None:
        """Send no more work to the stream of a worker that is being stopped."""
        stream.drain()
        if self._open:
            self.writer.submit(self.hub.dispatcher.retire, stream, kind=OperationKind.WORKER)

    def disconnect(self, stream: WorkerStream) -> None:
        """Remove the stream of a worker that is gone, and requeue its work at once."""
        if self._open:
            self.writer.submit(self._disconnected, stream, kind=OperationKind.WORKER)

    def _disconnected(self, stream: WorkerStream) -> None:
        is_lost = self.hub.losses is not None and not stream.is_drained
        for lease in self.hub.dispatcher.disconnect(stream):
            has_run = stream.ran is None or lease.token in stream.ran
            operation = self._completions.died if is_lost and has_run else self._completions.lost
            # The work of a dead worker is counted also when the engine stops next.
            self.hub.later.append(WriterOperation(OperationKind.RETURN, operation, (lease,), subject=lease))

    def _submit_return(self, operation: Callable[[Lease], None], lease: Lease) -> None:
        self.writer.submit(operation, lease, kind=OperationKind.RETURN, subject=lease)

    def _create(self, request: pb.CreateTaskHubRequest) -> pb.CreateTaskHubResponse:
        """Empty the hub where the request recreates it. A hub exists as soon as it is named."""
        if request.recreateIfExists:
            self._empty()
        return pb.CreateTaskHubResponse()

    def _delete(self, request: pb.DeleteTaskHubRequest) -> pb.DeleteTaskHubResponse:
        self._empty()
        return pb.DeleteTaskHubResponse()

    def _work(self) -> pb.QueryEntitiesResponse:
        """Numbers of work items as the state of an entity: rows as of `Dispatcher.work`, in JSON."""
        state = text(json.dumps(self.hub.dispatcher.work()))
        found = pb.EntityMetadata(instanceId=f"{self._workload}all", serializedState=state)
        return pb.QueryEntitiesResponse(entities=[found])

    def _empty(self) -> None:
        if not self.options.disposable:
            raise precondition("This task hub is a daemon's own: to empty it, stop the daemon and delete its file")
        self.hub.empty()

    def _check_request(self, method: str, request: Any) -> None:
        """Refuse a request that is too large, or whose payload has no file any more. Raises: Rejection."""
        self._check_size(method, request)
        payload = of_call(request)
        if payload is not None and is_reference(payload.value):
            self._check_files([payload.value])

    def _check_files(self, texts: Iterable[str]) -> None:
        for given in texts:
            if is_reference(given):
                try:
                    name = Reference.parse(given).name
                except ValueError as error:
                    raise invalid_argument(f"A large payload: {error}") from None
                try:
                    is_there = self.hub.files.touch(name)
                except OSError as error:
                    raise unavailable(f"The file of a large payload cannot be used: {error.strerror}") from error
                if not is_there:
                    raise unavailable("The file of a large payload is gone; send the request again")

    def _check_size(self, method: str, request: Any) -> None:
        size = request.ByteSize()
        if size > self.options.max_request:
            raise invalid_argument(
                f"{method}: the request has {size} bytes; at most {self.options.max_request} are taken"
            )

    def complete(self, method: str, request: Any, peer: str = "", put: Put | None = None) -> pb.CompleteTaskResponse:
        """Take a worker's result: end its lease now, and record the result in a later transaction.

        The consequences of the result wait for the commit. put: as for `call`. Raises: Rejection.
        """
        operation = self._completion(method, request, peer)
        if operation is not None:
            (put or self.writer.put)(operation)
        return pb.CompleteTaskResponse()

    def complete_all(self, results: Iterable[tuple[str, Any]]) -> None:
        """Take results of one worker as pairs of method and request, as `complete` does, in one submission.

        A result that is refused is dropped: its work item is no longer the worker's.
        """
        operations = []
        for method, request in results:
            try:
                operation = self._completion(method, request, "")
            except Rejection:
                continue
            if operation is not None:
                operations.append(operation)
        if operations:
            self.writer.put_all(operations)

    def _completion(self, method: str, request: Any, peer: str) -> WriterOperation | None:
        """End the lease of a result. Returns the operation that records the result; None for a part of one.

        Raises: Rejection.
        """
        if not self._open:
            raise unavailable("The engine is not running")
        kind, name, operation = self._completed[method]
        leases = self.hub.dispatcher.leases
        token = request.completionToken
        if kind == ORCHESTRATION and request.isPartial:
            if not token:
                raise invalid_argument("A part of a response needs a completion token")
            held = leases.get(token)
            if held is not None and held.kind == kind:
                held.chunks.append(request)
                return None
        lease = leases.take(token) if token else self._unnamed(kind, request, peer)
        if lease is not None and token:
            lease.stream.confirm_tokens()
        if lease is None or lease.kind != kind or lease.void:
            if lease is not None and lease.kind != kind:
                leases.put_back(lease)
            elif lease is not None:
                self._submit_return(self._completions.release, lease)
            self._revoke_loss(token)
            raise precondition(
                "The work item is no longer this worker's: its completion token is unknown or was withdrawn"
            )
        if lease.chunks:
            request = _joined(lease.chunks, request)
        if (kind == ORCHESTRATION and request.requiresHistory) or (kind == ENTITY and request.requiresState):
            # The worker had expected to need less than it was given; it gets the full work item again.
            return WriterOperation(OperationKind.RETURN, self._completions.abandon, (lease,), subject=lease)
        if kind == ENTITY and request.HasField("failureDetails"):
            # The worker itself failed, not an operation: workers request another attempt in this way.
            logger.warning("A worker failed to run entity %s: %s", lease.name, request.failureDetails.errorType)
            return WriterOperation(OperationKind.RETURN, self._completions.abandon, (lease,), subject=lease)
        try:
            self._check_files(of_completion(method, request))
        except Rejection as refusal:
            logger.warning("A result of a worker is not taken: %s", refusal)
            return WriterOperation(OperationKind.RETURN, self._completions.abandon, (lease,), subject=lease)
        return WriterOperation(name, operation, (lease, request), subject=lease)

    def take_back(self, tokens: Iterable[str]) -> None:
        """Requeue work at once that a worker has not begun. The worker goes on."""
        leases = self.hub.dispatcher.leases
        taken = [lease for lease in map(leases.take, tokens) if lease is not None]
        if taken:
            lost = self._completions.lost
            self.writer.put_all(
                [WriterOperation(OperationKind.RETURN, lost, (lease,), subject=lease) for lease in taken]
            )

    def _unnamed(self, kind: int, request: Any, peer: str) -> Lease | None:
        """Find and end the lease of a response without token."""
        leases = self.hub.dispatcher.leases
        instance_id = getattr(request, "instanceId", "")
        lease = leases.find(kind, instance_id, getattr(request, "taskId", 0))
        if kind == ORCHESTRATION and self.hub.tokenless.is_late(lease, instance_id, peer):
            return None
        return None if lease is None else leases.take(lease.token)

    def _abandon(self, request: Any, response: Any) -> Any:
        if request.completionToken.startswith(DRAINING):
            token = request.completionToken.removeprefix(DRAINING)
            self.writer.submit(self._completions.drained, token, kind=OperationKind.RETURN)
            return response
        if request.completionToken.startswith(LEAVING):
            lease = self.hub.dispatcher.leases.get(request.completionToken.removeprefix(LEAVING))
            if lease is not None:
                self.retire(lease.stream)
            return response
        lease = self.hub.dispatcher.leases.take(request.completionToken)
        if lease is not None:
            lease.stream.confirm_tokens()
            self._submit_return(self._completions.abandon, lease)
        else:
            self._revoke_loss(request.completionToken)
        return response

    def _revoke_loss(self, token: str) -> None:
        """Revoke the loss of a worker that answers or returns work late: only its connection was lost."""
        # The writer decides whether the worker was taken for lost, because it may be about to.
        if self.hub.losses is not None and token:
            self.writer.submit(self.hub.losses.answered, token, kind=OperationKind.WORKER)


def _joined(chunks: list[pb.OrchestratorResponse], last: pb.OrchestratorResponse) -> pb.OrchestratorResponse:
    """Join one response from its parts."""
    whole = pb.OrchestratorResponse()
    whole.CopyFrom(last)
    del whole.actions[:]
    # A part that was sent twice, because its answer was lost, counts once.
    parts = {part.chunkIndex.value if part.HasField("chunkIndex") else at: part for at, part in enumerate(chunks)}
    for _, part in sorted(parts.items()):
        whole.actions.extend(part.actions)
        if part.HasField("orchestrationTraceContext"):
            whole.orchestrationTraceContext.CopyFrom(part.orchestrationTraceContext)
    whole.actions.extend(last.actions)
    return whole
