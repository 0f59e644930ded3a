"""Messages within all limits at the highest possible cost: the daemon's event loop stays responsive."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.core.message import Message
from tests.kit.daemon import DaemonFixture, running

pytestmark = pytest.mark.long

BOUND = 0.25
"""Maximum processor time, in seconds, of one callback in the thread of the loop."""

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, given):
    return None
"""

CONFIG = """
defaults:
  source: {broker: local, codec: json, no_match: ignore, limits: {dead_letter_limit: 100000}}
sources:
  plain: {topics: [plain], attributes: {type: "headers['type']"}}
  computed:
    topics: [computed]
    identity: "{{ payload.a.map(x, x).size() }}"
    attributes: {type: "payload.b.replace('x', payload.c) == '' ? 'a' : 'b'"}
  ordered: {topics: [ordered], ordering: "{{ payload.a.map(x, x).size() }}"}
routes:
  - {name: in, from: plain, match: {type: in}, when: "payload.a.all(x, !(x in payload.b))", ignore: {}}
  - {name: pattern, from: plain, match: {type: pattern}, when: payload.a.matches(payload.b), ignore: {}}
  - {name: known, from: plain, match: {type: known}, when: "payload.a.matches('^[ab]*a[ab]{900}c')", ignore: {}}
  - {name: contains, from: plain, match: {type: contains}, when: payload.a.contains(payload.b), ignore: {}}
  - name: replace
    from: plain
    match: {type: replace}
    schedule: {orchestration: order, instance_id: a-1, input: "payload.a.replace('x', payload.b)"}
  - name: map
    from: plain
    match: {type: map}
    schedule: {orchestration: order, instance_id: a-2, input: "payload.a.map(x, {'x': x, 'b': payload.b})"}
  - name: join
    from: plain
    match: {type: join}
    schedule: {orchestration: order, instance_id: "a-{{ payload.a.map(x, payload.b).join(',') }}"}
  - name: copies
    from: plain
    match: {type: copies}
    schedule: {orchestration: order, instance_id: a-3, input: "[payload, payload, payload, payload, payload]"}
  - name: fan
    from: plain
    match: {type: fan}
    for_each: payload.a
    schedule: {orchestration: order, instance_id: "fan-{{ index }}"}
  - name: fan-made
    from: plain
    match: {type: fan-made}
    for_each: payload.a.map(x, payload.b)
    schedule: {orchestration: order, instance_id: "made-{{ index }}", input: "{'all': payload, 'item': item}"}
  - name: fan-small
    from: plain
    match: {type: fan-small}
    for_each: payload.a
    ignore: {}
  - {name: rest, from: [computed, ordered], when: "payload.a.filter(x, true).size() > 0", ignore: {}}
"""

