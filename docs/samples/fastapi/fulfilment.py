"""Workflow that the events of the order service start."""

from typing import Any

from durabletask import task

from bridge.workflow.tasks import Steps


def reserve(ctx: task.ActivityContext, order: dict[str, Any]) -> str:
    """Reserve the goods of an order."""
    return f"stock for {order['id']}"


def fulfil(ctx: task.OrchestrationContext, order: dict[str, Any]) -> Steps:
    """Fulfil an order."""
    return (yield ctx.call_activity(reserve, input=order))
