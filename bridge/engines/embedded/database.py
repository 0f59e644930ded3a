"""A task hub in a file: everything that serves it, started and stopped together."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge import private
from bridge.clock import SYSTEM, Clock
from bridge.encryption import Keyring
from bridge.engines.embedded.bounds import SCHEDULERS
from bridge.engines.embedded.calls import DEFERRED, Calls
from bridge.engines.embedded.completions import Completions
from bridge.engines.embedded.dispatch import ACTIVITY, DRAINING, ENTITY, ORCHESTRATION, Lease, Stream
from bridge.engines.embedded.hub import TaskHub
from bridge.engines.embedded.index_warmup import IndexWarmup
from bridge.engines.embedded.lock import FileLock
from bridge.engines.embedded.losses import Losses
from bridge.engines.embedded.operation import Kind, Operation
from bridge.engines.embedded.payloads import Payloads
from bridge.engines.embedded.purge import Purges
from bridge.engines.embedded.reader import Reader
from bridge.engines.embedded.recovery import recover
from bridge.engines.embedded.rejection import invalid_argument, precondition, unavailable
from bridge.engines.embedded.reply import Reply
from bridge.engines.embedded.retention import Retention, RetentionPolicy
from bridge.engines.embedded.running import RunningItems, record_of
from bridge.engines.embedded.schema import check_keys, connect, prepare, record_key
from bridge.engines.embedded.store import Store
from bridge.engines.embedded.unread import UnreadLimits
from bridge.engines.embedded.wire import Empty
from bridge.engines.embedded.writer import Writer
from bridge.errors import EngineUnavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """Limits of a hub. Sizes are in bytes."""

    max_cached_instances: int = 10_000
    max_cached_bytes: int = 32 * 1024 * 1024
    max_message: int = 4 * 1024 * 1024
    """Largest message that a remote worker takes; an instance that needs a larger one fails."""
    max_request: int = 64 * 1024 * 1024
    """Largest request that is taken from a client or worker."""
    certain_raise: bool = True
    """Whether raising an event waits for a turn in flight, to know for certain that the event is taken."""
    lease_seconds: float | None = None
    """Time a worker has for one work item, after which another gets it. None, since workers cannot ask for more."""
    disposable: bool = False
    """Whether clients may empty the hub, by the calls that delete it or create it anew."""
    strict: bool = False
    """Whether the scheduler's limits hold."""
    clock: Clock = SYSTEM
    unread_events: int = 10_000
    """Events that one instance may have unread; more are refused."""
    unread_bytes: int = 16 * 1024 * 1024
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    max_lost_workers: int = 5
    """Worker processes that may die while they run one work item and nothing else; 0: any number."""
    keyring: Keyring | None = None
    """Keys of the payloads in the file; None: they are not encrypted."""
    lost_rest: float = 1.0
    """First rest of work that was lost twice, in seconds; it doubles each time."""


