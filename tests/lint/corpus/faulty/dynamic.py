"""The clock, by names that are looked up while the program runs."""

from __future__ import annotations

import importlib
import operator
import time
from datetime import datetime

from durabletask import task


def by_getattr(ctx: task.OrchestrationContext, v):
    yield getattr(time, "time")()  # finds: clock


def by_getattr_with_default(ctx: task.OrchestrationContext, v):
    yield getattr(datetime, "now", None)()  # finds: clock


def by_a_name_of_getattr(ctx: task.OrchestrationContext, v):
    now = getattr(time, "time")
    yield now()  # finds: clock


def by_methodcaller(ctx: task.OrchestrationContext, v):
    yield operator.methodcaller("time")(time)  # finds: clock


def by_attrgetter(ctx: task.OrchestrationContext, v):
    yield operator.attrgetter("time")(time)()  # finds: clock


def by_dictionary(ctx: task.OrchestrationContext, v):
    yield time.__dict__["time"]()  # finds: clock


def by_vars(ctx: task.OrchestrationContext, v):
    yield vars(time)["time"]()  # finds: clock


def by_import_module(ctx: task.OrchestrationContext, v):
    yield importlib.import_module("time").time()  # finds: clock


def by_dunder_import(ctx: task.OrchestrationContext, v):
    clock = __import__("time")
    yield clock.time()  # finds: clock
