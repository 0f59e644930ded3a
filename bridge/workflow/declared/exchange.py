"""Commands of declarative sagas and their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from durabletask import task

from bridge.core.answers import PUBLISH_ACTIVITY, reply_event
from bridge.core.errors import MessageError
from bridge.workflow.attempts import STEP_KEY
from bridge.workflow.declared.evaluation import EVALUATE_ACTIVITY
from bridge.workflow.outcome import StepFailed
from bridge.workflow.publishing import expects_answer, new_correlation_id, new_event, request_headers
from bridge.workflow.step import (
    Attempt,
    AttemptFailed,
    Attempts,
    CompensationInput,
    StepCall,
    answer,
    describe,
    first_of,
)
from bridge.workflow.tasks import Steps

Block = Mapping[str, Any]
"""Expressions that are evaluated together, with the variables they read."""

Variables = Callable[[Block, Mapping[str, Any]], dict[str, Any]]
"""Function that selects the variables of a block from the saga's state and from additional values."""


@dataclass(frozen=True, slots=True)
class Exchange(Attempts):
    """A command that is published and whose answer, if expected, is awaited and judged.

    reply_to: destination of the answer; None if no answer is expected.
    verdict: conditions on the answer, `refused` and `failed`.
    """

    target: str
    reply_to: str | None
    message: Block
    verdict: Block | None
    variables: Variables

    def attempts(self, ctx: task.OrchestrationContext, call: StepCall) -> Attempt:
        """Create the function that makes the attempts.

        After a publish failure, the next attempt sends the same message again. After an answer that meets `failed`,
        the next attempt sends a new message with the same step key.
        """
        # The deadline starts where the timer of the call is created
        deadline = None if call.timeout is None else ctx.current_utc_datetime + call.timeout
        event: dict[str, Any] | None = None
        correlation_id = ""
        fields: dict[str, Any] | None = None

        def attempt(_: int, timer: task.Task[Any] | None) -> Steps:
            nonlocal event, correlation_id, fields
            if fields is None:
                fields = yield from self._evaluated(ctx, call, self.message, _given(call.payload), timer, "expression")
            if event is None:
                correlation_id = "" if self.reply_to is None else new_correlation_id(ctx)
                event = self._event(ctx, call, fields, correlation_id, deadline)
            yield from first_of(ctx.call_activity(PUBLISH_ACTIVITY, input=event), call, timer)
            if self.reply_to is None:
                return None
            reply = yield from answer(ctx, reply_event(correlation_id), call, timer)
            if self.verdict is not None:
                found = yield from self._evaluated(ctx, call, self.verdict, {"reply": reply}, timer, "failed")
                if found.get("refused"):
                    raise StepFailed(call.name, "refused", found.get("detail", ""))
                if found.get("failed"):
                    event = None
                    raise AttemptFailed(found.get("detail", ""))
            return reply

        return attempt

    def _evaluated(
        self,
        ctx: task.OrchestrationContext,
        call: StepCall,
        block: Block,
        given: Mapping[str, Any],
        timer: task.Task[Any] | None,
        reason: str,
    ) -> Steps:
        """Values of a block.

        Raises: StepFailed with the given reason if an expression fails, because a retry would not help.
        """
        request = {"block": block, "variables": self.variables(block, given)}
        try:
            return (yield from first_of(ctx.call_activity(EVALUATE_ACTIVITY, input=request), call, timer))
        except task.TaskFailedError as error:
            if error.details.is_caused_by(MessageError):
                raise StepFailed(call.name, reason, describe(error)) from error
            raise

    def _event(
        self,
        ctx: task.OrchestrationContext,
        call: StepCall,
        fields: Mapping[str, Any],
        correlation_id: str,
        deadline: datetime | None,
    ) -> dict[str, Any]:
        headers = {name.removeprefix("headers."): text for name, text in fields.items() if name.startswith("headers.")}
        headers[STEP_KEY] = call.key
        if self.reply_to is not None:
            headers = request_headers(headers, self.reply_to, correlation_id)
        subject, key = fields.get("subject"), fields.get("key")
        event = new_event(ctx, self.target, fields["data"], fields["type"], subject, key, headers)
        return event if self.reply_to is None else expects_answer(event, correlation_id, deadline)


def _given(payload: Any) -> dict[str, Any]:
    """Variables of a compensation that describe the outcome of its step."""
    if isinstance(payload, CompensationInput):
        return {"reply": payload.result, "known": payload.known}
    return {}
