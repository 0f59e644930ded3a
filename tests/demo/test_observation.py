"""Observation of metrics and instances by the demo."""

from __future__ import annotations

import json
from typing import Any

import pytest

from demo.observation import observe

METRICS = """\
# HELP bridge_outcomes_total Settled deliveries.
# TYPE bridge_outcomes_total counter
bridge_outcomes_total{outcome="executed",source="orders"} 90.0
bridge_outcomes_total{outcome="duplicate",source="orders"} 5.0
bridge_outcomes_total{outcome="dead_lettered",source="payments"} 2.0
bridge_outcomes_total{outcome="executed",source="replay"} 2.0
# TYPE bridge_dead_letters_total counter
bridge_dead_letters_total{source="payments",reason="instance_not_found"} 2.0
bridge_dead_letters_total{source="orders",reason="no_route"} 0.0
# TYPE bridge_late_dead_letters_total counter
bridge_late_dead_letters_total{source="payments",reason="early_expired"} 1.0
# TYPE bridge_quarantine_events_total counter
bridge_quarantine_events_total{engine="default",event="stored"} 3.0
# TYPE bridge_published_total counter
bridge_published_total{target="order-results"} 81.0
bridge_published_total{target="parcel-alerts"} 3.0
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1.5
"""


def test_the_metrics_that_matter_are_counted() -> None:
    tally = observe(METRICS)
    assert (tally.settled, tally.duplicates, tally.published) == (99, 5, 81)
    assert tally.dead_letters == {("payments", "instance_not_found"): 2, ("payments", "early_expired"): 1}
    assert (tally.replayed, tally.quarantine) == (2, {"stored": 3})


def test_orders_that_were_paid_early_are_counted_apart() -> None:
    tally = observe("", [{"instance_id": "order-early-1", "status": "COMPLETED"}], waiting=4)
    assert (tally.early, tally.orders, tally.waiting) == ({"completed": 1}, {}, 4)


def test_metrics_of_a_daemon_that_has_done_nothing() -> None:
    assert observe("").rows() == {
        ("messages", "settled"): 0, ("messages", "dropped as duplicates"): 0, ("dead letters", "replayed"): 0,
        ("messages", "still waiting"): 0, ("results", "published"): 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "output", "word"),
    [
        ("COMPLETED", {"status": "compensated"}, "compensated"),
        ("completed", json.dumps({"status": "completed"}), "completed"),
        ("COMPLETED", "a text", "completed"),
        ("COMPLETED", None, "completed"),
        ("TERMINATED", {"status": "ignored of a terminated one"}, "terminated"),
        ("FAILED", None, "failed"),
        ("SUSPENDED", None, "suspended"),
        ("PENDING", None, "running"),
        ("OrchestrationStatus.RUNNING", None, "running"),
        ("ORCHESTRATION_STATUS_RUNNING", None, "running"),
    ],
)
def test_an_instance_counts_under_its_own_word(status: str, output: Any, word: str) -> None:
    tally = observe("", [{"instance_id": "order-1", "status": status, "output": output}])
    assert tally.orders == {word: 1}


def test_each_kind_of_workflow_is_counted_apart() -> None:
    done = {"status": "COMPLETED", "output": None}
    tally = observe("", [{"instance_id": id_, **done} for id_ in ("order-1", "return-1", "parcel-1", "@entity@1")])
    assert tally.orders == tally.returns == tally.parcels == {"completed": 1}
