"""Dead letters replayed into a daemon that is killed repeatedly, while dead letters of the same cause arrive."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path

from bridge.app.composition import load_config
from bridge.app.connection import attached
from bridge.core.errors import EngineError
from bridge.core.message import Message
from bridge.core.states import JobState
from bridge.jobs.state_machine import JobRecord
from bridge.jobs.store import JobItem, JobStore
from tests.acceptance.channel import Channel
from tests.acceptance.correlation import FLOWS, instances
from tests.acceptance.killing import merged
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import TIMEOUT

CONFIG = """
engine: {type: embedded, path: engine}
workflows: [killed_flows]
brokers:
  main: BROKER
sources:
  orders:
    {broker: main, SOURCE, codec: json, no_match: dead_letter, attributes: {type: "headers['type']"},
    identity: "{{ payload.id }}/{{ payload.number }}", limits: {dead_letter_limit: 100000}}
routes:
  - name: noted
    from: orders
    match: {type: noted}
    start_or_raise:
      orchestration: collect
      instance_id: "noted-{{ payload.id }}"
      event: noted
      input: &noted "{'number': payload.number, 'count': payload.count, 'note': NOTE}"
      data: *noted
ops: {http: {port: 0}}
"""
BROKEN = "payload.note"
FIXED = "has(payload.late) ? payload.note : payload.?note.orValue('none')"
"""Rule that fails for newcomers only, for the same reason as before."""

KEYS, COUNT = 16, 12
"""Number of keys, of which every second one has no notes, and number of messages of each."""


def message(key: str, number: int, *, type_: str = "noted", **more: object) -> Message:
    payload = {"id": key, "number": number, "count": COUNT, **more}
    return Message(json.dumps(payload).encode(), key.encode(), (("type", type_.encode()),))


def configure(directory: Path, channel: Channel, note: str) -> None:
    config = CONFIG.replace("BROKER", channel.broker).replace("SOURCE", channel.source).replace("NOTE", note)
    (directory / "bridge.yaml").write_text(config)


def record(directory: Path, job: str) -> JobRecord | None:
    """Record of a job; None while no worker or engine answers. The sums hold."""

    async def read() -> JobRecord:
        async with attached(load_config([directory / "bridge.yaml"])) as engine:
            return await JobStore(engine).record(job)

    try:
        found = asyncio.run(read())
    except EngineError:
        return None
    assert sum(found.counts.values()) == found.selected, found.counts
    return found


def items(directory: Path, job: str) -> list[JobItem]:
    async def read() -> list[JobItem]:
        async with attached(load_config([directory / "bridge.yaml"])) as engine:
            return [each async for each in JobStore(engine).items(job)]

    return asyncio.run(read())


def letters(directory: Path) -> Counter[tuple[str, str]]:
    """Numbers of messages with dead letters, by state and reason.

    A kill between a dead letter and its commit repeats the dead letter.
    """
    listed = json.loads(bridge("dlq", "list", "--state", "all", "--limit", "0", "--json", cwd=directory))
    found = {(each["state"], each["reason"], each["message_id"] or each["origin"]) for each in listed}
    return Counter((state, reason) for state, reason, _ in found)


def replayed_while_killed(directory: Path, channel: Channel, *, kills: int, rate: int = 25) -> None:
    """Assert that kills during a replay lose, double and reorder nothing."""
    rng = random.Random(17)
    (directory / "killed_flows.py").write_text(FLOWS)
    configure(directory, channel, BROKEN)
    lines = [
        [message(f"k{key}", number, **({"note": "fine"} if key % 2 else {})) for number in range(COUNT)]
        for key in range(KEYS)
    ]
    stray = [[message("x", number, type_="stray") for number in range(7)]]
    selected = KEYS // 2 * COUNT
    with DaemonProcess(directory) as daemon:
        channel.publish(merged(rng, lines + stray))
        daemon.wait(lambda: daemon.settled() == KEYS * COUNT + 7, "all settled")
        daemon.wait(lambda: channel.left(daemon) == 0, "all settled")
        daemon.stop()  # which commits all
    configure(directory, channel, FIXED)
    with DaemonProcess(directory) as daemon:
        states = letters(directory)
        assert states == {("open", "expression_error"): selected, ("open", "no_route"): 7}, states
        out = bridge(
            "dlq", "replay", "--cause", "expression_error", "--rate", str(rate), "--yes", "--json", cwd=directory
        )
        [job] = json.loads(out)
        assert job["count"] == selected
        daemon.kill()
    newcomers = 0
    for _ in range(kills):
        with DaemonProcess(directory) as daemon:
            channel.publish([message(f"new{newcomers}", 0, late=True)])
            newcomers += 1
            before = record(directory, job["job"])
            enough = (0 if before is None else before.finished) + rng.randrange(1, selected // (kills + 1))
            daemon.wait(
                lambda enough=enough: (now := record(directory, job["job"])) is not None and now.finished >= enough,  # type: ignore[misc]  # mypy cannot infer it
                "some have been replayed",
            )
            daemon.kill()
    with DaemonProcess(directory) as daemon:
        daemon.wait(
            lambda: (now := record(directory, job["job"])) is not None and now.state is JobState.DONE, "the job is done"
        )
        daemon.wait(lambda: channel.left(daemon) == 0, "all settled")
        results = Counter(each.status for each in items(directory, job["job"]))
        # A kill between the effect of a message and its report lets the message meet its own effect
        assert set(results) <= {"succeeded", "duplicate"}, results
        assert sum(results.values()) == selected
        end = time.monotonic() + TIMEOUT
        expected = {f"noted-k{key}": list(range(COUNT)) for key in range(KEYS)}
        while (found := {each["instance_id"]: each["output"] for each in instances(directory, "noted-")}) != expected:
            assert time.monotonic() < end, found
            time.sleep(0.2)
        states = letters(directory)
        assert states == {
            ("replayed", "expression_error"): selected,
            ("open", "expression_error"): newcomers,
            ("open", "no_route"): 7,
        }, states
        assert not failures(directory)


def failures(directory: Path) -> list[str]:
    """Instances that failed."""
    return [each["instance_id"] for each in json.loads(
        bridge("instances", "list", "--status", "failed", "--limit", "0", "--json", cwd=directory)
    )]  # fmt: skip
