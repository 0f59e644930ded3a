"""Lifecycle events of a daemon, as a webhook receives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from bridge.app.lifecycle.data import schema
from bridge.core.lifecycle import EventKind
from tests.app.test_failures import FLOWS
from tests.kit.daemon import ENGINES, DaemonFixture, running
from tests.kit.waiting import eventually
from tests.kit.webhook import WebhookReceiver

CONFIG = """
targets: {ops: {broker: hooks, source: shop}}
events: {target: ops}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes: [{name: nothing, from: orders, match: {type: nothing}, ignore: {reason: a test}}]
"""
CARD = "4111-1111-1111"


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


def daemon_of(
    tmp_path: Path, receiver: WebhookReceiver, engine: str = "embedded", config: str = CONFIG
) -> AbstractAsyncContextManager[DaemonFixture]:
    broker = f'{{type: local}}, hooks: {{type: webhook, url: "{receiver.url}", retry: {{attempts: 1}}}}'
    return running(tmp_path, config, FLOWS, engine, broker, ops=", dead_letters: {interval: 1s}")


async def schedule(fixture: DaemonFixture, name: str, id_: str, **order: Any) -> None:
    await fixture.client.schedule_new_orchestration(name, instance_id=id_, input={"card": CARD, **order})


def valid(event: dict[str, Any]) -> dict[str, Any]:
    """Data of an event that has the shape of its kind."""
    kind = next(each for each in EventKind if each.type == event["type"])
    data: dict[str, Any] = event["data"]
    jsonschema_rs.validate(schema(kind), data)
    assert set(data) == set(schema(kind)["properties"])
    assert (event["source"], event["specversion"]) == ("shop", "1.0")
    return data


@pytest.mark.parametrize("engine", ENGINES)
async def test_failed_and_compensated_instances(tmp_path: Path, receiver: WebhookReceiver, engine: str) -> None:
    async with daemon_of(tmp_path, receiver, engine) as fixture:
        for name, id_, order in (
            ("works", "w-1", {}),
            ("order", "o-1", {}),
            ("trip", "t-1", {}),
            ("trip", "t-2", {"stuck": True}),
        ):
            await schedule(fixture, name, id_, **order)
        await eventually(lambda: len(receiver.events("instance")) >= 3, "three events")
    found = {event["subject"]: event for event in receiver.events("instance")}
    assert set(found) == {"o-1", "t-1", "t-2"}
    failed, compensated, stuck = (valid(found[name]) for name in ("o-1", "t-1", "t-2"))
    assert found["o-1"]["type"] == "io.durable-bridge.instance.failed.v1"
    assert (failed["orchestration"], failed["error"], failed["saga"]) == ("order", "KeyError", "")
    assert failed["frame"].endswith("lookup")
    assert failed["next"] == "bridge instances show o-1"
    assert found["t-1"]["type"] == "io.durable-bridge.instance.compensated.v1"
    assert (compensated["saga"], compensated["outcome"], compensated["step"]) == ("journey", "compensated", "pay")
    assert found["t-2"]["type"] == "io.durable-bridge.instance.failed.v1"
    assert (stuck["outcome"], stuck["compensation"]) == ("compensation_failed", "stock")
    assert CARD not in json.dumps(receiver.events())
    assert len(receiver.requests) == len({request.event["id"] for request in receiver.requests})


async def test_only_the_chosen_kinds(tmp_path: Path, receiver: WebhookReceiver) -> None:
    config = CONFIG.replace("{target: ops}", "{target: ops, kinds: [instance.compensated]}")
    async with daemon_of(tmp_path, receiver, config=config) as fixture:
        await schedule(fixture, "order", "o-1")
        await schedule(fixture, "trip", "t-1")
        await eventually(lambda: receiver.events(), "an event")
    assert [event["subject"] for event in receiver.events()] == ["t-1"]


async def test_a_new_cause_of_dead_letters(tmp_path: Path, receiver: WebhookReceiver) -> None:
    async with daemon_of(tmp_path, receiver) as fixture:
        for number in range(3):
            await fixture.publish("orders", {"number": number, "card": CARD}, "k")
        await eventually(lambda: receiver.events("new_cause"), "an event", poll=0.1)
        await fixture.publish("orders", {"number": 4}, "k")
        await fixture.daemon.brokers["local"].publish("orders", [])
        await fixture.settled(4)
        assert fixture.daemon.dead_letters is not None
        await fixture.daemon.dead_letters.count()
    [event] = receiver.events("new_cause")
    data = valid(event)
    assert (data["source"], data["topic"], data["reason"]) == ("orders", "orders.dlq", "no_route")
    assert 1 <= data["count"] <= 3
    assert data["next"] == f"bridge dlq list orders --cause {data['group']}"


async def test_events_wait_for_their_target(tmp_path: Path, receiver: WebhookReceiver) -> None:
    receiver.status = 503
    async with daemon_of(tmp_path, receiver) as fixture:
        lifecycle = fixture.daemon.lifecycle
        assert lifecycle is not None
        await schedule(fixture, "order", "o-1")
        await eventually(lambda: lifecycle.events.away is not None, "the target is away")
        assert lifecycle.events.waiting == {"memory": 0, "engine": 1}
        metrics = (await fixture.daemon.watch.scrape()).decode()
        assert "bridge_lifecycle_target_up 0.0" in metrics
        assert 'bridge_lifecycle_events_waiting{place="engine"} 1.0' in metrics
        receiver.status = 204
        await eventually(lambda: receiver.events("failed"), "the event")
        await eventually(lambda: lifecycle.events.waiting["engine"] == 0, "an empty backlog")
        metrics = (await fixture.daemon.watch.scrape()).decode()
        assert "bridge_lifecycle_target_up 1.0" in metrics
        assert 'bridge_lifecycle_events_published_total{kind="instance.failed"} 1.0' in metrics


async def test_an_event_that_is_refused_is_counted_and_holds_no_other(
    tmp_path: Path, receiver: WebhookReceiver
) -> None:
    receiver.answer([400])
    async with daemon_of(tmp_path, receiver) as fixture:
        lifecycle = fixture.daemon.lifecycle
        assert lifecycle is not None
        await schedule(fixture, "order", "o-1")
        await eventually(lambda: lifecycle.events.dropped["refused"] == 1, "a refused event")
        await schedule(fixture, "order", "o-2")
        await eventually(lambda: receiver.events("failed"), "the second event")
    # The failure of a publication makes no event
    assert [each.event["subject"] for each in receiver.requests] == ["o-1", "o-2"]


async def test_a_stop_publishes_the_events_in_memory(tmp_path: Path, receiver: WebhookReceiver) -> None:
    async with daemon_of(tmp_path, receiver, "behind a port") as fixture:
        await schedule(fixture, "order", "o-1")
        finishes = fixture.daemon.finishes["default"]
        await eventually(lambda: finishes.finished.total() == 1, "the end")
    assert [event["subject"] for event in receiver.events("failed")] == ["o-1"]
