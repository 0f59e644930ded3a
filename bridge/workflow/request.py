"""Request to a service by message, and wait for its answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from durabletask import task

from bridge.core.answers import ANSWER, CORRELATION_ID, reply_event
from bridge.core.errors import wire_name
from bridge.workflow.parallel import Steps
from bridge.workflow.publishing import new_event, send

REPLY_TO = "reply-to"
"""Header that names the destination of the answer."""


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
