"""Observed results of the messages, read from the daemon's metrics and instances."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from demo.tally import Tally

RESULTS = "order-results"
"""Target whose publications are counted."""

REPLAY = "replay"
"""Source of replayed dead letters."""

KINDS = {"order-early-": "early", "order-": "orders", "return-": "returns", "parcel-": "parcels"}
"""Fields of Tally by prefix of the instance id."""


def observe(metrics: str, instances: Iterable[dict[str, Any]] = (), waiting: int = 0) -> Tally:
    """Count results from the text of /metrics, the list of instances, and the number of waiting messages."""
    tally = Tally(waiting=waiting)
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            count = int(sample.value)
            if sample.name == "bridge_outcomes_total":
                tally.settled += count
                if sample.labels["outcome"] == "duplicate":
                    tally.duplicates += count
                if sample.labels["source"] == REPLAY:
                    tally.replayed += count
            elif sample.name == "bridge_quarantine_events_total" and count:
                tally.quarantine[sample.labels["event"]] += count
            elif sample.name in ("bridge_dead_letters_total", "bridge_late_dead_letters_total") and count:
                tally.dead_letters[sample.labels["source"], sample.labels["reason"]] += count
            elif sample.name == "bridge_published_total" and sample.labels["target"] == RESULTS:
                tally.published += count
    for instance in instances:
        for prefix, what in KINDS.items():
            if instance["instance_id"].startswith(prefix):
                getattr(tally, what)[_status_of(instance)] += 1
                break
    return tally


def _status_of(instance: dict[str, Any]) -> str:
    """Status that the workflow returned as its output, else that of the engine, in lower case."""
    status = str(instance["status"]).rpartition(".")[2].removeprefix("ORCHESTRATION_STATUS_").lower()
    output = instance.get("output")
    if isinstance(output, str):
        try:
            output = json.loads(output)
        except ValueError:
            output = None
    if status == "completed" and isinstance(output, dict):
        return str(output.get("status", status))
    return "running" if status == "pending" else status
