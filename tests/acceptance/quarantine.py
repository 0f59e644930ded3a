"""Poisoned keys in a daemon that is killed while keys are quarantined, and while released keys resume."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

from bridge.core.message import Message
from tests.acceptance.channel import Channel
from tests.acceptance.correlation import FLOWS, instances
from tests.acceptance.killing import killed, merged
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

CONFIG = """
engine: {type: embedded, path: engine}
workflows: [killed_flows]
brokers:
  main: BROKER
sources:
  orders:
    {broker: main, SOURCE, codec: json, no_match: dead_letter, attributes: {type: "headers['type']"},
    identity: "{{ payload.id }}/{{ payload.number }}", quarantine: {poll: 500ms}}
routes:
  - name: noted
    from: orders
    start_or_raise:
      orchestration: collect
      instance_id: "noted-{{ payload.id }}"
      event: noted
      input: &noted "{'number': payload.number, 'count': payload.count, 'note': NOTE}"
      data: *noted
ops: {http: {port: 0}}
"""
BROKEN, MENDED = "payload.note", "payload.?note.orValue('none')"

KEYS, COUNT = 20, 16
"""Number of keys, of which every second one is poisoned, and number of messages of each."""


def message(key: int, number: int, *, poisoned: bool) -> Message:
    received = {"id": f"k{key}", "number": number, "count": COUNT} | ({} if poisoned else {"note": "fine"})
    return Message(json.dumps(received).encode(), f"k{key}".encode(), (("type", b"noted"),))


def configure(directory: Path, channel: Channel, note: str) -> None:
    config = CONFIG.replace("BROKER", channel.broker).replace("SOURCE", channel.source).replace("NOTE", note)
    (directory / "bridge.yaml").write_text(config)


def received(directory: Path) -> dict[str, object]:
    """Output of each instance, with the numbers that it received; None while the instance waits for more."""
    return {each["instance_id"]: each["output"] for each in instances(directory, "noted-")}


def waiting(directory: Path) -> dict[str, list[int]]:
    """Numbers of the quarantined messages of each key, the oldest first."""
    found: dict[str, list[int]] = defaultdict(list)
    for each in json.loads(bridge("quarantine", "list", "--limit", "0", "--json", cwd=directory)):
        key, number = each["message_id"].split("/")
        found[key].append(int(number))
    return found


def nothing_is_lost_or_overtaken(directory: Path, channel: Channel, *, kills: int, resumed: int) -> None:
    """Assert that kills lose and reorder no message.

    kills: kills while keys enter quarantine, and again while later messages join them. resumed: kills while released
    keys resume.
    """
    rng = random.Random(31)
    poison = {key: rng.randrange(COUNT // 2) for key in range(0, KEYS, 2)}
    lines = [
        [message(key, number, poisoned=poison.get(key) == number) for number in range(COUNT)] for key in range(KEYS)
    ]
    everything = list(range(COUNT))
    (directory / "killed_flows.py").write_text(FLOWS)

    configure(directory, channel, BROKEN)
    killed(directory, channel, merged(rng, [line[: COUNT // 2] for line in lines]), kills, rng)
    with DaemonProcess(directory) as daemon:
        daemon.wait(lambda: channel.left(daemon) == 0, "all settled")
        daemon.kill()
    # From here on every message could be executed, except those behind quarantined messages of their key
    configure(directory, channel, MENDED)
    killed(directory, channel, merged(rng, [line[COUNT // 2 :] for line in lines]), kills, rng)
    with DaemonProcess(directory) as daemon:
        daemon.wait(lambda: channel.left(daemon) == 0, "all settled")
        holds = waiting(directory)
        assert holds.keys() == {f"k{key}" for key in poison}
        for key, first in poison.items():
            # A kill between the effect of an earlier message and its commit repeats that message; it waits, too
            assert [number for number in holds[f"k{key}"] if number >= first] == everything[first:], (key, holds)
        healthy = {f"noted-k{key}": everything for key in range(KEYS) if key not in poison}
        held = {f"noted-k{key}": None for key, number in poison.items() if number}
        await_told(directory, healthy | held)  # type: ignore[operator]  # wider than its annotation, on purpose
        daemon.kill()
    # Without intake no daemon claims the released keys
    config = (directory / "bridge.yaml").read_text()
    (directory / "idle.yaml").write_text(config[: config.index("sources:")] + config[config.index("ops:") :])
    with DaemonProcess(directory, "-c", "idle.yaml") as daemon:
        bridge("quarantine", "release", "--source", "orders", "--all", cwd=directory)
        daemon.kill()
    for _ in range(resumed):
        with DaemonProcess(directory) as daemon:
            enough = rng.randrange(1, KEYS)
            daemon.wait(lambda daemon=daemon, enough=enough: daemon.settled() >= enough, "some have gone on")  # type: ignore[misc]  # mypy cannot infer it
            daemon.kill()
    with DaemonProcess(directory):
        await_told(directory, {f"noted-k{key}": everything for key in range(KEYS)})
        eventually_blocking(lambda: not waiting(directory), lambda: str(waiting(directory)))
        assert channel.dead_letters() == []


def await_told(directory: Path, expected: dict[str, object]) -> None:
    eventually_blocking(lambda: received(directory) == expected, lambda: str(received(directory)), poll=0.2)
