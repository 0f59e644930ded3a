"""`bridge check --cost`: actions per message, compared with a run where that is possible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from bridge.app.check.cost import Cost, cost, total
from bridge.app.composition import load_config
from bridge.cli import root
from bridge.testing import LocalBridge

SAGAS = """
sagas:
  checkout:
    replies: answers
    publish_outcome: outcomes
    steps:
      - name: stock
        command: {target: commands, type: reserve}
        refused: "reply.sold_out"
        compensation: {target: commands, type: release}
      - parallel:
          - name: payment
            command: {target: commands, type: charge}
            compensation: {target: commands, type: refund, reply: true}
          - steps:
              - name: note
                command: {target: commands, type: note, reply: false}
      - point_of_no_return: true
      - name: parcel
        command: {target: commands, type: ship}
"""

CONFIG = """
engine: {type: scheduler, endpoint: "http://localhost:1"}
brokers: {local: {type: local}}
targets:
  commands: {broker: local, topic: commands}
  outcomes: {broker: local, topic: outcomes}
sources:
  orders: {broker: local, topics: [orders], no_match: ignore, quarantine: {}}
  answers: {broker: local, topics: [answers], no_match: ignore}
routes:
  - {name: start, from: orders, match: {type: start}, schedule: {saga: checkout, instance_id: "order-{{ event.id }}"}}
  - {name: code, from: orders, match: {type: code}, schedule: {orchestration: flow, instance_id: "flow-{{ event.id }}"}}
  - name: event
    from: orders
    match: {type: event}
    raise_event: {name: paid, instance_id: "order-{{ event.id }}", on_missing: {wait: 1h}}
  - {name: stop, from: orders, match: {type: stop}, terminate: {instance_id: "order-{{ event.id }}"}}
  - {name: ends, from: orders, match: {type: ends}, cancel: {instance_id: "order-{{ event.id }}", grace: 1m}}
  - {name: count, from: orders, match: {type: count}, signal_entity: {entity: counter, key: a, operation: add}}
  - {name: nothing, from: orders, match: {type: nothing}, ignore: {}}
  - {name: answer, from: answers, reply: {}}
workflows: [flows]
"""

CODE = """
from datetime import timedelta

from durabletask import task

from bridge.workflow import Command, Saga, Step, publish, request


def charge(ctx: task.ActivityContext, order):
    return order


def counter(ctx, value):
    return value


def flow(ctx: task.OrchestrationContext, order):
    yield ctx.call_activity(charge, input=order)
    yield ctx.create_timer(timedelta(hours=1))
    yield ctx.wait_for_external_event("paid")
    for item in order["items"]:
        yield ctx.call_activity(charge, input=item)
    yield publish(ctx, "commands", order, type="x")
    yield from helper(ctx, order)
    yield ctx.call_sub_orchestrator(child, input=order)


def helper(ctx, order):
    return (yield from request(ctx, "commands", order, type="x", reply_to="answers"))


def child(ctx: task.OrchestrationContext, order):
    saga = Saga(ctx, "child", publish_outcome="outcomes")

    def body():
        yield from saga.step(Step("one", charge, order, compensation=charge))
        yield from saga.step(Step("two", Command("commands", "two", reply_to="answers"), order))

    return (yield from saga.run(body()))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG + SAGAS)
    (tmp_path / "flows.py").write_text(CODE)
    return tmp_path / "bridge.yaml"


def _routes(found: Cost) -> dict[str, Any]:
    return {each.route: each for each in found.routes}


def test_a_saga_is_counted_from_its_definition(project: Path) -> None:
    (saga,) = cost(load_config([project])).sagas
    # start; stock 2+2+1+2, payment 2+2+1, note 2+2, parcel 2+2+1; outcome 2
    assert saga.success == 1 + 7 + 5 + 4 + 5 + 2
    # the steps before the point of no return; release 2+2, refund 2+2+1
    assert saga.compensated == 1 + 7 + 5 + 4 + 4 + 5 + 2


SAMPLE = Path(__file__).parents[2] / "config" / "sagas.yaml"
ORDER = {"id": "p-1", "total": 25.0, "lines": [{"sku": "tea", "quantity": 2}]}
DISPATCHED = ("executionStarted", "taskScheduled", "taskCompleted", "taskFailed", "timerFired", "eventRaised")
"""Events of a history that a message from the engine to the worker began."""


def _dispatched(bridge: LocalBridge) -> int:
    events = bridge.recording("purchase-p-1").events
    return sum(event.WhichOneof("eventType") in DISPATCHED for event in events)


@pytest.mark.parametrize("refused", [False, True])
def test_the_sample_saga_costs_what_its_history_shows(refused: bool) -> None:
    found = {each.saga: each for each in cost(load_config([SAMPLE])).sagas}["purchase"]
    with LocalBridge(SAMPLE) as bridge:
        bridge.publish("purchases", ORDER, type="purchase.requested", key="p-1")
        bridge.answer("stock", {"status": "reserved", "id": "r-1"})
        if not refused:
            bridge.answer("payments", {"status": "authorised", "id": "a-1"})
            bridge.answer("parcels", {"tracking": "t-1"})
            assert _dispatched(bridge) == found.success
            return
        # The last step before the point of no return fails for good: it is undone too
        bridge.publish("purchases", {"id": "p-1", "reason": "x"}, type="purchase.cancelled", key="p-1")
        status = bridge.result("purchase-p-1")["status"]
        assert status == "compensated"
        # The cancel is one event, and replaces the answer of the payment and its check
        assert _dispatched(bridge) == found.compensated + 1 - 3


