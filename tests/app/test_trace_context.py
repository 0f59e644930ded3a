"""W3C trace context from the received message, through start, orchestration and children, to published messages."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from durabletask.history import ExecutionStartedEvent, TaskScheduledEvent

from bridge.core.trace_context import is_traceparent
from tests.kit.daemon import ENGINES, headers, running
from tests.kit.waiting import TIMEOUT

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"

FLOWS = """
from datetime import timedelta

from bridge.workflow import publish, request, trace_of
from durabletask import task


def child(ctx: task.OrchestrationContext, _):
    yield publish(ctx, "results", "child", type="child")


def traced(ctx: task.OrchestrationContext, order):
    yield publish(ctx, "results", "first", type="first")
    yield ctx.call_sub_orchestrator(child, instance_id=ctx.instance_id + "-child")
    try:
        yield from request(ctx, "results", "asked", type="asked", reply_to="answers", timeout=timedelta(milliseconds=1))
    except Exception:
        pass
    yield publish(ctx, "results", "own", type="own", headers={"traceparent": "mine"})
    if order["again"]:
        ctx.continue_as_new({"id": order["id"], "again": False})
        return None
    found = trace_of(ctx)
    return found and found.trace_id
"""

CONFIG = """
targets: {results: {broker: local, topic: results}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - {name: start, from: orders, schedule: {orchestration: traced, instance_id: "order-{{ payload.id }}"}}
"""


@pytest.mark.parametrize("engine", ENGINES)
async def test_it_runs_from_the_message_to_everything_that_is_published(tmp_path: Path, engine: str) -> None:
    async with running(tmp_path, CONFIG, FLOWS, engine) as it:
        await it.publish("orders", {"id": 1, "again": False}, traceparent=PARENT, tracestate="shop=1")
        published = {}
        for message in await it.read("results", 4):
            event = orjson.loads(message.body or b"")
            published[event["type"]] = headers(message) | {"id": event["id"]}
        for kind in ("first", "child", "asked"):
            found = published[kind]
            assert is_traceparent(found["traceparent"])
            assert found["traceparent"][3:35] == TRACE
            assert found["traceparent"] != PARENT
            assert found["traceparent"].endswith(f"-{found['id'].replace('-', '')[-16:]}-01")
            assert found["tracestate"] == "shop=1"
        assert len({found["traceparent"] for found in published.values()}) == 4, "a span each"
        assert published["own"]["traceparent"] == "mine"
        state = await it.client.wait_for_orchestration_completion("order-1", timeout=TIMEOUT)
        assert state.get_output() == TRACE
        for instance in ("order-1", "order-1-child"):
            history = await it.client.get_orchestration_history(instance)
            started = next(event for event in history if isinstance(event, ExecutionStartedEvent))
            assert started.parent_trace_context is not None
            assert started.parent_trace_context.trace_parent == PARENT
            assert started.parent_trace_context.trace_state == "shop=1"
            tasks = [event for event in history if isinstance(event, TaskScheduledEvent)]
            assert all(event.parent_trace_context is not None for event in tasks), "activities of other workers too"


async def test_no_trace_and_one_that_is_not_valid_change_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"id": 1, "again": False}, key="a", traceparent=PARENT)
        await it.settled(1)
        # The same pipeline worker must not keep the trace of the first message
        await it.publish("orders", {"id": 2, "again": False}, key="a")
        await it.publish("orders", {"id": 3, "again": False}, key="a", traceparent="broken", tracestate="shop=1")
        for number in (2, 3):
            state = await it.client.wait_for_orchestration_completion(f"order-{number}", timeout=TIMEOUT)
            assert state.get_output() is None
            history = await it.client.get_orchestration_history(f"order-{number}")
            started = next(event for event in history if isinstance(event, ExecutionStartedEvent))
            assert started.parent_trace_context is None
        await it.client.wait_for_orchestration_completion("order-1", timeout=TIMEOUT)
        traced = [message for message in await it.read("results", 12) if TRACE in str(headers(message))]
        assert len(traced) == 3
        assert it.outcomes() == {"executed": 3}


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_next_generation_is_in_the_same_trace(tmp_path: Path, engine: str) -> None:
    async with running(tmp_path, CONFIG, FLOWS.replace(', instance_id=ctx.instance_id + "-child"', ""), engine) as it:
        await it.publish("orders", {"id": 1, "again": True}, traceparent=PARENT)
        published = [headers(message) for message in await it.read("results", 8)]
        assert sum(found["traceparent"][3:35] == TRACE for found in published) == 6
        state = await it.client.wait_for_orchestration_completion("order-1", timeout=TIMEOUT)
        assert state.get_output() == TRACE
