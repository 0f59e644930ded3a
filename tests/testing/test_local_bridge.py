"""Bridge in the test process: time, messages, and its reports of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from durabletask.client import OrchestrationFailedError

from bridge.core.message import Message
from bridge.testing import LocalBridge, NotFinished

pytestmark = pytest.mark.long

FLOWS = '''
from datetime import timedelta

from durabletask import entities, task

from bridge.workflow import Saga, Step, StepInput, publish


class Slow(entities.DurableEntity):
    def remind(self, _):
        self.set_state(self.get_state(int, 0) + 1)


def broken(ctx: task.ActivityContext, _):
    raise OSError("away")


def child(ctx: task.OrchestrationContext, days):
    yield ctx.create_timer(timedelta(days=days))
    return days


def waits(ctx: task.OrchestrationContext, order):
    """Publish whether the payment came in time, and after how many seconds."""
    start = ctx.current_utc_datetime
    ctx.set_custom_status("waiting")
    paid = ctx.wait_for_external_event("paid")
    timer = ctx.create_timer(start + timedelta(minutes=10))
    yield task.when_any([paid, timer])
    passed = (ctx.current_utc_datetime - start).total_seconds()
    result = {"paid": paid.is_complete, "after": passed}
    paid.cancel()
    yield publish(ctx, "results", result, type="order.done", subject=order["id"], extensions={"tenant": "t"})
    return result


def family(ctx: task.OrchestrationContext, _):
    start = ctx.current_utc_datetime
    results = yield task.when_all([ctx.call_sub_orchestrator(child, input=days) for days in (3, 1)])
    return [results, (ctx.current_utc_datetime - start).days]


def fails(ctx: task.OrchestrationContext, _):
    yield ctx.call_activity(broken, retry_policy=task.RetryPolicy(
        first_retry_interval=timedelta(hours=1), max_number_of_attempts=3))


def eternal(ctx: task.OrchestrationContext, ids):
    """Three generations at one moment; returns an id of each, of the SDK and of a saga's step."""
    def body():
        key = yield from saga.step(Step("one", echo))
        return key

    saga = Saga(ctx, "eternal")
    outcome = yield from saga.run(body())
    ids = [*(ids or []), ctx.new_uuid(), outcome.result]
    if len(ids) < 6:
        ctx.continue_as_new(ids, save_events=True)
        return None
    return ids


def echo(ctx: task.ActivityContext, call: StepInput):
    return call.key


def sleeper(ctx: task.OrchestrationContext, _):
    ctx.signal_entity(entities.EntityInstanceId("slow", "x"), "remind",
                      signal_time=ctx.current_utc_datetime + timedelta(days=2))
    yield ctx.create_timer(timedelta(seconds=1))
