"""Custom status of orchestrations: progress of a saga, and the acknowledgement of a cancel.

`bridge instances show`, dashboards and waiting clients read it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from durabletask import task

from bridge.workflow.converter import Prepared
from bridge.workflow.outcome import FailedCompensation, SagaAborted, SagaStatus, StepFailed, StepState
from bridge.workflow.tasks import Steps


class SagaCustomStatus:
    """Status of the saga and states of its steps.

    Every replay repeats all changes. A change is therefore only recorded as a piece of JSON. The status is built when
    the saga is about to wait.
    """

    __slots__ = ("_changed", "_ctx", "_failed", "_failure", "_head", "_steps", "status")

    def __init__(self, ctx: task.OrchestrationContext, saga: str, plan: Sequence[str]) -> None:
        self._ctx = ctx
        self._head = _head(saga)
        self._steps = {step: _piece(step, StepState.WAITING) for step in plan}
        self._failure = ""
        self._failed = ""
        self._changed = True
        self.status = SagaStatus.RUNNING

    def enter(self, step: str, state: StepState) -> None:
        """Record the new state of a step."""
        self._steps[step] = _piece(step, state)
        self._changed = True

    def become(self, status: SagaStatus) -> None:
        """Record the new status of the saga."""
        self.status = status
        self._changed = True

    def fail(self, failure: SagaAborted, begun: Sequence[str]) -> None:
        """Record a failure. Steps that were planned and not started are removed."""
        self._steps = {step: self._steps[step] for step in begun}
        members: dict[str, Any] = {"reason": failure.reason, "detail": failure.detail}
        if isinstance(failure, StepFailed):
            members["step"] = failure.step
        self._failure = f", {json.dumps(members)[1:-1]}"
        self._changed = True

    def failed_compensations(self, failed: Sequence[FailedCompensation]) -> None:
        """Record the steps that could not be undone."""
        self._failed = f', "failed_compensations": {json.dumps([asdict(one) for one in failed])}'
        self._changed = True

    def commit(self) -> None:
        """Record the point of no return, which shows that `cancel` has no effect any more."""
        self._head += ', "committed": true'
        self._changed = True

    def cancelling(self) -> None:
        """Record that `cancel` was received while running steps are awaited."""
        if self.status is SagaStatus.RUNNING:
            self.become(SagaStatus.CANCELLING)
            self.show()

    def show(self) -> None:
        """Write the custom status."""
        self._changed = False
        # Error texts have any length and rarely repeat
        make = _whole if self._failure or self._failed else _remembered
        self._ctx.set_custom_status(make(self._head, self.status, self._failure, self._failed, *self._steps.values()))

    def shown(self, steps: Steps) -> Steps:
        """Run the steps. Changes are shown whenever the steps wait and when they end."""
        resume, given = steps.send, None
        while True:
            try:
                awaited = resume(given)
            except StopIteration as done:
                return done.value
            finally:
                if self._changed:
                    self.show()
            try:
                given = yield awaited
                resume = steps.send
            except Exception as error:
                resume, given = steps.throw, error


@lru_cache(maxsize=4096)
def _head(saga: str) -> str:
    return f'{{"saga": {json.dumps(saga)}'


@lru_cache(maxsize=4096)
def _piece(step: str, state: StepState) -> str:
    return f'{json.dumps(step)}: "{state}"'


def _whole(head: str, status: SagaStatus, failure: str, failed: str, *steps: str) -> Prepared:
    return Prepared(f'{head}, "status": "{status}", "steps": {{{", ".join(steps)}}}{failure}{failed}}}')


_remembered = lru_cache(maxsize=1024)(_whole)


def acknowledge_cancel(ctx: task.OrchestrationContext, **more: Any) -> None:
    """Acknowledge a cancel in the custom status. A cancel with `grace` then does not terminate the orchestration.

      yield ctx.wait_for_external_event("cancel")
      acknowledge_cancel(ctx)
      yield ctx.call_activity(undo, input=order)

    more: further fields of the custom status, which is an object. Keep `"cancel": "accepted"` in it when you replace
    it.
    Sagas acknowledge a cancel themselves.
    """
    ctx.set_custom_status({**more, "cancel": "accepted"})
