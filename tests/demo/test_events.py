"""Data file of the demo: its content equals the output of its generator."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from typing import Any

from demo import generate

ALL = generate.load()
LINES = [line for line in ALL if "act" not in line]


def test_the_file_is_what_the_generator_writes() -> None:
    assert generate.PATH.read_text(encoding="utf-8") == generate.text(), "run `python -m demo.generate`"


def test_there_is_enough_of_everything() -> None:
    types = Counter(line["event"]["type"] for line in LINES if "event" in line)
    assert len(LINES) >= 240
    assert types["order.created"] >= 80
    assert types["payment.captured"] > 50
    assert all(types[name] for name in ("payment.failed", "shipment.lost", "order.cancelled", "order.held"))
    assert [line["topic"] for line in LINES if "raw" in line] == ["orders"]


def test_every_event_is_a_cloudevent() -> None:
    for line in LINES:
        if "event" in line:
            event = line["event"]
            assert event["specversion"] == "1.0"
            assert all(isinstance(event[name], str) and event[name] for name in ("id", "source", "type", "time"))
            assert event["source"] == f"/shop/{line['topic']}"


def test_an_id_comes_again_only_with_the_same_event() -> None:
    by_id = defaultdict(list)
    for line in LINES:
        if "event" in line:
            by_id[line["event"]["id"]].append(json.dumps(line, sort_keys=True))
    repeated = [lines for lines in by_id.values() if len(lines) > 1]
    assert len(repeated) == 5
    assert all(len(set(lines)) == 1 for lines in repeated)


def test_the_events_of_an_order_keep_their_order_in_a_topic() -> None:
    seen: set[str] = set()
    last: dict[tuple[str, str], str] = {}
    for line in LINES:
        if "event" in line and line["event"]["id"] not in seen:
            seen.add(line["event"]["id"])
            lane = (line["topic"], line["key"])
            assert line["event"]["time"] >= last.get(lane, "")
            last[lane] = line["event"]["time"]


def test_the_topics_are_interleaved() -> None:
    changes = sum(one["topic"] != other["topic"] for one, other in itertools.pairwise(LINES))
    assert changes > len(LINES) / 3


def test_orders_are_held_and_paid_on_days_of_their_own() -> None:
    """Another event on the day of a suspension would make the result depend on the order of the topics."""
    days: list[list[dict[str, Any]]] = [[]]
    for line in ALL:
        if line.get("wait"):
            days.append([])
        if "act" not in line:
            days[-1].append(line)
    assert len(days) == 3
    held = {line["key"] for line in days[1]}
    assert {line["topic"] for line in days[1]} == {"orders"}
    for day in (days[0], days[2]):
        assert {line["event"]["type"] for line in day if line["key"] in held} <= {
            "order.created", "payment.authorised", "payment.captured", "shipment.dispatched", "shipment.scanned",
            "shipment.delivered",
        }  # fmt: skip
    assert not {line["key"] for line in days[0] if line["key"] in held and line["topic"] != "orders"}


def test_what_a_person_does_comes_after_what_it_mends() -> None:
    acts = {line["act"]: number for number, line in enumerate(ALL) if "act" in line}
    assert set(acts) == {"replay", "mend"}
    poison = [number for number, line in enumerate(ALL) if line.get("key") == "dock-2"]
    assert len(poison) == 3
    assert max(poison) < acts["mend"]
    forgotten = [number for number, line in enumerate(ALL) if line.get("key") == "o-9008"]
    assert [ALL[number]["topic"] for number in forgotten] == ["payments", "orders", "shipments"]
    assert forgotten[1] < acts["replay"] < forgotten[2]


def test_some_orders_are_paid_before_they_come() -> None:
    first: dict[Any, Any] = {}
    for line in LINES:
        if str(line["key"]).startswith("early-"):
            first.setdefault(line["key"], line["topic"])
    assert list(first.values()) == ["payments"] * generate.FATES["paid_early"]
