"""Worker of a remote engine: the SDK's protocol and executors, with a loop of its own.

One thread reads the stream of work items. Turns, activities and entities run in separate pools, and results are sent
without waiting for their answers. Orchestrations stay in memory between their turns, although each turn brings its
whole history: a turn whose history continues where the last one ended runs the new events only.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf import empty_pb2

from bridge.engines.embedded.pools import PooledWorker
from bridge.engines.embedded.remote.completions import RemoteStub
from bridge.engines.errors import details_of, status_of
from bridge.engines.worker.suspensions import drop_repeated_suspensions
from bridge.sqlite_engine.hub.work_items import TurnRequest, TurnResponse
from bridge.system.otel_context import records_spans

logger = logging.getLogger("bridge.engines.embedded.worker")

HELLO_SECONDS = 30.0
"""Deadline of the call that tests a connection before the stream is opened."""

SILENCE_SECONDS = 120.0
"""Seconds without a message after which the stream counts as broken: engines send a health ping every 30 seconds."""

BACKOFF_SECONDS = 1.0
"""Upper bound of the random pause before the first new attempt to connect. It doubles with each attempt."""

Abandon = Callable[[Any, Any, str], None]


class RemoteTurn(TurnRequest):
    """Turn of a remote engine: its events are messages of their own, so a history is compared by value."""

    __slots__ = ()

    def continues(self, begin: int, turn: Any) -> bool:
        end = begin + len(turn)
        # The first event of a turn has its time, which no other turn of the instance has
        return len(self.pastEvents) >= end and all(self.pastEvents[begin + at] == turn[at] for at in range(len(turn)))

    def ByteSize(self) -> int:  # noqa: N802 -- as a protobuf message has it
        return self.historyBytes


def _abandon_turn(request: Any, stub: Any, token: str) -> None:
    stub.AbandonTaskOrchestratorWorkItem(pb.AbandonOrchestrationTaskRequest(completionToken=token))


def _abandon_activity(request: Any, stub: Any, token: str) -> None:
    stub.AbandonTaskActivityWorkItem(pb.AbandonActivityTaskRequest(completionToken=token))


def _abandon_batch(request: Any, stub: Any, token: str) -> None:
    stub.AbandonTaskEntityWorkItem(pb.AbandonEntityTaskRequest(completionToken=token))


class _Stream:
    """One stream of work items. Its end makes the items stale that have not begun."""

    is_open = True

    def __init__(self, call: Any) -> None:
        self.call = call
        self.last_message = time.monotonic()


class RemoteWorker(PooledWorker):
    """Worker of an engine that is reached over a gRPC channel.

    connect: makes the channel. The worker closes it when it stops.
    headers: of each call.
    backoff_cap: longest pause in seconds between two attempts to connect.
    emit_trace_spans: the SDK makes spans, if the program has a tracer provider. Its turns are then replays.
    """

    def __init__(
        self,
        connect: Callable[[], grpc.Channel],
        headers: Callable[[], Sequence[tuple[str, str]]],
        *,
        backoff_cap: float,
        sessions: int,
        emit_trace_spans: bool,
        **options: Any,
    ) -> None:
        spans = emit_trace_spans and records_spans()
        super().__init__(sessions=0 if spans else sessions, emit_trace_spans=spans, **options)
        self._connect = connect
        self._headers = headers
        self._backoff_cap = backoff_cap
        self._makes_spans = spans
        self._remote: RemoteStub | None = None
        self._engine_channel: grpc.Channel | None = None
        self._reader: threading.Thread | None = None
        self._watch: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._stream: _Stream | None = None

    def start(self) -> None:
        """Start to connect. Raises: RuntimeError when the worker already runs."""
        if self._runs:
            raise RuntimeError("The worker is already running.")
        self._engine_channel = self._connect()
        self._remote = RemoteStub(self._engine_channel, self._headers, self._failed)
        self.items.open()
        self._stopping.clear()
        self.start_pools(self._remote)
        self.mark_running()
        self._reader = threading.Thread(target=self._read, name="work-items", daemon=True)
        self._reader.start()
        self._watch = threading.Thread(target=self._watch_silence, name="work-items-watch", daemon=True)
        self._watch.start()

    def stop(self) -> None:
        """Return the work that has not begun, and wait for the rest, before the stream ends. Idempotent."""
        if not self._runs or self._remote is None or self._engine_channel is None:
            return
        self.finish_items()
        self._remote.finish()
        self._stopping.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.call.cancel()
        for thread in (self._reader, self._watch):
            if thread is not None:
                thread.join()
        self.release_items()
        self.stop_pools()
        self._remote.stop()
        self._engine_channel.close()
        self.sessions.clear()

    def stuck(self) -> list[str]:
        if self._runs and self._reader is not None and not self._reader.is_alive():
            return ["the reader of work items has ended; restart the process"]
        return super().stuck()

    def make_activity_executor(self) -> Any:
        """Create an executor for one activity; None when the SDK has to run it, with a span."""
        return None if self._makes_spans else super().make_activity_executor()

    def inspect_turn(self, request: Any, response: Any) -> None:
        super().inspect_turn(request, response)
        if isinstance(response, TurnResponse) and request.orchestrationTraceContext.ByteSize():
            response.orchestrationTraceContext = request.orchestrationTraceContext

    def _failed(self, token: str, error: BaseException) -> None:
        """Return work whose executor raised unexpectedly."""
        self.report_failure(error)
        if self._remote is not None:
            _abandon_activity(None, self._remote, token)

    # In the reader's thread

    def _read(self) -> None:
        """Read work items until the worker stops, over one stream after the other."""
        attempts = 0
        assert self._remote is not None
        calls = self._remote.calls
        while not self._stopping.is_set() and not self.items.is_closed:
            stream = None
            try:
                if self.flow is not None:
                    self.flow.pause()
                self._greet(calls)
                stream = self._open(calls.GetWorkItems(self.work_request(), metadata=self._headers()))
                for item in stream.call:
                    stream.last_message = time.monotonic()
                    attempts = 0
                    self._take(item, stream)
                    if self.flow is not None:
                        self.flow.wait(stream.call.is_active)
            except grpc.RpcError as error:
                attempts += 1
                if not self._stopping.is_set():
                    status = status_of(error)
                    name = getattr(status, "name", "")
                    logger.warning("The stream of work items has ended: %s %s", name, details_of(error))
            except Exception as error:
                attempts += 1
                self.report_failure(error)
            finally:
                if stream is not None:
                    stream.is_open = False
            if attempts:
                most = min(self._backoff_cap, BACKOFF_SECONDS * 2 ** min(attempts - 1, 30))
                self._stopping.wait(random.uniform(0.0, most))  # noqa: S311 -- spreads the attempts

    def _greet(self, calls: Any) -> None:
        """Test the connection, and learn if the engine knows the marks of a stopping worker. Raises: RpcError."""
        _, call = calls.Hello.with_call(empty_pb2.Empty(), timeout=HELLO_SECONDS, metadata=self._headers())
        self.greeting.read(call.initial_metadata())

    def _open(self, call: Any) -> _Stream:
        stream = _Stream(call)
        with self._lock:
            self._stream = stream
        if self._stopping.is_set():
            call.cancel()
        return stream

    def _take(self, item: pb.WorkItem, stream: _Stream) -> None:
        kind = item.WhichOneof("request")
        token = item.completionToken
        if kind == "orchestratorRequest":
            turn: Any = item.orchestratorRequest
            drop_repeated_suspensions(turn)
            if self.sessions.most and not self.stores_payloads:
                turn = RemoteTurn(
                    turn.instanceId,
                    turn.pastEvents,
                    turn.newEvents,
                    turn.orchestrationTraceContext,
                    token,
                    turn.ByteSize(),
                )
            self._queue(0, self._run_turn, _abandon_turn, turn, token, stream)
        elif kind == "activityRequest":
            self._queue(1, self._run_activity, _abandon_activity, item.activityRequest, token, stream)
        elif kind == "entityRequestV2":
            self._queue(2, self._run_entity_batch, _abandon_batch, item.entityRequestV2, token, stream)
        elif kind == "entityRequest":
            self._queue(2, self._run_entity_batch, _abandon_batch, item.entityRequest, token, stream)
        elif kind not in (None, "healthPing"):
            logger.warning("The engine sent a work item of the unknown kind %s", kind)

    def _queue(
        self, pool: int, execute: Callable[[Any, Any, Any], Any], abandon: Abandon, request: Any, token: str,
        stream: _Stream,
    ) -> None:  # fmt: skip
        def run(request: Any, stub: Any, token: str) -> Any:
            return (execute if stream.is_open else abandon)(request, stub, token)

        submit = functools.partial(self.submit, pool)
        self._arrived(submit, abandon, run, abandon, request, self._remote, token)

    def _watch_silence(self) -> None:
        """End a stream on which nothing arrives any more."""
        while not self._stopping.wait(SILENCE_SECONDS / 8):
            with self._lock:
                stream = self._stream
            if stream is not None and stream.is_open and time.monotonic() - stream.last_message > SILENCE_SECONDS:
                logger.warning("The engine has sent nothing for %g s; connecting again", SILENCE_SECONDS)
                stream.call.cancel()
