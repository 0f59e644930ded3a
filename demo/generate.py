"""Generator of demo/events.jsonl: `python -m demo.generate`. The seed is fixed, and the file is the same every time.

Each line is {"topic", "key", "event"} with a CloudEvents JSON object, or {"topic", "key", "raw"} with a body that is
sent unchanged. Lines are in the order of time; the events of one order keep their order within a topic. A line with
"wait" begins a new day: it is sent when everything before it is settled. A line with "act" is an action of a person.
`replay` sends the dead letters of payments whose order never came once more, and then again. Any other value drops
the message that poisons a key of the shipments, and releases the rest.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("events.jsonl")
REPLAYS = 2
"""Number of replays of a dead letter, as if a person clicked twice."""
DAY = 24 * 60.0
"""Length of a day in minutes."""
BEGIN = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
ARTICLES = {"espresso": 12.5, "teapot": 39.0, "green-tea": 8.9, "grinder": 89.0, "cup": 6.5, "filter": 3.2}
CARRIERS = ("swiftpost", "northline", "parcelhub")

# Outcomes of the orders, with the number of orders of each kind
FATES = {
    "delivered": 46, "declined": 7, "lost": 5, "out_of_stock": 4, "unpaid": 3, "cancelled": 5, "cancelled_paid": 2,
    "fraud": 4, "held_and_released": 3, "held": 1, "paid_early": 6,
}  # fmt: skip

Line = dict[str, Any]


class Day:
    """Collects lines with their time and numbers the events."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 -- data of a demo, nothing secret
        self._lines: list[tuple[float, int, Line]] = []
        self._ids = 0

    def later(self, low: float, high: float) -> float:
        """Random number of minutes between low and high."""
        return self.random.uniform(low, high)

    def put(self, minute: float, topic: str, key: str, type_: str, data: Any) -> Line:
        self._ids += 1
        event = {
            "specversion": "1.0",
            "id": f"{topic}-{self._ids:04d}",
            "source": f"/shop/{topic}",
            "type": type_,
            "subject": key,
            "time": (BEGIN + timedelta(minutes=minute)).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": data,
        }
        return self.put_line(minute, {"topic": topic, "key": key, "event": event})

    def put_line(self, minute: float, line: Line) -> Line:
        self._lines.append((minute, len(self._lines), line))
        return line

    def lines(self) -> Iterator[Line]:
        """Lines in the order of time."""
        today = 0.0
        for minute, _, line in sorted(self._lines, key=lambda entry: entry[:2]):
            waits = minute // DAY > today
            today = minute // DAY
            yield line | {"wait": True} if waits else line


def order(day: Day, number: int, minute: float, fate: str) -> Line:
    """Create the events of an order. Returns the line that starts it."""
    early = fate == "paid_early"  # another clock, another network: the payment arrives an hour before its order
    id_ = f"early-{number}" if early else f"o-{number}"
    minute += 60 if early else 0
    customer = f"c-{day.random.randint(1, 24):02d}"
    skus = day.random.sample(sorted(ARTICLES), day.random.randint(1, 3))
    lines: list[dict[str, Any]] = [{"sku": sku, "quantity": day.random.randint(1, 3)} for sku in skus]
    total = round(sum(ARTICLES[line["sku"]] * line["quantity"] for line in lines), 2)
    if fate == "out_of_stock":
        lines.append({"sku": "out-of-stock", "quantity": 1})
    data = {"id": id_, "customer": customer, "total": total, "currency": "EUR", "lines": lines}
    if fate == "unpaid":
        data["payment_deadline"] = 2
    start = day.put(minute, "orders", id_, "order.created", data)

    def about(type_: str, after: float, **more: Any) -> None:
        day.put(minute + after, "orders", id_, type_, {"id": id_, **more})

    def payment(type_: str, after: float, status: str, **more: Any) -> Line:
        facts = {"order_id": id_, "customer": customer, "payment_id": f"p-{number}", "amount": total}
        return day.put(minute + after, "payments", id_, type_, {**facts, "status": status, **more})

    def shipment(status: str, after: float) -> Line:
        facts = {"order_id": id_, "tracking": f"t-{number}", "carrier": CARRIERS[number % 3], "status": status}
        return day.put(minute + after, "shipments", id_, f"shipment.{status}", facts)

    paid = day.later(1, 6) - (60 if early else 0)
    if fate == "held_and_released":  # paid when it is released, two mornings later
        paid += 2 * DAY - minute
    if fate in ("delivered", "lost", "cancelled_paid", "held_and_released", "paid_early"):
        if number % 7 == 0:
            payment("payment.authorised", paid - 0.5, "authorised")
        payment("payment.captured", paid, "captured")
    if fate == "declined":
        payment("payment.failed", paid, "failed", reason=day.random.choice(("card declined", "insufficient funds")))
    if early:
        shipment("delivered", day.later(61, 120))
    if fate in ("delivered", "held_and_released"):
        shipment("dispatched", paid + day.later(5, 30))
        if number % 4 == 0:
            shipment("scanned", paid + day.later(31, 60))
        shipment("delivered", paid + day.later(61, 120))
    if fate == "lost":
        if number % 2:
            shipment("dispatched", paid + 10)
        shipment("lost", paid + day.later(61, 120))
    if fate.startswith("cancelled"):
        about("order.cancelled", day.later(7, 9), reason="customer changed their mind")
    if fate == "fraud":
        about("order.flagged", day.later(1, 4), verdict="fraud")
    if fate.startswith("held"):
        about("order.held", DAY, reason="address check")
    if fate == "held_and_released":
        about("order.released", DAY + 20)
    if fate == "delivered" and number % 9 == 0:
        about("return.requested", 200, reason="wrong size")
        about("return.decided", 230, approved=bool(number % 2), by="returns desk")
    return start


