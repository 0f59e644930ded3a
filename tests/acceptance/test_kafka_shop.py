"""Orders on Kafka, sagas on the embedded engine, results on Kafka, with an independent client on both sides."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer

from tests.acceptance.shop import rename_topics
from tests.brokers.kafka.harness import unique
from tests.kit.processes import DaemonProcess
from tests.kit.waiting import TIMEOUT

ROOT = Path(__file__).parents[2]
ORDERS = 30


class Shop:
    """Messages of customers and carriers, with a separate trace for each order."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.prefix = prefix
        self.bootstrap = bootstrap
        self.traces = {f"o-{number}": secrets.token_hex(16) for number in range(ORDERS)}
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
        self._sent = 0

    def send(self, topic: str, order: str, kind: str, **data: Any) -> None:
        self._sent += 1
        trace = self.traces.get(order, secrets.token_hex(16))
        event = {"specversion": "1.0", "id": f"{kind}-{self._sent}", "source": "/shop", "type": kind, "data": data}
        self._producer.produce(
            f"{self.prefix}-{topic}", json.dumps(event).encode(), order.encode(),
            headers=[
                ("content-type", b"application/cloudevents+json"),
                ("traceparent", f"00-{trace}-{secrets.token_hex(8)}-01".encode()),
                ("note", None),
            ],
        )  # fmt: skip

    def order(self, number: int) -> None:
        order = f"o-{number}"
        line = {"sku": "cup", "quantity": 1}
        self.send("orders", order, "order.created", id=order, customer=f"c-{number}", total=5.0 + number, lines=[line])

    def answer(self, number: int) -> None:
        """Send the payment result of an order; every third payment fails."""
        order = f"o-{number}"
        paid = "captured" if number % 3 else "failed"
        payment = {"order_id": order, "customer": f"c-{number}", "payment_id": f"p-{number}", "amount": 5.0}
        self.send("payments", order, f"payment.{paid}", **payment, status=paid)
        if paid == "captured":
            for status in ("dispatched", "delivered"):
                self.send(
                    "shipments", order, f"shipment.{status}", order_id=order, tracking=f"t-{number}", status=status
                )

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def read(self, topic: str, enough: Any) -> list[Message]:
        """Read a topic from the beginning until `enough` holds."""
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": unique("reader"), "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([f"{self.prefix}-{topic}"])
        found: list[Message] = []
        end = time.monotonic() + TIMEOUT
        try:
            while not enough(found):
                assert time.monotonic() < end, f"{len(found)} messages of {topic}"
                message = consumer.poll(0.5)
                if message is not None and message.error() is None:
                    found.append(message)
        finally:
            consumer.close()
        return found


def ids(messages: Sequence[Message]) -> set[str]:
    return {json.loads(message.value())["id"] for message in messages}


@pytest.mark.timeout(180)
def test_orders_become_results(tmp_path: Path, bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", bootstrap)
    shutil.copytree(ROOT / "config", tmp_path / "config", ignore=shutil.ignore_patterns(".bridge"))
    shutil.copytree(ROOT / "workflows", tmp_path / "workflows", ignore=shutil.ignore_patterns("__pycache__"))
    prefix = unique("shop")
    rename_topics(tmp_path / "config", prefix)
    # The group misses the killed daemon for this long
    test = "ops: {http: {port: 0}}\nbrokers: {local: {session_timeout: 6s}}\n"
    (tmp_path / "test.yaml").write_text(test)
    arguments = ("-c", "config/bridge.yaml", "--overlay", "config/overlays/kafka.yaml", "--overlay", "test.yaml")
    shop = Shop(bootstrap, prefix)
    with DaemonProcess(tmp_path, *arguments) as serve:
        for number in range(ORDERS):
            shop.order(number)
        shop.send("orders", "o-x", "order.teleported", id="o-x")
        shop.flush()
        serve.wait(lambda: serve.settled() >= ORDERS // 2, "half of the orders")
        serve.kill()
    with DaemonProcess(tmp_path, *arguments):
        for number in range(ORDERS):
            shop.answer(number)
        shop.flush()
        results = shop.read("order-results", lambda found: len(ids(found)) >= ORDERS)
        [dead, *_] = shop.read("orders.dlq", bool)

    by_order: dict[str, list[Message]] = defaultdict(list)
    for message in results:
        by_order[message.key().decode().removeprefix("order-")].append(message)
    assert by_order.keys() == shop.traces.keys()
    for order, messages in by_order.items():
        # At least once, under one id
        assert len(ids(messages)) == 1, order
        event = json.loads(messages[0].value())
        status = "completed" if int(order[2:]) % 3 else "compensated"
        assert (event["specversion"], event["type"], event["subject"]) == ("1.0", f"order.{status}", f"order-{order}")
        assert event["data"]["status"] == status
        headers = dict(messages[0].headers())
        assert headers["content-type"] == b"application/cloudevents+json"
        version, trace, span, flags = headers["traceparent"].decode().split("-")  # type: ignore[union-attr]  # the test knows which one it is
        assert (version, trace, flags) == ("00", shop.traces[order], "01")
        assert len(span) == 16
        for repeat in messages[1:]:
            assert (repeat.value(), repeat.headers()) == (messages[0].value(), messages[0].headers())

    received = dict(dead.headers())
    assert (dead.key(), json.loads(dead.value())["type"]) == (b"o-x", "order.teleported")
    assert (received["bridge.reason"], received["bridge.topic"]) == (b"no_route", f"{prefix}-orders".encode())
    assert received["content-type"] == b"application/cloudevents+json"
    assert received["bridge.cluster"]
