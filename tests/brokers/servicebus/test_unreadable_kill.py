"""SIGKILL of daemons on messages that the SDK cannot decode, among healthy ones: each ends once, as its source says."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.acceptance.correlation import FLOWS, instances
from tests.brokers.servicebus import poison
from tests.kit.processes import DaemonProcess
from tests.kit.waiting import TIMEOUT
from tests.prove.stage import Engine
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import QueueConfig

pytestmark = pytest.mark.long

CONFIG = """
engine: {engine}
workflows: [killed_flows]
brokers:
  bus: {{type: servicebus, connection_string: "{connection_string}", connections: 50, request_timeout: 5s}}
sources:
  orders:
    {{broker: bus, queue: {queue}, codec: json, no_match: dead_letter, limits: {{dead_letter_limit: 1000}}, {source}}}
routes:
  - name: noted
    from: orders
    start_or_raise:
      orchestration: collect
      instance_id: "noted-{{{{ payload.key }}}}"
      event: noted
      input: &noted "{{'number': payload.number, 'count': payload.count}}"
      data: *noted
ops: {{http: {{port: 0}}}}
"""
SESSIONS = "sessions: {concurrent: 6, idle: 300ms}"
QUEUES = (
    # Each kill costs a delivery
    QueueConfig("plain", lock_duration=5, max_delivery_count=50),
    QueueConfig("by-session", lock_duration=5, max_delivery_count=50, requires_session=True),
    # The two steps of a dead letter may be repeated
    QueueConfig("letters", lock_duration=5, duplicate_detection=600),
)
KINDS = sorted(poison.UNREADABLE)
BAD = 0.35
"""Share of unreadable messages."""


@dataclass
class Sent:
    """Healthy numbers by key, and ids of unreadable messages."""

    good: dict[str, list[int]] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.bad) + sum(map(len, self.good.values()))


class Stream:
    """Messages of several keys in random order, with unreadable ones of every kind, stored in pieces."""

    def __init__(self, server: ServerProcess, queue: str, keys: int, each: int, seed: int) -> None:
        self._server, self._queue, self._random = server, queue, random.Random(seed)
        self._left = [(f"k{key}", number) for number in range(each) for key in range(keys)]
        self.sent = Sent({f"k{key}": [] for key in range(keys)})
        for key, number in self._left:
            # The first message of a key is healthy and starts its orchestration
            if number and self._random.random() < BAD:
                self.sent.bad.add(f"{key}-{number}")
            else:
                self.sent.good[key].append(number)

    def store(self, count: int) -> None:
        r, session = self._random, self._queue == "by-session"
        piece, self._left = self._left[:count], self._left[count:]
        for key, number in piece:
            if f"{key}-{number}" in self.sent.bad:
                message = poison.unreadable(key, number, r, session, KINDS[number % len(KINDS)])
            else:
                total = len(self.sent.good[key])
                payload = {"key": key, "number": number, "count": total}
                message = poison.healthy(key, number, r, session, payload)
            self._server.store(self._queue, message)


async def killed(
    directory: Path,
    queue: str,
    policy: str,
    *,
    daemons: int,
    kills: int,
    keys: int,
    count: int,
    options: tuple[str, ...] = (),
) -> None:
    """Run and kill one daemon with its own engine, or several daemons in turn beside a separate engine."""
    r = random.Random(kills)
    source = ", ".join(filter(None, (SESSIONS if queue == "by-session" else "", policy)))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ServerProcess(QUEUES, options=options))
        stream = Stream(server, queue, keys, count, kills)
        engine = "{type: embedded, path: engine}"
        if daemons > 1:
            beside = Engine(directory)
            await beside.start()
            stack.callback(beside.close)
            engine = f'{{type: scheduler, endpoint: "http://{beside.address}"}}'
        (directory / "killed_flows.py").write_text(FLOWS)
        config = CONFIG.format(engine=engine, connection_string=server.connection_string, queue=queue, source=source)
        (directory / "bridge.yaml").write_text(config)

        def settled() -> int:
            done = server.counters()["settled"]
            return int(done.get(f"{queue} complete", 0) + done.get(f"{queue} dead_letter", 0))

        running = [stack.enter_context(DaemonProcess(directory)) for _ in range(daemons)]
        piece = len(stream.sent) // kills
        for turn in range(kills):
            before = settled()
            # Messages that arrive at once are in flight at the kill
            for each in running:
                each.signal(signal.SIGSTOP)
            stream.store(piece)
            for each in running:
                each.signal(signal.SIGCONT)
            enough = before + r.randrange(1, piece // 4)
            running[turn % daemons].wait(lambda enough=enough: settled() >= enough, "some of it is settled")  # type: ignore[misc]  # mypy cannot infer it
            running[turn % daemons].kill()
            running[turn % daemons] = stack.enter_context(DaemonProcess(directory))
        stream.store(len(stream.sent))
        sent = stream.sent
        running[0].wait(lambda: settled() == len(sent), "all settled")
        wanted = {f"noted-{key}": numbers for key, numbers in sent.good.items()}
        check(directory, wanted, ordered=queue == "by-session")
        counters = server.counters()
        assert counters["crashes"] == []
        dead_letters = Counter(dead_letter["message_id"] for dead_letter in counters["dead_letters"])
        if policy == "on_unreadable: dead_letter":
            assert dead_letters == Counter(sent.bad)
            assert {dead_letter["reason"] for dead_letter in counters["dead_letters"]} == {"unreadable"}
        else:
            assert not dead_letters
        assert server.contents("letters")["active"] == (len(sent.bad) if "letters" in policy else 0)


def check(directory: Path, wanted: dict[str, list[int]], *, ordered: bool) -> None:
    """Assert that each orchestration received each number once; in order where sessions keep it."""
    end = time.monotonic() + TIMEOUT
    while True:
        found = {one["instance_id"]: one["output"] for one in instances(directory, "noted-")}
        if all(found.get(name) is not None for name in wanted):
            break
        assert time.monotonic() < end, {name: numbers for name, numbers in found.items() if numbers is None}
        time.sleep(0.2)
    assert {name: numbers if ordered else sorted(numbers) for name, numbers in found.items()} == wanted


async def test_a_daemon_killed_once(tmp_path: Path) -> None:
    await killed(tmp_path, "by-session", "on_unreadable: dead_letter", daemons=1, kills=1, keys=6, count=40)


@pytest.mark.prove
@pytest.mark.timeout(400)
@pytest.mark.parametrize("queue", ["plain", "by-session"])
@pytest.mark.parametrize(
    "policy",
    ["on_unreadable: dead_letter", "on_unreadable: dead_letter, dead_letter: letters", "on_unreadable: skip"],
    ids=["dead_letter", "dead_letter-queue", "skip"],
)
async def test_two_daemons_killed_in_turn(tmp_path: Path, queue: str, policy: str) -> None:
    await killed(tmp_path, queue, policy, daemons=2, kills=6, keys=8, count=100)


@pytest.mark.prove
@pytest.mark.timeout(400)
@pytest.mark.parametrize("queue", ["plain", "by-session"])
async def test_two_daemons_killed_in_turn_where_locks_end_with_their_connection(tmp_path: Path, queue: str) -> None:
    await killed(
        tmp_path, queue, "on_unreadable: dead_letter", daemons=2, kills=6, keys=8, count=100, options=("--drop-locks",)
    )
