"""What became of the messages, read from the daemon: its metrics and its instances."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from demo.tally import Tally

RESULTS = "order-results"
"""Target whose publications are counted."""

KINDS = {"order-": "orders", "return-": "returns", "parcel-": "parcels"}
"""Prefix of an instance id, and what is counted there."""


def observe(metrics: str, instances: Iterable[dict[str, Any]] = ()) -> Tally:
    """Count from the text of /metrics and from the list of instances."""
    tally = Tally()
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            count = int(sample.value)
            if sample.name == "bridge_outcomes_total":
                tally.settled += count
                if sample.labels["outcome"] == "duplicate":
                    tally.duplicates += count
            elif sample.name == "bridge_dead_letters_total" and count:
                tally.dead_letters[sample.labels["source"], sample.labels["reason"]] += count
            elif sample.name == "bridge_published_total" and sample.labels["target"] == RESULTS:
                tally.published += count
    for instance in instances:
        for prefix, what in KINDS.items():
            if instance["instance_id"].startswith(prefix):
                getattr(tally, what)[_standing(instance)] += 1
    return tally


def _standing(instance: dict[str, Any]) -> str:
    """The status that the workflow gave as its output, else that of the engine, in lower case."""
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
