"""Worker of the daemon: the engine passes work directly to the SDK's executors, on thread pools of its own.

The SDK's worker reads a stream in one thread, passes each item through an event loop, and runs orchestrators and
activities in one pool. This detour costs more than the work itself, and a few blocked activities stop every
orchestrator. Here turns, activities and entities have separate pools, and turns share the engine's history instead of a
copy. The functions that the SDK's worker calls for its work items run them, as in the SDK's Functions host.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from queue import SimpleQueue
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.user_code.kinds import Kind
from bridge.engines.embedded.session import SessionWorker
from bridge.engines.worker.contained_worker import Load, stuck_pool
from bridge.engines.worker.failures import presentable, type_name
from bridge.engines.worker.setup import MonitoredWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.leases import ACTIVITY, ENTITY, ORCHESTRATION, Stream
from bridge.sqlite_engine.hub.work_items import ActivityItem, TurnRequest
from bridge.sqlite_engine.model.reply import ThreadReply

logger = logging.getLogger(__name__)

_Job = tuple[Callable[[Any, Any, Any], Any], Any, str]
_NO_REPLY = ThreadReply()
_KINDS = {ORCHESTRATION: Kind.ORCHESTRATOR, ACTIVITY: Kind.ACTIVITY, ENTITY: Kind.ENTITY}


class Pool:
    """Threads that run jobs in order of arrival. A thread that ends unexpectedly is replaced."""

    def __init__(self, name: str, threads: int, stub: DirectStub) -> None:
        self.name = name
        self._size = threads
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._stub = stub
        self._load = Load()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._is_stopping = False

    def start(self) -> None:
        """Start the missing threads, as far as the system allows."""
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            while len(self._threads) < self._size and not self._is_stopping:
                thread = threading.Thread(target=self._run, name=f"{self.name}-{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)

    def submit(self, job: _Job) -> None:
        self._queue.put(job)

    def stop(self) -> None:
        """Drop the jobs that have not begun, and wait for the others."""
        with self._lock:
            self._is_stopping = True
            threads = list(self._threads)
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join()

    def stuck(self, after: float | None) -> str | None:
        """Reason why the pool cannot work; None while it can."""
        alive = sum(thread.is_alive() for thread in self._threads)
        waiting = self._queue.qsize()
        if alive < self._size and not self._is_stopping:
            try:
                self.start()
            except RuntimeError as error:
                if not alive:
                    return f"no thread for {self.name} can be started: {error}"
        if after is None or not self._load.is_stuck(self._size, waiting, after):
            return None
        return stuck_pool(self.name, self._size, waiting, after)

    def _run(self) -> None:
        jobs = iter(self._queue.get, None)
        run, busy, thread = self._stub.run, self._load.began, threading.get_ident()
        jobs_taken: list[_Job] = []
        try:
            while True:
                jobs_taken.extend(islice(jobs, 1))  # a single step: no exception from outside can interrupt it
                if not jobs_taken:
                    return
                execute, request, token = jobs_taken[0]
                # The counterpart of `Load.begin` and `end`.
                busy[thread] = time.monotonic()
                try:
                    run(execute, request, token)
                finally:
                    busy.pop(thread, None)
                jobs_taken.clear()
        except BaseException as error:
            # Jobs raise nothing: the exception was raised in this thread from outside.
            logger.error("A thread for %s ended: %s; it is replaced", self.name, type_name(error))
            self._replace(threading.current_thread())
            for _, _, token in jobs_taken:
                self._stub.on_error(token, error)

    def _replace(self, ended: threading.Thread) -> None:
        with self._lock:
            self._threads.remove(ended)
        with suppress(RuntimeError):  # no more threads: the next call of `stuck` tries again
            self.start()


class DirectStub:
    """Stub for the SDK's executors, without a channel."""

    def __init__(self, database: Database, on_error: Callable[[str, BaseException], None]) -> None:
        self._database = database
        self.on_error = on_error
        self._is_open = True

    def close(self) -> None:
        """Run no further work. Work that has not begun is returned with the stream."""
        self._is_open = False

    def run(self, execute: Callable[[Any, Any, Any], Any], request: Any, token: str) -> None:
        if not self._is_open:
            return
        try:
            execute(request, self, token)
        except Exception as error:
            self.on_error(token, error)

    def _call(self, method: str, request: Any) -> Any:
        # Completions and abandons are answered at once; no reply is ever awaited.
        return self._database.call(method, request, _NO_REPLY)

    def CompleteOrchestratorTask(self, response: pb.OrchestratorResponse) -> Any:  # noqa: N802 -- the protocol's name
        return self._database.complete("CompleteOrchestratorTask", response)

    def CompleteActivityTask(self, response: pb.ActivityResponse) -> Any:  # noqa: N802 -- the protocol's name
        return self._database.complete("CompleteActivityTask", response)

    def CompleteEntityTask(self, result: pb.EntityBatchResult) -> Any:  # noqa: N802 -- the protocol's name
        return self._database.complete("CompleteEntityTask", result)

    def AbandonTaskOrchestratorWorkItem(self, request: Any) -> Any:  # noqa: N802 -- the protocol's name
        return self._call("AbandonTaskOrchestratorWorkItem", request)

    def AbandonTaskActivityWorkItem(self, request: Any) -> Any:  # noqa: N802 -- the protocol's name
        return self._call("AbandonTaskActivityWorkItem", request)

    def AbandonTaskEntityWorkItem(self, request: Any) -> Any:  # noqa: N802 -- the protocol's name
        return self._call("AbandonTaskEntityWorkItem", request)


