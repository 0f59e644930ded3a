"""Existing workflows of a Durable Task application. They know nothing of the bridge."""

from collections.abc import Generator
from typing import Any

from durabletask import task


def notify(ctx: task.ActivityContext, request: dict[str, Any]) -> str:
    """Ask a person for an approval."""
    return f"mail about {request['id']}"


def approval(ctx: task.OrchestrationContext, request: dict[str, Any]) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Wait for the decision about a request."""
    if request["amount"] < 0:
        raise ValueError("an amount is positive")
    mail = yield ctx.call_activity(notify, input=request)
    decision = yield ctx.wait_for_external_event("decided")
    return {"id": request["id"], "mail": mail, "approved": decision["approved"]}
