"""Story of one order: its steps, the failure, and the compensations, as its instance has recorded them."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console

Line = tuple[str, str, str]
"""Mark, step, and explanation."""

PAUSE = 0.4
"""Seconds between two lines on a terminal."""

_DONE = {
    "stock": "activity reserve_stock",
    "payment": "activity request_payment; the message payment.captured follows",
    "shipment": "activity request_shipment; then the order waits for the carrier",
}
_FAILED = {
    "shipment_lost": "message shipment.lost: the order cannot be fulfilled",
}
_UNDONE = {
    "shipment": "activity cancel_shipment: last step first",
    "payment": "activity return_payment",
    "stock": "activity release_stock",
}


def choose(instances: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Instance with the longest story: an order that was lost after its dispatch. None if there is none."""
    lost = (
        each
        for each in instances
        if each["name"] == "fulfil_order"
        and isinstance(each["output"], Mapping)
        and each["output"].get("reason") == "shipment_lost"
        and each["output"].get("status") == "compensated"
    )
    return max(lost, key=lambda each: len(each["output"]["completed"]), default=None)


def lines(instance: Mapping[str, Any]) -> Iterator[Line]:
    """Lines of the story of a compensated order, in order of time."""
    output = instance["output"]
    yield "", "order.created", "rule start-order starts the workflow fulfil_order"
    for step in output["completed"]:
        yield "✓", step, _DONE.get(step, "")
    yield "✗", output["reason"].replace("_", " "), _FAILED.get(output["reason"], "")
    for step in output["compensated"]:
        yield "↩", step, _UNDONE.get(step, "")
    yield "", f"order.{output['status']}", "published to the topic order-results"


def tell(instance: Mapping[str, Any], console: Console) -> None:
    """Print the story of an order, on a terminal line by line."""
    order = instance["input"].get("data", instance["input"])
    goods = ", ".join(f"{line['quantity']} {line['sku']}" for line in order["lines"])
    console.print(
        f"\nOne of these orders, step by step: {order['id']}, {goods}, {order['total']:.2f} EUR",
        style="bold",
        highlight=False,
    )
    for mark, step, why in lines(instance):
        style = {"✗": "bold red", "↩": "yellow", "✓": "green"}.get(mark, "bold")
        console.print(f"  {mark:1} {step:<19}", style=style, end=" ", highlight=False)
        console.print(why, style="dim", highlight=False)
        if console.is_terminal:
            time.sleep(PAUSE)
    console.print()


def picture(instance: Mapping[str, Any]) -> str:
    """Picture of the story as a terminal shows it, in SVG, without fonts from elsewhere."""
    console = Console(record=True, width=88, file=io.StringIO(), force_terminal=False)
    console.print("$ make demo", highlight=False)
    tell(instance, console)
    svg = re.sub(
        r"@font-face \{.*?\}\s*", "", console.export_svg(title="durable-bridge", unique_id="demo"), flags=re.DOTALL
    )
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())
