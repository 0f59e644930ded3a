"""Fan-out, fan-in and sub-orchestrations: a wave picks its orders concurrently, each order its lines concurrently."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from durabletask import task

from bridge.workflow import publish
from workflows.patterns.chaining import BRIEF, RESULTS


@dataclass
class PickList:
    """Input of `pick_order`. lines: articles."""

    order: str
    lines: list[str] = field(default_factory=list)


@dataclass
class Wave:
    """Input of `pick_wave`."""

    number: str
    orders: list[PickList] = field(default_factory=list)


def pick_line(ctx: task.ActivityContext, sku: str) -> int:
    """Fetch one article. Returns its weight in grams."""
    return 100 * len(sku)


def pick_order(ctx: task.OrchestrationContext, wanted: PickList) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Pick all lines of one order concurrently. The results are in the order of the lines."""
    picks: list[task.Task[int]] = [ctx.call_activity(pick_line, input=sku, retry_policy=BRIEF) for sku in wanted.lines]
    # `when_all` of no tasks would never complete
    weights = (yield task.when_all(picks)) if picks else []
    return {"order": wanted.order, "weight": sum(weights)}


def pick_wave(ctx: task.OrchestrationContext, wave: Wave) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Pick all orders of a wave concurrently, each as an orchestration of its own."""
    children: list[task.Task[Any]] = [
        ctx.call_sub_orchestrator(pick_order, input=order, instance_id=f"{ctx.instance_id}:{order.order}")
        for order in wave.orders
    ]
    picked = (yield task.when_all(children)) if children else []
    result = {"wave": wave.number, "orders": len(picked), "weight": sum(one["weight"] for one in picked)}
    yield publish(ctx, RESULTS, result, type="wave.picked", subject=wave.number)
    return result
