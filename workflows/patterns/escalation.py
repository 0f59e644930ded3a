"""Human interaction: ask, remind, escalate to another person, and decide by rule without an answer."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import publish
from workflows.patterns.chaining import RESULTS


@dataclass
class Expense:
    """Input of `expense`. amount is in cents; the times are seconds."""

    number: str
    amount: int
    approver: str = "team lead"
    escalate_to: str = "head of department"
    remind_after: float = 24 * 3600
    escalate_after: float = 3 * 24 * 3600
    give_up_after: float = 7 * 24 * 3600


def expense(ctx: task.OrchestrationContext, asked: Expense) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Wait for the event `decision` ({"approved": bool, "by": name}). The result lists the persons asked."""
    decision = ctx.wait_for_external_event("decision")
    start = ctx.current_utc_datetime
    notified = [asked.approver]
    yield _ask(ctx, asked, "expense.asked", asked.approver)
    for kind, after, whom in (
        ("expense.reminded", asked.remind_after, asked.approver),
        ("expense.escalated", asked.escalate_after, asked.escalate_to),
        ("", asked.give_up_after, ""),
    ):
        timer = ctx.create_timer(start + timedelta(seconds=after))
        yield task.when_any([decision, timer])
        if decision.is_complete:
            timer.cancel()
            break
        if kind:
            notified.append(whom)
            yield _ask(ctx, asked, kind, whom)
    said: dict[str, Any] = decision.get_result() if decision.is_complete else {}
    decision.cancel()
    status = "expired" if not said else "approved" if said.get("approved") else "rejected"
    result = {"number": asked.number, "status": status, "by": said.get("by"), "notified": notified}
    yield publish(ctx, RESULTS, result, type=f"expense.{status}", subject=asked.number)
    return result


def _ask(ctx: task.OrchestrationContext, asked: Expense, kind: str, whom: str) -> task.Task[str]:
    return publish(ctx, RESULTS, {"number": asked.number, "whom": whom}, type=kind, subject=asked.number)