NUMBERS = list(range(9_900))
RANDOM = "".join("ab"[(number * 2654435761 >> 13) & 1] for number in range(400_000))
HOSTILE: list[tuple[str, str, dict[str, Any]]] = [
    ("plain", "in", {"a": NUMBERS, "b": [-1] * 300_000}),
    ("plain", "in", {"a": NUMBERS[:1000], "b": [-1] * 5_000}),
    ("plain", "in", {"a": [[]] * 9_900, "b": [[0]] * 100_000}),
    ("plain", "pattern", {"a": RANDOM, "b": "[ab]*a[ab]{900}c"}),
    ("plain", "pattern", {"a": "a", "b": "\\pL" * 100_000}),
    ("plain", "pattern", {"a": "é" * 20_000, "b": "(\\pL|\\pN)*\\pL{300}x"}),
    ("plain", "known", {"a": RANDOM}),
    ("plain", "contains", {"a": "a" * 500_000, "b": "a" * 250_000 + "b"}),
    ("plain", "replace", {"a": "x" * 20_000, "b": "y" * 20_000}),
    ("plain", "replace", {"a": "x" * 1_000_000, "b": ""}),
    ("plain", "map", {"a": NUMBERS, "b": ""}),
    ("plain", "map", {"a": NUMBERS[:1500], "b": "y" * 100_000}),
    ("plain", "join", {"a": NUMBERS, "b": "y" * 500_000}),
    ("plain", "copies", {"a": [0] * 500_000}),
    ("plain", "copies", {"a": [[] for _ in range(300_000)]}),
    ("plain", "copies", {str(number): {} for number in range(90_000)}),
    ("plain", "fan", {"a": NUMBERS[:1000], "b": "y" * 1_000_000}),
    ("plain", "fan-made", {"a": NUMBERS[:1000], "b": "y" * 100_000}),
    ("plain", "fan-made", {"a": NUMBERS[:1000], "b": {"c": [None] * 1_000}}),
    ("computed", "", {"a": NUMBERS, "b": "x", "c": "y"}),
    ("computed", "", {"a": [1], "b": "x" * 20_000, "c": "y" * 20_000}),
    ("ordered", "", {"a": NUMBERS}),
    ("ordered", "", {"a": [{} for _ in range(300_000)]}),
]
HEAVY: list[tuple[str, str, dict[str, Any]]] = [
    ("plain", "in", {"a": NUMBERS[:200], "b": [-1] * 5_000}),
    ("plain", "pattern", {"a": RANDOM[:8_000], "b": "[ab]*a[ab]{900}c"}),
    ("plain", "known", {"a": RANDOM[:10_000]}),
    ("plain", "contains", {"a": "a" * 80_000, "b": "a" * 40_000 + "b"}),
    ("plain", "replace", {"a": "x" * 3_000, "b": "y" * 3_000}),
    ("plain", "map", {"a": NUMBERS[:1_400], "b": ""}),
    ("plain", "copies", {"a": [0] * 40_000}),
    ("plain", "copies", {"a": [[] for _ in range(40_000)]}),
    ("plain", "copies", {"a": "x" * 1_000_000}),
    ("plain", "fan", {"a": NUMBERS[:15], "b": "y" * 1_000_000}),
    ("plain", "fan", {"a": NUMBERS[:1000], "b": "y" * 10_000}),
    ("plain", "fan", {"a": [0] * 30, "b": [0] * 500_000}),
    ("plain", "fan-made", {"a": NUMBERS[:700], "b": "y" * 100}),
    ("plain", "fan-small", {"a": [{} for _ in range(340_000)]}),
    ("plain", "none", {"a": [{} for _ in range(340_000)]}),
    ("ordered", "", {"a": NUMBERS[:800]}),
]
"""Messages with nearly the highest allowed cost."""


@contextmanager
def callbacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, str]]]:
    """Name and processor time of each callback of this thread's loop that takes more than 50 ms."""
    found: list[tuple[float, str]] = []
    run = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        since = time.thread_time()
        run(handle)
        if (taken := time.thread_time() - since) > 0.05:
            found.append((taken, repr(handle)))

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", measured)
        yield found


async def healthy(it: DaemonFixture, over: asyncio.Event) -> int:
    """Count the daemon's answers until `over`."""
    answers = 0
    while not over.is_set():
        with await asyncio.to_thread(urllib.request.urlopen, f"{it.daemon.url}/healthz", timeout=60) as answer:
            assert answer.status == 200
        answers += 1
    return answers


async def test_no_message_stalls_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        over = asyncio.Event()
        with callbacks(monkeypatch) as found:
            health = asyncio.create_task(healthy(it, over))
            for number, (topic, kind, payload) in enumerate(HOSTILE + HEAVY):
                message = Message(orjson.dumps(payload), str(number).encode(), (("type", kind.encode()),))
                assert message.size < 1_048_576
                await it.daemon.brokers["local"].publish(topic, [message])
                await it.settled(number + 1)
            over.set()
            assert await health > len(HOSTILE)
        assert not [each for each in found if each[0] > BOUND]
        reasons = {reason for source in it.daemon.sources for reason in source.ledger.dead_letters}
        assert reasons == {"expression_cost", "commands_too_large", "engine_rejected", "too_many_values"}
