"""Daemon with its page, open and behind tokens, with instances in all the states that the page shows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bridge.app.page.pages import PAGES
from bridge.app.page.site import Site
from bridge.app.serve.control import largest_body
from bridge.config.model.access import AccessConfig
from bridge.config.model.bridge import HttpConfig
from bridge.ops.access import OpsAccess, Role
from bridge.ops.web import Web
from tests.app.test_api import Tokens
from tests.kit.daemon import DaemonFixture, running

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
"""Text that is a script wherever a page forgets to escape."""

FLOWS = """
from datetime import timedelta

from bridge.workflow import Entity, Saga, Step
from durabletask import entities, task


def reserve(ctx: task.ActivityContext, order) -> str:
    return "reserved"


def release(ctx: task.ActivityContext, order) -> str:
    if "unreleasable" in str(order):
        raise ValueError("the stock is locked <b>until tomorrow</b>")
    return "released"


def charge(ctx: task.ActivityContext, order) -> str:
    if "poor" in str(order):
        raise ValueError(f"no credit for {order}")
    return "charged"


def ship(ctx: task.ActivityContext, order) -> str:
    return "shipped"


def order(ctx: task.OrchestrationContext, order):
    saga = Saga(ctx, "order")

    def body():
        once = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=1)
        patient = task.RetryPolicy(first_retry_interval=timedelta(hours=1), max_number_of_attempts=3)
        retry = patient if "patient" in str(order) else once
        step = Step("reserve", reserve, order, compensation=release, compensation_retry=retry, keyed=False)
        yield from saga.step(step)
        yield from saga.step(Step("charge", charge, order, keyed=False))
        return (yield from saga.step(Step("ship", ship, order, keyed=False)))

    return (yield from saga.run(body()))


def parcel(ctx: task.OrchestrationContext, order):
    yield ctx.create_timer(timedelta(milliseconds=20))
    return (yield ctx.call_activity(ship, input=order))


def delivery(ctx: task.OrchestrationContext, order):
    ctx.set_custom_status({"stage": order})
    yield ctx.call_sub_orchestrator(parcel, input=order, instance_id=ctx.instance_id + "-parcel")
    ctx.signal_entity(entities.EntityInstanceId("stock", "shelf"), "receive", 1)
    count = yield ctx.call_entity(entities.EntityInstanceId("stock", "shelf"), "count")
    return count


def approval(ctx: task.OrchestrationContext, order):
    return (yield ctx.wait_for_external_event("approved"))


def broken(ctx: task.OrchestrationContext, text):
    raise ValueError(f"cannot read {text}")
    yield


class Stock(Entity):
    def receive(self, amount: int) -> None:
        self.set_state(self.get_state(int, 0) + amount)

    def count(self) -> int:
        return self.get_state(int, 0)
"""

CONFIG = """
targets: {results: {broker: local, topic: results}}
sources:
  orders: {broker: local, topics: [orders], codec: json, attributes: {type: "payload.kind"}, no_match: ignore}
  approvals: {broker: local, topics: [approvals], codec: json, no_match: dead_letter}
  keyed: {broker: local, topics: [keyed], codec: json, no_match: dead_letter, quarantine: {poll: 50ms}}
routes:
  - name: start-order
    from: orders
    match: {type: order}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}", input: payload}
  - name: deliver
    from: orders
    match: {type: delivery}
    schedule: {orchestration: delivery, instance_id: "delivery-{{ payload.id }}", input: payload}
  - name: late
    from: approvals
    when: has(payload.late)
    raise_event: {instance_id: "late-{{ payload.late }}", name: approved, data: payload, on_missing: dead_letter}
  - name: approve
    from: approvals
    when: has(payload.id)
    raise_event: {instance_id: "approval-{{ payload.id }}", name: approved, data: payload}
  - name: announce
    from: orders
    match: {type: announced}
    when: payload.id != "" && has(payload.kind)
    raise_event: {instance_id: "order-{{ payload.id }}", name: announced, on_missing: {wait: 1h}}
  - name: key
    from: keyed
    when: has(payload.id)
    raise_event: {instance_id: "none-{{ payload.id }}", name: x, on_missing: dead_letter}
"""

STARTS: Mapping[str, tuple[str, Any]] = {
    "order-good": ("order", {"id": "good"}),
    "order-poor": ("order", {"id": "poor"}),
    "order-lost": ("order", {"id": "poor unreleasable"}),
    "order-undoing": ("order", {"id": "poor unreleasable patient"}),
    "delivery-1": ("delivery", {"id": 1}),
    "approval-1": ("approval", {"id": 1}),
    "approval-2": ("approval", {"id": 2}),
    f"broken-{HOSTILE}": ("broken", HOSTILE),
    f"delivery-{HOSTILE}": ("delivery", HOSTILE),
}
"""Orchestration and input by instance id."""
WAITING = ("approval-1", "approval-2", "order-undoing")


class Shop:
    """Running daemon. open: address for everybody on this machine. url: address behind tokens."""

    def __init__(self, daemon: DaemonFixture, open_: str, url: str, tokens: Tokens) -> None:
        self.daemon = daemon
        self.open = open_
        self.url = url
        self._tokens = tokens

    def token(self, role: Role, payloads: bool = False) -> str:
        return self._tokens.tokens[role, payloads]

    @property
    def client(self) -> Any:
        return self.daemon.client


@asynccontextmanager
async def open_shop(directory: Path) -> AsyncIterator[Shop]:
    """Shop whose instances have started, and ended except for those that wait."""
    tokens = Tokens(directory / "tokens")
    async with running(directory, CONFIG, FLOWS) as daemon:
        open_, web = web_of(daemon, OpsAccess()), web_of(daemon, tokens.access)
        await open_.start()
        await web.start()
        try:
            for instance_id, (name, given) in STARTS.items():
                await daemon.client.schedule_new_orchestration(name, input=given, instance_id=instance_id)
            for instance_id in STARTS:
                if instance_id not in WAITING:
                    await daemon.client.wait_for_orchestration_completion(instance_id, timeout=60)

            async def undoes() -> bool:
                return "compensating" in (
                    (await daemon.client.find_instance("order-undoing")).serialized_custom_status or ""
                )

            await daemon.until(undoes, "a saga compensates")
            for number in range(3):
                await daemon.publish("orders", {"kind": "order", "id": f"m{number}"})
            await daemon.publish("approvals", {"none": HOSTILE})
            await daemon.publish("approvals", {"id": HOSTILE}, HOSTILE, **{"x-note": HOSTILE})
            await daemon.publish("orders", {"kind": "announced", "id": HOSTILE.replace("/", "")})
            for number in range(2):
                await daemon.publish("keyed", {"id": number}, HOSTILE)
            await daemon.settled(8)
            yield Shop(daemon, open_.url, web.url, tokens)
        finally:
            await web.stop()
            await open_.stop()


def web_of(daemon: DaemonFixture, access: OpsAccess) -> Web:
    """Ops port of a daemon, for more requests per second than a person makes."""
    served = daemon.daemon
    return Web(
        HttpConfig(port=0, access=AccessConfig(rate=10_000, burst=100_000)),
        served.watch.health,
        served.watch.scrape,
        None,
        served.routes,
        served.streams,
        access,
        largest_body(served.loaded),
        Site(PAGES, served.routes, lambda: served.loaded),
    )
