"""SIGKILL of the daemon, with engine and workers, during the shop's stream: every workflow ends as expected."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.core.message import Message
from demo.generate import Line, load
from demo.observation import RESULTS, observe
from demo.oracle import expect
from demo.shop import CONFIG, body, overlay
from demo.tally import Tally
from tests.acceptance.broker import Log
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import TIMEOUT

KILLS = 5


@pytest.mark.timeout(240)
def test_the_shop_survives_kills(tmp_path: Path) -> None:
    """Workflows end as without kills. Published messages may repeat; none is missing."""
    rng = random.Random(3)
    lines = [line for line in load() if "act" not in line]  # a person would have to fix something
    expected = expect(lines)
    days = [number for number, line in enumerate(lines) if line.get("wait")]
    changes = overlay(tmp_path)
    paid = next(route for route in changes["routes"] if route["name"] == "payment-result")
    paid["raise_event"]["on_missing"] = {"wait": "20s"}  # longer than all restarts together
    (tmp_path / "overlay.yaml").write_text(json.dumps(changes))
    config = ("-c", str(CONFIG), "--overlay", "overlay.yaml")
    with Log(tmp_path / "broker") as log:
        for number in range(KILLS):
            part = lines[number * days[0] // KILLS : (number + 1) * days[0] // KILLS]
            half = len(part) // 2
            publish(log, part[:half])
            with DaemonProcess(tmp_path, *config) as daemon:
                publish(log, part[half:])
                time.sleep(rng.random() * 0.4)
                daemon.kill()
        with DaemonProcess(tmp_path, *config) as daemon:
            begun = days[0]
            late = distinct(log, "payments.dlq", expected_of("payments", expect(lines[:begun])), origin)
            for end in (*days, len(lines)):
                publish(log, lines[begun:end])
                daemon.wait(lambda: daemon.lag() == 0, "all settled")
                ends_as(expect(lines[:end]), tmp_path, config)
                begun = end
            daemon.kill()
        with DaemonProcess(tmp_path, *config):
            ends_as(expected, tmp_path, config)
        published = distinct(log, RESULTS, expected.published, identity)
        assert len(published) == expected.published
        dead_letters = Counter[tuple[str, str]]()
        for topic in {topic for topic, _ in expected.dead_letters}:
            found = [] if topic != "payments" else late
            more = distinct(log, f"{topic}.dlq", expected_of(topic, expected) - len(found), origin)
            for dead_letter in [*found, *more]:
                dead_letters[topic, dict(dead_letter.headers)["bridge.reason"].decode()] += 1
        assert dead_letters == expected.dead_letters
        with DaemonProcess(tmp_path, *config):
            early = json.loads(bridge("early", "list", "--json", *config, cwd=tmp_path))
            quarantined = json.loads(bridge("quarantine", "list", "--json", *config, cwd=tmp_path))
        assert not early
        assert [(each["key"], each["reason"]) for each in quarantined] == [
            ("dock-2", "expression_error"), ("dock-2", "follows"), ("dock-2", "follows"),
        ]  # fmt: skip


def expected_of(topic: str, tally: Tally) -> int:
    """Expected number of dead letters of a topic."""
    return sum(number for (other, _), number in tally.dead_letters.items() if other == topic)


POLL = 60.0
"""Seconds between two looks for a start that a killed process did not report, while an early message waits for it."""


def ends_as(expected: Tally, directory: Path, config: tuple[str, ...]) -> None:
    """Wait until the shop's workflows have the expected states."""
    wanted = expected.orders, expected.early, expected.returns, expected.parcels
    end = time.monotonic() + POLL + TIMEOUT
    while True:
        listed = observe("", json.loads(bridge("instances", "list", "--limit", "0", "--json", *config, cwd=directory)))
        found = listed.orders, listed.early, listed.returns, listed.parcels
        if found == wanted:
            return
        assert time.monotonic() < end, f"expected {wanted}, found {found}"
        time.sleep(0.2)


def publish(log: Log, lines: list[Line]) -> None:
    for line in lines:
        received = body(line)
        content = received["body"] if isinstance(received["body"], str) else json.dumps(received["body"])
        headers = tuple((name, value.encode()) for name, value in received["headers"].items())
        log.publish(line["topic"], Message(content.encode(), line["key"].encode(), headers))


def distinct(log: Log, topic: str, count: int, what: Callable[[Message], object]) -> list[Message]:
    """Return the first `count` messages of a topic, without those whose `what` repeats."""
    found: dict[object, Message] = {}
    while len(found) < count:
        for message in log.read(topic, count - len(found)):
            found[what(message)] = message
    return list(found.values())


def identity(message: Message) -> object:
    """Message id, by which consumers recognise repeats."""
    return json.loads(message.body or b"")["id"]


def origin(dead_letter: Message) -> object:
    """Return the position of a dead letter in its source."""
    headers = dict(dead_letter.headers)
    return headers["bridge.partition"], headers["bridge.offset"]