class DirectWorker(MonitoredWorker, SessionWorker):
    """Worker in the engine's process.

    Only the arrival of work and the sessions between turns differ from the SDK's worker.

    turn_threads, activity_threads, entity_threads: sizes of the pools. Two threads suffice for turns, which only
    compute. The number of activity threads limits how many activities run at once, because activities wait.
    """

    def __init__(
        self,
        database: Database,
        *,
        turn_threads: int = 2,
        activity_threads: int = 16,
        entity_threads: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(host_address="in-process", **options)
        self._database = database
        self.running = database.running
        # The pools measure their own load.
        self._load = None
        if self.running is not None:
            self._begin, self._end = self.running.begin, self.running.end
        self._sizes = (turn_threads, activity_threads, entity_threads)
        self._runs = False
        self._run_turn, self._run_activity, self._run_entity_batch = self.handlers
        self._stub: DirectStub | None = None
        self._stream: Stream | None = None
        self._pools: list[Pool] = []

    def start(self) -> None:
        """Connect to the engine.

        Raises: RuntimeError when the worker already runs; Rejection when the engine does not run.
        """
        if self._runs:
            raise RuntimeError("The worker is already running.")
        stub = DirectStub(self._database, self._failed)
        names = ("turns", "activities", "entities")
        self._stub = stub
        self._pools = [Pool(name, size, stub) for name, size in zip(names, self._sizes, strict=True)]
        for pool in self._pools:
            pool.start()
        limits = self.limits
        request = pb.GetWorkItemsRequest(
            maxConcurrentOrchestrationWorkItems=limits.maximum_concurrent_orchestration_work_items,
            maxConcurrentActivityWorkItems=limits.maximum_concurrent_activity_work_items,
            maxConcurrentEntityWorkItems=limits.maximum_concurrent_entity_work_items,
        )
        if (filters := self.filters) is not None:
            request.workItemFilters.CopyFrom(filters)
        # The SDK restores externalised payloads in the events in place. A worker with a payload store therefore needs
        # copies.
        self._stream = Stream(
            request,
            self._take,
            shares=not self.stores_payloads,
            knows=functools.lru_cache(4096)(self._knows) if self.known is not None else None,
            process=self._database,  # all streams of this process end with it
            sessions=None if self.known is not None and self.known.publishers else self.sessions.limits,
        )
        if self.running is not None:
            self.running.resume()
        self._database.connect(self._stream)
        self._runs = True
        self.set_running(True)

    @property
    def session_count(self) -> int:
        return len(self.sessions)

    def count_replay(self, request: Any) -> None:
        """Count nothing here: only the sessions know whether a turn replays."""

    def count_session_replay(self) -> None:
        self.stats.replay()

    def stuck(self) -> list[str]:
        if not self._runs:
            return []
        return [reason for pool in self._pools if (reason := pool.stuck(self.stuck_after)) is not None]

    def _knows(self, kind: int, name: str) -> bool:
        return self.known is None or self.known.knows(_KINDS[kind], name)

    def stop(self) -> None:
        """Return the work that has not begun, and wait for the rest. Idempotent."""
        if not self._runs:
            return
        self._runs = False
        self.set_running(False)
        if self._stub is not None:
            self._stub.close()
        if self.running is not None:
            self.running.drain()
        for pool in self._pools:
            pool.stop()
        if self._stream is not None:
            self._stream.drain()
            self._database.disconnect(self._stream)
        self.sessions.clear()

    def _take(self, item: TurnRequest | ActivityItem | pb.WorkItem) -> None:
        token = item.completionToken
        if isinstance(item, TurnRequest):
            self._pools[0].submit((self._run_turn, item, token))
            return
        if isinstance(item, ActivityItem):
            self._pools[1].submit((self._run_activity, item.activityRequest, token))
            return
        kind = item.WhichOneof("request")
        if kind == "activityRequest":
            self._pools[1].submit((self._run_activity, item.activityRequest, token))
        elif kind == "orchestratorRequest":
            self._pools[0].submit((self._run_turn, item.orchestratorRequest, token))
        elif kind == "entityRequestV2":
            self._pools[2].submit((self._run_entity_batch, item.entityRequestV2, token))

    def _failed(self, token: str, error: BaseException) -> None:
        """Return work whose executor raised unexpectedly; otherwise it would hang until the worker stops."""
        (self.sdk_logger or logger).error("A work item failed outside user code", exc_info=presentable(error))
        self._database.call(
            "AbandonTaskActivityWorkItem", pb.AbandonActivityTaskRequest(completionToken=token), _NO_REPLY
        )
