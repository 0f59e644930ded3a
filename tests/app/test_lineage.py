"""Lineage of message, instance and published result, found from each of the three, on every engine."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from bridge.app.operations.lineage.lineage import Arrival, Lineage, SearchScope
from bridge.app.operations.lineage.trace import EngineTracer, TraceResult
from tests.kit.daemon import ENGINES, DaemonFixture, headers, running
from tests.kit.waiting import TIMEOUT, eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"

FLOWS = """
from bridge.workflow import publish
from durabletask import task


def child(ctx: task.OrchestrationContext, order):
    yield publish(ctx, "results", order, type="order.shipped", subject="inner")


def order(ctx: task.OrchestrationContext, order):
    paid = yield ctx.wait_for_external_event("paid")
    yield publish(ctx, "results", paid, type="order.paid", subject=order["id"])
    yield ctx.call_sub_orchestrator(child, input=order, instance_id=ctx.instance_id + ":ship")
    return "done"


def looping(ctx: task.OrchestrationContext, left):
    yield ctx.wait_for_external_event("never")
"""

CONFIG = """
targets: {results: {broker: local, topic: results}}
sources:
  orders: {broker: local, topics: [orders], codec: cloudevents, no_match: dead_letter}
routes:
  - name: start-order
    from: orders
    match: {type: order.created}
    continue: true
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - name: watch
    from: orders
    match: {type: order.created}
    schedule: {orchestration: looping, instance_id: "watch-{{ payload.id }}"}
  - name: payment
    from: orders
    match: {type: order.paid}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid}
