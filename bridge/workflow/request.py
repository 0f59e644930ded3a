"""Ask a service by message and wait for its answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from durabletask import task

from bridge.workflow.parallel import Steps
from bridge.workflow.publishing import publish

REPLY_TO = "reply-to"
"""Header that names where the answer goes."""

CORRELATION_ID = "correlation-id"
"""Header that the answer has to repeat: 36 characters, `@`, and the id of the instance that asked."""


class RequestTimedOut(Exception):
    """No answer came in time. Whether the receiver acted is unknown."""

    def __init__(self, target: str, correlation_id: str) -> None:
        super().__init__(f"no answer to the request to {target} in time")
        self.target = target
        self.correlation_id = correlation_id


def new_correlation_id(ctx: task.OrchestrationContext) -> str:
    """An id for one request of this instance; replay makes the same one."""
    return f"{ctx.new_uuid()}@{ctx.instance_id}"


def reply_event(correlation_id: str) -> str:
    """Name of the external event that brings the answer."""
    return f"reply:{correlation_id}"


def request_headers(headers: Mapping[str, str], reply_to: str, correlation_id: str) -> dict[str, str]:
    return {**headers, REPLY_TO: reply_to, CORRELATION_ID: correlation_id}


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

    The message says where to answer (header `reply-to`) and carries a `correlation-id` that the answer has to repeat.
    A route brings the answer back:

        raise_event:
          instance_id: "{{ event.headers['correlation-id'].substring(37) }}"
          name: "reply:{{ event.headers['correlation-id'] }}"
          data: payload

    timeout: from now, publishing included; None waits for ever. An answer that comes later is left lying.

    Raises: RequestTimedOut; task.TaskFailedError when publishing failed for good.
    """
    correlation_id = new_correlation_id(ctx)
    deadline: datetime | None = None if timeout is None else ctx.current_utc_datetime + timeout
    yield publish(
        ctx,
        target,
        data,
        type=type,
        subject=subject,
        key=key,
        headers=request_headers(headers or {}, reply_to, correlation_id),
        retry_policy=retry_policy,
    )
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
