"""Clocks behind properties, calls of instances, and tables of functions."""

import functools
import random
import time
import uuid
from datetime import datetime
from functools import cached_property

from durabletask import task


class Clock:
    @property
    def now(self):
        return datetime.now()  # finds: clock

    @cached_property
    def start(self):
        return time.time()  # finds: clock

    def __call__(self):
        return time.monotonic()  # finds: clock

    def __enter__(self):
        return time.perf_counter()  # finds: clock

    def __exit__(self, *_):
        return None

    def __getitem__(self, key):
        return time.time_ns()  # finds: clock

    def __iter__(self):
        return iter([time.process_time()])  # finds: clock

    def __str__(self):
        return time.ctime()  # finds: clock

    def __len__(self):
        return int(time.monotonic_ns())  # finds: clock


CLOCK = Clock()


def reads_a_property(ctx: task.OrchestrationContext, v):
    clock = Clock()
    yield ctx.create_timer(clock.now)


def reads_a_cached_property(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(Clock().start)


def calls_an_instance(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(CLOCK())


def enters(ctx: task.OrchestrationContext, v):
    with Clock() as started:
        yield ctx.create_timer(started)


def indexes(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(CLOCK["now"])


def iterates(ctx: task.OrchestrationContext, v):
    for one in CLOCK:
        yield ctx.create_timer(one)


def formats(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=f"{CLOCK}")


def measures(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=len(CLOCK))


class Watch:
    def __init__(self):
        self.clock = Ticks()

    def due(self):
        return self.clock.tick


class Ticks:
    @property
    def tick(self):
        return time.time()  # finds: clock


def through_an_attribute(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(Watch().due())


class Late:
    @property
    def late(self):
        return datetime.today()  # finds: clock


def of_a_parameter(ctx: task.OrchestrationContext, given: Late):
    yield ctx.create_timer(given.late)


TABLE = {"id": uuid.uuid4, "fixed": str}


def stamp():
    return datetime.utcnow()  # finds: clock


HELPERS = {"stamp": stamp}


def calls_from_a_table(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=TABLE[v]())  # finds: uuid


def calls_from_a_local_table(ctx: task.OrchestrationContext, v):
    table = {"now": datetime.now}  # finds: clock
    yield ctx.call_activity("charge", input=table[v]())


def calls_from_a_list(ctx: task.OrchestrationContext, v):
    for make in (random.random, str):  # finds: random
        yield ctx.call_activity("charge", input=make())


def calls_a_helper_from_a_table(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=HELPERS[v]())


def calls_a_lambda_from_a_table(ctx: task.OrchestrationContext, v):
    table = {"now": lambda: time.time()}  # finds: clock
    yield ctx.call_activity("charge", input=table.get(v)())


def by_getattr(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(time.time())  # finds: clock


def timed(function):
    @functools.wraps(function)
    def run(ctx, value):
        began = time.time()  # finds: clock
        print(began)
        return function(ctx, value)

    return run


def limited(times):
    def decorate(function):
        @functools.wraps(function)
        def run(ctx, value):
            time.sleep(times)  # finds: sleep
            return function(ctx, value)

        return run

    return decorate


@timed
def decorated(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=v)


@limited(3)
def decorated_with_a_value(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("charge", input=v)
