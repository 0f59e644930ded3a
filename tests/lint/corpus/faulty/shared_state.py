"""State that outlives a run."""

from collections import defaultdict

from durabletask import task

SEEN = set()
CACHE = {}
TALLY = defaultdict(int)
LINES = []


class Totals:
    count = 0
    names = []
    flags = {}


class Base:
    shared = {}


class Derived(Base):
    pass


def charge(ctx: task.ActivityContext, v):
    CACHE[v] = v
    return v


def set_by_local_name(ctx: task.OrchestrationContext, v):
    seen = SEEN  # finds: globals
    seen.add(v)
    yield ctx.call_activity(charge)


def dict_by_local_name(ctx: task.OrchestrationContext, v):
    known = TALLY  # finds: globals
    known[v] += 1
    yield ctx.call_activity(charge)


def list_by_second_name(ctx: task.OrchestrationContext, v):
    lines = LINES  # finds: globals
    also = lines
    also.append(v)
    yield ctx.call_activity(charge)


def read_of_what_an_activity_changes(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=CACHE.get(v))  # finds: globals


def class_attribute(ctx: task.OrchestrationContext, v):
    Totals.count += 1  # finds: globals
    yield ctx.call_activity(charge)


def class_by_local_name(ctx: task.OrchestrationContext, v):
    totals = Totals
    totals.count += 1  # finds: globals
    yield ctx.call_activity(charge)


def list_of_a_class(ctx: task.OrchestrationContext, v):
    Totals.names.append(v)  # finds: globals
    yield ctx.call_activity(charge)


def dict_of_a_class(ctx: task.OrchestrationContext, v):
    Totals.flags[v] = True  # finds: globals
    yield ctx.call_activity(charge)


def list_of_a_class_by_local_name(ctx: task.OrchestrationContext, v):
    names = Totals.names  # finds: globals
    names.append(v)
    yield ctx.call_activity(charge)


def inherited(ctx: task.OrchestrationContext, v):
    Derived.shared[v] = 1  # finds: globals
    yield ctx.call_activity(charge)


class Flows:
    runs = 0
    kept = []

    def by_type(self, ctx: task.OrchestrationContext, v):
        type(self).runs += 1  # finds: globals
        yield ctx.call_activity(charge)

    def by_class(self, ctx: task.OrchestrationContext, v):
        self.__class__.runs += 1  # finds: globals
        yield ctx.call_activity(charge)

    def by_self(self, ctx: task.OrchestrationContext, v):
        self.kept.append(v)  # finds: globals
        yield ctx.call_activity(charge)

    @classmethod
    def by_cls(cls, ctx: task.OrchestrationContext, v):
        cls.runs += 1  # finds: globals
        yield ctx.call_activity(charge)