'''
CONFIG = """
engine: {type: embedded}
workflows: [test_kit_flows]
brokers: {main: {type: local, path: nowhere/at/all}}
targets: {results: {broker: main, topic: results}}
sources:
  orders: {broker: main, topics: [orders], no_match: dead_letter}
  results: {broker: main, topics: [results], no_match: ignore}
routes:
  - {name: start, from: orders, match: {type: order.created},
     schedule: {orchestration: waits, instance_id: "order-{{ payload.id }}", input: payload}}
  - {name: later, from: orders, match: {type: order.planned},
     schedule: {orchestration: waits, instance_id: "order-{{ payload.id }}", input: payload, delay: 1h}}
  - {name: paid, from: orders, match: {type: order.paid},
     raise_event: {instance_id: "order-{{ payload.id }}", name: paid}}
"""


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBridge]:
    directory = tmp_path_factory.mktemp("kit")
    (directory / "test_kit_flows.py").write_text(FLOWS)
    (directory / "bridge.yaml").write_text(CONFIG)
    with LocalBridge(directory / "bridge.yaml", environ={}) as running:
        yield running
    assert {path.name for path in directory.iterdir()} <= {"bridge.yaml", "test_kit_flows.py", "__pycache__"}


def test_a_message_starts_and_another_ends(bridge: LocalBridge) -> None:
    bridge.publish("orders", {"id": "1"}, type="order.created")
    assert (bridge.status("order-1"), bridge.custom_status("order-1")) == ("RUNNING", "waiting")
    with pytest.raises(NotFinished, match="order-1 is RUNNING"):
        bridge.result("order-1")
    bridge.advance(minutes=4)
    bridge.publish("orders", {"id": "1"}, type="order.paid")
    assert bridge.result("order-1") == {"paid": True, "after": 240.0}
    (event,) = [event for event in bridge.published("results") if event.subject == "1"]
    assert (event.type, event.data, event.key) == ("order.done", bridge.result("order-1"), "order-1")
    assert event.extensions == {"tenant": "t"}


def test_time_passes_only_when_it_is_told_to(bridge: LocalBridge) -> None:
    before = bridge.now
    assert before > datetime.now(UTC)
    bridge.publish("orders", {"id": "2"}, type="order.created")
    assert bridge.now == before
    bridge.advance(timedelta(minutes=9, seconds=59))
    assert bridge.status("order-2") == "RUNNING"
    bridge.advance(seconds=1)
    assert bridge.result("order-2") == {"paid": False, "after": 600.0}
    assert bridge.now == before + timedelta(minutes=10)


def test_a_delayed_start_waits_for_its_time(bridge: LocalBridge) -> None:
    bridge.publish("orders", {"id": "3"}, type="order.planned")
    bridge.advance(minutes=1)
    assert bridge.status("order-3") == "PENDING"
    bridge.advance(days=2)
    assert bridge.result("order-3")["after"] == 600.0


def test_sub_orchestrations_share_the_time(bridge: LocalBridge) -> None:
    instance_id = bridge.start("family")
    bridge.advance(days=10)
    assert bridge.result(instance_id) == [[3, 1], 3]


def test_retries_are_due_in_virtual_time(bridge: LocalBridge) -> None:
    instance_id = bridge.start("fails")
    bridge.advance(minutes=119)
    assert bridge.status(instance_id) == "RUNNING"
    bridge.advance(minutes=1)
    with pytest.raises(OrchestrationFailedError, match="away"):
        bridge.result(instance_id)


def test_generations_at_one_moment_have_ids_of_their_own(bridge: LocalBridge) -> None:
    ids = bridge.result(bridge.start("eternal"))
    assert len(set(ids)) == 6


def test_delayed_signals_are_due_in_virtual_time(bridge: LocalBridge) -> None:
    bridge.start("sleeper")
    bridge.advance(days=1)
    assert bridge.entity("slow", "x") is None
    bridge.advance(days=1)
    assert bridge.entity("slow", "x") == 1


def test_it_tells_how_messages_ended(bridge: LocalBridge) -> None:
    bridge.publish("orders", {"id": "9"}, type="order.unheard_of")
    bridge.send("orders", Message(b"no json"))
    bridge.publish("orders", {"id": "4"}, type="order.created", id="once")
    bridge.publish("orders", {"id": "4"}, type="order.created", id="once")
    assert bridge.dead_letters("orders") == {"no_route": 1, "decode_error": 1}
    assert bridge.outcomes("orders")["duplicate"] == 1


def test_an_instance_that_is_not_there(bridge: LocalBridge) -> None:
    with pytest.raises(LookupError, match="nobody"):
        bridge.result("nobody")


def test_events_may_go_past_the_rules(bridge: LocalBridge) -> None:
    instance_id = bridge.start("waits", {"id": "5"})
    bridge.raise_event(instance_id, "paid")
    assert bridge.result(instance_id)["paid"] is True


def test_the_plugin_gives_a_bridge_to_every_test(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "test_kit_flows.py").write_text(FLOWS)
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "test_order.py").write_text(
        "def test_late(bridge):\n"
        "    bridge.publish('orders', {'id': '1'}, type='order.created')\n"
        "    bridge.advance(minutes=10)\n"
        "    assert bridge.result('order-1')['paid'] is False\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
