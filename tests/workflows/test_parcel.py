"""Parcel watch: every scan is seen, and silence is reported."""

from __future__ import annotations

from bridge.core.origin import MessageOrigin, wrap_payload
from tests.kit.waiting import eventually_blocking
from tests.workflows.conftest import WorkflowFixture
from workflows import shipment_watch
from workflows.parcel import Parcel


def test_scans_are_followed_to_the_end(hub: WorkflowFixture) -> None:
    hub.start("shipment_watch", "parcel-t1", {"tracking": "t1", "order_id": "o1", "status": "dispatched", "extra": 1})
    for number, status in ((1, "scanned"), (1, "scanned"), (2, "delivered")):
        message = MessageOrigin(f"scan-{number}", "follow-parcel")
        hub.tell("parcel-t1", "scan", wrap_payload({"status": status}, message))
    assert hub.result("parcel-t1") == {
        "tracking": "t1", "order_id": "o1", "status": "delivered", "scans": ["dispatched", "scanned", "delivered"],
        "alerts": 0,
    }  # fmt: skip


def test_a_parcel_that_is_lost_at_once_needs_no_scan(hub: WorkflowFixture) -> None:
    hub.start(shipment_watch, "parcel-t2", Parcel("t2", "o2", "lost"))
    assert hub.result("parcel-t2")["scans"] == ["lost"]


def test_silence_is_reported_and_the_next_scan_is_not_swallowed(hub: WorkflowFixture) -> None:
    hub.start(shipment_watch, "parcel-t3", Parcel("t3", "o3", "dispatched", silent_after=0.3))
    eventually_blocking(lambda: hub.published_for("t3"))
    hub.tell("parcel-t3", "scan", {"status": "delivered"})
    result = hub.result("parcel-t3")
    assert result["status"] == "delivered"
    alerts = hub.published_for("t3")
    assert [event["data"]["alert"] for event in alerts] == list(range(1, result["alerts"] + 1))
    assert {(event["target"], event["type"]) for event in alerts} == {("parcel-alerts", "parcel.silent")}
