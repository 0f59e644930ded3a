"""Commands on instances for the same keys at once, in a daemon that is killed repeatedly."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from bridge.core.message import Message
from tests.acceptance.channel import Channel
from tests.acceptance.killing import killed, merged
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import TIMEOUT

FLOWS = '''
from datetime import timedelta

from bridge.workflow import CompensationInput, Entity, MessageTimedOut, Saga, Step, StepInput, wait_for_message
from durabletask import entities, task


def collect(ctx: task.OrchestrationContext, first):
    got = [first["number"]]
    while len(got) < first["count"]:
        got.append((yield from wait_for_message(ctx, "noted")).data["number"])
    return got


def late(ctx: task.OrchestrationContext, start):
    got = []
    while len(got) < start["count"]:
        got.append((yield from wait_for_message(ctx, "noted")).data["number"])
    return got


def visit(ctx: task.OrchestrationContext, noted):
    """Ends when it is quiet, and is started anew by the next message."""
    while True:
        ctx.signal_entity(entities.EntityInstanceId("tally", "visited-" + noted["id"]), "note", noted)
        try:
            noted = (yield from wait_for_message(ctx, "noted", timeout=timedelta(milliseconds=50))).data
        except MessageTimedOut:
            return


class Tally(Entity):
    def note(self, noted):
        self.set_state([*self.get_state(list, []), noted["number"]])


def book(ctx: task.ActivityContext, call: StepInput):
    return call.key


def unbook(ctx: task.ActivityContext, call: CompensationInput):
    return call.key


def seat(ctx: task.OrchestrationContext, booking):
    saga = Saga(ctx, "seat")

    def body():
        yield from saga.step(Step("seat", book, booking, compensation=unbook))
        yield from saga.wait_for_event("boarded")

    return (yield from saga.run(body()))
'''

CONFIG = """
engine: {type: embedded, path: engine}
workflows: [killed_flows]
brokers:
  main: BROKER
sources:
  orders:
    {broker: main, SOURCE, codec: json, no_match: dead_letter, attributes: {type: "headers['type']"}}
routes:
  - name: noted
    from: orders
    match: {type: noted}
    start_or_raise: {orchestration: collect, instance_id: "noted-{{ payload.id }}", event: noted, data: payload}
  - name: listed
    from: orders
    match: {type: listed}
    schedule: {orchestration: collect, instance_id: "listed-{{ payload.id }}", on_existing: raise, event: noted}
  - name: visited
    from: orders
    match: {type: visited}
    schedule:
      orchestration: visit
      instance_id: "visit-{{ payload.id }}"
      on_existing: raise
      event: noted
      on_finished: restart
  - name: early
    from: orders
    match: {type: early}
    raise_event: {instance_id: "late-{{ payload.id }}", name: noted, data: payload, on_missing: {wait: 10m}}
  - name: late
    from: orders
    match: {type: late}
    schedule: {orchestration: late, instance_id: "late-{{ payload.id }}"}
  - name: counted
    from: orders
    match: {type: counted}
    signal_entity: {entity: tally, key: "counted-{{ payload.id }}", operation: note, input: payload}
  - name: booked
    from: orders
    match: {type: booked}
    schedule: {orchestration: seat, instance_id: "seat-{{ payload.id }}"}
  - name: cancelled
    from: orders
    match: {type: cancelled}
    cancel: {instance_id: "seat-{{ payload.id }}", reason: "{{ payload.id }}", on_missing: {wait: 10m}}
ops: {http: {port: 0}}
"""

COUNT = 4
"""Messages per command and key."""
STRAYS = 5
"""Distance between keys that have a message without a matching rule."""


def message(kind: str, key: int, number: int = 0) -> Message:
    body = json.dumps({"id": f"k{key}", "number": number, "count": COUNT}).encode()
    return Message(body, f"k{key}".encode(), (("type", kind.encode()),))


def lines(key: int) -> list[list[Message]]:
    """Messages for a key, one list per command; each list must keep its order."""
    early = [message("early", key, number) for number in range(COUNT)]
    cancel = [message("booked", key), message("cancelled", key)]
    return [
        *(
            [message(kind, key, number) for number in range(COUNT)]
            for kind in ("noted", "listed", "visited", "counted")
        ),
        [*early[:-1], message("late", key), early[-1]],
        cancel if key % 2 else cancel[::-1],
        [message("stray", key)] if key % STRAYS == 0 else [],
    ]


def instances(directory: Path, prefix: str = "") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(
        bridge("instances", "list", "--prefix", prefix, "--limit", "0", "--json", cwd=directory)
    )
    return listed


def effects(directory: Path) -> dict[str, Any]:
    """Effects of all messages: output of each instance, state of each entity; status and reason of a saga."""
    found = {each["instance_id"]: each["output"] for each in instances(directory)}
    sagas = {name: output for name, output in found.items() if name.startswith("seat-") and output}
    found |= {name: [output["status"], output["reason"]] for name, output in sagas.items()}
    entities = json.loads(bridge("entities", "list", "tally", "--json", cwd=directory))
    return found | {each["key"]: each["state"] for each in entities}


def wanted(keys: int) -> dict[str, Any]:
    """Expected effects when every message takes effect once, in order for each command and key."""
    found: dict[str, Any] = {}
    for key in range(keys):
        found |= {f"{name}-k{key}": list(range(COUNT)) for name in ("noted", "listed", "late", "counted", "visited")}
        found |= {f"visit-k{key}": None, f"seat-k{key}": ["compensated", "cancelled"]}
    return found


def every_message_takes_effect_once(
    directory: Path, channel: Channel, *, keys: int, kills: int, apart: bool = False
) -> None:
    rng = random.Random(23)
    (directory / "killed_flows.py").write_text(FLOWS)
    config = CONFIG.replace("BROKER", channel.broker).replace("SOURCE", channel.source)
    (directory / "bridge.yaml").write_text(config)
    stream = merged(rng, [merged(rng, lines(key)) for key in range(keys)])
    killed(directory, channel, stream, kills, rng, apart=apart)
    with DaemonProcess(directory) as daemon:
        daemon.wait(lambda: channel.left(daemon) == 0, "all settled")
        end = time.monotonic() + TIMEOUT
        expected = wanted(keys)
        while (found := effects(directory)) != expected:
            wrong = {name: (found.get(name), expected.get(name)) for name in found.keys() | expected.keys()}
            assert time.monotonic() < end, {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
            time.sleep(0.2)
        assert json.loads(bridge("early", "list", "--json", cwd=directory)) == []
        dead_letters = channel.dead_letters()
        assert {dead_letter.body for dead_letter in dead_letters} == {
            message("stray", key).body for key in range(0, keys, STRAYS)
        }
        assert {dict(dead_letter.headers)["bridge.reason"] for dead_letter in dead_letters} == {b"no_route"}
        assert any(each["input"]["number"] for each in instances(directory, "visit-")), "some were started anew"