def oddities(day: Day) -> None:
    """Create the irregular messages that every shop receives."""
    empty = {"customer": "c-01", "total": 1.0, "lines": []}
    day.put(3, "orders", "o-9001", "order.teleported", {"id": "o-9001"})
    day.put(14, "orders", "o-9002", "order.created", {**empty, "id": "o-9002", "total": "twelve"})
    day.put(15, "orders", "o-9003", "order.created", empty)
    day.put(21, "orders", "o-9004", "order.created", {**empty, "id": "o-9004\n; drop"})
    day.put(22, "orders", "o-9005", "order.created", {**empty, "id": "o-9005", "total": 0})
    day.put(24, "orders", "o-1001", "order.flagged", {"id": "o-1001", "verdict": "clean"})
    broken = '{"specversion": "1.0", "id": "orders-9999", "type": "order.created", "data": {"id": "o-90'
    day.put_line(33, {"topic": "orders", "key": "o-9006", "raw": broken})
    day.put(9, "payments", "o-9007", "payment.captured", {"customer": "c-02", "payment_id": "p-9007", "amount": 5})
    stray = {"order_id": "o-9008", "customer": "c-03", "payment_id": "p-9008", "amount": 5, "status": "captured"}
    day.put(25, "payments", "o-9008", "payment.captured", stray)
    # Its order was forgotten for two days; then its dead letter is replayed, by a person who clicks twice
    lines = [{"sku": "cup", "quantity": 1}]
    late = {"id": "o-9008", "customer": "c-03", "total": 5, "currency": "EUR", "lines": lines}
    day.put(2 * DAY + 1, "orders", "o-9008", "order.created", late)
    day.put_line(2 * DAY + 5, {"act": "replay"})
    parcel = {"order_id": "o-9008", "tracking": "t-9008", "carrier": CARRIERS[0], "status": "delivered"}
    day.put(2 * DAY + 90, "shipments", "o-9008", "shipment.delivered", parcel)
    # A delivery note that no rule can read poisons its dock; later messages wait until a person fixes it
    day.put(30, "shipments", "dock-2", "stock.received", {"id": "d-2", "lines": "see paper"})
    for number in (3, 4):
        received = [{"sku": "grinder", "quantity": number}]
        day.put(number * 12, "shipments", "dock-2", "stock.received", {"id": f"d-{number}", "lines": received})
    day.put_line(2 * DAY + 6, {"act": "mend"})
    # The order is lost, and the bank refuses the refund: a compensation that fails
    unlucky = {"id": "o-9010", "customer": "closed-account", "total": 5, "currency": "EUR", "lines": lines}
    day.put(4, "orders", "o-9010", "order.created", unlucky)
    paid = {"order_id": "o-9010", "customer": "closed-account", "payment_id": "p-9010", "amount": 5}
    day.put(6, "payments", "o-9010", "payment.captured", {**paid, "status": "captured"})
    parcel = {"order_id": "o-9010", "tracking": "t-9010", "carrier": CARRIERS[1], "status": "lost"}
    day.put(10, "shipments", "o-9010", "shipment.lost", parcel)
    day.put(40, "shipments", "o-1002", "shipment.weather_delay", {"order_id": "o-1002", "region": "north"})
    day.put(50, "shipments", "dock-1", "stock.received", {
        "id": "d-1", "lines": [{"sku": "teapot", "quantity": 40}, {"sku": "cup", "quantity": 120}],
    })  # fmt: skip


def generate(seed: int = 7) -> Iterator[Line]:
    """Generate all lines of the file, in order."""
    day = Day(seed)
    fates = [fate for fate, count in FATES.items() for _ in range(count)]
    day.random.shuffle(fates)
    minute = 0.0
    for number, fate in enumerate(fates, 1001):
        minute += day.later(0.5, 3)
        start = order(day, number, minute, fate)
        if number % 16 == 0:  # the shop resends messages that were not confirmed in time
            day.put_line(minute + day.later(0.2, 3), start)
    oddities(day)
    return day.lines()


def text() -> str:
    """Content of the file."""
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in generate())


def load(path: Path = PATH) -> list[Line]:
    """Lines of the file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
