"""Expected results of the messages, computed from the file alone.

The computation knows the shop's rules, not the bridge. It examines each order as a whole, independent of the order in
which topics are read.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from demo.generate import REPLAYS
from demo.tally import Tally

KNOWN = {
    "orders": {
        "order.created", "order.held", "order.released", "order.cancelled", "order.flagged",
        "return.requested", "return.decided",
    },
    "payments": {"payment.authorised", "payment.captured", "payment.failed"},
}  # fmt: skip
"""Types that a topic's rules know. Shipments accept any type: unknown ones are ignored."""

TIMEOUT = 60.0
"""Seconds within which a deadline expires during the demo; longer ones do not."""

CLOSED = "closed-account"
"""Customer to whom no refund is possible."""

PUBLISHED = ("completed", "compensated", "compensation_failed")
"""Final states of orders whose outcome is published."""

EARLY = "early-"
"""Prefix of the ids of orders that are paid before they arrive."""

Event = dict[str, Any]


def expect(lines: Iterable[dict[str, Any]]) -> Tally:
    """Count the results that the messages of the file should have."""
    tally = Tally()
    orders: dict[str, list[Event]] = defaultdict(list)
    returns: dict[str, list[Event]] = defaultdict(list)
    parcels: dict[str, set[str]] = defaultdict(set)
    seen: set[tuple[str, str]] = set()
    payments: list[tuple[int, Event]] = []
    ordered: dict[str, int] = {}
    poisoned: Counter[str] = Counter()
    replayed = day = 0

    for line in lines:
        day += line.get("wait", False)
        if line.get("act") == "replay":
            replayed = sum(_expired(event, when, ordered) for when, event in payments)
        if line.get("act") == "mend":
            tally.quarantine["dropped"] += len(poisoned)
            tally.quarantine["resumed"] += poisoned.total() - len(poisoned)
            tally.settled += poisoned.total() - len(poisoned)
            tally.dead_letters["shipments", "quarantine_dropped"] += len(poisoned)
            poisoned.clear()
        if "act" in line:
            continue
        tally.settled += 1
        topic = line["topic"]
        if topic == "shipments" and (line["key"] in poisoned or _poisons(line["event"])):
            poisoned[line["key"]] += 1
            tally.quarantine["stored"] += 1
            continue
        reason = _refusal(line)
        if reason is not None:
            tally.dead_letters[topic, reason] += 1
            continue
        event, data = line["event"], line["event"]["data"]
        identity = (event["source"], event["id"])
        if identity in seen:
            tally.duplicates += 1
            continue
        seen.add(identity)
        if event["type"] == "order.created":
            ordered[data["id"]] = day
        if topic == "orders":
            (returns if event["type"].startswith("return.") else orders)[data["id"]].append(event)
        elif topic == "payments":
            payments.append((day, event))
        elif "tracking" in data:
            parcels[data["tracking"]].add(data["status"])
            orders[data["order_id"]].append(event)

    for when, event in payments:
        if event["type"] == "payment.authorised":
            continue
        late = _expired(event, when, ordered)
        if late:
            tally.dead_letters["payments", "early_expired"] += 1
        if not late or replayed:
            orders[event["data"]["order_id"]].append(event)
    tally.replayed = REPLAYS * replayed
    tally.settled += tally.replayed

    for id_, events in orders.items():
        status = _order(events)
        if status is not None:
            (tally.early if id_.startswith(EARLY) else tally.orders)[status] += 1
    for events in returns.values():
        tally.returns[_return(events)] += 1
    for states in parcels.values():
        tally.parcels[next((word for word in ("delivered", "lost") if word in states), "running")] += 1
    ended = sum(orders[status] for orders in (tally.orders, tally.early) for status in PUBLISHED)
    tally.published = ended + sum(tally.returns.values()) - tally.returns["running"]
    return tally


def expect_work(tally: Tally) -> dict[str, int]:
    """Numbers that the work on the dead letters of these results should have.

    The fixed rule is that of `demo.shop.FIX`: it knows the orders that no rule knew before.
    """
    fixed = tally.dead_letters["orders", "no_route"]
    return {
        "reasons (dlq groups)": len({reason for _, reason in tally.dead_letters}),
        "fixed rule: would pass (dlq check)": fixed,
        "fixed rule: passed (dlq replay)": fixed,
        "fixed rule: left": 0,
    }


def _expired(event: Event, when: int, ordered: dict[str, int]) -> bool:
    """True if a payment of day `when` finds no order on that day or before it."""
    created = ordered.get(event["data"]["order_id"])
    return event["type"] != "payment.authorised" and (created is None or created > when)


def _poisons(event: Event) -> bool:
    return event["type"] == "stock.received" and not isinstance(event["data"]["lines"], list)


def _refusal(line: dict[str, Any]) -> str | None:
    """Reason for which a message is always dead-lettered; None if it is not."""
    if "raw" in line:
        try:
            json.loads(line["raw"])
        except ValueError:
            return "decode_error"
    event = line["event"]
    data, type_, topic = event["data"], event["type"], line["topic"]
    if topic == "orders" and ("id" not in data or not isinstance(data.get("total", 0), int | float)):
        return "schema_error"
    if topic in KNOWN and type_ not in KNOWN[topic]:
        return "no_route"
    if topic == "payments" and "order_id" not in data:
        return "expression_error"
    if type_ == "order.created" and data["total"] > 0 and not data["id"].isprintable():
        return "invalid_command"
    return None


def _order(events: list[Event]) -> str | None:
    """Final state of the order's workflow: one of PUBLISHED, terminated, suspended or running.

    None without one.
    """
    by_type = {event["type"]: event["data"] for event in events}
    created = by_type.get("order.created")
    if created is None or created["total"] <= 0:
        return None
    if by_type.get("order.flagged", {}).get("verdict") == "fraud":
        return "terminated"
    if "order.held" in by_type and "order.released" not in by_type:
        return "suspended"
    if any(line["sku"] == "out-of-stock" for line in created["lines"]):
        return "compensated"
    if "shipment.lost" in by_type and created["customer"] == CLOSED:
        return "compensation_failed"
    if {"order.cancelled", "payment.failed", "shipment.lost"} & by_type.keys():
        return "compensated"
    if "payment.captured" not in by_type:
        return "compensated" if created.get("payment_deadline", TIMEOUT) < TIMEOUT else "running"
    return "completed" if "shipment.delivered" in by_type else "running"


def _return(events: list[Event]) -> str:
    decided = [event["data"]["approved"] for event in events if event["type"] == "return.decided"]
    if not decided:
        return "running"
    return "approved" if decided[0] else "rejected"
