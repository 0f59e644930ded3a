"""Answers of `bridge trace` when ids have several meanings, and the instances around the one that was found."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import root
from bridge.core.message import Message
from tests.app.test_trace import CONFIG, plain, traced
from tests.kit.waiting import TIMEOUT, eventually

FAMILY = """
from bridge.workflow import publish
from durabletask import task


def child(ctx: task.OrchestrationContext, order):
    yield publish(ctx, "results", {"id": order["id"]}, type="order.paid")


def parent(ctx: task.OrchestrationContext, order):
    yield ctx.call_sub_orchestrator(child, input=order, instance_id="child-" + order["id"])


def inner(ctx: task.OrchestrationContext, order):
    yield publish(ctx, "results", {"id": order["id"]}, type="order.shipped")


def shipping(ctx: task.OrchestrationContext, order):
    yield ctx.call_sub_orchestrator(inner, input=order, instance_id="inner-" + order["id"])
"""

FAMILY_CONFIG = """
targets: {results: {broker: local, topic: results}}
sources:
  orders: {broker: local, topics: [orders], no_match: ignore}
  shipments: {broker: local, topics: [results], no_match: ignore}
  answers: {broker: local, topics: [answers], no_match: ignore}
sagas:
  shop_saga:
    replies: answers
    steps:
      - name: goods
        command: {target: results, type: goods.reserve, data: "{'id': input.id}"}
        timeout: 5m
routes:
  - {name: answer, from: answers, reply: {}}
  - name: saga
    from: orders
    match: {type: saga}
    schedule: {saga: shop_saga, instance_id: "saga-{{ payload.id }}"}
  - name: start
    from: orders
    match: {type: order}
    schedule: {orchestration: parent, instance_id: "parent-{{ payload.id }}"}
  - name: ship
    from: shipments
    match: {type: order.paid}
    schedule: {orchestration: shipping, instance_id: "ship-{{ payload.id }}"}
"""


async def command(directory: Path, *arguments: str) -> Result:
    """Run `bridge trace` in another thread, as another process would."""
    given = ["trace", *arguments, "-c", str(directory / "bridge.yaml")]
    return await asyncio.to_thread(CliRunner().invoke, root, given, prog_name="bridge")


async def test_an_instance_and_a_message_of_the_same_id(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("created", "order-2", "1")
        await it.send("created", "c-2", "2", count=2)
        await it.it.client.wait_for_orchestration_start("order-1", timeout=TIMEOUT)
        found = await it.find("order-2")
        assert (found.by, [one.instance_id for one in found.instances]) == ("instance", ["order-2", "order-1"])
        [answer] = map(plain, found.answers)
        assert (answer["instance_id"], answer["message_id"]) == ("order-1", "/shop order-2")


async def test_an_instance_with_the_id_of_a_dead_letter_and_of_a_position(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("created", "c-1", "g-1")
        await it.send("gone", "order-g-1", "1", count=2)
        assert (await it.until("order-g-1", "dead_lettered")).route == "gone"
        await it.send("refused", "r-1", "1", count=3)
        await it.it.client.schedule_new_orchestration("order", input={"id": "x"}, instance_id="orders/0@2")
        assert (await it.until("orders/0@2", "ignored")).route == "refuse"


async def test_family_and_saga_have_their_names_and_states(tmp_path: Path) -> None:
    async with traced(tmp_path, config=FAMILY_CONFIG, flows=FAMILY) as it:
        await it.send("order", "c-1", "1")

        async def reached() -> object:
            return (await it.find("inner-1")).instances

        await eventually(reached)
        for name in ("parent-1", "inner-1", "ship-1"):
            await it.it.client.wait_for_orchestration_completion(name, timeout=TIMEOUT)
        child, parent, ship = await it.find("child-1"), await it.find("parent-1"), await it.find("ship-1")
        assert [one.instance_id for one in child.upstream] == ["parent-1"]
        assert child.started_by == {"parent-1"}
        assert not child.upstream[0].children, "the child itself is shown above"
        [below] = parent.downstream
        assert [one.status for one in below.children] == ["COMPLETED"]
        assert [one.instance_id for one in ship.upstream][:1] == ["child-1"]
        assert ship.started_by == {"parent-1"}
        shown = (await command(tmp_path, "child-1")).stdout
        assert "started by\ninstance  parent-1" in shown
        assert "published by" not in shown
        await it.send("saga", "s-1", "1", count=0)
        await it.until("s-1", "executed")
        await it.it.client.wait_for_orchestration_start("saga-1", timeout=TIMEOUT)
        [saga] = (await it.find("s-1")).instances
        assert saga.name == "shop_saga"


@pytest.mark.parametrize("text", ["", " "])
async def test_an_empty_id_is_refused(tmp_path: Path, text: str) -> None:
    async with traced(tmp_path):
        result = await command(tmp_path, "never", text)
        assert result.exit_code == 2
        assert "an id is empty" in result.stderr


@pytest.mark.parametrize("text", [".", "..", "a/../b", "%2e", "?", "#", "a b"])
async def test_no_id_makes_a_daemon_silent(tmp_path: Path, text: str) -> None:
    async with traced(tmp_path) as it:
        assert (await it.find(text)).by == "nothing"


async def test_not_found_names_the_way_to_ignored_messages(tmp_path: Path) -> None:
    async with traced(tmp_path):
        hint = "an ignored message is found only by its position, like orders/3@17"
        assert hint in (await command(tmp_path, "never-sent")).stderr
        assert hint not in (await command(tmp_path, "orders/0@99")).stderr


async def test_without_an_index_the_answer_says_so(tmp_path: Path) -> None:
    async with traced(tmp_path, lineage="off") as it:
        await it.send("created", "c-1", "1")
        found, none = await command(tmp_path, "c-1"), await command(tmp_path, "never")
        assert "the instances above and below are not known without an index" in found.stderr
        assert none.exit_code == 1
        assert "searched 1 instance without an index" in none.stderr


async def test_the_cause_of_an_ignored_message(tmp_path: Path) -> None:
    rules = """
  - name: refuse
    from: orders
    match: {type: refused}
    ignore: {reason: too old}
  - name: many
    from: orders
    match: {type: many}
    for_each: payload.items
    signal_entity: {entity: counter, key: "{{ item }}", operation: add}
