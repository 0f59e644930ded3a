"""Metrics by OTLP: the same families as at `/metrics`, sent at an interval.

A backend that turns OTLP into Prometheus' names shows them under the names of `/metrics`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from bridge.ops.tracing import OtlpClient, ReceiverAway, SpansRefused, is_sdk_disabled
from bridge.system.spans import SCOPE

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
    from opentelemetry.sdk.resources import Resource

log = structlog.get_logger("bridge.metrics")

_SENT_WITHIN = 10.0
"""Longest seconds of one export."""


def is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """True when the environment asks for metrics by OTLP."""
    return not is_sdk_disabled(environment) and environment.get("OTEL_METRICS_EXPORTER", "").strip() == "otlp"


def interval(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds between two exports: OTEL_METRIC_EXPORT_INTERVAL, which is in milliseconds."""
    try:
        return max(0.1, float(environment.get("OTEL_METRIC_EXPORT_INTERVAL", "")) / 1000)
    except ValueError:
        return 60.0


class MetricsExport:
    """Export of metrics.

    collect: the current families.
    every: seconds between two exports.
    """

    def __init__(
        self,
        collect: Callable[[], Awaitable[Sequence[Metric]]],
        receiver: OtlpClient,
        resource: Resource,
        version: str,
        every: float,
    ) -> None:
        self._collect = collect
        self._receiver = receiver
        self._resource = resource
        self._version = version
        self._every = every
        self._start = time.time_ns()
        self._away = False

    async def run(self) -> None:
        """Export at the interval, and once more when cancelled."""
        try:
            while True:
                await asyncio.sleep(self._every)
                await self.export()
        finally:
            await self.export()
            self._receiver.close()

    async def export(self) -> None:
        """Send the metrics once. A receiver that does not take them gets the next ones."""
        families = await self._collect()
        request = encoded(families, self._resource, self._version, self._start, time.time_ns())
        try:
            await asyncio.to_thread(self._receiver.send, request, _SENT_WITHIN)
        except (ReceiverAway, SpansRefused) as error:
            if not self._away:
                log.warning(f"metrics cannot be sent to {self._receiver.shown}: {error}", action="metrics")
            self._away = True
        else:
            if self._away:
                log.info(f"metrics are sent to {self._receiver.shown} again", action="metrics")
            self._away = False


def encoded(families: Iterable[Metric], resource: Resource, version: str, start: int, now: int) -> bytes:
    """ExportMetricsServiceRequest with the families. start: of the counters. Times are nanoseconds since the epoch."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

    request = ExportMetricsServiceRequest()
    whole = request.resource_metrics.add()
    whole.resource.attributes.extend(_attributes({key: str(value) for key, value in resource.attributes.items()}))
    scope = whole.scope_metrics.add()
    scope.scope.name, scope.scope.version = SCOPE, version
    for family in families:
        if not family.samples:
            continue
        metric = scope.metrics.add(name=family.name, description=family.documentation)
        if family.type == "histogram":
            metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            for labels, samples in _by_labels(family.samples):
                point = metric.histogram.data_points.add(start_time_unix_nano=start, time_unix_nano=now)
                point.attributes.extend(_attributes(labels))
                _histogram(point, samples)
            continue
        if family.type == "counter":
            metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            metric.sum.is_monotonic = True
        points: Any = metric.sum.data_points if family.type == "counter" else metric.gauge.data_points
        for sample in family.samples:
            point = points.add(time_unix_nano=now, as_double=float(sample.value))
            if family.type == "counter":
                point.start_time_unix_nano = start
            point.attributes.extend(_attributes(sample.labels))
    return bytes(request.SerializeToString())


def _attributes(labels: Mapping[str, str]) -> list[KeyValue]:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in labels.items()]


def _by_labels(samples: Iterable[Sample]) -> Iterable[tuple[dict[str, str], list[Sample]]]:
    """Samples of each histogram of a family, by their labels without the bucket's."""
    found: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        found.setdefault(labels, []).append(sample)
    return [(dict(labels), each) for labels, each in found.items()]


def _histogram(point: HistogramDataPoint, samples: Sequence[Sample]) -> None:
    """Fill a point from the cumulative buckets of Prometheus."""
    before = 0
    for sample in samples:
        if sample.name.endswith("_bucket"):
            count = int(sample.value)
            point.bucket_counts.append(count - before)
            before = count
            if sample.labels["le"] != "+Inf":
                point.explicit_bounds.append(float(sample.labels["le"]))
        elif sample.name.endswith("_sum"):
            point.sum = float(sample.value)
        elif sample.name.endswith("_count"):
            point.count = int(sample.value)
