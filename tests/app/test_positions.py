"""Lag of sources, and plans of moves: counts, retention of finished instances, and targets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from bridge.app.composition import build_broker, load_config
from bridge.app.operations.sources import positions
from bridge.app.operations.sources.positions import Target, lag, parse_target, plan, seek_directly
from bridge.brokers.local import LocalBroker
from bridge.config.source import Loaded
from bridge.core.errors import InvalidCommand
from bridge.core.message import Message
from bridge.engines.entities.source_seeks import apply, pending

DAY = 86400.0

CONFIG = """
engines:
  default: {type: embedded, retention: 7d, retention_count: 1000}
  other: {type: embedded, path: other, retention: null}
brokers:
  local: {type: local, partitions: 1}
  bus: {type: servicebus, connection_string: "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=k;SharedAccessKey=a2V5"}
sources:
  orders: {broker: local, topics: [orders, bills], codec: json, no_match: ignore}
  queue: {broker: bus, queue: queue, codec: json, no_match: ignore}
routes:
  - {name: start, from: orders, schedule: {orchestration: order, instance_id: "{{ message.id }}"}}
  - {name: audit, from: orders, engine: other, schedule: {orchestration: audit, instance_id: "{{ message.id }}"}}
  - {name: note, from: orders, raise_event: {instance_id: x, name: note}}
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    path = tmp_path / "bridge.yaml"
    path.write_text(CONFIG)
    return load_config([path])


async def publish(loaded: Loaded, topic: str, *ages: float) -> None:
    """Publish one message of each age in seconds."""
    broker = build_broker(loaded, "local")
    assert isinstance(broker, LocalBroker)
    await broker.start()
    await broker.publish(topic, [Message(b"{}", timestamp=time.time() - age) for age in ages])
    await broker.stop()


def of(found: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(line[name] for name in names) for line in found["partitions"]]


async def test_messages_older_than_the_retention_are_counted(loaded: Loaded) -> None:
    await publish(loaded, "orders", 9 * DAY, 8 * DAY, 6 * DAY, DAY, 0)
    await seek_directly(loaded, "orders", {"orders/0": 5})
    found = await plan(loaded, "orders", "beginning", "orders")
    assert of(found, "from", "to", "again", "skipped", "older", "exact") == [(5, 0, 5, 0, 2, True)]
    assert (found["again"], found["older"], found["active"]) == (5, 2, False)
    assert found["retention"] == [
        {"engine": "default", "seconds": 7 * DAY, "limit": 1000, "routes": ["start"]},
        {"engine": "other", "seconds": None, "limit": None, "routes": ["audit"]},
    ]
    # By time: two messages of the last two days
    found = await plan(loaded, "orders", "2d-ago", "orders")
    assert of(found, "to", "again", "older") == [(3, 2, 0)]


async def test_numbers_from_offsets_are_upper_bounds(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    await publish(loaded, "orders", 9 * DAY, 8 * DAY, 6 * DAY, DAY, 0)
    await seek_directly(loaded, "orders", {"orders/0": 5})
    monkeypatch.setattr(positions, "COUNT_SECONDS", 0.0)
    found = await plan(loaded, "orders", "1", "orders")
    assert of(found, "again", "skipped", "older", "exact") == [(4, 0, 1, False)]


async def test_targets_are_cut_to_the_log_of_each_partition(loaded: Loaded) -> None:
    await publish(loaded, "orders", 0, 0, 0)
    await publish(loaded, "bills", 0)
    found = await plan(loaded, "orders", "2")
    assert of(found, "topic", "to", "skipped") == [("orders", 2, 2), ("bills", 1, 1)]
    assert [line["note"] != "" for line in found["partitions"]] == [False, True]
    with pytest.raises(InvalidCommand, match="add `topic`"):
        await plan(loaded, "orders", "2", None, 0)
    with pytest.raises(LookupError, match="no topic 'bill'; did you mean 'bills'"):
        await plan(loaded, "orders", "2", "bill")
    with pytest.raises(LookupError, match="no partition 4"):
        await plan(loaded, "orders", "2", "orders", 4)
    for positions_, text in (({"orders/0": 4}, "only the offsets from 0 to 3"), ({"orders": 0}, "not a partition")):
        with pytest.raises(InvalidCommand, match=text):
            await seek_directly(loaded, "orders", positions_)
    with pytest.raises(LookupError):
        await seek_directly(loaded, "orders", {"orders/1": 0})
    assert [line["committed"] for line in await lag(loaded, "orders")] == [None, None]


async def test_the_oldest_message_is_the_first_that_is_not_completed(loaded: Loaded) -> None:
    await publish(loaded, "orders", 300, 200, 100)
    await seek_directly(loaded, "orders", {"orders/0": 1})
    [first] = await lag(loaded, "orders")  # the other topic does not exist yet
    assert (first["topic"], first["committed"], first["end"], first["lag"]) == ("orders", 1, 3, 2)
    assert 200 <= first["oldest_seconds"] < 290


async def test_service_bus_has_no_positions(loaded: Loaded) -> None:
    with pytest.raises(InvalidCommand, match="has no positions"):
        await plan(loaded, "queue", "end")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("beginning", Target("beginning")),
        ("end", Target("end")),
        ("42", Target("offset", 42)),
        ("90m-ago", Target("time", 1_000_000 - 5400)),
        ("1970-01-02T00:00:00Z", Target("time", 86400)),
    ],
)
def test_targets(text: str, expected: Target) -> None:
    assert parse_target(text, 1_000_000) == expected


@pytest.mark.parametrize("text", ["", "latest", "-1", "2h", "ago", "-ago", "1h-ago ", "9" * 30, "2030-01-01"])
def test_other_targets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not one of beginning|not a duration"):
        parse_target(text, 1_000_000)


def test_state_of_a_seek() -> None:
    def move(stamp: int) -> dict[str, Any]:
        return {"to": 0, "stamp": stamp, "by": "ann", "at": 1.0, "reason": ""}

    def moved(stamp: int) -> dict[str, Any]:
        return {"stamp": stamp, "from": 5, "by": "host/1", "at": 2.0}

    state = apply(None, "seek", {"a/0": move(1), "a/1": move(1)})
    assert state is not None
    # A report of an earlier move, and one of a partition without a move, change nothing
    state = apply(state, "moved", {"a/0": moved(1), "a/1": moved(0), "a/9": moved(1)})
    assert state is not None
    assert list(pending(state)) == ["a/1"]
    again = apply(state, "moved", {"a/0": moved(1) | {"by": "host/2"}})
    assert again == state
    assert apply(state, "an operation of a later version", None) == state
    # A new seek keeps what waits elsewhere, and forgets what is done
    state = apply(state, "seek", {"a/2": move(2)})
    assert state is not None
    assert list(state) == ["a/1", "a/2"]
    state = apply(state, "seek", {"a/1": move(3)})
    assert state is not None
    assert state["a/1"]["stamp"] == 3
    assert apply(state, "cancel", None) is None
