"""State of one run, and shared values that nobody changes."""

from collections import defaultdict
from dataclasses import dataclass, field

from durabletask import task

LIMITS = {"a": 1}
NAMES = ["a", "b"]


class Config:
    attempts = 3
    regions = ("eu", "us")
    table = {"a": 1}


@dataclass
class Basket:
    lines: list = field(default_factory=list)

    def add(self, line):
        self.lines.append(line)


class Counter:
    def __init__(self):
        self.count = 0
        self.seen = []

    def add(self, v):
        self.count += 1
        self.seen.append(v)


class Defaults:
    lines = []

    def __init__(self):
        self.lines = []

    def add(self, v):
        self.lines.append(v)


def pay(ctx: task.ActivityContext, v):
    return v


def reads_a_constant(ctx: task.OrchestrationContext, v):
    limits = LIMITS
    yield ctx.call_activity(pay, input=limits["a"])


def copies(ctx: task.OrchestrationContext, v):
    names = list(NAMES)
    names.append(v)
    yield ctx.call_activity(pay, input=names)


def copies_by_method(ctx: task.OrchestrationContext, v):
    limits = LIMITS.copy()
    limits[v] = 1
    yield ctx.call_activity(pay, input=limits)


def reads_a_class(ctx: task.OrchestrationContext, v):
    config = Config
    yield ctx.call_activity(pay, input=config.attempts + len(config.regions) + Config.table["a"])


def own_instance(ctx: task.OrchestrationContext, v):
    basket = Basket()
    basket.add(v)
    basket.lines.append(v)
    yield ctx.call_activity(pay, input=basket.lines)


def own_counter(ctx: task.OrchestrationContext, v):
    counter = Counter()
    counter.add(v)
    counter.count += 1
    yield ctx.call_activity(pay, input=counter.count)


def own_list_that_hides_a_shared_one(ctx: task.OrchestrationContext, v):
    kept = Defaults()
    kept.add(v)
    yield ctx.call_activity(pay, input=kept.lines)


def own_dict(ctx: task.OrchestrationContext, v):
    tally = defaultdict(int)
    tally[v] += 1
    yield ctx.call_activity(pay, input=dict(tally))


def local_of_the_same_name(ctx: task.OrchestrationContext, v):
    NAMES = []
    NAMES.append(v)
    yield ctx.call_activity(pay, input=NAMES)


class Flows:
    attempts = 3

    def flow(self, ctx: task.OrchestrationContext, v):
        yield ctx.call_activity(pay, input=self.attempts)
