"""Engine compared with a model: any sequence of calls, answers, losses and crashes keeps them equal."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.reply import Rejection, ThreadReply
from bridge.sqlite_engine.options import DatabaseOptions
from tests.kit.protocol_client import ProtocolClient, activity, again, begin, call, complete, fail, state, text

pytestmark = pytest.mark.long

IDS = st.sampled_from(["a", "b", "c"])
RUNNING, PENDING = pb.ORCHESTRATION_STATUS_RUNNING, pb.ORCHESTRATION_STATUS_PENDING
COMPLETED, FAILED = pb.ORCHESTRATION_STATUS_COMPLETED, pb.ORCHESTRATION_STATUS_FAILED
TERMINATED = pb.ORCHESTRATION_STATUS_TERMINATED
OPEN = (RUNNING, PENDING)


@dataclass
class Expected:
    """Expected state of an instance."""

    status: int = PENDING
    fresh: bool = True
    inbox: list[str] = field(default_factory=list)
    activities: set[int] = field(default_factory=set)
    turn: Any = None
    taken: int = 0
    abandons: int = 0
    doubtful: list[tuple[ThreadReply, str]] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.status in OPEN

    @property
    def deliverable(self) -> bool:
        return self.open and self.turn is None and (self.fresh or bool(self.inbox))


class EngineModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.files = 0
        self.database = self._opened()
        self.tokens = True
        self.remote = self._worker()
        self.expected: dict[str, Expected] = {}
        self.tasks: list[Any] = []
        self.number = 0

    def _opened(self) -> Database:
        database = Database(self.directory / f"{self.files}.db", DatabaseOptions(disposable=True, max_lost_workers=0))
        database.start()
        return database

    @initialize(tokens=st.booleans())
    def connect(self, tokens: bool) -> None:
        self.remote.leave()
        self.tokens = tokens
        self.remote = self._worker()

    def _worker(self) -> ProtocolClient:
        remote = ProtocolClient(self.database, tokens=self.tokens)
        remote.stream.sends_tokens = self.tokens  # as after its first answer
        return remote

    def teardown(self) -> None:
        self.database.stop()
        shutil.rmtree(self.directory)

    def _next(self) -> int:
        self.number += 1
        return self.number

    # Actions of clients

    @rule(instance_id=IDS, replace=st.booleans())
    def start_one(self, instance_id: str, replace: bool) -> None:
        known = self.expected.get(instance_id)
        finished = [COMPLETED, FAILED, TERMINATED]
        policy = pb.OrchestrationIdReusePolicy(replaceableStatus=finished if replace else [])
        request = pb.CreateInstanceRequest(instanceId=instance_id, name="work", orchestrationIdReusePolicy=policy)
        error = begin(self.database, "StartInstance", request).future.exception(20)
        if known is None or (replace and not known.open):
            assert error is None
            self.expected[instance_id] = Expected()
        else:
            assert isinstance(error, Rejection)
            assert error.code is grpc.StatusCode.ALREADY_EXISTS
        self._settle()

    @rule(instance_id=IDS)
    def raise_one(self, instance_id: str) -> None:
        known = self.expected.get(instance_id)
        label = str(self._next())
        reply = begin(
            self.database, "RaiseEvent", pb.RaiseEventRequest(instanceId=instance_id, name="e", input=text(label))
        )
        if known is not None and known.turn is not None:
            known.doubtful.append((reply, label))
            known.inbox.append(label)
        else:
            error = reply.future.exception(20)
            if known is None:
                assert isinstance(error, Rejection)
                assert error.code is grpc.StatusCode.NOT_FOUND
            elif not known.open:
                assert isinstance(error, Rejection)
                assert error.code is grpc.StatusCode.FAILED_PRECONDITION
            else:
                assert error is None
                known.inbox.append(label)
        self._settle()

    @rule(instance_id=IDS)
    def terminate_one(self, instance_id: str) -> None:
        call(self.database, "TerminateInstance", pb.TerminateRequest(instanceId=instance_id))
        known = self.expected.get(instance_id)
        if known is not None and known.open:
            self._finish(instance_id, known, TERMINATED)
        self._settle()

    @rule(instance_id=IDS, damage=st.sampled_from(["end", "replace", "deliver", "create", "empty"]))
    def fail_in_the_middle(self, instance_id: str, damage: str) -> None:
        """Run an operation that fails after many changes; it must have no effect."""
        hub = self.database.hub

        def broken() -> None:
            instance = hub.find(instance_id)
            if damage == "empty":
                hub.empty()
            elif damage == "create":
                hub.create(f"{instance_id}-{self._next()}", pb.CreateInstanceRequest(name="work"))
            elif instance is not None and damage == "replace":
                hub.replace(instance)
            elif instance is not None and not instance.finished:
                if damage == "end":
                    hub.end(instance, TERMINATED, None, None)
                else:
                    hub.deliver(instance, events.generic(hub.now, "damage"))
            raise RuntimeError("a bug")

        reply = ThreadReply()
        self.database.writer.submit(broken, reply=reply)
        error = reply.future.exception(20)
        assert isinstance(error, Rejection)
        assert error.code is grpc.StatusCode.INTERNAL
        self._settle()

    @rule(instance_id=IDS)
    def purge_one(self, instance_id: str) -> None:
        removed = call(self.database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId=instance_id))
        known = self.expected.get(instance_id)
        gone = known is not None and not known.open
        assert removed.deletedInstanceCount == int(gone)
        if gone:
            del self.expected[instance_id]
        self._settle()

    @rule()
    def delete_all(self) -> None:
        call(self.database, "DeleteTaskHub", pb.DeleteTaskHubRequest())
        for known in self.expected.values():
            self._answer_withdrawn(known)
            for reply, _ in known.doubtful:
                error = reply.future.exception(20)
                assert isinstance(error, Rejection)
                assert error.code is grpc.StatusCode.NOT_FOUND
        self.expected.clear()
        self.tasks.clear()

    # Actions of the worker

    def _turns(self) -> list[str]:
        return [instance_id for instance_id, known in self.expected.items() if known.turn is not None]

    @precondition(lambda self: self._turns())
    @rule(data=st.data(), how=st.sampled_from(["wait", "activity", "complete", "fail", "again"]))
    def answer_turn(self, data: st.DataObject, how: str) -> None:
        instance_id = data.draw(st.sampled_from(self._turns()))
        known = self.expected[instance_id]
        item, known.turn = known.turn, None
        number = self._next()
        actions = {
            "wait": [],
            "activity": [activity(number, "x")],
            "complete": [complete(number, number)],
            "fail": [fail(number, "x")],
            "again": [again(number, number)],
        }[how]
        self.remote.turn(item, *actions)
        known.inbox = known.inbox[known.taken :]
        known.taken = known.abandons = 0
        known.fresh = False
        known.status = RUNNING
        if how == "activity":
            known.activities.add(number)
        elif how == "again":
            known.fresh = True
            known.activities.clear()
            known.inbox = [label for label in known.inbox if not label.startswith("result")]
        elif how in ("complete", "fail"):
            self._finish(instance_id, known, COMPLETED if how == "complete" else FAILED)
        for reply, _ in known.doubtful:
            error = reply.future.exception(20)
            assert (error is None) == known.open
        known.doubtful.clear()
        self._settle()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def answer_activity(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.tasks))
        self.tasks.remove(item)
        number = item.activityRequest.taskId
        self.remote.result(item, number)
        known = self.expected.get(item.activityRequest.orchestrationInstance.instanceId)
        if known is not None and known.open and number in known.activities:
            known.inbox.append(f"result {number}")
            known.activities.discard(number)
        self._settle()

    @precondition(lambda self: self.tokens and any(self.expected[each].abandons < 2 for each in self._turns()))
    @rule()
    def abandon_turn(self) -> None:
        known = next(self.expected[each] for each in self._turns() if self.expected[each].abandons < 2)
        request = pb.AbandonOrchestrationTaskRequest(completionToken=known.turn.completionToken)
        call(self.database, "AbandonTaskOrchestratorWorkItem", request)
        self._lose(known)
        known.abandons += 1
        self._settle()

    @rule()
    def lose_the_worker(self) -> None:
        self.remote.leave()
        self._lose_all()
        self.remote = self._worker()
        self._settle()

    @rule()
    def crash(self) -> None:
        """Crash the engine: only committed data remains."""
        old = self.directory / f"{self.files}.db"
        self.files += 1
        for suffix in ("", "-wal"):
            source = old.with_name(old.name + suffix)
            if source.exists():
                shutil.copy(source, self.directory / f"{self.files}.db{suffix}")
        self.database.stop()
        self.database = self._opened()
        self._lose_all()
        self.remote = self._worker()
        self._settle()

    # The model

    def _finish(self, instance_id: str, known: Expected, status: int) -> None:
        known.status = status
        known.inbox.clear()
        self._answer_withdrawn(known)
        known.turn = None
        known.taken = 0
        if status == TERMINATED:
            for reply, _ in known.doubtful:
                assert isinstance(reply.future.exception(20), Rejection)
            known.doubtful.clear()

    def _answer_withdrawn(self, known: Expected) -> None:
        """Answer a turn that no longer counts; without a token no other turn of its instance's id comes before."""
        if known.turn is not None and not self.tokens:
            with suppress(Rejection):
                self.remote.turn(known.turn, complete(self._next(), "late"))

    def _lose(self, known: Expected) -> None:
        known.turn = None
        known.taken = 0
        for reply, _ in known.doubtful:
            assert reply.future.exception(20) is None
        known.doubtful.clear()

    def _lose_all(self) -> None:
        self.tasks.clear()
        for known in self.expected.values():
            if known.turn is not None:
                self._lose(known)

    def _settle(self) -> None:
        """Take every available work item; each must contain exactly the expected new events."""
        while True:
            waiting = {each for each, known in self.expected.items() if known.deliverable}
            held = {(t.activityRequest.orchestrationInstance.instanceId, t.activityRequest.taskId) for t in self.tasks}
            wanted = {
                (each, number)
                for each, known in self.expected.items()
                if known.open
                for number in known.activities
                if (each, number) not in held
            }
            if not waiting and not wanted:
                break
            item = self.remote.take()
            if item.HasField("activityRequest"):
                self.tasks.append(item)
                continue
            request = item.orchestratorRequest
            assert request.instanceId in waiting
            known = self.expected[request.instanceId]
            news = list(request.newEvents)[1:]
            assert (news[0].WhichOneof("eventType") == "executionStarted") == known.fresh
            labels = [_label(event) for event in news if not event.HasField("executionStarted")]
            assert labels == known.inbox
            known.turn, known.taken = item, len(labels)

    @invariant()
    def statuses_are_equal(self) -> None:
        for gone in {"a", "b", "c"} - self.expected.keys():
            assert not call(self.database, "GetInstance", pb.GetInstanceRequest(instanceId=gone)).exists
        for instance_id, known in self.expected.items():
            assert state(self.database, instance_id).orchestrationStatus == known.status
        assert self.database.writer.broken is None


def _label(event: pb.HistoryEvent) -> str:
    if event.HasField("taskCompleted"):
        return f"result {event.taskCompleted.taskScheduledId}"
    return event.eventRaised.input.value


EngineModel.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Shrinking waits for a deadline at every step; the first example is sufficient.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
TestEngineModel = EngineModel.TestCase
