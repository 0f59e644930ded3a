"""Pools of threads that run work items with the SDK's executors: turns, activities and entities have one each."""

from __future__ import annotations

import functools
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.session import SessionWorker
from bridge.engines.worker.async_activities import Steps
from bridge.engines.worker.contained_worker import Load, stuck_pool
from bridge.engines.worker.failures import presentable, type_name
from bridge.engines.worker.setup import MonitoredWorker
from bridge.sqlite_engine.hub.work_items import ActivityItem, TurnRequest

logger = logging.getLogger("bridge.engines.embedded.worker")

Job = tuple[Callable[[Any, Any, Any], Any], Any, str]
"""Handler, request and token of a work item."""


class PoolStub(ABC):
    """Stub for the SDK's executors, without a channel.

    on_error: called with the token and the error of a work item whose executor raised.
    """

    def __init__(self, on_error: Callable[[str, BaseException], None]) -> None:
        self.on_error = on_error
        self.is_open = True

    def close(self) -> None:
        """Begin no further work item. Each one that has not begun goes back to the engine."""
        self.is_open = False

    @abstractmethod
    def give_back(self, token: str) -> None:
        """Return a work item that has not begun, from any thread. Its stream gets no more work. Raises nothing."""

    def run(self, execute: Callable[[Any, Any, Any], Any], request: Any, token: str) -> None:
        """Run a work item. A closed stub returns it."""
        if not self.is_open:
            self.give_back(token)
            return
        try:
            execute(request, self, token)
        except Exception as error:
            self.on_error(token, error)


class Pool:
    """Threads that run jobs in order of arrival. A thread that ends unexpectedly is replaced.

    A new job wakes a thread only when no other one is about to wake: a running thread takes several short jobs in a
    row, which costs less than a change of threads for each. A thread that takes a job while others wait wakes the next.
    """

    def __init__(self, name: str, threads: int, stub: PoolStub) -> None:
        self.name = name
        self._size = threads
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._calls: SimpleQueue[bool] = SimpleQueue()
        """Calls that wake one thread each: True to run jobs, False to end."""
        self._is_called = False
        """True while a call has not woken a thread."""
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

    def submit(self, job: Job) -> None:
        self._jobs.put(job)
        if not self._is_called:
            self._call()
        # After `put`: of this call and `return_waiting`, the later one finds the job
        if not self._stub.is_open:
            self.return_waiting()

    def _call(self) -> None:
        self._is_called = True
        self._calls.put(True)

    @property
    def unfinished(self) -> int:
        """Number of jobs that wait or run."""
        return self._jobs.qsize() + len(self._load.began)

    def take_waiting(self) -> Iterator[str]:
        """Remove the jobs that have not begun, and yield their tokens."""
        with suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    yield job[2]

    def return_waiting(self) -> None:
        """Return the jobs that have not begun to the engine."""
        for token in self.take_waiting():
            self._stub.give_back(token)

    def stop(self) -> None:
        """Pass the jobs that have not begun to the closed stub, and wait for the others."""
        with self._lock:
            self._is_stopping = True
            threads = list(self._threads)
        for _ in threads:
            self._calls.put(False)
        for thread in threads:
            thread.join()

    def stuck(self, after: float | None) -> str | None:
        """Reason why the pool cannot work; None while it can."""
        alive = sum(thread.is_alive() for thread in self._threads)
        waiting = self._jobs.qsize()
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
        jobs = iter(self._jobs.get_nowait, None)
        waiting, run = self._jobs.qsize, self._stub.run
        busy, thread = self._load.began, threading.get_ident()
        jobs_taken: list[Job] = []
        goes_on = True
        try:
            # A thread that replaces another one begins without a call, which the other may have taken
            while True:
                try:
                    jobs_taken.extend(islice(jobs, 1))  # a single step: no exception from outside can interrupt it
                except Empty:
                    if not goes_on:
                        return
                    goes_on = self._calls.get()
                    if goes_on:
                        # Before the jobs are looked at: a later job calls again
                        self._is_called = False
                    continue
                if not self._is_called and waiting():
                    self._call()
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
            self._is_called = False
            self._replace(threading.current_thread())
            for _, _, token in jobs_taken:
                self._stub.on_error(token, error)

    def _replace(self, ended: threading.Thread) -> None:
        with self._lock:
            self._threads.remove(ended)
        with suppress(RuntimeError):  # no more threads: the next call of `stuck` tries again
            self.start()


