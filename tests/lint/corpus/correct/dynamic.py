"""Names that are looked up while the program runs, of things that stay the same."""

from __future__ import annotations

import importlib
import math
import operator

from durabletask import task


def charge(ctx: task.ActivityContext, v):
    return v


def by_getattr(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=getattr(math, "floor")(v))


def of_the_input(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=getattr(v, "time", None))


def by_name_of_the_input(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=getattr(math, v["function"])(1.5))


def by_methodcaller(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=operator.methodcaller("time")(v))


def by_attrgetter(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=operator.attrgetter("time")(v))


def by_dictionary(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=v.__dict__["time"])


def by_vars(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=vars(math)["floor"](v))


def by_import_module(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=importlib.import_module("math").floor(v))
