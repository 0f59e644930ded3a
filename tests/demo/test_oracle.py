"""Oracle on small streams with evident results."""

from __future__ import annotations

from typing import Any

import pytest

from demo import generate
from demo.oracle import expect, expect_work

_numbers = iter(range(10**6))


def line(topic: str, type_: str, **data: Any) -> dict[str, Any]:
    event = {"id": f"e{next(_numbers)}", "source": f"/shop/{topic}", "type": type_, "data": data}
    return {"topic": topic, "key": "k", "event": event}


def created(**changes: Any) -> dict[str, Any]:
    data = {"id": "o", "total": 10.0, "customer": "c", "lines": [{"sku": "tea", "quantity": 1}]}
    return line("orders", "order.created", **(data | changes))


CAPTURED = line("payments", "payment.captured", order_id="o")
FAILED = line("payments", "payment.failed", order_id="o")
DISPATCHED = line("shipments", "shipment.dispatched", order_id="o", tracking="t", status="dispatched")
DELIVERED = line("shipments", "shipment.delivered", order_id="o", tracking="t", status="delivered")
LOST = line("shipments", "shipment.lost", order_id="o", tracking="t", status="lost")


def about(type_: str, **data: Any) -> dict[str, Any]:
    return line("orders", type_, id="o", **data)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([created(), CAPTURED, DISPATCHED, DELIVERED], "completed"),
        ([CAPTURED, DELIVERED, created()], "completed"),
        ([created(), FAILED], "compensated"),
        ([created(), CAPTURED, LOST], "compensated"),
        ([created(customer="closed-account"), CAPTURED, LOST], "compensation_failed"),
        ([created(lines=[{"sku": "out-of-stock", "quantity": 1}])], "compensated"),
        ([created(payment_deadline=2)], "compensated"),
        ([created(), about("order.cancelled")], "compensated"),
        ([created(), about("order.flagged", verdict="fraud")], "terminated"),
        ([created(), about("order.flagged", verdict="clean")], "running"),
        ([created(), about("order.held")], "suspended"),
        ([created(), about("order.held"), about("order.released"), CAPTURED, DELIVERED], "completed"),
        ([created(), CAPTURED], "running"),
        ([created()], "running"),
    ],
)
def test_an_order_ends_once(lines: list[dict[str, Any]], status: str) -> None:
    tally = expect(lines)
    assert +tally.orders == {status: 1}
    assert tally.published == (status in ("completed", "compensated", "compensation_failed"))
    assert tally.settled == len(lines)
    assert not tally.dead_letters


@pytest.mark.parametrize(
    ("odd", "source", "reason"),
    [
        ({"topic": "orders", "key": "k", "raw": '{"id": "x'}, "orders", "decode_error"),
        (created(total="ten"), "orders", "schema_error"),
        (line("orders", "order.held"), "orders", "schema_error"),
        (about("order.teleported"), "orders", "no_route"),
        (created(id="o\n"), "orders", "invalid_command"),
        (line("payments", "payment.captured"), "payments", "expression_error"),
        (line("payments", "payment.failed", order_id="nobody"), "payments", "early_expired"),
        (line("payments", "payment.mislaid", order_id="nobody"), "payments", "no_route"),
    ],
)
def test_what_cannot_succeed_is_dead_lettered(odd: dict[str, Any], source: str, reason: str) -> None:
    tally = expect([odd])
    assert tally.dead_letters == {(source, reason): 1}
    assert (tally.settled, not tally.orders, tally.published) == (1, True, 0)


def test_what_nobody_needs_is_neither_an_order_nor_a_dead_letter() -> None:
    unneeded = [
        created(total=0), line("shipments", "shipment.weather_delay", order_id="o"),
        line("payments", "payment.authorised", order_id="nobody"),
    ]  # fmt: skip
    tally = expect(unneeded)
    assert (tally.settled, not +tally.orders, not tally.dead_letters, tally.published) == (3, True, True, 0)


def test_a_repeated_event_is_a_duplicate() -> None:
    first = created()
    tally = expect([first, first, CAPTURED, DELIVERED])
    assert tally.duplicates == 1
    assert +tally.orders == {"completed": 1}


def test_returns_and_parcels_are_counted_by_how_they_end() -> None:
    asked, no = about("return.requested"), about("return.decided", approved=False)
    scanned = line("shipments", "shipment.scanned", order_id="o", tracking="other", status="scanned")
    tally = expect([created(), CAPTURED, DISPATCHED, DELIVERED, scanned, asked, no])
    assert +tally.returns == {"rejected": 1}
    assert +tally.parcels == {"delivered": 1, "running": 1}
    assert tally.published == 2


def test_the_file_holds_every_end() -> None:
    tally = expect(generate.load())
    assert {"completed", "compensated", "compensation_failed", "terminated", "suspended"} == set(+tally.orders)
    assert tally.early == {"completed": generate.FATES["paid_early"]}
    assert (tally.orders + tally.early).total() == sum(generate.FATES.values()) + 2
    assert {reason for _, reason in tally.dead_letters} == {
        "decode_error", "schema_error", "no_route", "invalid_command", "expression_error", "early_expired",
        "quarantine_dropped",
    }  # fmt: skip
    assert tally.duplicates > 0
    assert (tally.replayed, tally.waiting) == (2, 0)
    assert tally.quarantine == {"stored": 3, "resumed": 2, "dropped": 1}


REPLAY: dict[str, Any] = {"act": "replay"}
MEND: dict[str, Any] = {"act": "mend"}


def received(lines: Any, dock: str = "dock") -> dict[str, Any]:
    return line("shipments", "stock.received", id="d", lines=lines) | {"key": dock}


def test_a_payment_waits_for_an_order_of_its_day_and_no_longer() -> None:
    early = line("payments", "payment.captured", order_id="early-1")
    shipped = line("shipments", "shipment.delivered", order_id="early-1", tracking="t", status="delivered")
    tally = expect([early, created(id="early-1"), shipped])
    assert (+tally.early, +tally.orders, tally.published) == ({"completed": 1}, {}, 1)
    tally = expect([early, created(id="early-1") | {"wait": True}, shipped])
    assert (+tally.early, tally.dead_letters) == ({"running": 1}, {("payments", "early_expired"): 1})


def test_a_replayed_payment_counts_once_however_often_it_comes() -> None:
    tally = expect([CAPTURED, created() | {"wait": True}, REPLAY, DELIVERED])
    assert (+tally.orders, tally.replayed, tally.settled) == ({"completed": 1}, 2, 5)
    assert tally.dead_letters == {("payments", "early_expired"): 1}
    assert expect([created(), CAPTURED, REPLAY]).replayed == 0


def test_a_poisoned_key_waits_until_it_is_mended_and_others_go_on() -> None:
    lines = [received("see paper"), received([]), received([], "other")]
    tally = expect(lines)
    assert (tally.quarantine, tally.settled, tally.dead_letters) == ({"stored": 2}, 3, {})
    tally = expect([*lines, MEND, received([])])
    assert tally.quarantine == {"stored": 2, "dropped": 1, "resumed": 1}
    assert (tally.settled, tally.dead_letters) == (5, {("shipments", "quarantine_dropped"): 1})


def test_the_work_on_dead_letters_fixes_the_unknown_orders() -> None:
    lines = [about("order.teleported"), created(total="ten"), line("payments", "payment.mislaid", order_id="nobody")]
    assert list(expect_work(expect(lines)).values()) == [2, 1, 1, 0]
