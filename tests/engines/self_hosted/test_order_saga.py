"""The order saga in a daemon whose engine is the server of durabletask-go."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge.core.errors import ConfigError
from tests.engines.self_hosted.server import STORES, Server, server
from tests.kit.daemon import DaemonFixture, headers, running
from tests.kit.go_tools import ToolMissing
from tests.kit.waiting import eventually

pytestmark = pytest.mark.prove

FLOWS = """
from datetime import timedelta

from durabletask import task

from bridge.workflow import Command, Saga, Step


def reserve(ctx: task.ActivityContext, order):
    return f"reserved {order['id']}"


def release(ctx: task.ActivityContext, order):
    return f"released {order['id']}"


def ship(ctx: task.ActivityContext, order):
    if order.get("too_large"):
        raise ValueError("too large")
    return f"shipped {order['id']}"


def order(ctx: task.OrchestrationContext, order):
    saga = Saga(ctx, "order")

    def body():
        yield from saga.step(Step("stock", reserve, order, compensation=release, keyed=False))
        payment = Command("payments", "pay", reply_to="answers")
        paid = yield from saga.step(Step("payment", payment, order))
        yield ctx.create_timer(timedelta(milliseconds=100))
        sent = yield from saga.step(Step("parcel", ship, order, keyed=False))
        return {"paid": paid, "sent": sent}

    return (yield from saga.run(body()))
"""
CONFIG = """
targets: {payments: {broker: local, topic: payments}}
sources:
  orders: {broker: local, topics: [orders], codec: json, attributes: {type: payload.type}, no_match: dead_letter}
  answers: {broker: local, topics: [answers], codec: json, no_match: dead_letter}
routes:
  - name: placed
    from: orders
    match: {type: placed}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}", input: payload}
  - name: cancelled
    from: orders
    match: {type: cancelled}
    cancel: {instance_id: "order-{{ payload.id }}"}
  - {name: answers, from: answers, reply: {}}
"""
SETTINGS = ", answers: {signatures: 'off'}"


@pytest.fixture(params=STORES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    try:
        with server(request.param, tmp_path_factory.mktemp(request.param)) as found:
            yield found
    except ToolMissing as missing:
        pytest.skip(str(missing))


@dataclass
class Shop:
    """Daemon with the saga, and the payment service."""

    it: DaemonFixture

    async def place(self, id_: str, **more: Any) -> None:
        await self.it.publish("orders", {"type": "placed", "id": id_, **more}, id_)

    async def pay(self, id_: str) -> None:
        """Answer the request for the payment of an order. After a crash a request may be sent twice."""
        for number in itertools.count(1):
            given = headers((await self.it.read("payments", number))[-1])["correlation-id"]
            if given.endswith(f"@order-{id_}"):
                await self.it.publish("answers", {"ok": True}, None, **{"correlation-id": given})
                return

    async def ends(self, id_: str) -> str:
        """Wait for the end of an order and return the status of its saga."""

        async def ended() -> Any:
            found = await self.it.client.find_instance(f"order-{id_}")
            return found if found is not None and found.runtime_status.name in ("COMPLETED", "FAILED") else None

        found = await eventually(ended, f"the end of order {id_}")
        return str(json.loads(found.serialized_custom_status or "{}").get("status"))


async def test_the_saga_completes_compensates_and_is_cancelled(engine: Server, tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS, endpoint=engine.endpoint, settings=SETTINGS) as it:
        shop = Shop(it)
        await shop.place("1")
        await shop.pay("1")
        assert await shop.ends("1") == "completed"
        # A repeat of the message, and another message with the id of the finished order
        await shop.place("1")
        await it.settled(3)
        assert it.outcomes() == {"executed": 2, "ignored": 1}
        await shop.place("2", too_large=True)
        await shop.pay("2")
        assert await shop.ends("2") == "compensated"
        await shop.place("3")
        await it.read("payments", 3)
        await it.publish("orders", {"type": "cancelled", "id": "3"}, "3")
        assert await shop.ends("3") == "compensated"


async def test_the_saga_survives_a_crash_of_the_server(engine: Server, tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS, endpoint=engine.endpoint, settings=SETTINGS) as it:
        shop = Shop(it)
        await shop.place("1")
        await it.read("payments", 1)
        breaker = it.daemon.breakers["default"]
        engine.kill()
        await shop.place("2")
        await eventually(lambda: breaker.error is not None, "the daemon knows that the server is away")
        engine.start()
        await eventually(lambda: breaker.error is None, "the daemon knows that the server is back")
        await shop.pay("1")
        assert await shop.ends("1") == "completed"
        await shop.pay("2")
        assert await shop.ends("2") == "completed"


async def test_rules_that_the_server_cannot_keep_are_refused(engine: Server, tmp_path: Path) -> None:
    more = '  - {name: said, from: orders, match: {type: said}, raise_event: {instance_id: "order-1", name: said, '
    config = f"{CONFIG}{more}on_missing: {{wait: 1h}}}}}}\n"
    with pytest.raises(ConfigError) as refused:
        async with running(tmp_path, config, FLOWS, endpoint=engine.endpoint):
            pass
    assert [problem.what for problem in refused.value.problems] == [
        f"route {rule}, which engine default does not have"
        for rule in (
            "answers: `reply` with `answers.signatures` other than `off` needs entities",
            "said: `on_missing: {wait: ...}` needs entities",
            "said: `raise_event` without `on_finished: ignore` needs histories",
        )
    ]


async def test_a_saga_keeps_running_while_the_daemon_restarts(engine: Server, tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS, endpoint=engine.endpoint, settings=SETTINGS) as it:
        await Shop(it).place("1")
        await it.read("payments", 1)
    async with running(tmp_path, CONFIG, FLOWS, endpoint=engine.endpoint, settings=SETTINGS) as it:
        shop = Shop(it)
        await shop.pay("1")
        assert await shop.ends("1") == "completed"