class PooledWorker(MonitoredWorker, SessionWorker):
    """Worker of the SDK whose work items arrive by `take`, and run in pools of threads.

    turn_threads, activity_threads, entity_threads: sizes of the pools. Two threads suffice for turns, which only
    compute. The number of activity threads limits how many activities run at once, because activities wait.
    """

    def __init__(
        self, *, turn_threads: int = 2, activity_threads: int = 16, entity_threads: int = 2, **options: Any
    ) -> None:
        super().__init__(host_address="in-process", **options)
        # The pools measure their own load.
        self._load = None
        self._sizes = (turn_threads, activity_threads, entity_threads)
        self._run_turn, self._run_activity, self._run_entity_batch = self.handlers
        self._runs = False
        self._pools: list[Pool] = []
        self._stub: PoolStub | None = None

    def start_pools(self, stub: PoolStub) -> None:
        """Start the threads. stub: receives the results. Raises: RuntimeError when the worker already runs."""
        if self._runs:
            raise RuntimeError("The worker is already running.")
        names = ("turns", "activities", "entities")
        self._stub = stub
        self._pools = [Pool(name, size, stub) for name, size in zip(names, self._sizes, strict=True)]
        for pool in self._pools:
            pool.start()

    def mark_running(self) -> None:
        """Record that work items arrive from now on."""
        self._runs = True
        self.set_running(True)

    def stop_pools(self) -> None:
        """Return the work that has not begun, also what arrives from now on, and wait for the rest."""
        self._runs = False
        self.set_running(False)
        if self.running is not None:
            self.running.drain()
        if self._stub is not None:
            self._stub.close()
            if not self._stub.is_open:
                for pool in self._pools:
                    pool.return_waiting()
        for pool in self._pools:
            pool.stop()
        self.deferred.wait()

    def take_unbegun_activities(self) -> list[str]:
        """Remove the activities that have not begun. Returns their tokens."""
        return list(self._pools[1].take_waiting()) if self._pools else []

    @property
    def answers_block(self) -> bool:
        return self.payloads.are_stored

    def steps(self, token: Any) -> Steps:
        return Steps(functools.partial(self._begin, token), self._end)

    @property
    def session_count(self) -> int:
        return len(self.sessions)

    @property
    def unfinished(self) -> tuple[int, int, int]:
        if not self._pools:
            return (0, 0, 0)
        turns, activities, entities = self._pools
        return (turns.unfinished, activities.unfinished, entities.unfinished)

    def count_replay(self, request: Any) -> None:
        """Count nothing here: only the sessions know whether a turn replays."""

    def count_session_replay(self) -> None:
        self.stats.replay()

    def stuck(self) -> list[str]:
        if not self._runs:
            return []
        return [reason for pool in self._pools if (reason := pool.stuck(self.stuck_after)) is not None]

    def take(self, item: TurnRequest | ActivityItem | pb.WorkItem) -> None:
        """Queue a work item."""
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

    def submit(
        self, pool: int, execute: Callable[[Any, Any, Any], Any], cancel: object, request: Any, stub: object, token: str
    ) -> None:
        """Queue a work item in a pool, in the form in which the SDK's worker queues one."""
        self._pools[pool].submit((execute, request, token))

    def work_request(self) -> pb.GetWorkItemsRequest:
        """Request for the work that this worker takes."""
        limits = self.limits
        request = pb.GetWorkItemsRequest(
            maxConcurrentOrchestrationWorkItems=limits.maximum_concurrent_orchestration_work_items,
            maxConcurrentActivityWorkItems=limits.maximum_concurrent_activity_work_items,
            maxConcurrentEntityWorkItems=limits.maximum_concurrent_entity_work_items,
            capabilities=self.capabilities,
        )
        if (filters := self.filters) is not None:
            request.workItemFilters.CopyFrom(filters)
        return request

    def report_failure(self, error: BaseException) -> None:
        """Log a work item whose executor raised outside of user code."""
        (self.sdk_logger or logger).error("A work item failed outside user code", exc_info=presentable(error))
