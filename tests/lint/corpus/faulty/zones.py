"""The machine's own time zone."""

import time
from datetime import date, datetime

from durabletask import task


def without_zone(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=ctx.current_utc_datetime.astimezone().isoformat())  # finds: environment


def with_no_zone(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=ctx.current_utc_datetime.astimezone(None).isoformat())  # finds: environment


def by_keyword(ctx: task.OrchestrationContext, v):
    now = ctx.current_utc_datetime.astimezone(tz=None)  # finds: environment
    yield ctx.call_activity("charge", input=now.isoformat())


def from_timestamp(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(datetime.fromtimestamp(v))  # finds: environment


def date_from_timestamp(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=str(date.fromtimestamp(v)))  # finds: environment


def timestamp_of_the_context(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=ctx.current_utc_datetime.timestamp())  # finds: environment


def name_of_the_zone(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=time.tzname[0])  # finds: environment


def offset(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=time.timezone)  # finds: environment


def mktime(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=time.mktime(v))  # finds: environment