class Database:
    """A durable task hub over one SQLite file.

    `call` takes a request of the sidecar protocol by the name of its method; `connect` adds a worker.
    """

    def __init__(self, path: Path, options: DatabaseOptions | None = None) -> None:
        self.path = path
        self.options = options or DatabaseOptions()
        self._lock = FileLock(path)
        self._connection: sqlite3.Connection | None = None
        self._open = False
        self.running: RunningItems | None = None

    def start(self) -> None:
        """Open the file, creating it where it is missing, and go on with what it holds.

        Raises: EngineUnavailable (locked by another process, cannot be read or written), EngineMisconfigured
        (newer, not an engine's file, or a key is missing that it needs).
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
            self._build()
        except BaseException as error:
            if self._connection is not None:
                self._connection.close()
            self._lock.release()
            if isinstance(error, sqlite3.Error):
                raise EngineUnavailable(f"{self.path}: cannot be read: {error}") from error
            raise
        self._open = True

    def _build(self) -> None:
        options = self.options
        connection = self._connection = connect(self.path)
        check_keys(connection, self.path, options.keyring)
        prepare(connection, self.path)
        record_key(connection, self.path, options.keyring)
        payloads = Payloads(options.keyring)
        self.hub = TaskHub(
            Store(connection, payloads),
            max_cached_instances=options.max_cached_instances,
            max_cached_bytes=options.max_cached_bytes,
            max_message=options.max_message,
            lease_seconds=options.lease_seconds,
            limits=SCHEDULERS if options.strict else None,
            clock=options.clock,
            unread=UnreadLimits(options.unread_events, options.unread_bytes, options.max_message),
        )
        if options.max_lost_workers:
            self.hub.losses = Losses(self.hub, options.max_lost_workers, options.lost_rest)
            self.running = RunningItems(record_of(self.path), self.hub.dispatcher.leases)
        recover(self.hub)
        self._calls = Calls(self.hub, certain_raise=options.certain_raise)
        self._completions = Completions(self.hub, self._calls)
        self.writer = Writer(self.hub, self.path.stem, self._completions.lost)
        self._purges = Purges(self.hub, self.writer.submit)
        self._retention = Retention(options.retention, self.hub, self._purges, self.writer.submit)
        self._reader = Reader(self.path, self.path.stem, payloads)
        self._warmup = IndexWarmup(self.path, self.path.stem)
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
        self._completed: dict[str, tuple[int, Kind, Callable[[Lease, Any], None]]] = {
            "CompleteOrchestratorTask": (ORCHESTRATION, Kind.TURN, self._completions.turn),
            "CompleteActivityTask": (ACTIVITY, Kind.ACTIVITY, self._completions.activity),
            "CompleteEntityTask": (ENTITY, Kind.BATCH, self._completions.batch),
        }
        self._immediate: dict[str, Callable[[Any], Any]] = {
            "Hello": lambda _: Empty(),
            "AbandonTaskOrchestratorWorkItem": lambda r: self._abandon(r, pb.AbandonOrchestrationTaskResponse()),
            "AbandonTaskActivityWorkItem": lambda r: self._abandon(r, pb.AbandonActivityTaskResponse()),
            "AbandonTaskEntityWorkItem": lambda r: self._abandon(r, pb.AbandonEntityTaskResponse()),
        }
        self._reader.start()
        self.writer.start()
        if self.hub.losses is not None and self.running is not None:
            # Before any worker is connected
            for item in self.running.read():
                self.writer.submit(self.hub.losses.crashed, item, kind=Kind.RECOVERY)
        self._retention.start()
        self._warmup.start()

    def stop(self) -> None:
        """Finish what was accepted and close the file. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._retention.stop()
        self._warmup.stop()
        self.writer.stop()
        self._reader.stop()
        if self.running is not None:
            self.running.close()
        if self._connection is not None:
            self._connection.close()
        self._lock.release()

    def call(self, method: str, request: Any, reply: Reply) -> Any:
        """Take a request. Answers at once, or returns DEFERRED and settles `reply` later, from another thread.

        Raises: Rejection.
        """
        if not self._open:
            raise unavailable("The engine is not running")
        operation = self._writes.get(method)
        if operation is not None:
            self._check_size(method, request)
            self.writer.submit(operation, request, reply=reply)
            return DEFERRED
        if method in self._completed:
            return self.complete(method, request)
        immediate = self._immediate.get(method)
        if immediate is not None:
            return immediate(request)
        deferrable = self._deferrable.get(method)
        if deferrable is not None:
            self._check_size(method, request)
            self.writer.submit(deferrable, request, reply, reply=reply)
            return DEFERRED
        question = self._questions.get(method)
        if question is not None:
            self._reader.submit(question, request, reply)
            return DEFERRED
        raise invalid_argument(f"{method} is not a call of this engine")

    def forget(self, instance_id: str, reply: Reply) -> None:
        """The caller of a wait has gone."""
        self.writer.submit(self.hub.waiters.discard, instance_id, reply, kind=Kind.WORKER)

    def connect(self, stream: Stream) -> None:
        """From now on the stream gets work. Raises: Rejection when the engine is not running."""
        if not self._open:
            raise unavailable("The engine is not running")
        self.writer.submit(self.hub.dispatcher.connect, stream, kind=Kind.WORKER)

    def disconnect(self, stream: Stream) -> None:
        """The worker is gone; what it held goes to others at once."""
        if self._open:
            self.writer.submit(self._disconnected, stream, kind=Kind.WORKER)

    def _disconnected(self, stream: Stream) -> None:
        is_lost = self.hub.losses is not None and not stream.is_drained
        operation = self._completions.died if is_lost else self._completions.lost
        for lease in self.hub.dispatcher.disconnect(stream):
            # Also when the engine stops next: what a worker ran as it died is counted.
            self.hub.later.append(Operation(Kind.RETURN, operation, (lease,), subject=lease))

    def _give_back(self, operation: Callable[[Lease], None], lease: Lease) -> None:
        self.writer.submit(operation, lease, kind=Kind.RETURN, subject=lease)

    def _create(self, request: pb.CreateTaskHubRequest) -> pb.CreateTaskHubResponse:
        """A hub is there as soon as it is named, so that only creating it anew does something."""
        if request.recreateIfExists:
            self._empty()
        return pb.CreateTaskHubResponse()

    def _delete(self, request: pb.DeleteTaskHubRequest) -> pb.DeleteTaskHubResponse:
        self._empty()
        return pb.DeleteTaskHubResponse()

    def _empty(self) -> None:
        if not self.options.disposable:
            raise precondition("This task hub is a daemon's own: to empty it, stop the daemon and delete its file")
        self.hub.empty()

    def _check_size(self, method: str, request: Any) -> None:
        size = request.ByteSize()
        if size > self.options.max_request:
            raise invalid_argument(
                f"{method}: the request has {size} bytes; at most {self.options.max_request} are taken"
            )

    def complete(self, method: str, request: Any) -> pb.CompleteTaskResponse:
        """Take a worker's answer: end its lease now, record the result in a coming transaction.

        What it leads to waits for the commit. Raises: Rejection.
        """
        if not self._open:
            raise unavailable("The engine is not running")
        kind, name, operation = self._completed[method]
        leases = self.hub.dispatcher.leases
        token = request.completionToken
        if kind == ORCHESTRATION and request.isPartial:
            held = leases.get(token)
            if held is not None and held.kind == kind:
                held.chunks.append(request)
                return pb.CompleteTaskResponse()
        if token:
            lease = leases.take(token)
        else:
            lease = leases.find(kind, getattr(request, "instanceId", ""), getattr(request, "taskId", 0))
        if lease is None or lease.kind != kind or lease.void:
            if lease is not None and lease.kind != kind:
                leases.put_back(lease)
            elif lease is not None:
                self._give_back(self._completions.release, lease)
            self._forgive(token)
            raise precondition(
                "The work item is no longer this worker's: its completion token is unknown or was withdrawn"
            )
        if lease.chunks:
            request = _joined(lease.chunks, request)
        if (kind == ORCHESTRATION and request.requiresHistory) or (kind == ENTITY and request.requiresState):
            # It had expected to need less than it was given; it gets all of it again.
            self._give_back(self._completions.abandon, lease)
        elif kind == ENTITY and request.HasField("failureDetails"):
            # The worker, not an operation, has failed: so workers ask for another try, later or elsewhere.
            logger.warning("A worker failed to run entity %s: %s", lease.name, request.failureDetails.errorType)
            self._give_back(self._completions.abandon, lease)
        else:
            self.writer.submit(operation, lease, request, kind=name, subject=lease)
        return pb.CompleteTaskResponse()

    def _abandon(self, request: Any, response: Any) -> Any:
        if request.completionToken.startswith(DRAINING):
            token = request.completionToken.removeprefix(DRAINING)
            self.writer.submit(self._completions.drained, token, kind=Kind.RETURN)
            return response
        lease = self.hub.dispatcher.leases.take(request.completionToken)
        if lease is not None:
            self._give_back(self._completions.abandon, lease)
        else:
            self._forgive(request.completionToken)
        return response

    def _forgive(self, token: str) -> None:
        """A worker that answers late, or gives work back late, is not lost, only its connection was."""
        # The writer looks whether it was taken for lost: it may be about to.
        if self.hub.losses is not None and token:
            self.writer.submit(self.hub.losses.answered, token, kind=Kind.WORKER)


def _joined(chunks: list[pb.OrchestratorResponse], last: pb.OrchestratorResponse) -> pb.OrchestratorResponse:
    """One answer from its parts."""
    whole = pb.OrchestratorResponse()
    whole.CopyFrom(last)
    del whole.actions[:]
    # A part that was sent again, as its answer got lost, counts once.
    parts = {part.chunkIndex.value if part.HasField("chunkIndex") else at: part for at, part in enumerate(chunks)}
    for _, part in sorted(parts.items()):
        whole.actions.extend(part.actions)
        if part.HasField("orchestrationTraceContext"):
            whole.orchestrationTraceContext.CopyFrom(part.orchestrationTraceContext)
    whole.actions.extend(last.actions)
    return whole
