"""Properties, calls of instances and tables that a replay repeats."""

import functools
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

from durabletask import task


LOADED_AT = []


class Price:
    def __init__(self, net):
        self.net = net

    @property
    def gross(self):
        return self.net * 1.2

    @property
    def stamped(self):
        return time.time()

    def __call__(self):
        return self.gross

    def __str__(self):
        return f"{self.net} EUR"


class Stopwatch:
    """For activities."""

    def __enter__(self):
        return time.monotonic()

    def __exit__(self, *_):
        return None


def pay(ctx: task.ActivityContext, v):
    with Stopwatch() as started:
        return v, started, Price(v).stamped


def refund(ctx: task.ActivityContext, v):
    return time.time()


ACTIVITIES = {"pay": pay, "refund": refund}
PLAIN = {"upper": str.upper, "lower": str.lower}


def twice(v):
    return v * 2


MAPPERS = {"twice": twice, "once": lambda v: v}


def reads_a_property(ctx: task.OrchestrationContext, v):
    price = Price(v)
    yield ctx.call_activity(pay, input=price.gross)


def calls_an_instance(ctx: task.OrchestrationContext, v):
    price = Price(v)
    yield ctx.call_activity(pay, input=price())


def formats(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(pay, input=f"{Price(v)}")


def activity_from_a_table(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(ACTIVITIES[v], input=v)


def activity_from_a_local_table(ctx: task.OrchestrationContext, v):
    steps = {"pay": pay, "refund": refund}
    yield ctx.call_activity(steps.get(v, pay), input=v)


def activities_in_turn(ctx: task.OrchestrationContext, v):
    for step in (pay, refund):
        yield ctx.call_activity(step, input=v)


def plain_functions_from_a_table(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(pay, input=PLAIN["upper"](v))


def helpers_from_a_table(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(pay, input=MAPPERS["twice"](v))


def by_getattr(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(pay, input=getattr(v, "time", None))


def stable_ids(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(pay, input=str(uuid.uuid5(uuid.NAMESPACE_DNS, str(v))))


def with_a_zone(ctx: task.OrchestrationContext, v):
    due = ctx.current_utc_datetime.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=2)))
    yield ctx.call_activity(pay, input=due.isoformat())


def from_timestamp_with_a_zone(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(datetime.fromtimestamp(v, UTC))


def from_timestamp_with_a_zone_by_keyword(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(datetime.fromtimestamp(v, tz=UTC))


def timestamp_with_a_zone(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(pay, input=ctx.current_utc_datetime.replace(tzinfo=UTC).timestamp())


def gmtime(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(pay, input=time.strftime("%Y", time.gmtime(v)))


def noted(function):
    LOADED_AT.append(time.time())

    @functools.wraps(function)
    def run(ctx, value):
        if not ctx.is_replaying:
            print("begins")
        return function(ctx, value)

    return run


@noted
def decorated(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(timedelta(hours=1))
