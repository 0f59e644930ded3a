"""Human decision: wait for the decision, send reminders, give up at the deadline."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import publish

RESULTS = "order-results"
"""Target of the configuration to which decisions are published."""


@dataclass
class ApprovalRequest:
    """Input of `approval`. subject: what is to be decided. remind_after and deadline are seconds."""

    subject: str
    kind: str = "return"
    reason: str = ""
    remind_after: float = 24 * 3600
    deadline: float = 7 * 24 * 3600


def send_reminder(ctx: task.ActivityContext, reminder: dict[str, Any]) -> dict[str, Any]:
    """Remind the person who has to decide. Subject and number identify the reminder and a repeat of it."""
    return {"reminded": f"{reminder['subject']}#{reminder['number']}"}


def approval(
    ctx: task.OrchestrationContext, request: ApprovalRequest
) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Wait for the event `decision` ({"approved": bool, "by": name}).

    Returns status (approved, rejected or expired), the name of the person who decided, and the number of reminders.
    While the instance is suspended, the decision is kept; it is read on resume.
    """
    decision = ctx.wait_for_external_event("decision")
    ends = ctx.current_utc_datetime + timedelta(seconds=request.deadline)
    result: dict[str, Any] = {"subject": request.subject, "status": "expired", "by": None, "reminders": 0}
    while not decision.is_complete:
        ctx.set_custom_status({"stage": "awaiting decision", "reminders": result["reminders"]})
        remind_at = min(ctx.current_utc_datetime + timedelta(seconds=request.remind_after), ends)
        timer = ctx.create_timer(remind_at)
        winner = yield task.when_any([decision, timer])
        if winner is decision:
            timer.cancel()
        elif remind_at == ends:
            break
        else:
            result["reminders"] += 1
            reminder = {"subject": request.subject, "number": result["reminders"]}
            yield ctx.call_activity(send_reminder, input=reminder)
    if decision.is_complete:
        said = decision.get_result()
        result |= {"status": "approved" if said.get("approved") else "rejected", "by": said.get("by")}
    decision.cancel()
    ctx.set_custom_status({"stage": result["status"], "reminders": result["reminders"]})
    yield publish(ctx, RESULTS, result, type=f"{request.kind}.{result['status']}", subject=request.subject)
    return result
