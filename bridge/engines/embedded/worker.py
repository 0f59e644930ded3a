"""Worker of the daemon: the engine passes work directly to the SDK's executors, on thread pools of its own.

The SDK's worker reads a stream in one thread, passes each item through an event loop, and runs orchestrators and
activities in one pool. This detour costs more than the work itself, and a few blocked activities stop every
orchestrator. Here turns, activities and entities have separate pools, and turns share the engine's history instead of a
copy. The functions that the SDK's worker calls for its work items run them, as in the SDK's Functions host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.system_names import PREFIX, SAGA
from bridge.core.user_code.kinds import FunctionKind
from bridge.engines.embedded.pools import PooledWorker, PoolStub
from bridge.engines.workflows import Workflows
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.leases import ACTIVITY, DRAINING, ENTITY, ORCHESTRATION, WorkerStream
from bridge.sqlite_engine.model.reply import Rejection, ThreadReply

_NO_REPLY = ThreadReply()
_KINDS = {ORCHESTRATION: FunctionKind.ORCHESTRATOR, ACTIVITY: FunctionKind.ACTIVITY, ENTITY: FunctionKind.ENTITY}


def known_names(workflows: Workflows) -> Callable[[int, str], bool]:
    """Function that is true for a kind of work and a name that a known worker runs."""

    @functools.lru_cache(4096)
    def knows(kind: int, name: str) -> bool:
        return workflows.knows(_KINDS[kind], name)

    return knows


class DirectStub(PoolStub):
    """Stub that passes results straight to the engine."""

    def __init__(self, database: Database, on_error: Callable[[str, BaseException], None]) -> None:
        super().__init__(on_error)
        self._database = database

    def _call(self, method: str, request: Any) -> Any:
        # Completions and abandons are answered at once; no reply is ever awaited.
        return self._database.call(method, request, _NO_REPLY)

    def give_back(self, token: str) -> None:
        with suppress(Rejection):  # the engine is stopping
            self.AbandonTaskActivityWorkItem(pb.AbandonActivityTaskRequest(completionToken=f"{DRAINING}{token}"))

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


class DirectWorker(PooledWorker):
    """Worker in the engine's process.

    Only the arrival of work and the sessions between turns differ from the SDK's worker.
    """

    def __init__(self, database: Database, **options: Any) -> None:
        """Create the worker. options: those of `PooledWorker`, and of the SDK's worker."""
        super().__init__(**options)
        self._database = database
        self.running = database.running
        if self.running is not None:
            self._begin, self._end = self.running.begin, self.running.end
        self._stream: WorkerStream | None = None

    def start(self) -> None:
        """Connect to the engine.

        Raises: RuntimeError when the worker already runs; Rejection when the engine does not run.
        """
        self.start_pools(DirectStub(self._database, self._failed))
        # The SDK restores externalised payloads in the events in place. A worker with a payload store therefore needs
        # copies.
        self._stream = WorkerStream(
            self.work_request(),
            self.take,
            shares=not self.stores_payloads,
            knows=None if self.known is None else known_names(self.known),
            process=self._database,  # all streams of this process end with it
            sessions=self.sessions.limits if self._runs_user_code else None,
        )
        if self.running is not None:
            self.running.resume()
        self._database.connect(self._stream)
        self.mark_running()

    @property
    def _runs_user_code(self) -> bool:
        """False when all orchestrations are the bridge's own: they are few, and nothing needs to wait for them."""
        known = self.known
        return known is None or any(name == SAGA or not name.startswith(PREFIX) for name in known.orchestrators)

    def stop(self) -> None:
        """Return the work that has not begun, and wait for the rest. Idempotent."""
        if not self._runs:
            return
        if self._stream is not None:
            self._database.retire(self._stream)
        self.stop_pools()
        if self._stream is not None:
            self._database.disconnect(self._stream)
        self.sessions.clear()

    def _failed(self, token: str, error: BaseException) -> None:
        """Return work whose executor raised unexpectedly; otherwise it would hang until the worker stops."""
        self.report_failure(error)
        self._database.call(
            "AbandonTaskActivityWorkItem", pb.AbandonActivityTaskRequest(completionToken=token), _NO_REPLY
        )
