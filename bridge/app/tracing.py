"""Traces by the configuration."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVarTuple

import structlog
from prometheus_client.core import Metric

from bridge import __version__
from bridge.config.source import Loaded
from bridge.core.commands import Command
from bridge.core.errors import ConfigError
from bridge.core.origin import MessageOrigin
from bridge.ops import otlp_metrics, tracing
from bridge.ops.tracing import Tracing
from bridge.sqlite_engine.options import TracingOptions
from bridge.system.otel_context import in_trace
from bridge.system.package import install_extra

log = structlog.get_logger("bridge.tracing")
Given = TypeVarTuple("Given")

_EXTRA = f"the extra is missing: {install_extra('otel')}"
_DEFAULT = "http://localhost:4318/v1/traces"
"""Receiver of OTLP over HTTP where nothing names one, by OpenTelemetry's specification."""


def build_tracing(loaded: Loaded) -> Tracing | None:
    """Create the tracer of the process, not started; None where traces are off. Raises: ConfigError."""
    config = loaded.config.ops.tracing
    if config.enabled is False:
        return None
    endpoint = tracing.wanted(config.endpoint)
    if endpoint is None:
        if config.enabled == "auto" or tracing.is_disabled():
            return None
        endpoint = _DEFAULT
    if not _is_installed():
        if config.enabled is True or config.endpoint is not None:
            field = "enabled" if config.enabled is True else "endpoint"
            raise ConfigError([replace(loaded.locate(("ops", "tracing", field), _EXTRA), code="C014")])
        log.warning(f"a receiver of traces is set, but traces are off: {_EXTRA}", action="tracing")
        return None
    return tracing.build(
        endpoint,
        config.sample,
        __version__,
        max_buffered=config.max_buffered,
        max_age=config.max_backlog_age,
    )


def _is_installed() -> bool:
    return (
        importlib.util.find_spec("opentelemetry") is not None
        and importlib.util.find_spec("opentelemetry.exporter") is not None
    )


def build_metrics_export(
    loaded: Loaded, collect: Callable[[], Awaitable[Sequence[Metric]]]
) -> otlp_metrics.MetricsExport | None:
    """Create the export of metrics by OTLP; None where the environment does not ask for it.

    collect: current families.
    """
    if not otlp_metrics.is_wanted():
        return None
    if not _is_installed():
        log.warning(f"OTEL_METRICS_EXPORTER is otlp, but no metrics are sent: {_EXTRA}", action="metrics")
        return None
    url = tracing.url_of("metrics", loaded.config.ops.tracing.endpoint) or _DEFAULT.replace("traces", "metrics")
    receiver, resource = tracing.build_receiver("metrics", url), tracing.build_resource(__version__)
    return otlp_metrics.MetricsExport(collect, receiver, resource, __version__, otlp_metrics.interval())


def span_options(loaded: Loaded, tracer: Tracing) -> TracingOptions:
    """Settings of the spans that embedded engines make."""

    def samples(trace_id: str, name: str) -> bool:
        return tracer.samples(trace_id, None, name)

    return TracingOptions(samples, loaded.config.ops.tracing.max_backlog)


def within_trace(
    execute: Callable[[Command, MessageOrigin, *Given], Awaitable[None]],
) -> Callable[[Command, MessageOrigin, *Given], Awaitable[None]]:
    """Execute commands in OpenTelemetry's context of their message: the SDK's client then makes its own spans there."""

    async def traced(command: Command, origin: MessageOrigin, *given: *Given) -> None:
        trace = origin.trace
        if trace is None:
            await execute(command, origin, *given)
        else:
            with in_trace(trace):
                await execute(command, origin, *given)

    return traced