def test_routes_are_counted(project: Path) -> None:
    found = _routes(cost(load_config([project])))
    actions = {name: route.actions for name, route in found.items()}
    assert actions["start"] == 24 + 1  # the start notifies early messages of the same ids
    assert (actions["event"], actions["stop"], actions["count"], actions["nothing"]) == (1, 1, 1, 0)
    assert actions["ends"] == 1 + 4
    assert all(route.billed for route in found.values())
    early = [line for line in found["event"].lines if line.when.startswith("early")]
    assert [line.actions for line in early] == [1, 1, 1, 3]


def test_code_is_counted_as_far_as_it_is_known(project: Path) -> None:
    route = _routes(cost(load_config([project])))["code"]
    # start 1, charge 2, publish 2, request 2+1, child 2; in the child: one 2, two 2+1, outcome 2
    assert route.actions == 1 + 2 + 2 + 3 + 2 + (2 + 3 + 2)
    conditions = {line.when for line in route.lines}
    assert {"each time", "it expires", "counted with the route that raises it"} <= conditions
    assert any("loops of flow" in note for note in route.notes)


def test_code_elsewhere_is_said_to_be_unknown(project: Path) -> None:
    project.write_text(project.read_text().replace("workflows: [flows]", "workflows: {external: [flow]}"))
    route = _routes(cost(load_config([project])))["code"]
    assert route.actions == 1
    assert "the code of flow is not among the workflow modules" in route.notes[0]


def test_sums(project: Path) -> None:
    found = cost(load_config([project]))
    summed = total(found, None, {"start": 100.0, "stop": 10.0})
    assert summed.per_second == 2510
    assert "needs 2 capacity units" in summed.fits
    every = total(found, 1.0, {"nothing": 5.0})
    assert every.left_out == ("answer",)
    assert every.rates["nothing"] == 5.0
    assert total(found, 1.0, {"answer": 2.0}).left_out == ()
    with pytest.raises(LookupError, match="no route 'x'"):
        total(found, None, {"x": 1.0})


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(root, ["check", "--cost", "--no-import", *arguments], prog_name="bridge")


def test_the_command(project: Path) -> None:
    found = _run("-c", str(project), "--rate", "100/s")
    assert found.exit_code == 0
    assert "saga checkout: 24 actions if it succeeds, 28 if all is compensated" in found.stdout
    assert "left out: answer" in found.stdout
    document = json.loads(_run("-c", str(project), "--rate", "start=1/s", "-o", "json").stdout)
    assert document["total"]["per_second"] == 25
    assert document["sagas"][0]["success"] == 24
    assert json.loads(_run("-c", str(project), "-o", "json").stdout)["total"] is None
    assert _run("-c", str(project), "--rate", "fast").exit_code == 2
    assert _run("-c", str(project), "--rate", "nowhere=1/s").exit_code == 2
    project.write_text("engine: {}")
    assert _run("-c", str(project)).exit_code == 1


def test_an_embedded_engine_bills_nothing(project: Path) -> None:
    config = yaml.safe_load(project.read_text()) | {"engine": {"type": "embedded"}}
    project.write_text(yaml.safe_dump(config))
    found = _routes(cost(load_config([project])))
    assert not any(route.billed for route in found.values())
    assert found["start"].actions == 24  # the engine itself reports starts


@pytest.fixture
def indexed(project: Path) -> Path:
    project.write_text(CONFIG + SAGAS + "ops: {lineage: {index: all, shards: {number: 50}}}\n")
    return project


def test_the_index_of_a_scheduler_is_counted(indexed: Path) -> None:
    with_index = _routes(cost(load_config([indexed])))
    indexed.write_text(CONFIG + SAGAS)
    without = _routes(cost(load_config([indexed])))
    more = {name: with_index[name].actions - without[name].actions for name in without}
    # Each message has two rows, and each message that the saga publishes has one
    assert more == {
        "start": 2 + 5, "code": 2, "event": 2, "stop": 2, "ends": 2, "count": 2, "nothing": 0, "answer": 2,
    }  # fmt: skip
    assert {name: each.indexed for name, each in with_index.items()} == more
    assert not any(each.indexed for each in without.values())


def test_rows_share_their_writes(indexed: Path) -> None:
    found = cost(load_config([indexed]))
    assert found.indexed == {"default": 5.0}
    slow, fast = total(found, None, {"event": 1.0}), total(found, None, {"event": 1000.0})
    assert (slow.per_second, slow.indexed) == (3.0, 2.0)
    assert (fast.per_second, fast.indexed) == (1005.0, 5.0)


def test_the_command_names_the_index(indexed: Path) -> None:
    text = _run("-c", str(indexed), "--rate", "event=1000/s").output
    assert "2  lineage index: the message's id and position" in text
    assert "at most 50 actions in 10s for each process" in text
    assert "5.0 of these actions/s for the lineage index, with one process" in text
    assert "lineage index: removal by age (at most 500 per 7d)" in text
