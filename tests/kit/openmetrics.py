"""Metrics in OpenMetrics, as the parser of the library reads them."""

from __future__ import annotations

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families


def families(text: str) -> list[Metric]:
    """Parse a text. Raises: ValueError when it is not valid."""
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # the library has no types here