"""
    begin, _, end = CONFIG.partition("  - name: refuse\n")
    rest = end.partition("    ignore: {}\n")[2]
    async with traced(tmp_path, config=begin + rules.lstrip("\n") + rest) as it:
        await it.send("refused", "r-1", "1")
        event = {"specversion": "1.0", "id": "m-1", "source": "/shop", "type": "many", "data": {"items": []}}
        await it.it.publish("orders", event, "1", **{"content-type": "application/cloudevents+json"})
        await it.it.settled(2)
        refused, many = await it.answer("orders/0@0"), await it.answer("orders/0@1")
        assert refused["detail"].startswith("route refuse has the command `ignore` (too old), by ")
        assert many["detail"].startswith("the list in `for_each` of route many is empty, by ")


async def test_a_follower_in_quarantine_names_the_first_message(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("created", "k-1", "dock", topic="keyed")
        await it.send("created", "k-2", "dock", topic="keyed", count=2)
        await it.send("created", "k-3", "dock", topic="keyed", count=3)
        for id_ in ("k-2", "k-3"):
            answer = await it.until(id_, "quarantined")
            assert (answer.reason, answer.detail) == ("follows", "it follows /shop k-1")


async def test_a_dead_letter_names_the_command_that_shows_it(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("gone", "g-1", "1")
        await it.it.daemon.brokers["local"].publish("orders", [Message(b"{broken", b"k")])
        await it.it.settled(2)
        await it.until("g-1", "dead_lettered")
        for wanted, dead_letter in (("g-1", "'/shop g-1'"), ("orders/0@1", "orders/0@1")):
            result = await command(tmp_path, wanted)
            assert f"next: bridge dlq show {dead_letter}\n" in result.stdout
            given = ["dlq", "show", dead_letter.strip("'"), "-c", str(tmp_path / "bridge.yaml")]
            shown = await asyncio.to_thread(CliRunner().invoke, root, given, prog_name="bridge")
            assert shown.exit_code == 0, shown.output


async def test_messages_that_wait_for_the_budget_are_found(tmp_path: Path) -> None:
    config = CONFIG.replace("no_match: ignore, retry: {in_memory: 1h}", "no_match: ignore, limits: {max_in_flight: 4}")
    async with traced(tmp_path, config=config, settings=", max_actions_per_minute: 10") as it:
        [orders] = [source for source in it.it.daemon.sources if source.settings.name == "orders"]
        for number in range(1, 7):
            await it.send("created", f"m{number}", str(number), count=0)
        await eventually(lambda: orders.unloading.count > 0)
        for number in range(4, 7):
            found = await it.find(f"m{number}")
            assert {answer.outcome for answer in found.answers} == {"queued"}, number
            assert {answer.message_id for answer in found.answers} == {f"/shop m{number}"}
