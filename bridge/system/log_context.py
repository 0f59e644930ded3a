"""Fields that log lines get from their surroundings: the message, instance and span that is being processed."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Protocol

FORMAT: Final = "auto"
"""Format of the log without a setting."""

LIBRARIES: Final = "warning"
"""Lowest level of records of libraries without a setting."""


class Subject(Protocol):
    """Object whose processing a log line may be part of."""

    def log_fields(self) -> Mapping[str, str]:
        """Fields that identify it, without payload."""
        ...


SUBJECT: ContextVar[Subject | None] = ContextVar("bridge_log_subject", default=None)
"""Message that a task of the pipeline processes."""

INSTANCE: ContextVar[str | None] = ContextVar("bridge_log_instance", default=None)
"""Instance whose code a thread of the worker runs."""


def current_fields() -> dict[str, str]:
    """Known fields of `message_id`, `route`, `instance_id`, `trace_id` and `span_id`."""
    # Imported on demand: the configuration reads this module, and commands that only read need no OpenTelemetry
    from bridge.system.otel_context import current_ids

    found: dict[str, str] = {}
    subject, instance = SUBJECT.get(), INSTANCE.get()
    if subject is not None:
        found.update(subject.log_fields())
    if instance is not None:
        found["instance_id"] = instance
    ids = current_ids()
    if ids is not None:
        found["trace_id"], found["span_id"] = ids
    return found
