"""Idioms that are correct."""

import enum
import logging
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from durabletask import task
from durabletask.task import OrchestrationContext as OC

from bridge.workflow import Inbox

log = logging.getLogger(__name__)


def work(ctx: task.ActivityContext, v):
    return v


# retry loop
def retry_loop(ctx: OC, v):
    for attempt in range(3):
        try:
            return (yield ctx.call_activity(work, input=attempt))
        except task.TaskFailedError:
            yield ctx.create_timer(timedelta(seconds=2**attempt))


# when_any timeouts
def when_any_timeouts(ctx: OC, v):
    approval = ctx.wait_for_external_event("a")
    timeout = ctx.create_timer(timedelta(days=1))
    winner = yield task.when_any([approval, timeout])
    if winner == approval:
        timeout.cancel()
        return approval.get_result()
    return "late"


# fan-out dict
def fan_out_dict(ctx: OC, v):
    tasks = {one: ctx.call_activity(work, input=one) for one in v}
    if not tasks:
        return {}
    yield task.when_all(list(tasks.values()))
    return {one: each.get_result() for one, each in tasks.items()}


# list grows by batch
def list_grows_by_batch(ctx: OC, v):
    results = []
    for batch in (v[i : i + 10] for i in range(0, len(v), 10)):
        tasks = [ctx.call_activity(work, input=one) for one in batch]
        if len(tasks) > 0:
            results += yield task.when_all(tasks)
    return results


# enum + dataclass
class State_5(enum.Enum):
    A = 1


@dataclass
class Order_5:
    id: str
    lines: list = field(default_factory=list)
    state: State_5 = State_5.A

    @property
    def total(self):
        return sum(self.lines)

    def add(self, x):
        self.lines.append(x)


def enum_dataclass(ctx: OC, order: Order_5):
    order.add(1)
    order.state = State_5.A
    total = order.total
    yield ctx.call_activity(work, input=total)


# class flows helper
class Flow_6:
    RETRY = task.RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3)

    def __init__(self, ctx):
        self.ctx = ctx
        self.done = []

    def step(self, name):
        self.done.append(name)
        return self.ctx.call_activity(name)

    def run(self):
        yield self.step("a")
        x = yield self.step("b")
        return x


def class_flows_helper(ctx: OC, v):
    return (yield from Flow_6(ctx).run())


# task in tuple yields
def task_in_tuple_yields(ctx: OC, v):
    pairs = [(one, ctx.call_activity(work, input=one)) for one in v]
    for one, each in pairs:
        yield each


# task stored on self / dict
def task_stored_on_self_dict(ctx: OC, v):
    pending = {}
    for one in v:
        pending[one] = ctx.call_activity(work, input=one)
    while pending:
        done = yield task.when_any(list(pending.values()))
        pending = {k: t for k, t in pending.items() if t is not done}


# logging helper replay
def log_once_9(ctx, message, *args):
    if not ctx.is_replaying:
        log.info(message, *args)


def logging_helper_replay(ctx: OC, v):
    log_once_9(ctx, "x %s", v)
    replaying = ctx.is_replaying
    if not replaying:
        started = ctx.current_utc_datetime
        log.info("started %s", started)
    yield ctx.call_activity(work)


# level by replay
def level_by_replay(ctx: OC, v):
    level = logging.DEBUG if ctx.is_replaying else logging.INFO
    log.log(level, "x")
    yield ctx.call_activity(work)


# module constants table
STEPS_11 = [("a", work), ("b", work)]
NAMES_11 = {"a": 1}


def module_constants_table(ctx: OC, v):
    for name, step in STEPS_11:
        yield ctx.call_activity(step, input=NAMES_11.get(name))


# drained by while len
def drained_by_while_len(ctx: OC, v):
    pending = [ctx.call_activity(work, input=one) for one in v]
    while len(pending) > 0:
        winner = yield task.when_any(pending)
        pending.remove(winner)


# while True with break guard
def while_true_with_break_guard(ctx: OC, v):
    pending = [ctx.call_activity(work, input=one) for one in v]
    while True:
        if not pending:
            break
        winner = yield task.when_any(pending)
        pending.remove(winner)


# nested generator helper
def nested_generator_helper(ctx: OC, v):
    def both():
        a = yield ctx.call_activity(work)
        b = yield ctx.call_activity(work)
        return a + b

    return (yield from both())


# timers unneeded
def timers_unneeded(ctx: OC, v):
    inbox = Inbox(ctx)
    timer = ctx.create_timer(timedelta(hours=1))
    event = inbox.task("x")
    winner = yield task.when_any([event, timer])
    if winner is event:
        timer.cancel()


# non-generator orchestrator
def non_generator_orchestrator(ctx: OC, v):
    return v["a"] + 1


def non_generator_orchestrator_2(ctx: OC, v):
    return both_16(ctx, v)


def both_16(ctx, v):
    x = yield ctx.call_activity(work)
    return x
