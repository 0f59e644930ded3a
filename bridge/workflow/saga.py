"""Sagas: steps that are done together or undone together, inside a plain generator orchestrator."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from itertools import count
from types import FunctionType
from typing import Any, TypeAlias

from durabletask import task

from bridge.core.errors import is_final_failure
from bridge.workflow.attempts import fitted, name_of, perform
from bridge.workflow.inbox import Inbox, Received
from bridge.workflow.outcome import FailedCompensation, SagaAborted, SagaOutcome, SagaStatus, StepFailed, StepState
from bridge.workflow.progress import SagaCustomStatus
from bridge.workflow.publishing import publish
from bridge.workflow.step import CANCEL_EVENT, Action, Command, CompensationInput, Step, StepCall, describe
from bridge.workflow.tasks import OnComplete, Steps, gather

DEFAULT_COMPENSATION_RETRY = task.RetryPolicy(
    first_retry_interval=timedelta(seconds=1), max_number_of_attempts=10, backoff_coefficient=2.0,
    max_retry_interval=timedelta(minutes=1),
)  # fmt: skip

TO_COMPENSATE = (StepState.COMPLETED, StepState.UNKNOWN)
"""States of steps that may have had an effect, and are compensated after a failure."""

WITHOUT_EFFECT = ("refused", "expression")
"""Reasons which show that a step has done nothing and that a retry would not help."""

_ACTIVITIES = (FunctionType, str)
"""Types of nearly all actions: activities, not sub-orchestrations or commands."""

_COUNT = "bridge.sagas"
"""Attribute of a context that counts its sagas."""


@dataclass(slots=True)
class StartedStep:
    """A started step."""

    step: Step
    key: str
    state: StepState = StepState.RUNNING
    result: Any = None


@dataclass(slots=True)
class StepGroup:
    """Steps and groups in the order of their start.

    parallel: the members ran concurrently, and are undone concurrently.
    """

    parallel: bool = False
    members: list[StartedStep | StepGroup] = field(default_factory=list)


class Scope:
    """A sequence of steps: a whole saga, or one branch of a parallel group."""

    __slots__ = ("_group", "_halts", "_saga")

    def __init__(self, saga: Saga, group: StepGroup, halts: tuple[task.CompletableTask[None], ...]) -> None:
        self._saga = saga
        self._group = group
        self._halts = halts

    def step(self, step: Step) -> Steps:
        """Run a step; `yield from` returns its result. Raises: StepFailed; ValueError if the name was used before."""
        return self._saga._step(step, self._group, self._halts)

    def sequence(self, steps: Sequence[Step]) -> Steps:
        """Run steps one after the other and return their results."""
        results = []
        for step in steps:
            results.append((yield from self.step(step)))  # noqa: PERF401 -- a comprehension cannot yield
        return results

    def wait_for_event(self, name: str, timeout: timedelta | None = None) -> Steps:
        """Wait for a message; `yield from` returns its data. The inbox drops repeats.

        Raises: StepFailed with the reason `timeout`, or `cancelled` if the saga is cancelled or another branch fails.
        """
        return self._saga._wait(name, timeout, self._halts)

    def parallel(self, branches: Sequence[Branch]) -> Steps:
        """Run branches concurrently. A branch is a step, or a function that takes its own Scope and runs steps in it.

        Returns the results in the order of the branches. After a failure, branches that wait for an answer or for
        another attempt stop, running activities are waited for, and the first failure is raised.
        """
        group = StepGroup(parallel=True)
        self._group.members.append(group)
        halt = task.CompletableTask[None]()
        runs = [self._branch(branch, group, (*self._halts, halt)) for branch in branches]
        return self._saga._gather(runs, halt)

    def _branch(self, branch: Branch, group: StepGroup, halts: tuple[task.CompletableTask[None], ...]) -> Steps:
        own = StepGroup()
        group.members.append(own)
        scope = Scope(self._saga, own, halts)
        return scope.step(branch) if isinstance(branch, Step) else branch(scope)


Branch: TypeAlias = Step | Callable[[Scope], Steps]
"""Branch of a parallel group: a step, or a generator function over a Scope."""


class Saga(Scope):
    """Saga of steps. After a failure, the steps that may have had an effect are compensated, last step first.

      def order_saga(ctx, order):
          saga = Saga(ctx, "order")

          def body():
              yield from saga.step(Step("stock", reserve_stock, order, compensation=release_stock))
              yield from saga.step(Step("payment", charge, order, compensation=refund))
              saga.point_of_no_return()
              yield from saga.step(Step("parcel", ship, order))

          return (yield from saga.run(body()))

    name: name of the saga in outcomes and the custom status.
    publish_outcome: target of the configuration that receives the outcome, as an event of the type `NAME.STATUS`.
    roll_forward_pause: time between rounds of attempts of a step behind the point of no return.
    plan: names of the planned steps, for the custom status, if they are known.

    The external event `cancel` (its data may have a `reason`) stops the saga before the next step, or at once while a
    step waits for an answer or for another attempt. All steps are then undone.
    """

    __slots__ = (
        "_cancel",
        "_compensated",
        "_completed",
        "_ctx",
        "_entries",
        "_failed_compensations",
        "_failure",
        "_has_ended",
        "_id",
        "_is_cancelled",
        "_is_past_return",
        "_progress",
        "_publish_outcome",
        "_roll_forward_pause",
        "_running_groups",
        "name",
    )

    def __init__(
        self,
        ctx: task.OrchestrationContext,
        name: str,
        *,
        publish_outcome: str | None = None,
        roll_forward_pause: timedelta = timedelta(minutes=1),
        plan: Sequence[str] = (),
    ) -> None:
        self._ctx = ctx
        self.name = name
        self._id = new_id(ctx, name)
        self._publish_outcome = publish_outcome
        self._roll_forward_pause = roll_forward_pause
        self._entries: dict[str, StartedStep] = {}
        self._progress = SagaCustomStatus(ctx, name, plan)
        self._completed: list[str] = []
        self._compensated: list[str] = []
        self._failed_compensations: list[FailedCompensation] = []
        self._failure: SagaAborted | None = None
        self._is_past_return = False
        self._has_ended = False
        self._running_groups = 0
        self._is_cancelled = False  # the event came before the point of no return
        self._cancel: task.CancellableTask[Any] = ctx.wait_for_external_event(CANCEL_EVENT)
        super().__init__(self, StepGroup(), ())
        OnComplete(self._cancel, self._on_cancel)

    def point_of_no_return(self) -> None:
        """Mark the point of no return.

        From here on nothing is undone: steps are tried until they succeed, and `cancel` has no effect.

        Raises: StepFailed if the saga was cancelled before; ValueError while a parallel group runs, whose other
        branches may still have to be undone.
        """
        if self._running_groups:
            raise ValueError(f"saga {self.name!r}: point_of_no_return belongs behind the parallel group, not into it")
        self._check_stopped(None, ())
        self._is_past_return = True
        self._cancel.cancel()
        self._progress.commit()

    def run(self, body: Steps) -> Generator[task.Task[Any], Any, SagaOutcome]:
        """Run the body to its end or undo its steps; `yield from` returns the outcome.

        A body fails by StepFailed, by SagaAborted, or by TaskFailedError of one of its own tasks. Any other exception
        is a bug: the steps are undone, and then the exception is raised again, which makes the failure of the
        orchestration visible. Every failure behind the point of no return is raised too, without compensation.
        """
        failure: SagaAborted | None = None
        bug: Exception | None = None
        result: Any = None
        progress = self._progress
        try:
            result = yield from progress.shown(body)
        except SagaAborted as error:
            failure = error
        except task.TaskFailedError as error:
            failure = StepFailed(None, "failed", describe(error))
        except Exception as error:
            bug = error
            failure = StepFailed(None, "error", type(error).__name__)
        self._has_ended = True
        self._cancel.cancel()
        self._failure = failure
        if failure is not None:
            progress.fail(failure, list(self._entries))
            progress.become(SagaStatus.FAILED if self._is_past_return else SagaStatus.COMPENSATING)
            if self._is_past_return:
                progress.show()
                with suppress(task.TaskFailedError):  # the original failure matters more
                    yield from self._publish(self._outcome(None))
                raise bug or failure
        # A body may have continued after a failed step: the step's effect must be undone even if the saga completes
        if failure is not None or len(self._completed) < len(self._entries):
            states = (StepState.UNKNOWN,) if failure is None else TO_COMPENSATE
            yield from progress.shown(self._undo(self._group, states))
        progress.become(self._final_status())
        progress.show()
        outcome = self._outcome(result)
        yield from self._publish(outcome)
        if bug is not None:
            raise bug
        return outcome

    def _publish(self, outcome: SagaOutcome) -> Steps:
        target, kind = self._publish_outcome, f"{self.name}.{outcome.status}"
        if target is not None:
            yield publish(self._ctx, target, outcome, type=kind, subject=self._ctx.instance_id)

    def _step(self, step: Step, group: StepGroup, halts: Sequence[task.Task[Any]]) -> Steps:
        name = step.name
        if name in self._entries:
            raise ValueError(f"saga {self.name!r} has two steps named {name!r}; names make the step keys")
        if self._has_ended:
            raise ValueError(f"step {name!r}: saga {self.name!r} is over")
        if self._is_cancelled or halts:
            self._check_stopped(name, halts)
        entry = self._entries[name] = StartedStep(step, f"{self._id}/{name}")
        group.members.append(entry)
        progress = self._progress
        progress.enter(name, StepState.RUNNING)
        try:
            if step.timeout is None and step.action.__class__ in _ACTIVITIES and not self._is_past_return:
                # Fast path of the common case, because replays run it for every completed step
                payload = {"key": entry.key, "input": step.input} if step.keyed else step.input
                try:
                    result = yield self._ctx.call_activity(name_of(step.action), input=payload)
                except task.TaskFailedError as error:
                    entry.result = yield from perform(self._ctx, self._call(entry, halts), error)
                else:
                    entry.result = fitted(name, step.action, result)
            else:
                call = self._call(entry, halts)
                run = self._roll_forward(call) if self._is_past_return else perform(self._ctx, call)
                entry.result = yield from run
        except StepFailed as failure:
            self._enter(entry, StepState.REFUSED if failure.reason in WITHOUT_EFFECT else StepState.UNKNOWN)
            if failure.reason == "cancelled":
                self._check_stopped(name, halts)  # raises with the cause
            raise
        except Exception:
            self._enter(entry, StepState.UNKNOWN)  # a bug: the step may have had its effect
            raise
        self._completed.append(name)
        entry.state = StepState.COMPLETED
        progress.enter(name, StepState.COMPLETED)
        if self._is_cancelled or halts:
            self._check_stopped(name, halts)
        return entry.result

    def _gather(self, runs: Sequence[Steps], halt: task.CompletableTask[None]) -> Steps:
        self._running_groups += 1
        try:
            return (yield from gather(runs, halt))
        finally:
            self._running_groups -= 1

    def _wait(self, name: str, timeout: timedelta | None, halts: Sequence[task.Task[Any]]) -> Steps:
        self._check_stopped(None, halts)
        inbox = Inbox(self._ctx)
        timer = None if timeout is None else self._ctx.create_timer(timeout)
        interrupts = () if self._is_past_return else (self._cancel, *halts)
        message: Received | None = None
        while message is None:
            event = inbox.task(name)
            yield task.when_any([event, *([] if timer is None else [timer]), *interrupts])
            if not event.is_complete:
                event.cancel()
                break
            message = inbox.accept(event)
        if timer is not None:
            timer.cancel()
        if message is not None:
            return message.data
        self._check_stopped(None, halts)
        raise StepFailed(None, "timeout", name)

    def _call(self, entry: StartedStep, halts: Sequence[task.Task[Any]]) -> StepCall:
        step = entry.step
        return StepCall(
            step.name,
            entry.key,
            step.action,
            _payload(entry),
            f"{self._ctx.instance_id}:{self._id[:12]}:{step.name}",
            step.retry,
            step.timeout,
            step.refusals,
            () if self._is_past_return else (self._cancel, *halts),
        )

    def _roll_forward(self, call: StepCall) -> Steps:
        """Make rounds of attempts until one succeeds. Raises: StepFailed for a refusal and for a final failure."""
        for number in count(1):
            round_ = call if number == 1 else replace(call, child_id=f"{call.child_id}:r{number}")
            try:
                return (yield from perform(self._ctx, round_))
            except StepFailed as failure:
                cause = failure.__cause__
                final = isinstance(cause, task.TaskFailedError) and is_final_failure(cause.details.error_type)
                if final or failure.reason in WITHOUT_EFFECT:
                    raise
            yield self._ctx.create_timer(self._roll_forward_pause)

    def _check_stopped(self, step: str | None, halts: Sequence[task.Task[Any]]) -> None:
        """Check for a stop.

        Raises: StepFailed if the saga was cancelled or another branch of its parallel group failed.
        """
        if self._is_past_return:
            return
        if self._is_cancelled:
            raise StepFailed(step, "cancelled", reason_of(self._cancel.get_result()))
        if halts and any(halt.is_complete for halt in halts):
            raise StepFailed(step, "cancelled", "another branch failed")

    def _undo(self, group: StepGroup, states: Sequence[StepState]) -> Steps:
        members = [self._undo_member(member, states) for member in reversed(group.members)]
        if group.parallel:
            yield from gather(members)
        else:
            for member in members:
                yield from member

    def _undo_member(self, member: StartedStep | StepGroup, states: Sequence[StepState]) -> Steps:
        if isinstance(member, StepGroup):
            yield from self._undo(member, states)
        elif member.state in states and member.step.compensation is not None:
            yield from self._compensate(member, member.step.compensation)

    def _compensate(self, entry: StartedStep, action: Action) -> Steps:
        step = entry.step
        known = entry.state is StepState.COMPLETED
        wrapped = CompensationInput(entry.key, step.input, entry.result, known)
        call = StepCall(
            name=step.name,
            key=entry.key,
            action=action,
            payload=wrapped if step.keyed else step.input,
            child_id=f"{self._ctx.instance_id}:{self._id[:12]}:{step.name}:undo",
            retry=step.compensation_retry or DEFAULT_COMPENSATION_RETRY,
            timeout=step.compensation_timeout,
            refusals=(),
            interrupts=(),
        )
        self._enter(entry, StepState.COMPENSATING)
        try:
            yield from perform(self._ctx, call)
        except StepFailed as failure:
            self._failed_compensations.append(FailedCompensation(step.name, str(failure)))
            self._progress.failed_compensations(self._failed_compensations)
            self._enter(entry, StepState.COMPENSATION_FAILED)
        else:
            self._compensated.append(step.name)
            self._enter(entry, StepState.COMPENSATED)

    def _final_status(self) -> SagaStatus:
        if self._failed_compensations:
            return SagaStatus.COMPENSATION_FAILED
        return SagaStatus.COMPLETED if self._failure is None else SagaStatus.COMPENSATED

    def _outcome(self, result: Any) -> SagaOutcome:
        failure = self._failure
        return SagaOutcome(
            self._progress.status,
            result,
            None if failure is None else failure.reason,
            failure.step if isinstance(failure, StepFailed) else None,
            "" if failure is None else failure.detail,
            self._completed,
            self._compensated,
            self._failed_compensations,
        )

    def _enter(self, entry: StartedStep, state: StepState) -> None:
        entry.state = state
        self._progress.enter(entry.step.name, state)

    def _on_cancel(self) -> None:
        if not self._cancel.is_cancelled and not self._is_past_return:
            self._is_cancelled = True
            self._progress.cancelling()


def _payload(entry: StartedStep) -> Any:
    """Input of an activity or child, or data of a command. A command carries the key in a header."""
    step = entry.step
    if not step.keyed or isinstance(step.action, Command):
        return step.input
    # JSON form of a StepInput: every replay encodes it again, and a dict is encoded faster
    return {"key": entry.key, "input": step.input}


def reason_of(data: Any) -> str:
    """Reason of a cancel, from the data of the event."""
    return str(data.get("reason") or "") if isinstance(data, dict) else str(data or "")


def new_id(ctx: task.OrchestrationContext, name: str) -> str:
    """Create a unique id of 32 characters that is the same in every replay.

    `ctx.new_uuid()` takes ten times as long.
    """
    # Number of sagas the orchestration has created so far. Every replay has a new context, which counts from 0
    number = getattr(ctx, _COUNT, 0) + 1
    setattr(ctx, _COUNT, number)
    return _digest(ctx.instance_id, ctx.current_utc_datetime, number, name)


@lru_cache(maxsize=8192)
def _digest(instance_id: str, now: datetime, number: int, name: str) -> str:
    seed = f"{instance_id}\n{now.isoformat()}\n{number}\n{name}"
    return blake2b(seed.encode(), digest_size=16).hexdigest()
