"""Monitor of orchestrations whose code no longer fits their history. The SDK ends them FAILED and compensates nothing.

Responses are inspected where every worker of the SDK reports a turn, in the same way for all workers.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.task import NonDeterminismError
from durabletask.worker import OrchestratorNotRegisteredError

from bridge.core.errors import UnknownTarget
from bridge.core.user_code.kinds import FunctionKind
from bridge.engines.worker.finishes import end_of_turn
from bridge.engines.workflows import Workflows
from bridge.sqlite_engine.model.instance import Finish

REMEMBERED = 1000
"""Largest number of instances that are remembered; all are counted."""

_ACTIONS = {
    "scheduleTask": "activity",
    "createSubOrchestration": "start",
    "createTimer": "timer",
    "sendEvent": "event",
    "sendEntityMessage": "entity",
    "terminateOrchestration": "control",
}
"""Kinds of the work that an action of an orchestrator causes."""

_TYPES = (NonDeterminismError.__name__, OrchestratorNotRegisteredError.__name__)


@dataclass(frozen=True, slots=True)
class IncompatibleInstance:
    """Instance that the current code cannot continue. error: message of the SDK."""

    orchestration: str
    instance_id: str
    error: str


@dataclass(frozen=True, slots=True)
class UnknownName:
    """Name that an orchestration called and no worker registers.

    kind: target, activity, orchestration or entity.
    detail: message of a failed publish, which names the target; empty for the other kinds.
    """

    orchestration: str
    instance_id: str
    kind: str
    name: str = ""
    detail: str = ""


class CompatibilityMonitor:
    """Incompatible instances and unknown names seen by the workers of one engine in this process.

    Methods may be called from any thread. An instance is forgotten when it takes a turn without the error, as after a
    rewind.

    counts: incompatible instances by orchestration, since the process started.
    on_incompatible: called with each incompatible instance, once per failure.
    unknown: unknown names by kind, since the process started.
    on_unknown_name: called with each unknown name.
    """

    def __init__(
        self,
        on_incompatible: Callable[[IncompatibleInstance], None] = lambda _: None,
        on_unknown_name: Callable[[UnknownName], None] = lambda _: None,
    ) -> None:
        self._on_incompatible = on_incompatible
        self._on_unknown_name = on_unknown_name
        self.actions: Counter[str] = Counter()
        """Work that orchestrations caused in this process, by kind, as the scheduler bills it."""
        self._watch_end: Callable[[Finish], None] | None = None
        """Called with each end of an instance; None for an engine that reports the ends itself."""
        self._ended: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        """Executions whose end was reported: a response that is lost is sent again."""
        self.unknown: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._open: dict[str, IncompatibleInstance] = {}
        self.counts: Counter[str] = Counter()

    def report_ends(self, watch: Callable[[Finish], None]) -> None:
        """Call `watch`, from any thread, for each instance whose last turn runs here."""
        self._watch_end = watch

    @property
    def open(self) -> list[IncompatibleInstance]:
        """Instances that have failed in this way and were not rewound since, oldest first."""
        with self._lock:
            return list(self._open.values())

    def inspect_turn(self, request: Any, response: pb.OrchestratorResponse, known: Workflows | None = None) -> None:
        """Inspect the response of one turn. known: names that the worker registers, and external ones."""
        for action in response.actions:
            kind = _ACTIONS.get(action.WhichOneof("orchestratorActionType"))
            if kind is not None:
                self.actions[kind] += 1
        for unknown in _unknown(request, response, known):
            with self._lock:
                self.unknown[unknown.kind] += 1
            self._on_unknown_name(unknown)
        if self._watch_end is not None:
            self._report_end(request, response, self._watch_end)
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
        self._on_incompatible(found)

    def _report_end(self, request: Any, response: pb.OrchestratorResponse, report: Callable[[Finish], None]) -> None:
        end = end_of_turn(request, response)
        if end is None:
            return
        rewinds = sum(event.HasField("executionRewound") for event in request.pastEvents)
        key = (end.instance_id, end.execution, rewinds)
        with self._lock:
            if key in self._ended:
                return
            self._ended[key] = None
            if len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)
        report(end)


def _incompatible(request: Any, response: pb.OrchestratorResponse) -> IncompatibleInstance | None:
    for action in response.actions:
        if not action.HasField("completeOrchestration"):
            continue
        details = action.completeOrchestration.failureDetails
        if details.errorType.rpartition(".")[2] in _TYPES:
            return IncompatibleInstance(_name(request), response.instanceId, details.errorMessage)
    return None


def _name(request: Any) -> str:
    """Name of the orchestration that takes a turn."""
    events = chain(request.pastEvents, request.newEvents)
    return next((event.executionStarted.name for event in events if event.HasField("executionStarted")), "")


def _unknown(request: Any, response: pb.OrchestratorResponse, known: Workflows | None) -> Iterator[UnknownName]:
    """Publishes to unknown targets that failed before this turn, and unknown names that this turn calls."""
    for event in request.newEvents:
        if event.HasField("taskFailed"):
            details = event.taskFailed.failureDetails
            if details.errorType.rpartition(".")[2] == UnknownTarget.__name__:
                yield UnknownName(_name(request), response.instanceId, "target", detail=details.errorMessage)
    if known is None:
        return
    for action in response.actions:
        called = called_name(action)
        if called is not None and not known.knows(*called):
            yield UnknownName(_name(request), response.instanceId, called[0].noun, called[1])


def called_name(action: pb.OrchestratorAction) -> tuple[FunctionKind, str] | None:
    """Kind and registered name of the function or entity that an action calls."""
    match action.WhichOneof("orchestratorActionType"):
        case "scheduleTask":
            return FunctionKind.ACTIVITY, action.scheduleTask.name
        case "createSubOrchestration":
            return FunctionKind.ORCHESTRATOR, action.createSubOrchestration.name
        case "sendEntityMessage":
            message = action.sendEntityMessage
            for field in ("entityOperationCalled", "entityOperationSignaled"):
                if message.HasField(field):
                    return FunctionKind.ENTITY, getattr(message, field).targetInstanceId.value.split("@")[1].lower()
    return None
