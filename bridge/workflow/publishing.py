"""Messages that an orchestrator sends: events, and requests with answers. Every replay and retry repeats their ids."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from durabletask import task

from bridge.core.answers import ANSWER, CORRELATION_ID, PUBLISH_ACTIVITY, reply_event
from bridge.core.errors import is_final_failure, wire_name
from bridge.core.trace_context import TRACEPARENT, TRACESTATE
from bridge.workflow.messages import trace_of
from bridge.workflow.sdk_internals import without_retries_after
from bridge.workflow.tasks import Steps

DEFAULT_RETRY = task.RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=10,
    backoff_coefficient=2.0,
    max_retry_interval=timedelta(minutes=1),
)

REPLY_TO = "reply-to"
"""Header that names the destination of the answer."""


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
    without_retries_after(publishing, ctx, is_final_failure)
    return publishing


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


# Requests


@wire_name("bridge.workflow.request.RequestTimedOut")
class RequestTimedOut(Exception):
    """Raised when no answer arrives in time. It is unknown if the receiver acted."""

    def __init__(self, target: str, correlation_id: str) -> None:
        super().__init__(f"no answer to the request to {target} in time")
        self.target = target
        self.correlation_id = correlation_id


def new_correlation_id(ctx: task.OrchestrationContext) -> str:
    """Id for one request of this instance. Replay returns the same id."""
    return f"{ctx.new_uuid()}@{ctx.instance_id}"


def request_headers(headers: Mapping[str, str], reply_to: str, correlation_id: str) -> dict[str, str]:
    return {**headers, REPLY_TO: reply_to, CORRELATION_ID: correlation_id}


def expects_answer(event: dict[str, Any], correlation_id: str, deadline: datetime | None) -> dict[str, Any]:
    """Publish request, with the data that the activity needs to sign its correlation id.

    deadline: in UTC, without a zone. The activity makes the signature, because an orchestrator must produce the same
    ids after a change of its key.
    """
    until = None if deadline is None else int(deadline.replace(tzinfo=UTC).timestamp() * 1000)
    return event | {ANSWER: {"to": correlation_id, "until": until}}


def request(
    ctx: task.OrchestrationContext,
    target: str,
    data: Any = None,
    *,
    type: str,  # noqa: A002 -- the CloudEvents attribute's name
    reply_to: str,
    timeout: timedelta | None = None,
    subject: str | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    retry_policy: task.RetryPolicy | None = None,
) -> Steps:
    """Publish a command and wait for the answer; run it with `yield from`. Returns the answer's data.

    The message names the destination of the answer (header `reply-to`) and carries a signed `correlation-id`, which
    the answer must repeat. A route with the command `reply` delivers the answer.

    timeout: measured from now, including the publish; None waits forever. A later answer is ignored.
    Raises: RequestTimedOut; task.TaskFailedError if the publish failed for good.
    """
    correlation_id = new_correlation_id(ctx)
    deadline: datetime | None = None if timeout is None else ctx.current_utc_datetime + timeout
    sent = request_headers(headers or {}, reply_to, correlation_id)
    event = new_event(ctx, target, data, type, subject, key, sent)
    yield send(ctx, expects_answer(event, correlation_id, deadline), retry_policy)
    answer = ctx.wait_for_external_event(reply_event(correlation_id))
    if deadline is None:
        return (yield answer)
    timer = ctx.create_timer(deadline)
    yield task.when_any([answer, timer])
    if answer.is_complete:
        timer.cancel()
        return answer.get_result()
    answer.cancel()
    raise RequestTimedOut(target, correlation_id)
