"""Watch of one parcel. The first message about a parcel starts it, and later messages are delivered to it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import MessageTimedOut, publish, wait_for_message

ALERTS = "parcel-alerts"
"""Target of the configuration that receives alerts about silent parcels."""

LAST_WORDS = ("delivered", "lost")


@dataclass
class Parcel:
    """Input of `shipment_watch`: the first message. silent_after is seconds without a message."""

    tracking: str
    order_id: str
    status: str
    silent_after: float = 3 * 24 * 3600


def shipment_watch(ctx: task.OrchestrationContext, parcel: Parcel) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Take `scan` events until the parcel is delivered or lost, and publish an alert whenever it is silent for long."""
    scans, alerts = [parcel.status], 0
    while scans[-1] not in LAST_WORDS:
        ctx.set_custom_status({"status": scans[-1], "alerts": alerts})
        try:
            # Repeats are dropped, including repeats of the message that started the watch
            scan = yield from wait_for_message(ctx, "scan", timeout=timedelta(seconds=parcel.silent_after))
            scans.append(scan.data["status"])
            continue
        except MessageTimedOut:
            alerts += 1
        alert = {"tracking": parcel.tracking, "order_id": parcel.order_id, "last": scans[-1], "alert": alerts}
        yield publish(ctx, ALERTS, alert, type="parcel.silent", subject=parcel.tracking)
    ctx.set_custom_status({"status": scans[-1], "alerts": alerts})
    return {
        "tracking": parcel.tracking, "order_id": parcel.order_id, "status": scans[-1], "scans": scans, "alerts": alerts,
    }  # fmt: skip
