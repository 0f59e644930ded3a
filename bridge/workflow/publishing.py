"""Publish from an orchestrator: durable, under an id that every replay and retry repeats."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from durabletask import task

from bridge.core.answers import PUBLISH_ACTIVITY
from bridge.core.errors import is_final_failure
from bridge.core.trace_context import TRACEPARENT, TRACESTATE
from bridge.workflow.tracing import trace_of

DEFAULT_RETRY = task.RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=10,
    backoff_coefficient=2.0,
    max_retry_interval=timedelta(minutes=1),
)


def publish(
    ctx: task.OrchestrationContext,
    target: str,
    data: Any = None,
    *,
    type: str,  # noqa: A002 -- the CloudEvents attribute's name
    subject: str | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, str] | None = None,
    partition_key: str | None = None,
    enqueue_at: datetime | timedelta | None = None,
    time_to_live: timedelta | None = None,
    retry_policy: task.RetryPolicy | None = None,
) -> task.Task[str]:
    """Publish an event to a target of the configuration; `yield` the task. Its result is the event's id.

    Delivery is at least once. The id is made here (`ctx.new_uuid()`), and consumers can drop repeats by it.
    The orchestration's trace continues: the headers `traceparent` and `tracestate` name its trace and a new span,
    derived from the event's id, unless `headers` contains them.

    key: ordering key. The default is the instance id, which keeps one workflow's events in order.
    extensions: CloudEvents extension attributes. Codecs with a schema take the name of the record or message from
    `recordname` and the schema from `schemaid`.
    partition_key: partition key, if it is not the key.
    enqueue_at: time before which no consumer receives the event (UTC if it has no zone), or the delay from now.
    time_to_live: time after which no consumer receives the event.
    retry_policy: DEFAULT_RETRY if None. A target that the configuration does not have fails at the first attempt.

    The parameters partition_key, enqueue_at and time_to_live apply to brokers that support them (Service Bus).
    """
    event = new_event(ctx, target, data, type, subject, key, headers or {})
    if extensions:
        event["extensions"] = dict(extensions)
    if partition_key is not None:
        event["partition_key"] = partition_key
    if enqueue_at is not None:
        due = ctx.current_utc_datetime + enqueue_at if isinstance(enqueue_at, timedelta) else enqueue_at
        event["enqueue_at"] = (due if due.tzinfo is not None else due.replace(tzinfo=UTC)).timestamp()
    if time_to_live is not None:
        event["time_to_live"] = time_to_live.total_seconds()
    return send(ctx, event, retry_policy)


def send(
    ctx: task.OrchestrationContext, event: dict[str, Any], retry_policy: task.RetryPolicy | None
) -> task.Task[str]:
    """Call the activity that publishes an event made by `new_event`."""
    publishing: task.Task[str] = ctx.call_activity(
        PUBLISH_ACTIVITY, input=event, retry_policy=retry_policy or DEFAULT_RETRY
    )
    if isinstance(publishing, task.RetryableTask):
        _Publishing.watch(publishing, ctx)
    return publishing


class _Publishing(task.RetryableTask[str]):
    """A publish that is retried according to its policy, unless its failure is final.

    The SDK asks for the next delay before it passes the failure, and its own retries cannot recognize a final
    failure. This class therefore returns no delay. Its `fail`, which receives the failure, schedules the retry as the
    SDK would.
    """

    _context: Any

    @classmethod
    def watch(cls, made: task.RetryableTask[Any], ctx: task.OrchestrationContext) -> None:
        """Turn a task of the SDK into one of this class in place, because the SDK has already stored this object."""
        made.__class__ = cls
        vars(made)["_context"] = ctx

    def compute_next_delay(self) -> timedelta | None:
        return None

    def fail(self, message: str, details: Any) -> None:
        delay = None if is_final_failure(getattr(details, "errorType", "")) else super().compute_next_delay()
        if delay is None:
            super().fail(message, details)
        else:
            self.increment_attempt_count()
            self._context.create_timer_internal(delay, self)


def new_event(
    ctx: task.OrchestrationContext,
    target: str,
    data: Any,
    type_: str,
    subject: str | None,
    key: str | None,
    headers: Mapping[str, str],
) -> dict[str, Any]:
    """Input of PUBLISH_ACTIVITY. The same dict published twice is one event, identified by its id."""
    event_id = ctx.new_uuid()
    return {
        "target": target,
        "id": event_id,
        "type": type_,
        "time": ctx.current_utc_datetime.isoformat() + "Z",
        "subject": subject,
        "key": ctx.instance_id if key is None else key,
        "headers": {**_trace_headers(ctx, event_id), **headers},
        "data": data,
    }


def _trace_headers(ctx: task.OrchestrationContext, event_id: str) -> dict[str, str]:
    trace = trace_of(ctx)
    if trace is None:
        return {}
    child = trace.child(event_id)
    parent = {TRACEPARENT: child.traceparent}
    return parent if child.tracestate is None else {**parent, TRACESTATE: child.tracestate}
