"""Functions that are no orchestrators, and contexts under other names that are used well."""

from __future__ import annotations

import time
from typing import Annotated, Optional

import durabletask.task as dt
from durabletask import entities, task
from durabletask.task import ActivityContext as AC
from durabletask.task import OrchestrationContext as OC

Alias = OC


class OrchestrationContext:
    """No class of the SDK."""


def activity_by_alias(c: AC, v):
    return time.time()


def entity_function(c: entities.EntityContext, v):
    return time.time()


def plain(ctx_like, v):
    return time.time()


def own_class_of_that_name(c: OrchestrationContext, v):
    return time.time()


def import_as(c: OC, v):
    return (yield c.create_timer(c.current_utc_datetime))


def alias(c: Alias, v):
    return (yield c.call_activity("pay", input=v))


def text(c: "OC", v):
    return (yield c.call_activity("pay", input=v))


def optional(c: Optional[dt.OrchestrationContext], v):
    return (yield c.call_activity("pay", input=v))


def annotated(c: Annotated[task.OrchestrationContext, "x"], v):
    return (yield c.call_activity("pay", input=v))


def activity_inside(ctx: task.OrchestrationContext, v):
    def inner(ctx: task.ActivityContext, v):
        return time.time()

    yield ctx.call_activity("pay", input=inner.__name__)


def activity_inside_by_alias(ctx: task.OrchestrationContext, v):
    def inner(c: AC, v):
        with open("x") as file:
            return file.read()

    yield ctx.call_activity("pay", input=inner.__name__)


def activity_inside_without_annotation(ctx: task.OrchestrationContext, v):
    def inner(ctx, v):
        return time.time()

    yield ctx.call_activity(inner, input=v)


def pay(ctx: task.ActivityContext, v):
    return v
