"""Orchestrations whose code no longer fits what they have done: the SDK ends them FAILED and compensates nothing.

Seen where every worker of the SDK reports a turn, so that it is the same for each of them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.task import NonDeterminismError
from durabletask.worker import OrchestratorNotRegisteredError, TaskHubGrpcWorker

REMEMBERED = 1000
"""Most instances that are remembered; all are counted."""

_TYPES = (NonDeterminismError.__name__, OrchestratorNotRegisteredError.__name__)


@dataclass(frozen=True, slots=True)
class Incompatible:
    """An instance that today's code cannot go on with. error: what the SDK says."""

    orchestration: str
    instance_id: str
    error: str


class Witness:
    """What the workers of one engine in this process have seen. Used from any thread.

    counts: by orchestration, since the process started. An instance is forgotten when it takes a turn without the
    error, as after a rewind. tell: called with each, once per failure.
    """

    def __init__(self, tell: Callable[[Incompatible], None] = lambda _: None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._open: dict[str, Incompatible] = {}
        self.counts: Counter[str] = Counter()

    @property
    def open(self) -> list[Incompatible]:
        """Instances that have failed so and were not rewound since, oldest first."""
        with self._lock:
            return list(self._open.values())

    def look(self, request: Any, response: pb.OrchestratorResponse) -> None:
        """Judge the answer of one turn."""
        found = _incompatible(request, response)
        if found is None:
            if self._open:
                with self._lock:
                    self._open.pop(response.instanceId, None)
            return
        with self._lock:
            self.counts[found.orchestration] += 1
            if len(self._open) < REMEMBERED:
                self._open[found.instance_id] = found
        self._tell(found)


def _incompatible(request: Any, response: pb.OrchestratorResponse) -> Incompatible | None:
    for action in response.actions:
        if not action.HasField("completeOrchestration"):
            continue
        details = action.completeOrchestration.failureDetails
        if details.errorType.rpartition(".")[2] in _TYPES:
            events = chain(request.pastEvents, request.newEvents)
            name = next((event.executionStarted.name for event in events if event.HasField("executionStarted")), "")
            return Incompatible(name, response.instanceId, details.errorMessage)
    return None


class Witnessed(TaskHubGrpcWorker):
    """A worker of the SDK whose answers a witness looks at before they go out."""

    witness: Witness | None = None

    def _execute_orchestrator(
        self,
        req: Any,
        stub: Any,
        completionToken: Any,  # noqa: N803 -- the SDK's name
    ) -> None:
        if self.witness is not None:
            stub = _Stub(stub, self.witness, req)
        super()._execute_orchestrator(req, stub, completionToken)


class _Stub:
    """A stub that shows completions to the witness."""

    __slots__ = ("_request", "_stub", "_witness")

    def __init__(self, stub: Any, witness: Witness, request: Any) -> None:
        self._stub = stub
        self._witness = witness
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stub, name)

    def CompleteOrchestratorTask(self, response: pb.OrchestratorResponse) -> Any:  # noqa: N802 -- the protocol's name
        self._witness.look(self._request, response)
        return self._stub.CompleteOrchestratorTask(response)