"""


async def event(it: DaemonFixture, kind: str, id_: str, order: str) -> None:
    await it.publish(
        "orders",
        {"specversion": "1.0", "id": id_, "source": "shop", "type": kind, "data": {"id": order}},
        order,
        **{"content-type": "application/cloudevents+json", "traceparent": PARENT},
    )


async def whole_day(it: DaemonFixture) -> str:
    """Run two orders. Returns the id of the published payment of the first order."""
    for number in ("1", "2"):
        await event(it, "order.created", f"c{number}", number)
    await it.settled(2)
    await event(it, "order.paid", "p1", "1")
    await it.settled(3)
    await it.client.wait_for_orchestration_completion("order-1", timeout=TIMEOUT)
    published = [orjson.loads(message.body or b"") for message in await it.read("results", 2)]
    return str(next(one["id"] for one in published if one["type"] == "order.paid"))


def ids(found: TraceResult) -> list[str]:
    return [one.instance_id for one in found.instances]


def plain(arrivals: tuple[Arrival, ...]) -> list[tuple[str, str | None, str | None]]:
    return [(arrival.what, arrival.message_id, arrival.route) for arrival in arrivals]


@pytest.mark.parametrize("engine", ENGINES)
async def test_it_is_found_from_every_end(tmp_path: Path, engine: str) -> None:
    async with running(tmp_path, CONFIG, FLOWS, engine) as it:
        payment = await whole_day(it)
        tracer = EngineTracer(it.daemon.engines["default"])
        found = await tracer.find("order-1", SearchScope())
        assert (found.by, ids(found)) == ("instance", ["order-1"])
        one = found.instances[0]
        assert (one.name, one.status, one.parent, one.trace_id) == ("order", "COMPLETED", None, TRACE)
        assert plain(one.arrivals) == [
            ("start", "shop c1", "start-order"),
            ("event paid", "shop p1", "payment"),
        ]
        assert all(arrival.traceparent == PARENT for arrival in one.arrivals)
        [out] = one.publications
        assert (out.id, out.type, out.target, out.subject) == (payment, "order.paid", "results", "1")
        assert (out.state, out.attempts) == ("published", 1)
        assert out.traceparent is not None
        assert out.traceparent[3:35] == TRACE
        [inner] = one.children
        assert (inner.instance_id, inner.name, inner.parent) == ("order-1:ship", "child", "order-1")
        assert [publication.type for publication in inner.publications] == ["order.shipped"]
        assert plain(inner.arrivals) == [("start", None, None)]
        assert inner.trace_id == TRACE
        # Found by the message that started it, by a received event, and by a publication
        for wanted in ("shop c1", "c1", "shop p1", "p1", payment):
            found = await tracer.find(wanted, SearchScope(prefix="order-"))
            assert (found.by, ids(found)) == ("message", ["order-1"]), wanted
            assert found.instances[0].children == one.children
        inner_id = inner.publications[0].id
        assert ids(await tracer.find(inner_id, SearchScope())) == ["order-1:ship"]
        both = await tracer.find("shop c2", SearchScope(all=True))
        assert sorted(ids(both)) == ["order-2", "watch-2"], "one message, two routes"
        assert len(ids(await tracer.find("shop c2", SearchScope()))) == (2 if both.index == "complete" else 1)
        assert asdict(one)["arrivals"][0]["message_id"] == "shop c1"


async def test_a_search_is_as_narrow_as_it_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS, lineage="off") as it:
        await whole_day(it)
        tracer = EngineTracer(it.daemon.engines["default"])
        seen: list[tuple[int, int]] = []
        nothing = await tracer.find("shop none", SearchScope(progress=lambda done, of: seen.append((done, of))))
        assert (nothing.by, nothing.instances, nothing.searched) == ("nothing", (), 5)
        assert seen == [(5, 5)]
        assert (await tracer.find("shop none", SearchScope(prefix="watch-"))).searched == 2
        later = datetime.now(UTC) + timedelta(hours=1)
        assert (await tracer.find("shop c1", SearchScope(since=later))).by == "nothing"
        first = await tracer.find("shop c1", SearchScope(prefix="order-"))
        assert first.searched == 1, "a start is found in the listing"


async def test_repeats_attempts_and_strangers_are_told_apart(tmp_path: Path) -> None:
    config = CONFIG.replace("topic: results}", "topic: results, timeout: 1s}")
    async with running(tmp_path, config, FLOWS) as it:
        publish, failures = it.daemon.brokers["local"].publish, [2]

        async def flaky(topic: str, messages: object) -> None:
            if topic == "results" and failures[0]:
                failures[0] -= 1
                raise ConnectionError("not now")
            await publish(topic, messages)  # type: ignore[arg-type]  # as it came

        it.daemon.brokers["local"].publish = flaky  # type: ignore[method-assign]  # fails twice
        await event(it, "order.created", "c1", "1")
        await it.settled(1)
        await it.client.raise_orchestration_event("order-1", "PAID", data={"by": "hand"})
        await it.client.wait_for_orchestration_completion("order-1", timeout=TIMEOUT)
        tracer = EngineTracer(it.daemon.engines["default"])
        one = (await tracer.find("order-1", SearchScope())).instances[0]
        assert plain(one.arrivals)[1] == ("event PAID", None, None), "raised by another client"
        assert [(out.state, out.attempts) for out in one.publications] == [("published", 3)]


async def test_what_is_under_way_is_told_as_that(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        release = asyncio.Event()
        publish = it.daemon.brokers["local"].publish

        async def late(topic: str, messages: object) -> None:
            if topic == "results":
                await release.wait()
            await publish(topic, messages)  # type: ignore[arg-type]  # as it came

        it.daemon.brokers["local"].publish = late  # type: ignore[method-assign]  # waits
        await event(it, "order.created", "c1", "1")
        await event(it, "order.paid", "p1", "1")
        await it.settled(2)
        tracer = EngineTracer(it.daemon.engines["default"])

        async def look() -> Lineage:
            return (await tracer.find("order-1", SearchScope())).instances[0]

        async def reached() -> object:
            return (await look()).publications

        await eventually(reached)
        assert [out.state for out in (await look()).publications] == ["pending"]
        release.set()
        await it.client.wait_for_orchestration_completion("order-1", timeout=TIMEOUT)
        assert [out.state for out in (await look()).publications] == ["published"]
        assert headers((await it.read("results", 1))[0])["traceparent"] == (await look()).publications[0].traceparent
